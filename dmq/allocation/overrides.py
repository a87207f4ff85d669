"""An allocation as overrides of a recipe."""

import glob

from ..recipe import Override
from ..results import Allocation


def to_overrides(allocation: Allocation) -> tuple[Override, ...]:
    """An override for each layer of `allocation`."""
    pairs = zip(allocation.layers, allocation.choices, strict=True)
    return tuple(
        Override(layers=glob.escape(name), weight_bits=c.bits, format=c.format) for name, c in pairs
    )
