#!/bin/sh
# Makes the secrets that docker-compose.yml mounts, once; what exists is kept. The folder is for its owner
# alone; the files are readable, since the containers read them as their own users through bind mounts.
set -eu
cd "$(dirname "$0")"
umask 077
mkdir -p secrets
chmod 700 secrets
if [ ! -s secrets/postgres_password ]; then
  password=$(LC_ALL=C tr -dc 'a-zA-Z0-9' </dev/urandom | head -c 40)
  printf '%s' "$password" >secrets/postgres_password
  printf 'postgres:5432:assay:assay:%s\n' "$password" >secrets/pgpass
  chmod 444 secrets/postgres_password secrets/pgpass
  echo "made deploy/secrets/postgres_password and deploy/secrets/pgpass"
else
  echo "deploy/secrets/postgres_password exists: nothing to do"
fi
