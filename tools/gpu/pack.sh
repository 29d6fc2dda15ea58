#!/usr/bin/env bash
# Pack a folder, the same bytes every time:  pack.sh FOLDER ARCHIVE XZ-OPTION...
# A file of the archive's name is always whole. On a terminal it is shown how far xz has come.
set -euo pipefail
mib=$(du -sm "$1" | cut -f1)
progress=()
if [ -t 2 ]; then progress=(-v); fi
printf 'gpu-bundle: compressing %d MiB into %s, at 0.1 to 1 MiB a second\n' "$mib" "$(basename "$2")" >&2
tar -C "$1" --sort=name --owner=0 --group=0 --mtime=2000-01-01 -cf - . |
    xz -T1 ${progress[@]+"${progress[@]}"} "${@:3}" -c > "$2.new"
mv "$2.new" "$2"
