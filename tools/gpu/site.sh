#!/usr/bin/env bash
# Pack what Python needs on a machine without a network:  site.sh PYTHON FOLDER
#
# FOLDER gets site.tar.xz (the server's packages, pycuda) and tensorrt.tar.xz (TensorRT for RTX, of the version that
# PYTHON has), for Python 3.12 on x86-64, and needs.json, which says what they can run on. What is taken to be there
# is too large to be carried, too.
set -euo pipefail

readonly VERSION=3.12 GLIBC=2.28 CUDA=13 THERE='"numpy", "onnxruntime", "cuda-bindings"'
here=$(cd "$(dirname "$0")" && pwd)
python=$1 folder=$2
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

say() { printf 'gpu-bundle: %s\n' "$*" >&2; }

download() {  # FOLDER WHAT...
    "$python" -m pip -qq download --only-binary=:all: --python-version "$VERSION" --implementation cp \
        --platform "manylinux_${GLIBC/./_}_x86_64" --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 -d "$@"
}

unpack() {  # FOLDER WHEEL...: licences stay; bytecode and long descriptions go
    local into=$1 wheel metadata
    for wheel in "${@:2}"; do "$python" -m zipfile -e "$wheel" "$into"; done
    find "$into" -name __pycache__ -prune -exec rm -rf {} +
    for metadata in "$into"/*.dist-info/METADATA; do sed -i -e '/^$/,$d' "$metadata"; done
}

pack_tensorrt() {
    local version
    version=$("$python" -c 'from importlib.metadata import version; print(version("tensorrt_rtx"))')
    if [ "$(cat "$folder/tensorrt.version" 2>/dev/null)" = "$version" ] && [ -e "$folder/tensorrt.tar.xz" ]; then
        say "TensorRT for RTX $version is there"
        return
    fi
    say "packing TensorRT for RTX $version"
    mkdir "$scratch/tensorrt"
    download "$scratch/wheels" --no-deps "tensorrt_rtx_cu${CUDA}_libs==$version" "tensorrt_rtx_cu${CUDA}_bindings==$version"
    unpack "$scratch/tensorrt" "$scratch"/wheels/tensorrt_*.whl
    # The package over the two is no wheel, and the same for every version of Python.
    "$python" - "$scratch/tensorrt" <<'END'
import shutil, sys
from importlib.metadata import distribution
from pathlib import Path

found = distribution("tensorrt_rtx")
for name in ("tensorrt_rtx", f"tensorrt_rtx-{found.version}.dist-info"):
    source = Path(str(found.locate_file(name)))
    shutil.copytree(source, Path(sys.argv[1], name), ignore=shutil.ignore_patterns("__pycache__"))
END
    # A filter for x86 code makes libraries five in a hundred smaller.
    "$here/pack.sh" "$scratch/tensorrt" "$folder/tensorrt.tar.xz" --x86 --lzma2=preset=9e,dict=256MiB,lc=4
    echo "$version" > "$folder/tensorrt.version"
}

pycuda_wheel() {
    "$here/../build-pycuda.sh" "${PY312:-$VERSION}" "$folder" || say "pycuda is left out"
}

pack_site() {
    local wheel requirements
    wheel=$(pycuda_wheel)
    mapfile -t requirements < <("$python" "$here/requirements.py")
    [ -z "$wheel" ] || requirements+=(pytools platformdirs siphash24 mako)
    say "packing ${#requirements[@]} packages and what they need"
    mkdir "$scratch/site"
    download "$scratch/site-wheels" "${requirements[@]}"
    rm -f "$scratch"/site-wheels/numpy-*.whl
    unpack "$scratch/site" "$scratch"/site-wheels/*.whl ${wheel:+"$wheel"}
    "$here/pack.sh" "$scratch/site" "$folder/site.tar.xz" --x86 --lzma2=preset=9e,dict=128MiB
}

tell_needs() {
    printf '{"python": "%s", "machine": "x86_64", "glibc": "%s", "cuda": %s, "tensorrt_rtx": "%s", "packages": [%s]}\n' \
        "$VERSION" "$GLIBC" "$CUDA" "$(cat "$folder/tensorrt.version")" "$THERE" > "$folder/needs.json"
}

pack_tensorrt
pack_site
tell_needs
