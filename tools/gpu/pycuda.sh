#!/usr/bin/env bash
# Build a pycuda wheel without a GPU, a driver or cuRAND:  pycuda.sh PYTHON-VERSION FOLDER PYTHON
#
# PYTHON downloads; the wheel is for PYTHON-VERSION, whose interpreter is looked for, or named by PY312. CUDA's
# headers are those of CUDA_ROOT, or NVIDIA's small packages of them. Two minutes; nvcc is not run.
set -euo pipefail

readonly PYCUDA=2026.1 CUDA=13.0
version=$1 folder=$(cd "$2" && pwd) python=$3
here=$(cd "$(dirname "$0")" && pwd)

interpreter() {
    local candidate
    for candidate in ${PY312:-} "python$version" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$version".*/bin/python; do
        if "$candidate" -c "import sys; sys.exit(sys.version_info[:2] != tuple(map(int, '$version'.split('.'))))" \
            2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "no python$version here; name one: PY312=..." >&2
    return 1
}

if ls "$folder"/pycuda-"$PYCUDA"-cp"${version/./}"-*.whl >/dev/null 2>&1; then exit; fi
found=$(interpreter)
command -v g++ >/dev/null || { echo "no g++ here" >&2; exit 1; }
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cuda=${CUDA_ROOT:-/usr/local/cuda}
if ! [ -e "$cuda/include/cuda.h" ]; then
    "$python" -m pip download -q --no-deps -d "$scratch/headers" \
        "nvidia-cuda-runtime==$CUDA.*" "nvidia-cuda-crt==$CUDA.*" "nvidia-cuda-profiler-api==$CUDA.*"
    for wheel in "$scratch"/headers/*.whl; do "$python" -m zipfile -e "$wheel" "$scratch/headers"; done
    cuda=$(echo "$scratch"/headers/nvidia/cu*)
fi
"$found" -m venv "$scratch/venv"
pip=("$scratch/venv/bin/python" -m pip)
"${pip[@]}" install -q setuptools wheel 'numpy>=2'
"${pip[@]}" download -q --no-deps --no-binary :all: --no-build-isolation -d "$scratch" "pycuda==$PYCUDA"
tar xzf "$scratch"/pycuda-*.tar.gz -C "$scratch"
"$python" "$here/stub_driver.py" "$scratch/libcuda.so" "$cuda/include/cuda.h" "$cuda/include/cudaProfiler.h"
cd "$scratch/pycuda-$PYCUDA"
cat > siteconf.py <<END
USE_SHIPPED_BOOST = True
CUDA_ROOT = "$cuda"
CUDA_ENABLE_GL = False
CUDA_ENABLE_CURAND = False
CUDADRV_LIB_DIR = ["$scratch"]
CUDADRV_LIBNAME = ["cuda"]
CUDART_LIB_DIR = []
CUDART_LIBNAME = []
CXXFLAGS = ["-O2", "-g0", "-w"]
LDFLAGS = ["-Wl,--no-as-needed"]
END
"${pip[@]}" wheel -q --no-deps --no-build-isolation -w "$folder" .
