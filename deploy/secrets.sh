#!/bin/sh
# Makes the secrets that docker-compose.yml mounts, once; what exists is kept. The folder is for its owner
# alone; the files are readable, since the containers read them as their own users through bind mounts.
set -eu
cd "$(dirname "$0")"
umask 077
mkdir -p secrets
chmod 700 secrets

# make_login PASSWORD-FILE PASS-FILE LOGIN
make_login() {
  if [ -s "secrets/$1" ]; then
    echo "deploy/secrets/$1 exists: nothing to do"
    return
  fi
  password=$(LC_ALL=C tr -dc 'a-zA-Z0-9' </dev/urandom | head -c 40)
  printf '%s' "$password" >"secrets/$1"
  printf 'postgres:5432:assay:%s:%s\n' "$3" "$password" >"secrets/$2"
  chmod 444 "secrets/$1" "secrets/$2"
  echo "made deploy/secrets/$1 and deploy/secrets/$2"
}

make_login postgres_password pgpass assay                    # owns the tables: migrations, backups
make_login service_password service_pgpass assay_service     # the service's own
