#!/usr/bin/env bash
# On the machine with the GPU, from the root of the checkout. Results: $OUT/gpu-check.txt and $OUT/gpu-check.json.
#
#   bash .gpu/p1/run.sh first    keeps the parts that are here, and checks what needs no TensorRT
#   bash .gpu/p3/run.sh second   adds the rest, and checks everything else
#
# What the first keeps is in KEPT (default /tmp/headrace-gpu), so the machine must be the same for both.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
phase=${1:-}
kept=${KEPT:-/tmp/headrace-gpu}
out=${OUT:-$here/../results}
mkdir -p "$kept/pieces"

say() { printf 'gpu-check: %s\n' "$*" >&2; }

unpack() {  # ARCHIVE FOLDER, by Python, since there may be no xz
    mkdir -p "$2"
    python3 - "$1" "$2" <<'END'
import lzma, sys, tarfile

with lzma.open(sys.argv[1]) as packed, tarfile.open(fileobj=packed, mode="r|") as archive:
    archive.extractall(sys.argv[2], filter="data")
END
}

keep_pieces() {
    local file
    for file in "$here"/../p*/tensorrt.*; do cp "$file" "$kept/pieces/"; done
}

add_tensorrt() {
    if [ -e "$kept/tensorrt.added" ]; then return; fi
    if ! [ -e "$kept/site.added" ]; then
        say "the first parts are not here: it is another machine. Run the first command again, and this one right after it"
        return 3
    fi
    (cd "$kept/pieces" && cat tensorrt.[0-9] > tensorrt.tar.xz && sha256sum --quiet -c tensorrt.sha256)
    unpack "$kept/pieces/tensorrt.tar.xz" "$kept/site"
    rm "$kept"/pieces/tensorrt.*
    touch "$kept/tensorrt.added"
}

case $phase in
first)
    keep_pieces
    unpack "$here/site.tar.xz" "$kept/site"
    unpack "$here/cases.tar.xz" "$kept/cases"
    touch "$kept/site.added"
    budget=150 ;;
second)
    keep_pieces
    add_tensorrt
    budget=430 ;;
*)
    say "run.sh first, or run.sh second"
    exit 2 ;;
esac

root=$PWD
export PYTHONPATH=$kept/site:$root/proto:$root/engines:$root/server:$root/client${PYTHONPATH:+:$PYTHONPATH}
export PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
exec timeout -k 10 $((budget + 30)) python3 -m bench.gpu_check --phase "$phase" --budget-seconds "$budget" \
    --cases "$kept/cases" --work "$kept/run" --out "$out"
