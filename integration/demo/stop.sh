#!/usr/bin/env bash
# Ends what run.sh started and removes its data.
set -euo pipefail
cd "$(dirname "$0")/../.."
[ -d .demo ] || { [ "${1:-}" = --quiet ] || echo "no demo is running"; exit 0; }
if pid=$(cat .demo/assayd.pid 2>/dev/null) && [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = assayd ]; then
  kill "$pid"
  for _ in $(seq 200); do
    # gone, or a zombie that nobody has reaped yet
    case $(cut -d' ' -f3 "/proc/$pid/stat" 2>/dev/null) in '' | Z) break ;; esac
    sleep 0.1
  done
fi
rm -rf .demo
[ "${1:-}" = --quiet ] || echo "the demo is stopped and its data removed"
