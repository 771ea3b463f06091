#!/usr/bin/env bash
# usage: reproducible.sh [PROGRAM...]     (default: assay assay-agent assayd)
#
# Builds the programs twice and compares the bytes. The second build is of a copy in another folder without git, with a
# compiler cache of its own and another time, so that nothing of it comes from the first. Prints the SHA-256 of each.
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# -gt 0 ] || set -- assay assay-agent assayd
version=$(git describe --tags --always --dirty 2>/dev/null || echo dev)
work=$(mktemp -d)
trap 'chmod -R u+w "$work" && rm -rf "$work"' EXIT
mkdir -p "$work/first" "$work/another/folder/assay" "$work/second" "$work/cache"
git ls-files -z --cached --others --exclude-standard | while IFS= read -r -d '' file; do
  [ ! -e "$file" ] || printf '%s\0' "$file"
done | tar --create --null --files-from=- | tar --extract --directory="$work/another/folder/assay"
packages=()
for program in "$@"; do packages+=("./cmd/$program"); done
make --no-print-directory build VERSION="$version" BIN="$work/first" PACKAGES="${packages[*]}"
(cd "$work/another/folder/assay" && GOCACHE="$work/cache" make --no-print-directory build VERSION="$version" BIN="$work/second" PACKAGES="${packages[*]}")
status=0
for program in "$@"; do
  if cmp "$work/first/$program" "$work/second/$program"; then
    (cd "$work/second" && sha256sum "$program")
  else
    echo "$program: two builds of the same source differ" >&2
    status=1
  fi
done
exit $status
