#!/usr/bin/env bash
# Builds .venv with the pinned versions of constraints.txt. Does nothing when it is up to date.
#   CACHERL_TORCH_BACKEND=cpu|auto|cu130   which build of torch to take (default: cpu)
set -euo pipefail
cd "$(dirname "$0")/.."

python="${PYTHON:-python3}"
"$python" - <<'PY' || exit 2
import sys
if sys.version_info < (3, 11):
    sys.exit(f"CacheRL needs Python 3.11 or newer; this is {sys.version.split()[0]}. Set PYTHON=/path/to/python3.11")
PY

wanted="$(cat scripts/setup.sh constraints.txt pyproject.toml | sha256sum | cut -d' ' -f1)"
if [ -f .venv/.complete ] && [ "$(cat .venv/.complete)" = "$wanted" ]; then
  exit 0
fi

free_kb="$(df -Pk . | awk 'NR == 2 { print $4 }')"
if [ "$free_kb" -lt 4000000 ]; then
  echo "setup: 4 GB of free disk are needed here, $((free_kb / 1000)) MB are left" >&2
  exit 2
fi

started="$(date +%s.%N)"
echo "setup: building .venv (about 2 GB; a quarter of a minute to two minutes)" >&2
rm -f .venv/.complete
[ -x .venv/bin/python ] || "$python" -m venv .venv

# Where pip is told of a folder of wheels, uv is told of it too: it does not read pip's configuration.
links="${PIP_FIND_LINKS:-$(.venv/bin/python -m pip config get global.find-links 2>/dev/null || true)}"
options=()
if [ -n "$links" ] && [ -d "$links" ]; then
  options+=(--find-links "$links")
else
  options+=(--torch-backend "${CACHERL_TORCH_BACKEND:-cpu}")
fi

if .venv/bin/python -m pip install --quiet 'uv==0.13.9'; then
  .venv/bin/uv pip install --quiet --compile-bytecode --python .venv/bin/python "${options[@]}" -r constraints.txt
  .venv/bin/uv pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation -e .
else
  echo "setup: uv is not to be had; pip does it, slower" >&2
  .venv/bin/python -m pip install --quiet -r constraints.txt
  .venv/bin/python -m pip install --quiet --no-deps --no-build-isolation -e .
fi

printf '%s' "$wanted" > .venv/.complete
awk -v a="$started" -v b="$(date +%s.%N)" 'BEGIN { printf "%.1f\n", b - a }' > .venv/.install-seconds
echo "setup: done in $(cat .venv/.install-seconds) s" >&2
