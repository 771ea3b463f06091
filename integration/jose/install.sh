#!/usr/bin/env bash
# Installs the library jose beside this script, as package-lock.json pins it. Quiet, and does nothing when it is there.
set -euo pipefail
cd "$(dirname "$0")"
stamp=node_modules/.installed
if [ -f "$stamp" ] && cmp -s package-lock.json "$stamp"; then exit 0; fi
log=$(mktemp)
# Nothing of a package is run, and nothing but what the lock file names by its hash is installed.
npm ci --ignore-scripts --no-audit --no-fund --loglevel=error >"$log" 2>&1 || { cat "$log" >&2; rm -f "$log"; exit 1; }
rm -f "$log"
cp package-lock.json "$stamp"
