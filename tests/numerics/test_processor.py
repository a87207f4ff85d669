"""What the processor does well, beside what the system says of it."""

import os
from pathlib import Path

import pytest

from dmq.numerics import processor


def test_bfloat16_is_multiplied_where_the_processor_says_so_and_nothing_forbids_it():
    said = Path("/proc/cpuinfo")
    if not said.exists():
        pytest.fail(
            "no /proc/cpuinfo here: teach this test where this system tells what its processor does"
        )
    flags = set(said.read_text().split())
    has = bool(flags & {"avx512_bf16", "amx_bf16", "bf16"})
    allowed = not os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper().startswith(("SSE", "AVX2"))
    assert processor.multiplies_bfloat16() == (has and allowed)


@pytest.mark.parametrize(
    ("told", "flag", "x86", "pays"),
    [
        (False, True, True, False),
        (True, False, True, False),
        (True, True, True, True),
        (True, False, False, True),
    ],
    ids=str,
)
def test_emulated_bfloat16_does_not_count(told, flag, x86, pays, monkeypatch):
    monkeypatch.setattr(processor.torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: told)
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(processor.torch.cpu, name, lambda: flag)
    monkeypatch.setattr(processor, "on_x86", lambda: x86)
    processor.multiplies_bfloat16.cache_clear()
    assert processor.multiplies_bfloat16() == pays
    monkeypatch.undo()
    processor.multiplies_bfloat16.cache_clear()
