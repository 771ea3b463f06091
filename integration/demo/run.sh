#!/usr/bin/env bash
# Starts the service on its embedded Postgres in .demo/, tells the whole story on real evidence, and
# leaves the service running. Called by `make demo`; `make demo-stop` ends it.
set -euo pipefail
cd "$(dirname "$0")/../.."
integration/demo/stop.sh --quiet
listen=${ASSAY_LISTEN:-127.0.0.1:8440}
admin=${ASSAY_ADMIN_LISTEN:-127.0.0.1:8441}
if curl -fsS "http://$listen/healthz" >/dev/null 2>&1; then
  echo "something answers at http://$listen already; ASSAY_LISTEN and ASSAY_ADMIN_LISTEN choose other addresses" >&2
  exit 1
fi
mkdir -p .demo
chmod 755 .demo
go build -trimpath -o .demo/story ./integration/demo
echo "starting assayd on http://$listen with its own Postgres"
(umask 077 && : >.demo/assayd.log) # it holds the admin token
setsid nohup bin/assayd dev --data-dir .demo/data --listen "$listen" --admin-listen "$admin" \
  --notify-allow-networks 127.0.0.0/8 --notify-allow-http \
  >>.demo/assayd.log 2>&1 </dev/null &
echo $! >.demo/assayd.pid
for _ in $(seq 300); do
  if curl -fsS "http://$listen/readyz" >/dev/null 2>&1; then ready=yes; break; fi
  if ! kill -0 "$(cat .demo/assayd.pid)" 2>/dev/null; then break; fi
  sleep 0.2
done
if [ "${ready:-}" != yes ]; then
  echo "assayd did not start; its log ends with:" >&2
  tail -n 15 .demo/assayd.log >&2
  exit 1
fi
exec .demo/story --server "http://$listen" --data-dir .demo/data --work-dir .demo --bin bin --boots integration/testdata/boots --logs integration/testdata/eventlogs
