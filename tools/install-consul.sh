#!/usr/bin/env bash
# Finds or fetches a `consul` binary for the tests and the demo.
#
#   install-consul.sh [--present] [FOLDER]        FOLDER: where a fetched copy lives, .tools/consul by default
#
# Prints one line on stdout, the absolute path of a consul that runs; everything else goes to stderr.
# Exit status 0: there it is. 1: there is none to be had, and stderr says what to do instead.
#
# It looks at $CONSUL_BIN, then on PATH, then for an earlier copy in FOLDER (its checksum is checked
# again), and last takes the distribution's package of this or an older release and unpacks it into
# FOLDER. --present stops before that and fetches nothing.
#
# The system is read and never written: apt runs with a configuration, lists and caches of its own.
# The archive's address is asked of apt, so mirrors, proxies and credentials keep working. No root.
set -euo pipefail

OLDEST=1.8

say() { printf 'install-consul: %s\n' "$*" >&2; }

give_up() {
  say "$*"
  say "install Consul $OLDEST or newer by any other way, and put it on PATH or name it in CONSUL_BIN"
  exit 1
}

version_of() { "$1" version 2>/dev/null | sed -n '1s/^Consul v\([0-9][0-9.]*\).*/\1/p'; }

# Ends the script if $1 will do; else says why not.
use() {
  local version
  version=$(version_of "$1") || true
  if [ -z "$version" ]; then say "$1 does not run"; return 1; fi
  if [ "$(printf '%s\n' "$OLDEST" "$version" | sort -V | head -n1)" != "$OLDEST" ]; then
    say "$1 is $version, and $OLDEST or newer is wanted"
    return 1
  fi
  say "consul $version"
  realpath "$1"
  exit 0
}

look() {
  local found
  if [ -n "${CONSUL_BIN:-}" ]; then use "$CONSUL_BIN" || give_up "CONSUL_BIN is no help: $CONSUL_BIN"; fi
  if found=$(command -v consul); then use "$found" || true; fi
  if (cd "$folder" 2>/dev/null && sha256sum --status --check checksum 2>/dev/null); then
    use "$folder/bin/consul" || true
  fi
}

# Sets `suites`, `component` and `keyring`: where older releases of this distribution had the package.
choose_suites() {
  local id
  id=$(. /etc/os-release && printf '%s' "${ID:-}")
  case $id in
    ubuntu) suites=${CONSUL_DEB_SUITES:-jammy} component=universe keyring=ubuntu-archive-keyring.gpg ;;
    *) suites=${CONSUL_DEB_SUITES:-bullseye} component=main keyring=debian-archive-keyring.gpg ;;
  esac
  keyring=${CONSUL_DEB_KEYRING:-/usr/share/keyrings/$keyring}
}

# Prints the addresses of the archives that this machine uses, without those of updates and backports,
# which do not hold the older releases.
archives() {
  apt-get -oDir::Cache="$work/cache" indextargets --no-release-info \
      --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' 2>/dev/null |
    awk -v component="$component" \
      '$3 == component && $2 !~ /-(security|updates|proposed-updates|proposed|backports)|\// && !seen[$1]++ { print $1 }'
}

# Downloads the package into $work/native from the machine's own release; apt checks its signature.
download_native() {
  mkdir -p "$work/native"
  (cd "$work/native" && apt-get -c "$work/apt.conf" -oDir::Cache="$work/cache" -qq download consul) \
    >/dev/null 2>&1
}

# Downloads the package of the one-line source $2 into $1, with an apt that knows nothing else.
download_from() {
  local root=$1 source=$2 options
  mkdir -p "$root"/{empty,lists/partial,cache/archives/partial,log}
  : > "$root/status"
  printf '%s\n' "$source" > "$root/sources.list"
  options=(-c "$work/apt.conf" -qq
    -oDir::State="$root" -oDir::State::lists="$root/lists" -oDir::State::status="$root/status"
    -oDir::Cache="$root/cache" -oDir::Log="$root/log"
    -oDir::Etc::sourcelist="$root/sources.list" -oDir::Etc::sourceparts=-
    -oDir::Etc::preferences="$root/empty/none" -oDir::Etc::preferencesparts="$root/empty"
    -oAcquire::Languages=none -oAcquire::Retries=3 -oAPT::Update::Error-Mode=any)
  if [ "$(id -u)" = 0 ] && id _apt >/dev/null 2>&1; then
    chown _apt "$root" "$root/lists/partial" "$root/cache/archives/partial"  # whom root's apt downloads as
  fi
  (cd "$root" && apt-get "${options[@]}" update && apt-get "${options[@]}" download consul) >&2
}

# Moves the binary of the one package in folder $1 into place.
unpack() {
  local package
  package=$(find "$1" -maxdepth 1 -name 'consul_*.deb' -print -quit)
  [ -n "$package" ] && dpkg-deb -x "$package" "$1/unpacked" || return 1
  mkdir -p "$folder/bin"
  cp "$1/unpacked/usr/share/doc/consul/copyright" "$folder/copyright"
  install -m755 "$1/unpacked/usr/bin/consul" "$folder/bin/consul.new.$$"
  mv -f "$folder/bin/consul.new.$$" "$folder/bin/consul"  # at once: another run may be starting it
  (cd "$folder" && sha256sum bin/consul > checksum)
}

fetch() {
  local archive suite
  command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || give_up "there is no apt here to fetch it with"
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  chmod 755 "$work"
  mkdir -p "$work/cache/archives/partial"
  # Hooks of the system's configuration would write outside of the folders given here.
  printf '#clear %s;\n' APT::Update::{Pre-Invoke,Post-Invoke,Post-Invoke-Success} DPkg::Post-Invoke > "$work/apt.conf"

  if download_native && unpack "$work/native"; then use "$folder/bin/consul" || true; fi
  choose_suites
  [ -r "$keyring" ] || give_up "the archive's keys are missing: $keyring"
  for archive in $(archives); do
    for suite in $suites; do
      say "fetching it from release $suite of this machine's archive"
      local root="$work/$suite"
      if download_from "$root" "deb [signed-by=$keyring] $archive $suite $component" && unpack "$root"; then
        use "$folder/bin/consul" || true
      fi
      rm -rf "$root"
    done
  done
  give_up "no archive that this machine uses has it ($suites)"
}

fetching=yes folder=.tools/consul
for argument in "$@"; do
  case $argument in
    --present) fetching=no ;;
    -h | --help) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
    -*) give_up "there is no option $argument" ;;
    *) folder=$argument ;;
  esac
done
folder=$(realpath -m "$folder")
look
if [ "$fetching" = no ]; then give_up "there is none here; \`make consul\` fetches one"; fi
fetch
