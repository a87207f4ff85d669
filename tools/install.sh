#!/usr/bin/env bash
# Install a requirements file and dmq itself into .venv: tools/install.sh requirements.txt
set -euo pipefail
cd "$(dirname "$0")/.."
pip="$PWD/.venv/bin/python -m pip --disable-pip-version-check"
# On Linux the registry's newest torch brings gigabytes of CUDA; the CPU build of the same version is tried first where
# there is no NVIDIA driver. TORCH_INDEX names the index that has it.
if [ "$(uname -s)" = Linux ] && ! command -v nvidia-smi >/dev/null && [ -n "${TORCH_INDEX:-}" ]; then
    $pip install --quiet --index-url "$TORCH_INDEX" "$(grep '^torch==' requirements.txt)"
fi
$pip install --quiet -r "$1"
$pip install --quiet --no-deps --editable .
