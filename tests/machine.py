"""What this machine can do, found without dmq, and what it should do therefore: no test assumes
an instruction set.
"""

from functools import cache
from itertools import combinations

import torch
from torch import Tensor

from dmq.quantizers.bank import DynamicBank
from dmq.runtime.kernels import OVERFLOW
from dmq.runtime.layers import PackedLayer
from dmq.runtime.whole_weights import whole_parts


KERNEL = "oneDNN int8"


@cache
def adds_in_32_bits() -> bool:
    """Are sums of the largest products right? On x86 without VNNI two of them already leave 16
    bits.
    """
    values = torch.full((16, 96), 127, dtype=torch.int8)
    packed, codes = (
        torch.ops.onednn.qlinear_prepack(values, None),
        torch.full((40, 96), 255, dtype=torch.uint8),
    )
    one, none = torch.ones(16), torch.zeros(16, dtype=torch.int32)
    made = torch.ops.onednn.qlinear_pointwise.default(
        codes, 1.0, 0, packed, one, none, None, 1.0, 0, torch.float32, "none", [], ""
    )
    return bool((made == 96 * 255 * 127).all())


def should_run(layer: PackedLayer) -> tuple[str, str]:
    """What `find_kernels` should say of a layer whose weight and inputs have codes of at most 8 bits."""
    bits = layer.input.bits
    if adds_in_32_bits() or max(own for own in bits if own <= 8) < 8:
        return KERNEL, ""
    movable = not isinstance(layer.input, DynamicBank)
    parts = whole_parts(layer.codes)
    wholes = [
        part.dequantize() / part.scale.view(-1, *[1] * (part.values.ndim - 1)) for part in parts
    ]
    if all(
        may_be_moved(row, movable) for whole in wholes for row in whole.flatten(1).round().int()
    ):
        return KERNEL, ""
    if min(bits) == 8:
        return "reference", OVERFLOW
    return f"{KERNEL}, but for steps of more than 7 bits", ""


def may_be_moved(row: Tensor, movable: bool = True) -> bool:
    """Is there a number to take off a row so that no two products with 255 leave 16 bits? All
    are tried.
    """
    for move in range(-256, 257) if movable else [0]:
        moved = sorted((row.int() - move).tolist())
        if min(moved) >= -128 and max(moved) <= 127:
            alone = [255 * value for value in (moved if len(moved) < 5 else moved[:2] + moved[-2:])]
            sums = [a + b for a, b in combinations(alone, 2)] + alone
            if -(2**15) <= min(sums) and max(sums) < 2**15:
                return True
    return False
