#!/usr/bin/env bash
# Builds a wheel of PyCUDA, which has none on the Python index; neither a GPU nor its driver is needed.
#
#   build-pycuda.sh PYTHON FOLDER    PYTHON: an interpreter, or the version of one that is looked for, as 3.12
#
# Prints one line on stdout, the wheel's path; everything else goes to stderr. A wheel that is there already is
# taken. CUDA's headers are those below CUDA_ROOT, /usr/local/cuda by default; where there are none they are
# fetched, in three of NVIDIA's small packages. Takes two minutes; nvcc is not run.
#
# The linker needs a libcuda.so.1 to write its name into the extension, and an empty one will do. cuRAND and
# OpenGL are left out: nothing here asks for them, and their libraries would have to be installed.
set -euo pipefail

readonly VERSION=2026.1 CUDA=13.0
readonly SOURCE="pycuda==$VERSION --hash=sha256:759516160628ba06f32ce7e563e3f5b9214691dc9528a03ea99ea1073f4e14ba"

say() { printf 'build-pycuda: %s\n' "$*" >&2; }
give_up() { say "$*"; exit 1; }

# Prints the interpreter that is meant by $1.
interpreter() {
    if [[ ! $1 =~ ^[0-9.]+$ ]]; then command -v "$1" && return; fi
    local candidate
    for candidate in "python$1" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$1".*/bin/python; do
        if [ "$("$candidate" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)" = "$1" ]; then
            echo "$candidate"
            return
        fi
    done
    give_up "there is no Python $1 here; name an interpreter"
}

# Prints the folder that has include/cuda.h.
headers() {
    local root=${CUDA_ROOT:-/usr/local/cuda}
    if [ ! -e "$root/include/cuda.h" ]; then
        say "fetching CUDA's headers"
        "${pip[@]}" download -q --no-deps -d "$scratch/headers" \
            "nvidia-cuda-runtime==$CUDA.*" "nvidia-cuda-crt==$CUDA.*" "nvidia-cuda-profiler-api==$CUDA.*" >&2
        local wheel
        for wheel in "$scratch"/headers/*.whl; do "$python" -m zipfile -e "$wheel" "$scratch/headers"; done
        root=$(echo "$scratch"/headers/nvidia/cu*)
    fi
    echo "$root"
}

[ $# -eq 2 ] || give_up "two arguments are expected: an interpreter and a folder"
python=$(interpreter "$1") || give_up "there is no $1 here"
mkdir -p "$2"
folder=$(cd "$2" && pwd)
tag=$("$python" -c 'import sys; print("cp%d%d" % sys.version_info[:2])')
if ls "$folder/pycuda-$VERSION-$tag"-*.whl 2>/dev/null; then exit; fi
command -v g++ >/dev/null || give_up "there is no C++ compiler; for example: sudo apt-get install g++"

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
"$python" -m venv "$scratch/venv"
pip=("$scratch/venv/bin/python" -m pip --disable-pip-version-check)
"${pip[@]}" install -q setuptools wheel "numpy>=2" >&2
cuda=$(headers)
say "building PyCUDA $VERSION with $("$python" --version) and the headers in $cuda, which takes two minutes"
echo "$SOURCE" > "$scratch/source"
"${pip[@]}" download -q --no-deps --no-binary :all: --no-build-isolation --require-hashes \
    -r "$scratch/source" -d "$scratch" >&2
tar -xzf "$scratch/pycuda-$VERSION.tar.gz" -C "$scratch"
gcc -shared -x c /dev/null -Wl,-soname,libcuda.so.1 -o "$scratch/libcuda.so"
cat > "$scratch/pycuda-$VERSION/siteconf.py" <<END
USE_SHIPPED_BOOST = True
CUDA_ROOT = "$cuda"
CUDA_ENABLE_GL = False
CUDA_ENABLE_CURAND = False
CUDADRV_LIB_DIR = ["$scratch"]
CUDADRV_LIBNAME = ["cuda"]
CUDART_LIB_DIR = []
CUDART_LIBNAME = []
CXXFLAGS = ["-O2", "-g0", "-w"]
LDFLAGS = ["-Wl,--no-as-needed", "$scratch/libcuda.so"]
END
(cd "$scratch/pycuda-$VERSION" && "${pip[@]}" wheel -q --no-deps --no-build-isolation -w "$folder" . >&2)
ls "$folder/pycuda-$VERSION-$tag"-*.whl
