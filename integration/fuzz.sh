#!/usr/bin/env bash
# usage: fuzz.sh DURATION     (for example 60s; each fuzz target runs that long)
#
# Runs every FuzzX of the module, one after the other. A crash leaves its input in the package's
# testdata/fuzz and ends the run.
set -euo pipefail
[ $# -eq 1 ] || { sed -n '2,5s/^# \{0,1\}//p' "$0"; exit 2; }
cd "$(dirname "$0")/.."
grep -rlE '^func Fuzz' --include='*_test.go' . | while read -r file; do
  package=$(dirname "$file")
  grep -oE '^func Fuzz[A-Za-z0-9_]*' "$file" | cut -d' ' -f2 | while read -r target; do
    echo "== $package $target"
    go test "$package" -run '^$' -fuzz "^$target\$" -fuzztime "$1" | tail -n 3
  done
done
