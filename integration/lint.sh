#!/usr/bin/env bash
# Lints what golangci-lint does not read: shell scripts and deployment files.
set -euo pipefail
cd "$(dirname "$0")/.."
mapfile -t scripts < <(git ls-files '*.sh' .ci/run)
[ ${#scripts[@]} -eq 0 ] || shellcheck "${scripts[@]}"
# gosec is told to pass a line over by "#nosec Gnnn -- why" alone; nolintlint demands the same of //nolint.
if git grep -nE '#nosec' -- '*.go' | grep -vE '#nosec G[0-9]{3}( G[0-9]{3})* -- [^ ]'; then
  echo 'these lines are passed over by gosec without rule or reason (#nosec Gnnn -- why)' >&2
  exit 1
fi
if [ -x deploy/lint.sh ]; then deploy/lint.sh; fi
