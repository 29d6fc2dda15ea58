#!/usr/bin/env bash
# Make a virtual environment and install into it, or say in one line what is missing.
#
#   venv.sh VENV STAMP REQUIREMENT...
#
# PYTHON (default python3) makes the environment; naming another version than it was made with begins it
# again. STAMP is touched last, so an interrupted run is not taken as done.
set -euo pipefail

readonly FLOOR="3.11"
venv=$1 stamp=$2
shift 2
python=${PYTHON:-python3}
log=$(mktemp)
trap 'rm -f "$log"' EXIT
trap 'exit 130' INT TERM  # pip ends with a failure like any other, after which this would go on
# Left alone pip tries each of dozens of packages six times where there is no network.
export PIP_RETRIES=${PIP_RETRIES:-1} PIP_DEFAULT_TIMEOUT=${PIP_DEFAULT_TIMEOUT:-15}

say() { printf 'setup: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# Debian splits the standard library, so that importing `venv` proves nothing: ensurepip is what is missing.
check_interpreter() {
    command -v "$python" >/dev/null || die "no $python here; install Python $FLOOR or newer, for example: sudo apt-get install python3 python3-venv"
    local found
    found=$("$python" -c 'import platform; print(platform.python_version())' 2>/dev/null) ||
        die "$python does not start; name another, for example: make PYTHON=python3.13"
    "$python" -c "import sys; sys.exit(sys.version_info < tuple(map(int, '$FLOOR'.split('.'))))" ||
        die "$python is Python $found, and $FLOOR or newer is needed; name one, for example: make PYTHON=python3.13"
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        die "$python has no venv module; install it, for example: sudo apt-get install python${found%.*}-venv"
}

install() {
    say "installing $* into $venv"
    pip_install "hatchling>=1.27" "editables>=0.5" >/dev/null || explain
    # Without isolation nothing is fetched again when all is there, so a second set-up works offline; with it
    # a package that has no wheel for this machine finds what it is built with.
    pip_install --no-build-isolation "$@" || { ! is_cut_off && pip_install "$@"; } || explain
}

pip_install() {
    "$venv/bin/python" -m pip install --disable-pip-version-check --progress-bar off "$@" 2>&1 |
        tee "$log" | show_downloads
}

show_downloads() {
    awk '/^ *Downloading .*\(/ && !/metadata/ {
        sub(/-(cp|py)[0-9].*/, "", $2); print "setup:  ", $2, $3, $4; fflush()
    }
    /Retrying \(/ && !told++ { print "setup:   the package index does not answer; trying once more"; fflush() }' >&2
}

is_cut_off() { grep -qE "NewConnectionError|NameResolutionError|ConnectTimeoutError|ProxyError" "$log"; }

explain() {
    if is_cut_off; then
        die "the package index could not be reached; look at the network, or name an index: PIP_INDEX_URL=https://... make setup"
    fi
    tail -n 15 "$log" >&2
    if ! command -v cc >/dev/null && grep -qiE "gcc|cc1|compiler" "$log"; then
        die "a package had to be compiled and there is no C compiler; install one, for example: sudo apt-get install build-essential python3-dev"
    fi
    die "pip could not install into $venv; its last lines are above"
}

version_of() { "$1" -c 'import sys; print(sys.version_info[:2])' 2>/dev/null; }

# Whether the environment is whole and of the version asked for, if one was.
is_usable() {
    "$venv/bin/python" -m pip --version >/dev/null 2>&1 || return 1
    [ -z "${PYTHON:-}" ] || [ "$(version_of "$python")" = "$(version_of "$venv/bin/python")" ]
}

main() {
    if ! is_usable; then
        check_interpreter
        say "making $venv with $("$python" --version)"
        "$python" -m venv --clear "$venv" || die "$python could not make $venv"
    fi
    install "$@"
    touch "$stamp"
}

main "$@"
