#!/usr/bin/env bash
# Lints what golangci-lint does not read: shell scripts and deployment files.
set -euo pipefail
cd "$(dirname "$0")/.."
mapfile -t scripts < <(git ls-files '*.sh' .ci/run)
[ ${#scripts[@]} -eq 0 ] || shellcheck "${scripts[@]}"
if [ -x deploy/lint.sh ]; then deploy/lint.sh; fi
