#!/usr/bin/env bash
# Builds .venv-sglang beside .venv: SGLang on the CPU build of torch, pinned, with our platform plug-in. Does nothing when it is up to date.
# `--no-deps`: SGLang's own metadata asks for a CUDA torch and compiled kernels; constraints.txt is the whole set that is needed without them.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
cd "$here/../../.."
target="${CACHERL_SGLANG_VENV:-.venv-sglang}"

wanted="$(cd "$here" && cat setup.sh constraints.txt plug/pyproject.toml plug/cacherl_sglang_cpu/*.py | sha256sum | cut -d' ' -f1)"
if [ -f "$target/.complete" ] && [ "$(cat "$target/.complete")" = "$wanted" ]; then
  exit 0
fi

free_kb="$(df -Pk . | awk 'NR == 2 { print $4 }')"
if [ "$free_kb" -lt 3000000 ]; then
  echo "sglang setup: 3 GB of free disk are needed here, $((free_kb / 1000)) MB are left" >&2
  exit 2
fi

started="$(date +%s.%N)"
echo "sglang setup: building $target (about 2 GB; half a minute to two minutes)" >&2
python="${PYTHON:-.venv/bin/python}"
[ -x "$python" ] || python="python3"
rm -f "$target/.complete"
[ -x "$target/bin/python" ] || "$python" -m venv "$target"

# Where pip is told of a folder of wheels, uv is told of it too: it does not read pip's configuration.
links="${PIP_FIND_LINKS:-$("$target/bin/python" -m pip config get global.find-links 2>/dev/null || true)}"
options=()
if [ -n "$links" ] && [ -d "$links" ]; then
  options+=(--find-links "$links")
fi

if [ -x .venv/bin/uv ]; then
  [ ${#options[@]} -gt 0 ] || options+=(--torch-backend cpu)
  .venv/bin/uv pip install --quiet --compile-bytecode --python "$target/bin/python" --no-deps "${options[@]}" -r "$here/constraints.txt" "$here/plug"
else
  echo "sglang setup: uv is not there; pip does it, slower" >&2
  "$target/bin/python" -m pip install --quiet --compile --no-deps "${options[@]}" -r "$here/constraints.txt" "$here/plug"
fi
rm -rf "$here/plug/build" "$here/plug/"*.egg-info

printf '%s' "$wanted" > "$target/.complete"
awk -v a="$started" -v b="$(date +%s.%N)" 'BEGIN { printf "sglang setup: done in %.1f s\n", b - a }' >&2
