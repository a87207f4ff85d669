"""What this processor does well, as far as it decides between two ways to the same result."""

import platform
from functools import cache

import torch


X86 = ("x86_64", "AMD64", "i686")


def on_x86() -> bool:
    """Is this an x86 processor?"""
    return platform.machine() in X86


@cache
def multiplies_bfloat16() -> bool:
    """Does it multiply bfloat16 itself? Elsewhere it is emulated, and up to twenty times slower
    than float32.

    oneDNN is asked too, since it may have been told to leave instructions out
    ($ONEDNN_MAX_CPU_ISA); what it says is not enough, since it emulates bfloat16 on any processor
    with AVX-512."""
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    if not torch.backends.mkldnn.is_available() or not supported():
        return False
    flags = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return not on_x86() or any(getattr(torch.cpu, name, lambda: False)() for name in flags)
