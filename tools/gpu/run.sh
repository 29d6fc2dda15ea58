#!/usr/bin/env bash
# On the machine with the GPU, from the root of the checkout. Results: $OUT/gpu-check.txt and $OUT/gpu-check.json.
#
#   bash .gpu/p1/run.sh first    keeps the parts that are here, and checks what needs no TensorRT
#   bash .gpu/p3/run.sh second   adds the rest, and checks everything else
#
# What the first keeps is in KEPT (default /tmp/headrace-gpu), which it begins anew, so the machine must be the same
# for both. PYTHON names an interpreter of the version that the parts are for. The exit code is that of the check: 0 if
# all was measured, 1 if something failed, 2 if something is missing that has to be there; 3 where this is another
# machine than the first command was given on, or not all parts were carried.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
phase=${1:-}
python=${PYTHON:-python3}
kept=${KEPT:-/tmp/headrace-gpu}
out=${OUT:-$here/../results}
root=$PWD

say() { printf 'gpu-check: %s\n' "$*" >&2; }

unpack() {  # ARCHIVE FOLDER, by Python, since there may be no xz
    mkdir -p "$2"
    "$python" - "$1" "$2" <<'END'
import lzma, sys, tarfile

with lzma.open(sys.argv[1]) as packed, tarfile.open(fileobj=packed, mode="r|") as archive:
    archive.extractall(sys.argv[2], filter="data")
END
}

keep_pieces() {
    local file
    mkdir -p "$kept/pieces"
    for file in "$here"/../p*/tensorrt.*; do cp "$file" "$kept/pieces/"; done
}

add_tensorrt() {
    if [ -e "$kept/tensorrt.added" ]; then return; fi
    if ! [ -e "$kept/site.added" ]; then
        say "the first parts are not here: it is another machine. Run the first command again, and this one right after it"
        return 3
    fi
    cd "$kept/pieces"
    cat tensorrt.[0-9] > tensorrt.tar.xz
    if ! sha256sum --quiet -c tensorrt.sha256; then
        say "the pieces of TensorRT ($(echo tensorrt.[0-9])) do not make one whole: carry the other parts, of one bundle"
        return 3
    fi
    cd "$root"
    unpack "$kept/pieces/tensorrt.tar.xz" "$kept/site"
    rm "$kept"/pieces/tensorrt.*
    touch "$kept/tensorrt.added"
}

case $phase in
first | second) ;;
*)
    say "run.sh first, or run.sh second"
    exit 2 ;;
esac
if [ ! -d "$root/bench/gpu_check" ]; then
    say "$root is no checkout of Headrace: start this from the root of one"
    exit 2
fi
command -v "$python" >/dev/null || { say "there is no $python here: name one, as PYTHON=/usr/bin/python3"; exit 2; }
"$python" "$root/tools/gpu/found.py" "$here/needs.json"

case $phase in
first)
    rm -rf "$kept"/{pieces,site,cases,run,site.added,tensorrt.added}  # of an earlier bundle
    keep_pieces
    unpack "$here/site.tar.xz" "$kept/site"
    unpack "$here/cases.tar.xz" "$kept/cases"
    touch "$kept/site.added"
    budget=150 ;;
second)
    keep_pieces
    add_tensorrt
    budget=430 ;;
esac

export PYTHONPATH=$kept/site:$root/proto:$root/engines:$root/server:$root/client${PYTHONPATH:+:$PYTHONPATH}
export PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
exec timeout -k 10 $((budget + 30)) "$python" -m bench.gpu_check --phase "$phase" --budget-seconds "$budget" \
    --cases "$kept/cases" --work "$kept/run" --out "$out"
