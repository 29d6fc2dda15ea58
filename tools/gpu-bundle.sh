#!/usr/bin/env bash
# Prepare `make gpu-check` for a machine with a GPU and without a network, in parts that can be carried there.
#
#   gpu-bundle.sh PYTHON FOLDER
#
# PYTHON has Headrace with the extras cpu, build and rtx; no GPU is needed. FOLDER gets cases (models and plans),
# p1, p2 and p3, and keeps in work what takes long. pycuda is built where there is a C++ compiler and a Python of
# the other machine's version (PY312=... if it is not found), and left out elsewhere.
set -euo pipefail

readonly PART_BYTES=$((29 << 20))  # two of them and a checkout stay below 64 MiB
readonly MOST_PARTS=3
here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$here")
python=$1
mkdir -p "$2/work"
folder=$(cd "$2" && pwd)
work=$folder/work
export PIP_DISABLE_PIP_VERSION_CHECK=1

say() { printf 'gpu-bundle: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }
size_of() { stat -c %s "$1"; }
mib() { awk -v bytes="$1" 'BEGIN { printf "%.1f MiB", bytes / 1048576 }'; }

make_cases() {
    local made_from
    made_from=$(cd "$root" && sha256sum bench/models.py bench/gpu_check/{cases,networks,make_cases}.py \
        engines/headrace_engines/{compress,plans}/*.py | sha256sum)
    made_from+=" $("$python" -m pip freeze | grep -iE '^(onnx|onnxruntime|tensorrt)' | xargs)"
    if [ "$(cat "$work/cases.made-from" 2>/dev/null)" = "$made_from" ]; then
        say "1 of 3: the models are there"
        return
    fi
    say "1 of 3: making the models and their plans"
    rm -rf "$folder/cases"
    (cd "$root" && "$python" -m bench.gpu_check.make_cases "$folder/cases") || die "a plan could not be built"
    rm -rf "$folder/cases/.caches"
    echo "$made_from" > "$work/cases.made-from"
    rm -f "$work/cases.tar.xz"
}

pack_cases() {
    [ -e "$work/cases.tar.xz" ] || "$here/gpu/pack.sh" "$folder/cases" "$work/cases.tar.xz" --lzma2=preset=6,dict=128MiB
}

# TensorRT goes in pieces, so that all parts are about as large; the first part has what else there is.
cut_parts() {
    local rest=$work/rest number=1 beside total parts each room
    beside=$(($(size_of "$work/site.tar.xz") + $(size_of "$work/cases.tar.xz")))
    total=$((beside + $(size_of "$work/tensorrt.tar.xz")))
    parts=$(((total + PART_BYTES - 1) / PART_BYTES))
    each=$(((total + parts - 1) / parts))
    room=$((each - beside))
    [ "$room" -gt 0 ] && [ "$parts" -le "$MOST_PARTS" ] ||
        die "$(mib "$total") are more than $MOST_PARTS parts of $(mib $PART_BYTES) hold"
    rm -rf "$folder"/p[0-9]
    cp "$work/tensorrt.tar.xz" "$rest"
    while [ -s "$rest" ]; do
        mkdir "$folder/p$number"
        cp "$here/gpu/run.sh" "$work/needs.json" "$folder/p$number/"
        (cd "$work" && sha256sum tensorrt.tar.xz) > "$folder/p$number/tensorrt.sha256"
        head -c "$room" "$rest" > "$folder/p$number/tensorrt.$number"
        tail -c +$((room + 1)) "$rest" > "$rest.new" && mv "$rest.new" "$rest"
        room=$each number=$((number + 1))
    done
    rm "$rest"
    cp "$work/site.tar.xz" "$work/cases.tar.xz" "$folder/p1/"
}

tell() {
    local part parts=()
    for part in "$folder"/p[0-9]; do
        parts+=("${part#"$root/"}")
        say "$(basename "$part"): $(mib "$(du -sb "$part" | cut -f1)")"
    done
    say "models $(mib "$(size_of "$work/cases.tar.xz")"), packages $(mib "$(size_of "$work/site.tar.xz")")," \
        "TensorRT $(mib "$(size_of "$work/tensorrt.tar.xz")")"
    local last=${parts[-1]}
    unset 'parts[-1]'
    echo "On the machine with the GPU, from the root of this checkout, the second right after the first:"
    echo "  1. with ${parts[*]}:  bash ${parts[0]}/run.sh first"
    echo "  2. with $last:  bash $last/run.sh second"
}

[ "$(uname -m)" = x86_64 ] || die "the libraries are for x86-64"
make_cases
pack_cases
say "2 of 3: packing what is carried beside the models"
"$here/gpu/site.sh" "$python" "$work"
say "3 of 3: cutting it into parts"
cut_parts
tell
