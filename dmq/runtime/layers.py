"""Layers that compute on codes: those of their weight, which are all that is kept of it, and those
of their inputs.

A layer asks its bank for the grid that is in force, makes codes of what comes, and hands them to a
kernel. Where there is no kernel it does what the simulated layer does, and says why."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..numerics.affine import grid
from ..quantizers.bank import ActivationBank, DynamicBank, value_ranges
from ..quantizers.codes import LowRankWeight, WeightCodes
from .fused_quantize import codes_of
from .kernels import Kernel, kernel_for
from .whole_weights import WholeWeight, whole_parts


BY_ROW = ("token", "place")  # ranges of what a product of matrices takes as rows


class PackedLayer(nn.Module):
    """A Linear or Conv layer on `codes`, with its inputs through `bank` (an `nn.Identity` for
    inputs in float).

    `why` is empty where an integer kernel runs, and says why not where the reference does. The bank
    is shared with other layers, so it is no submodule of this one. Executed equals simulated up to
    the order of float operations. `traced`, if given, is what a compiler sees of it."""

    traced: Callable[["PackedLayer", Tensor], Tensor] | None = None
    dtype: torch.dtype
    kept: Tensor | None
    smoothing: Tensor | None
    right: Tensor
    left: Tensor | None

    def __init__(
        self,
        layer: nn.Module,
        codes: WeightCodes,
        bias: nn.Parameter | None,
        bank: nn.Module,
        kernels: bool = True,
    ) -> None:
        super().__init__()
        self.bias = bias
        self.codes = codes
        # No submodules: a bank is shared, and a layout has no memory that could be moved.
        self.__dict__.update(input=bank, layout=layout_of(layer))
        self.dtype = layer.get_parameter("weight").dtype
        self.parts: list[Kernel] = []
        self.totals: Tensor | None = (
            None  # of each row of the weight, where ranges are those of rows of the input
        )
        self.wanted = kernels
        self.why = self._prepare() if kernels else "kernels were not asked for"
        # Buffers that are no part of the state: what is borrowed shares them, and they move with
        # the model.
        factors: tuple[Tensor | None, ...] = (None, None, None)
        if isinstance(codes, LowRankWeight) and not isinstance(bank, nn.Identity):
            factors = _factors(codes, self.dtype)
        for name, x in zip(("smoothing", "right", "left"), factors, strict=True):
            self.register_buffer(name, x, persistent=False)
        self.register_buffer(
            "kept", self._float() if self.why else None, persistent=False
        )  # instead of at each call
        self.train(layer.training)

    def __getattr__(self, name: str) -> Any:
        """What pipelines ask of a float layer, such as `in_features`, is answered by its layout."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if (layout := self.__dict__.get("layout")) is None:
                raise
            return getattr(layout, name)

    @property
    def weight(self) -> Tensor:
        """What the codes stand for, made anew."""
        return self.codes.dequantize().to(self.dtype)

    @property
    def kernel(self) -> str:
        """What runs it: a kernel's name, or "reference"; and whether some steps have more bits
        than kernels take.
        """
        if not self.parts:
            return "reference"
        some = max(self.input.bits) > self.most_bits
        return self.parts[0].name + (
            f", but for steps of more than {self.most_bits} bits" if some else ""
        )

    @property
    def most_bits(self) -> int:
        """Bits of inputs that its kernels take at most."""
        return min((part.most_bits for part in self.parts), default=0)

    def forward(self, x: Tensor) -> Tensor:
        if self.left is None:
            return self.wide(x)
        if self.smoothing is not None:
            x = x / self.smoothing.repeat(getattr(self.layout, "groups", 1)).view(
                -1, *[1] * (self.right.ndim - 2)
            )
        thin = compute(self.layout, x, self.right, None)
        return self.wide(x).add_(
            F.linear(thin, self.left) if self.right.ndim == 2 else _pointwise(thin, self.left)
        )

    def wide(self, x: Tensor) -> Tensor:
        """The layer, but for low-rank factors beside the codes."""
        if self.traced is not None and torch.compiler.is_compiling():
            return self.traced(self, x)
        return self.untraced(x)

    def untraced(self, x: Tensor) -> Tensor:
        """The same, whoever asks."""
        bits = self._bits()
        return self.in_float(x) if bits is None else self._execute(x, bits)

    def in_float(self, x: Tensor) -> Tensor:
        """The same without a kernel."""
        weight = self._float() if self.kept is None else self.kept
        return compute(self.layout, self.input(x), weight, self.bias)

    def _float(self) -> Tensor:
        """The weight that quantized inputs meet."""
        if self.left is not None and isinstance(self.codes, LowRankWeight):
            return self.codes.rest_weight().to(self.dtype)
        return self.weight

    # --- on codes ---------------------------------------------------------------------------------

    def _bits(self) -> int | None:
        """Bits of the inputs now; None if they pass as floats, or have more than kernels take."""
        bank = self.input
        if not self.parts or bank.clock.bypassed:
            return None
        bits = bank.bits[bank.slot[bank.clock.i] if len(bank.bits) > 1 else 0]
        return bits if bits <= self.most_bits else None

    def _execute(self, x: Tensor, bits: int) -> Tensor:
        if isinstance(self.input, DynamicBank):
            return self.ranged(x, bits, self._product)
        bias = None if self.bias is None else self.bias.float()
        total: Tensor | None = None
        grids = self.grids[self.input.slot[self.input.clock.i]]
        for kernel, side, (scale, zero) in zip(self.parts, self.sides(x), grids, strict=True):
            out = kernel(
                codes_of(side, scale, zero, bits),
                scale,
                zero,
                None if total is not None else bias,
                x.dtype,
            )
            total = out if total is None else total.add_(out)
        assert total is not None
        return total

    def sides(self, x: Tensor) -> tuple[Tensor, ...]:
        """The channels of `x` that each kernel takes."""
        if len(self.parts) == 1:
            return (x,)
        return x.split([part.weight.values.shape[1] for part in self.parts], self._axis(x))

    def ranged(
        self, x: Tensor, bits: int, product: Callable[[Tensor, Any, Any, bool, torch.dtype], Tensor]
    ) -> Tensor:
        """With dynamic ranges; `product(codes, scale, zero, with its bias?, dtype)` is that
        of the kernel.
        """
        bank = self.input
        scale, zero = grid(*value_ranges(x, bank.per), bits, bank.symmetric)
        if bank.per not in BY_ROW:
            scales: Any = scale.flatten()
            zeros: Any = zero.flatten()
            if self.parts[0].on_device:  # all rows at once, and nothing is waited for
                return product(codes_of(x, scale, zero, bits), scales, zeros, True, x.dtype)
            if not torch.compiler.is_compiling():
                scales, zeros = scales.tolist(), zeros.tolist()
            rows = zip(x.split(len(x) // scale.numel()), scales, zeros, strict=True)
            outs = [product(codes_of(row, s, z, bits), s, z, True, x.dtype) for row, s, z in rows]
            return torch.cat(outs) if len(outs) > 1 else outs[0]
        half = 2 ** (bits - 1)
        made = product(codes_of(x, scale, zero, bits), 1.0, half, False, torch.float32)
        if not bank.symmetric:
            assert self.totals is not None
            made.addcmul_(self._by_output(self.totals), half - zero)
        if self.bias is None:
            return made.mul_(scale).to(x.dtype)
        return torch.addcmul(self._by_output(self.bias.float()), made, scale).to(x.dtype)

    def _by_output(self, values: Tensor) -> Tensor:
        return values if isinstance(self.layout, nn.Linear) else values.view(-1, 1, 1)

    def _product(
        self, codes: Tensor, scale: Any, zero: Any, biased: bool, dtype: torch.dtype
    ) -> Tensor:
        bias = self.bias.float() if biased and self.bias is not None else None
        zero = zero.to(torch.int32) if isinstance(zero, Tensor) else int(zero)
        return self.parts[0](codes, scale, zero, bias, dtype)

    def table_rows(self, slot: int) -> list[tuple[float, float, float]]:
        """1 / scale, zero point and greatest code of each part of the inputs."""
        return [
            (1 / scale, float(zero), 2.0 ** self.input.bits[slot] - 1)
            for scale, zero in self.grids[slot]
        ]

    # --- preparing --------------------------------------------------------------------------------

    def _prepare(self) -> str:
        """Make the kernels, and say why not if they cannot be made."""
        bank = self.input
        why = _lacks_bank(bank, self.layout)
        if why:
            return why
        parts = whole_parts(self.codes)
        if isinstance(parts, str):
            return parts
        if bank.parts and tuple(bank.parts) != tuple(part.values.shape[1] for part in parts):
            return "inputs and weight are split at different places"
        if len(parts) > 1 and getattr(self.layout, "groups", 1) > 1:
            return "it is split and has groups"
        if isinstance(bank, DynamicBank) and len(parts) > 1:
            return "its weight is split, and the ranges of its inputs found at run time"
        if isinstance(bank, DynamicBank) and parts[0].offset is not None:
            return "asymmetric weights of 8 bits beside ranges that are found at run time"
        widths = [part.values.shape[1] for part in parts]
        layouts = (
            [_narrow(self.layout, width) for width in widths] if len(parts) > 1 else [self.layout]
        )
        made = [self._kernel(layout, part) for layout, part in zip(layouts, parts, strict=True)]
        lacking = [kernel for kernel in made if isinstance(kernel, str)]
        if lacking:
            return lacking[0]
        self.parts = [kernel for kernel in made if isinstance(kernel, Kernel)]
        if isinstance(bank, DynamicBank) and bank.per in BY_ROW:
            self.totals = parts[0].dequantize().flatten(1).sum(1)
        if isinstance(
            bank, ActivationBank
        ):  # as Python numbers: choosing a slot then waits for nothing
            scale, zero = (
                table.view(len(bank.bits), -1).tolist() for table in (bank.scale, bank.zero)
            )
            slots = [
                [(s, int(z)) for s, z in zip(*ends, strict=True)]
                for ends in zip(scale, zero, strict=True)
            ]
            self.grids = [grids * (len(made) if len(grids) == 1 else 1) for grids in slots]
        return ""

    def _kernel(self, layout: nn.Module, part: WholeWeight) -> Kernel | str:
        return kernel_for(layout, part, self.input.bits, not isinstance(self.input, DynamicBank))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        """What moves the layer moves its codes, kernels and bank; another dtype is for the rest
        alone.
        """
        super()._apply(fn, recurse)
        before = self.codes.device
        after = fn(torch.empty(0, dtype=torch.uint8, device=before)).device
        if after != before:
            self._move(after)
        return self

    def _move(self, device: torch.device) -> None:
        self.codes = self.codes.to(device)
        self.input.to(device)
        if self.parts:
            made = [self._kernel(part.layer, part.weight.to(device)) for part in self.parts]
            self.why = next((kernel for kernel in made if isinstance(kernel, str)), "")
            self.parts = [] if self.why else [k for k in made if isinstance(k, Kernel)]
        elif self.wanted:
            self.why = self._prepare()
        if self.totals is not None:
            self.totals = self.totals.to(device)
        self.kept = (self._float() if self.kept is None else self.kept) if self.why else None

    def _axis(self, x: Tensor) -> int:
        return x.ndim - 1 if isinstance(self.layout, nn.Linear) else 1

    def extra_repr(self) -> str:
        return f"{self.layout}, {self.kernel}" + (f" ({self.why})" if self.why else "")


def layout_of(layer: nn.Module) -> nn.Module:
    """How `layer` computes, without its weight: a copy whose parameters have no memory."""
    memo = {
        id(p): nn.Parameter(torch.empty_like(p, device="meta"), False) for p in layer.parameters()
    }
    made = copy.deepcopy(layer, memo)
    return made.requires_grad_(False)


def compute(layout: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The float layer with this weight."""
    bias = bias if bias is None or bias.dtype == x.dtype else bias.to(x.dtype)
    weight = weight if weight.dtype == x.dtype else weight.to(x.dtype)
    return (
        F.linear(x, weight, bias)
        if isinstance(layout, nn.Linear)
        else layout._conv_forward(x, weight, bias)
    )


def packed_layers(model: nn.Module) -> Iterator[tuple[str, PackedLayer]]:
    """The layers of `model` that compute on codes, by name."""
    return (
        (name, module) for name, module in model.named_modules() if isinstance(module, PackedLayer)
    )


def _lacks_bank(bank: nn.Module, layout: nn.Module) -> str:
    if not isinstance(bank, ActivationBank | DynamicBank):
        return "its inputs stay in float"
    if min(bank.bits) > 8:
        return f"its inputs have {min(bank.bits)} bits"
    if isinstance(bank, ActivationBank) and bank.axis is not None and not bank.parts:
        return "its inputs have a grid for each channel"
    if isinstance(bank, DynamicBank) and bank.parts:
        return "its inputs are split, and their ranges found at run time"
    if isinstance(bank, DynamicBank) and bank.per == "place" and _moves_pixels(layout):
        return "its inputs have a range for each pixel, and it skips or adds some"
    return ""


def _moves_pixels(layout: Any) -> bool:
    return (
        any(pad != 0 for pad in layout.padding)
        or any(stride != 1 for stride in layout.stride)
        or layout.groups > 1
    )


def _narrow(layout: nn.Module, inputs: int) -> nn.Module:
    """The layout for some of the input channels only."""
    made = copy.copy(layout)
    setattr(made, "in_features" if isinstance(layout, nn.Linear) else "in_channels", inputs)
    return made


def _factors(codes: LowRankWeight, dtype: torch.dtype) -> tuple[Tensor | None, Tensor, Tensor]:
    """Smoothing [I] or None, the first factor in the shape of a weight of `rank` outputs, and
    the second [O, rank].
    """
    right = codes.right.to(dtype).view(-1, *codes.shape[1:])
    smoothing = None if codes.smoothing is None else codes.smoothing.to(dtype)
    return smoothing, right, codes.left.to(dtype)


def _pointwise(x: Tensor, left: Tensor) -> Tensor:
    conv = F.conv1d if x.ndim == 3 else F.conv2d
    return conv(x, left.view(*left.shape, *[1] * (x.ndim - 2)))
