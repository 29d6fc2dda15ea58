#!/usr/bin/env bash
# Puts the Python bindings of TensorRT into .tools/tensorrt-bindings/VERSION, without TensorRT: what the bindings
# link to are stubs, so that they import, tell their names and signatures, and do nothing. For the tests that
# hold the engine for plans against them. Needs gcc, and pip for the interpreter that will import them.
#
#     tools/install-tensorrt-bindings.sh [VERSION...]
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-.venv/bin/python}
folder=.tools/tensorrt-bindings
# What the bindings take from the libraries: only these names are linked.
functions="createInferBuilder_INTERNAL createInferRefitter_INTERNAL createInferRuntime_INTERNAL
createNvOnnxParserRefitter_INTERNAL createNvOnnxParser_INTERNAL getBuilderPluginRegistry getNvOnnxParserVersion
getPluginRegistry initLibNvInferPlugins"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
[ $# -gt 0 ] || set -- 10.13.3.9 11.4.0.106
for version in "$@"; do
    if [ -e "$folder/$version/lib/.made" ]; then continue; fi
    "$python" -m pip download --quiet --no-deps --dest "$work/$version" "tensorrt-cu13-bindings==$version"
    rm -rf "${folder:?}/$version"
    mkdir -p "$folder/$version/lib"
    "$python" -m zipfile --extract "$work/$version"/*.whl "$folder/$version"
    # Each stub has all of the functions: which library has which does not matter to the linker.
    for function in $functions; do echo "void *$function(void) { return 0; }"; done >"$work/stub.c"
    for name in nvinfer nvonnxparser nvinfer_plugin; do
        library=lib$name.so.${version%%.*}
        gcc -shared -fPIC -Wl,-soname,"$library" -o "$folder/$version/lib/$library" "$work/stub.c"
    done
    touch "$folder/$version/lib/.made"
    echo "the bindings of TensorRT $version are in $folder/$version"
done
