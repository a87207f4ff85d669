#!/usr/bin/env bash
# Install a requirements file and dmq itself into .venv: tools/install.sh requirements.txt
set -euo pipefail
cd "$(dirname "$0")/.."
pip="$PWD/.venv/bin/python -m pip --disable-pip-version-check"
$pip install --quiet -r "$1"
$pip install --quiet --no-deps --editable .
