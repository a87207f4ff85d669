#!/usr/bin/env bash
# What depends on the processor once more, as one without VNNI, AVX-512 and bfloat16 runs it, where this one has more.
set -euo pipefail
cd "$(dirname "$0")/.."

python="${1:-.venv/bin/python}"
lesser() { ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 "$@"; }
ask='from dmq.runtime.sums import onednn_sums; from dmq.numerics.processor import multiplies_bfloat16 as half
print(onednn_sums(), half())'

here="$("$python" -W ignore -c "$ask")"
there="$(lesser "$python" -W ignore -c "$ask")"
echo "this processor: sums $here; the lesser one: sums $there (whole or in pairs; does it multiply bfloat16?)"
if [ "$here" = "$there" ]; then
    echo "There is nothing lesser to try here than what all tests ran on."
    exit 0
fi
lesser "$python" -m pytest -q -n 2 --dist loadfile tests/runtime tests/numerics/test_processor.py tests/checkpoint \
    tests/cli/test_engines.py tests/workflow/test_export.py tests/pages/export tests/calibration/test_active.py
