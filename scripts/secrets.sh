#!/usr/bin/env bash
# Writes random passwords, the pepper and the connection strings made of them: scripts/secrets.sh [FOLDER] [DATABASE HOST]
# Files that exist are left as they are. Compose mounts the folder's files as secrets; for Kubernetes:
#   kubectl -n cacherl create secret generic cacherl-secrets --from-file=deploy/compose/secrets
# Compose mounts each file with the owner and mode that it has here, and the containers run as uid 10001, which owns nothing here. So the
# folder is closed (0700: nobody else on this machine gets to the files) and the files are readable (0444): inside, each container sees
# only the files that it was given. This needs no root and no common user id. Do not open the folder or copy the files out of it.
set -euo pipefail
folder="${1:-deploy/compose/secrets}"
host="${2:-postgres}"
umask 077
mkdir -p "$folder"
chmod 0700 "$folder"

fresh() { # NAME: a random value of 43 URL-safe characters
  [ -s "$folder/$1" ] || head -c 32 /dev/urandom | base64 | tr '+/' '-_' | tr -d '=\n' > "$folder/$1"
}
address() { # NAME ROLE DATABASE PASSWORD-FILE
  [ -s "$folder/$1" ] || printf 'postgresql://%s:%s@%s:5432/%s' "$2" "$(cat "$folder/$4")" "$host" "$3" > "$folder/$1"
}

passwords=(pepper postgres_password password_owner password_app password_indexer password_jobs engine_key)
for name in "${passwords[@]}"; do fresh "$name"; done
address admin_database_url postgres postgres postgres_password
address owner_database_url cacherl_owner cacherl password_owner
address database_url cacherl_app cacherl password_app
address indexer_database_url cacherl_indexer cacherl password_indexer
address broker_dsn cacherl_jobs jobs password_jobs
(cd "$folder" && chmod 0444 "${passwords[@]}" admin_database_url owner_database_url database_url indexer_database_url broker_dsn)
echo "secrets are in $folder" >&2
