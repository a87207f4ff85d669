"""Codes as SDNQ stores them, for diffusers with its `sdnq` instead of dmq; see `for_sdnq`.

Of the files alone: SDNQ is under the GPL and nothing of it is imported or copied. What was found by
looking at files that sdnq 0.2.8 writes, of a parameter [O, I, ...] in groups of input channels:

    weight      packed codes, uint8, see `_packed`; at 8 bits the codes themselves, in the shape below
    scale       float32 [O, groups, 1, ...], or [O, 1, ...] for one group
    zero_point  float32, like scale: what the code 0 stands for; none of a symmetric grid, whose codes are signed
    scale       of codes that look something up: float32 [O, 2**bits, ...], values in place of the 1

A weight is scale * code + zero_point, or scale[code]. "..." are the kernel's own axes: SDNQ shares
nothing over them."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import singledispatch
from typing import Any

import torch
from torch import Tensor

from ..numerics.packing import pack
from ..numerics.power_of_two import apply_shifts
from ..quantizers.codes import CodebookWeight, QuantizedWeight, ShiftWeight, WeightCodes


WIDTHS = range(2, 9)  # bits of the codes that are written
# Where the bits of some codes go, (byte, bit), the lowest first. The others of a run fill the low
# bits of a byte each.
PLACES = {
    3: (
        ((0, 3), (0, 4), (0, 5)),
        ((1, 3), (1, 4), (1, 5)),
        ((2, 3), (2, 4), (2, 5)),
        ((0, 6), (0, 7), (2, 6)),
        ((1, 6), (1, 7), (2, 7)),
    ),
    5: (
        ((0, 5), (0, 6), (0, 7), (3, 5), (3, 6)),
        ((1, 5), (1, 6), (1, 7), (4, 5), (4, 6)),
        ((2, 5), (2, 6), (2, 7), (4, 7), (3, 7)),
    ),
    6: (((2, 6), (2, 7), (1, 6), (1, 7), (0, 6), (0, 7)),),
    7: (((6, 7), (5, 7), (4, 7), (3, 7), (2, 7), (1, 7), (0, 7)),),
}
RUN = 8  # codes that lie together, or half of them; a part of a run is never packed


@dataclass(frozen=True)
class Form:
    """A parameter as SDNQ stores it."""

    tensors: dict[str, Tensor]  # by what is appended to the module's name
    settings: dict[str, Any]  # as SDNQ's configuration has them for one module


@dataclass(kw_only=True)
class Forms:
    """The forms of all parameters of a model, collected for its configuration."""

    settings: dict[str, dict[str, Any]] = field(default_factory=dict)  # by parameter
    floats: list[str] = field(default_factory=list)  # weights that stay in float

    def stored(self, name: str, x: WeightCodes | Tensor) -> dict[str, Tensor]:
        """What is stored of a parameter: its codes where SDNQ has the form, and smaller than
        float16; else numbers.
        """
        made = None
        if isinstance(x, WeightCodes) and name.endswith(".weight") and len(x.shape) > 1:
            made = _form(x) if x.bits in WIDTHS and math.prod(x.shape) % RUN == 0 else None
        if made is not None and sum(y.nbytes for y in made.tensors.values()) < 2 * math.prod(
            x.shape
        ):
            self.settings[name] = made.settings
            return {f"{name.removesuffix('weight')}{part}": y for part, y in made.tensors.items()}
        value = x.dequantize() if isinstance(x, WeightCodes) else x
        if name.endswith(".weight") and value.ndim > 1:
            self.floats.append(name)
        return {name: value}

    def config(self) -> dict[str, Any]:
        """The `quantization_config` of the denoiser."""
        widths = [settings["weights_dtype"] for settings in self.settings.values()]
        most = max(sorted(set(widths)), key=widths.count, default="int8")
        return {
            "quant_method": "sdnq",
            "weights_dtype": most,
            "group_size": -1,
            "quant_conv": True,
            "dequantize_fp32": True,
            "add_skip_keys": False,
            "modules_to_not_convert": self.floats,
            "modules_quant_config": self.settings,
        }


# --- forms ----------------------------------------------------------------------------------------


@singledispatch
def _form(codes: WeightCodes) -> Form | None:
    """The parameter as SDNQ stores it; None if it has no such form."""
    return None


@_form.register
def _(codes: QuantizedWeight) -> Form | None:
    shape, symmetric = codes.shape, codes.symmetric
    scale, zero = (x.expand(codes.codes.shape).reshape(shape) for x in codes.spread())
    size = next(
        (n for n in _sizes(shape[1]) if _share_scale(scale, n) and _share_scale(zero, n)), None
    )
    if size is None:
        return None
    groups = shape[1] // size
    grouped = (shape[0], groups, size, *shape[2:]) if groups > 1 else shape
    scale, zero = (
        x.view(grouped).narrow(len(grouped) - len(shape) + 1, 0, 1).contiguous()
        for x in (scale, zero)
    )
    q = codes.codes.view(grouped)
    if symmetric:
        weight = (
            (q.to(torch.int16) - 128).to(torch.int8) if codes.bits == 8 else _packed(q, codes.bits)
        )
        return Form({"weight": weight, "scale": scale}, _settings(f"int{codes.bits}", size, groups))
    tensors = {"weight": _packed(q, codes.bits), "scale": scale, "zero_point": -scale * zero}
    return Form(tensors, _settings(f"uint{codes.bits}", size, groups))


@_form.register
def _(codes: CodebookWeight) -> Form:
    return _look_up(codes, codes.codes, codes.centroids)


@_form.register
def _(codes: ShiftWeight) -> Form:
    every = torch.arange(2**codes.bits).expand(len(codes.scale), -1)
    return _look_up(codes, codes.codes, apply_shifts(every, codes.scale, codes.bits))


def _look_up(codes: WeightCodes, q: Tensor, values: Tensor) -> Form:
    """Codes that look up one of `values` [rows, 2**bits]."""
    outputs, _, *kernel = shape = codes.shape
    scale = (
        values.expand(outputs, -1)
        .reshape(outputs, -1, *[1] * len(kernel))
        .expand(-1, -1, *kernel)
        .contiguous()
    )
    settings = _settings(f"uint{codes.bits}", -1, 1) | {"use_codebook": True}
    return Form({"weight": _packed(q.view(shape), codes.bits), "scale": scale.float()}, settings)


def _settings(dtype: str, size: int, groups: int) -> dict[str, Any]:
    return {"weights_dtype": dtype, "group_size": size if groups > 1 else -1}


def _sizes(channels: int) -> Iterator[int]:
    """Input channels of a group, the largest first."""
    yield channels
    yield from (n for n in range(channels // 2, 1, -1) if channels % n == 0)


def _share_scale(x: Tensor, size: int) -> bool:
    """Does x [O, I, ...] have the same values in each run of `size` input channels?"""
    grouped = x.unflatten(1, (-1, size))
    return bool((grouped == grouped[:, :, :1]).all())


def _packed(codes: Tensor, bits: int) -> Tensor:
    """The bytes of codes: as they are at 8 bits, flat where a byte holds several, else [runs,
    bytes]; see PLACES.
    """
    if bits == 8:
        return codes.to(torch.uint8).contiguous()
    if bits not in PLACES:
        return pack(codes, bits)
    kept = RUN // 2 if bits == 6 else RUN
    size = kept * bits // 8
    runs = codes.reshape(-1, kept).to(torch.uint8)
    made = runs[:, :size].clone()
    for code, places in zip(runs[:, size:].unbind(1), PLACES[bits], strict=True):
        for n, (byte, bit) in enumerate(places):
            made[:, byte] |= (code >> n & 1) << bit
    return made
