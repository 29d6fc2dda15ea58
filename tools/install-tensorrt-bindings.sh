#!/usr/bin/env bash
# Puts the Python bindings of TensorRT into a folder, without TensorRT: what they link to are stubs, so that they
# import, tell their names and signatures, and do nothing. For the tests that hold the engine for plans against
# them.
#
#   install-tensorrt-bindings.sh [FOLDER]    FOLDER: .tools/tensorrt-bindings by default
#
# Each version has a folder of its own, made for the interpreter $PYTHON, .venv's by default. Needs gcc. What is
# there already is kept.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly PYTHON=${PYTHON:-.venv/bin/python} FOLDER=${1:-.tools/tensorrt-bindings}
# For Python 3.11, 3.12 and 3.13.
readonly VERSIONS=(
    "10.13.3.9 --hash=sha256:f40c9e488af125b232fcca85ac4b21e090d7b1be55c3062eeaf48c2a9a9ed808 --hash=sha256:9e3adb281af85508518b90979d0bf3a1704a40c3165a99d5b27e2cfee72f1b14 --hash=sha256:c0530b410c4fa6086dd908d9390959c61c0437efd6d3ebc24cf563dcdd9f10f2"
    "11.4.0.106 --hash=sha256:d072ac2a095e2be749fefc847adfb25d5ebe70303401df62ede8fe67a59f27fc --hash=sha256:5fc7a6c412881f7212030893bd5531b1a0ff415c72c7678dfe4ead7a7765b38d --hash=sha256:bac9a362c9189b5f5dd0444213913846e4b46003237834958e890eff57d86ed5"
)
# All that the bindings take from the libraries.
readonly FUNCTIONS=(
    createInferBuilder_INTERNAL createInferRefitter_INTERNAL createInferRuntime_INTERNAL
    createNvOnnxParserRefitter_INTERNAL createNvOnnxParser_INTERNAL getBuilderPluginRegistry
    getNvOnnxParserVersion getPluginRegistry initLibNvInferPlugins
)

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

for pinned in "${VERSIONS[@]}"; do
    version=${pinned%% *}
    into=$FOLDER/$version
    if [ -e "$into/lib/.made" ]; then continue; fi
    echo "tensorrt-cu13-bindings==$pinned" >"$work/requirements"
    "$PYTHON" -m pip download -qq --disable-pip-version-check --no-deps --require-hashes \
        --only-binary :all: -r "$work/requirements" -d "$work/$version"
    rm -rf "${into:?}"
    mkdir -p "$into/lib"
    "$PYTHON" -m zipfile --extract "$work/$version"/*.whl "$into"
    # Each stub has all of the functions: which library has which does not matter to the linker.
    printf 'void *%s(void) { return 0; }\n' "${FUNCTIONS[@]}" >"$work/stub.c"
    for name in nvinfer nvonnxparser nvinfer_plugin; do
        library=lib$name.so.${version%%.*}
        gcc -shared -fPIC -Wl,-soname,"$library" -o "$into/lib/$library" "$work/stub.c"
    done
    touch "$into/lib/.made"
    echo "the bindings of TensorRT $version are in $into"
done
