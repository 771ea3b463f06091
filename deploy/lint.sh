#!/usr/bin/env bash
# Lints the deployment files with the tools that are at hand. What needs none is checked by the Go tests
# of this folder.
set -euo pipefail
cd "$(dirname "$0")"

if docker compose version >/dev/null 2>&1; then
  docker compose -f ../docker-compose.yml config --quiet
fi

if command -v hadolint >/dev/null 2>&1; then
  hadolint Dockerfile
fi

# verify wants the programs that a unit starts to exist, so it sees the units in a root of their own.
if command -v systemd-analyze >/dev/null 2>&1; then
  root=$(mktemp -d)
  trap 'rm -rf "$root"' EXIT
  mkdir -p "$root/usr/bin" "$root/etc/systemd/system" "$root/usr/lib/systemd"
  for program in assayd assay-agent; do
    printf '#!/bin/true\n' >"$root/usr/bin/$program"
    chmod 755 "$root/usr/bin/$program"
  done
  cp -r systemd/*.service systemd/*.service.d "$root/etc/systemd/system/"
  for target in network-online sysinit basic multi-user shutdown network; do
    printf '[Unit]\nDescription=%s\nDefaultDependencies=no\n' "$target" >"$root/etc/systemd/system/$target.target"
  done
  said=$(systemd-analyze verify --root="$root" --recursive-errors=no --man=no assayd.service assay-agent.service 2>&1) || { echo "$said" >&2; exit 1; }
  if [ -n "$said" ]; then
    echo "$said" >&2
    exit 1
  fi
fi
