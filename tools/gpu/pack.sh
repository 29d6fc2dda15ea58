#!/usr/bin/env bash
# Pack a folder, the same bytes every time:  pack.sh FOLDER ARCHIVE XZ-OPTION...
# A file of the archive's name is always whole.
set -euo pipefail
tar -C "$1" --sort=name --owner=0 --group=0 --mtime=2000-01-01 -cf - . | xz -T1 "${@:3}" -c > "$2.new"
mv "$2.new" "$2"
