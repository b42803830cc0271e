#!/usr/bin/env bash
# Writes random passwords, the pepper and the connection strings made of them: scripts/secrets.sh [FOLDER] [DATABASE HOST]
# Files that exist are left as they are. Compose mounts the folder's files as secrets; for Kubernetes:
#   kubectl -n cacherl create secret generic cacherl-secrets --from-file=deploy/compose/secrets
set -euo pipefail
folder="${1:-deploy/compose/secrets}"
host="${2:-postgres}"
umask 077
mkdir -p "$folder"

fresh() { # NAME: a random value of 43 URL-safe characters
  [ -s "$folder/$1" ] || head -c 32 /dev/urandom | base64 | tr '+/' '-_' | tr -d '=\n' > "$folder/$1"
}
address() { # NAME ROLE DATABASE PASSWORD-FILE
  [ -s "$folder/$1" ] || printf 'postgresql://%s:%s@%s:5432/%s' "$2" "$(cat "$folder/$4")" "$host" "$3" > "$folder/$1"
}

for name in pepper postgres_password password_owner password_app password_indexer password_jobs engine_key; do fresh "$name"; done
address admin_database_url postgres postgres postgres_password
address owner_database_url cacherl_owner cacherl password_owner
address database_url cacherl_app cacherl password_app
address indexer_database_url cacherl_indexer cacherl password_indexer
address broker_dsn cacherl_jobs jobs password_jobs
echo "secrets are in $folder" >&2
