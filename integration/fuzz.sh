#!/usr/bin/env bash
# usage: fuzz.sh DURATION [FOLDER...]     (for example: fuzz.sh 60s, or fuzz.sh 5000x verifier)
#
# Runs every FuzzX below the folders (default: all) that long or that often, one after the other. A crash leaves
# its input in the package's testdata/fuzz and ends the run.
set -euo pipefail
[ $# -ge 1 ] || { sed -n '2,5s/^# \{0,1\}//p' "$0"; exit 2; }
cd "$(dirname "$0")/.."
duration=$1
shift
[ $# -gt 0 ] || set -- .
grep -rlE '^func Fuzz' --include='*_test.go' "$@" | sort | while read -r file; do
  package=./$(dirname "$file")
  grep -oE '^func Fuzz[A-Za-z0-9_]*' "$file" | cut -d' ' -f2 | while read -r target; do
    echo "== $package $target"
    # Minimising an input that finds nothing new would eat the time.
    if ! out=$(go test "$package" -run '^$' -fuzz "^$target\$" -fuzztime "$duration" -fuzzminimizetime 5x 2>&1); then
      # go test sometimes reports the end of its own fuzzing time as a failure, without an input.
      if grep -q 'context deadline exceeded' <<<"$out" && ! grep -q 'Failing input' <<<"$out"; then continue; fi
      printf '%s\n' "$out"
      exit 1
    fi
    printf '%s\n' "$out" | tail -n 2 | head -n 1
  done
done
