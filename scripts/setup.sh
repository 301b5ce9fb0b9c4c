#!/usr/bin/env bash
# Makes .venv with the package and everything the developer commands need; does nothing when that is already there.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
stamp=.venv/.stamp-$(cat pyproject.toml constraints.txt "$0" | cksum | cut -d' ' -f1)
[ -e "$stamp" ] && exit 0
constraints=$(mktemp)
trap 'rm -f "$constraints"' EXIT
cp constraints.txt "$constraints"
options=
if [ ! -e .venv ]; then
  # A torch that is already there (a CUDA build, say) is used as it is.
  if "$python" -c 'import torch' 2>/dev/null; then options=--system-site-packages; fi
  "$python" -m venv $options .venv
fi
if grep -q 'include-system-site-packages = true' .venv/pyvenv.cfg; then
  sed -i -e '/^torch==/d' -e '/^numpy==/d' "$constraints"
fi
echo "installing hf_modalbridge and its developer environment into .venv (once, about two minutes)"
.venv/bin/python -m pip install --quiet --upgrade pip
.venv/bin/python -m pip install --quiet --constraint "$constraints" --editable ".[dev]"
rm -f .venv/.stamp-*
touch "$stamp"
