"""Products of whole numbers: codes of activations times codes of weights, added up without
rounding.

A kernel is prepared once from a weight and is then called with codes of inputs (uint8), their scale
and zero point. That these two are arguments of each call, and no part of what is prepared, is why
time groups cost nothing. All do

    y = sum((codes - zero) * values) * scale * weight_scale + bias

    OneDnn       CPU: oneDNN's int8 kernels, as torch ships them; Linear, Conv1d, Conv2d
    IntMm        GPU, and wherever torch has `_int_mm`: Linear, and convolutions as products of unfolded inputs

`kernel_for` takes the first that can; what none can do is computed in floating point, by the layer
itself. Where a processor adds up in 16 bits first, weights and inputs of eight bits are left to it
only if no sum of two products can be too large (see `sums`)."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .sums import FAR_SLOWER, Sums, int_mm_sums, is_far_slower, most_of_pair, onednn_sums
from .whole_weights import WholeWeight, within


CONVS = (nn.Conv1d, nn.Conv2d)
MOST_PACKINGS = 4  # of a convolution, one for each shape of its inputs
SMALLEST_INT_MM = 17  # rows that `_int_mm` takes at least
MULTIPLE = 8  # of which inputs and outputs have to be one for it
WRONG = "its sums are wrong on this processor"
OVERFLOW = (
    "8-bit weights times 8-bit inputs may overflow the 16-bit sums of this processor, which has no "
    "VNNI; weights or inputs of 7 bits cannot"
)


class Kernel(ABC):
    """A prepared weight. `layer` says how the layer computes; its own weight is not read.

    `most_bits` is what inputs may have for its sums to be exact.
    """

    name: str
    on_device = (
        False  # may scale and zero point be tensors of the device, one for each row of the batch?
    )
    most_bits = 8

    def __init__(self, layer: Any, weight: WholeWeight) -> None:
        self.layer, self.weight = layer, weight
        self.linear = isinstance(layer, nn.Linear)

    @staticmethod
    @abstractmethod
    def lacks(layer: Any, weight: WholeWeight) -> str:
        """Why this kernel cannot do `layer`, in a few words; "" if it can."""

    @staticmethod
    @abstractmethod
    def sums(weight: WholeWeight) -> Sums:
        """How it adds up where the weight is."""

    @abstractmethod
    def product(
        self,
        codes: Tensor,
        scale: float | Tensor,
        zero: int | Tensor,
        bias: Tensor | None,
        dtype: torch.dtype,
    ) -> Tensor:
        """The layer's output in `dtype`, but for what the weight's offset adds.

        Shapes: `codes` uint8 as the layer's input, `bias` [O] float32. Where `on_device`, `scale`
        and `zero` may be tensors [1] or [B] as well: a number would have to be waited for."""

    def __deepcopy__(self, memo: dict) -> "Kernel":
        return self  # what it packs never changes, and cannot be copied

    def __call__(
        self,
        codes: Tensor,
        scale: float | Tensor,
        zero: int | Tensor,
        bias: Tensor | None,
        dtype: torch.dtype,
    ) -> Tensor:
        """The layer's output in `dtype`."""
        made = self.product(codes, scale, zero, bias, dtype)
        if self.weight.offset is None:
            return made
        factor = self.weight.offset * self.weight.scale * scale
        return made.addcmul_(
            sums(self.layer, codes, zero).to(dtype), self.by_output(factor).to(dtype)
        )

    def by_output(self, values: Tensor) -> Tensor:
        """Values of output channels as they broadcast against the output."""
        return (
            values
            if isinstance(self.layer, nn.Linear)
            else values.view(-1, *[1] * (self.weight.values.ndim - 2))
        )


class OneDnn(Kernel):
    """oneDNN's int8 kernels: `torch.ops.onednn.qlinear_pointwise` and `qconv_pointwise`."""

    name = "oneDNN int8"

    def __init__(self, layer: Any, weight: WholeWeight) -> None:
        super().__init__(layer, weight)
        self.zeros = torch.zeros(len(weight.scale), dtype=torch.int32)
        if self.linear:
            self.packed = torch.ops.onednn.qlinear_prepack(weight.values, None)
            return
        self.where = [list(values) for values in (layer.stride, layer.padding, layer.dilation)] + [
            layer.groups
        ]
        self.packings: dict[tuple[Any, ...], Tensor] = {}

    def packed_for(self, shape: tuple[int, ...], zero: int) -> Tensor:
        """The weight of a convolution, laid out for inputs of this shape, and for a zero point or
        none.

        Laid out for others, oneDNN lays it out anew at each call, which takes up to a hundred times
        as long as the product itself."""
        key = (*shape, zero > 0)
        if key not in self.packings:
            if len(self.packings) == MOST_PACKINGS:
                self.packings.pop(next(iter(self.packings)))
            self.packings[key] = torch.ops.onednn.qconv_prepack(
                self.weight.values, self.weight.scale, 1.0, zero, *self.where, shape
            )
        return self.packings[key]

    @staticmethod
    def lacks(layer: Any, weight: WholeWeight) -> str:
        if weight.values.device.type != "cpu":
            return f"it is on {weight.values.device.type}"
        return lacks_onednn() or _lacks_conv(layer)

    @staticmethod
    def sums(weight: WholeWeight) -> Sums:
        return onednn_sums()

    def product(
        self,
        codes: Tensor,
        scale: float | Tensor,
        zero: int | Tensor,
        bias: Tensor | None,
        dtype: torch.dtype,
    ) -> Tensor:
        if dtype == torch.float16:  # not every processor writes it
            return self.product(codes, scale, zero, bias, torch.float32).to(dtype)
        if self.linear:
            return torch.ops.onednn.qlinear_pointwise.default(
                codes,
                scale,
                zero,
                self.packed,
                self.weight.scale,
                self.zeros,
                bias,
                1.0,
                0,
                dtype,
                "none",
                [],
                "",
            )
        return torch.ops.onednn.qconv_pointwise.default(
            codes,
            scale,
            zero,
            self.packed_for(codes.shape, int(zero)),
            self.weight.scale,
            self.zeros,
            bias,
            *self.where,
            1.0,
            0,
            dtype,
            "none",
            [],
            "",
        )


class IntMm(Kernel):
    """`torch._int_mm`: matrices of int8, added up in int32. Convolutions unfold their inputs
    before.

    It takes multiples of eight only, and more than 16 rows: zeros are added to both matrices, and
    taken off again."""

    name = "torch int8"
    on_device = True

    def __init__(self, layer: Any, weight: WholeWeight) -> None:
        super().__init__(layer, weight)
        values = weight.values.flatten(1)
        outputs, inputs = values.shape
        self.outputs, self.missing = outputs, -inputs % MULTIPLE
        self.columns = (
            F.pad(values, (0, self.missing, 0, -outputs % MULTIPLE)).t().contiguous()
        )  # [n, O]
        self.totals = values.sum(1, dtype=torch.int32)

    @staticmethod
    def lacks(layer: Any, weight: WholeWeight) -> str:
        if not hasattr(torch, "_int_mm"):
            return "this torch has no _int_mm"
        if isinstance(layer, nn.Linear):
            return ""
        return "it has groups" if getattr(layer, "groups", 1) > 1 else _lacks_conv(layer, nn.Conv2d)

    @staticmethod
    def sums(weight: WholeWeight) -> Sums:
        return int_mm_sums() if weight.values.device.type == "cpu" else Sums.WHOLE

    def product(
        self,
        codes: Tensor,
        scale: float | Tensor,
        zero: int | Tensor,
        bias: Tensor | None,
        dtype: torch.dtype,
    ) -> Tensor:
        rows, shape = codes.reshape(-1, codes.shape[-1]), (*codes.shape[:-1], -1)
        if not isinstance(self.layer, nn.Linear):
            rows, shape = self._unfold(codes, zero)
        signed = (rows.to(torch.int16) - 128).to(torch.int8)
        padding = (0, self.missing, 0, max(0, SMALLEST_INT_MM - len(signed)))
        whole = torch._int_mm(F.pad(signed, padding) if any(padding) else signed, self.columns)
        whole = (
            whole[: len(signed), : self.outputs] - (_by_row(zero, len(signed)) - 128) * self.totals
        )
        made = whole * (_by_row(scale, len(signed)) * self.weight.scale)
        made = (made if bias is None else made + bias).to(dtype).view(shape)
        return made if isinstance(self.layer, nn.Linear) else made.permute(0, 3, 1, 2)

    def _unfold(self, codes: Tensor, zero: int | Tensor) -> tuple[Tensor, tuple[int, ...]]:
        layer, (height, width) = self.layer, codes.shape[2:]
        down, across = layer.padding
        if isinstance(zero, Tensor):
            sides = (height + 2 * down, width + 2 * across)
            padded = (
                zero.to(codes.dtype)
                .view(-1, 1, 1, 1)
                .expand(len(codes), codes.shape[1], *sides)
                .clone()
            )
            padded[:, :, down : down + height, across : across + width] = codes
        else:
            padded = F.pad(codes, (across, across, down, down), value=zero)  # which stands for 0.0
        reach = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        out = [
            (size + 2 * pad - far - 1) // stride + 1
            for size, pad, far, stride in zip(
                (height, width), layer.padding, reach, layer.stride, strict=True
            )
        ]
        pieces = [
            padded[
                :,
                :,
                y : y + (out[0] - 1) * layer.stride[0] + 1 : layer.stride[0],
                x : x + (out[1] - 1) * layer.stride[1] + 1 : layer.stride[1],
            ]
            for y in range(0, reach[0] + 1, layer.dilation[0])
            for x in range(0, reach[1] + 1, layer.dilation[1])
        ]
        rows = (
            torch.stack(pieces, 2).permute(0, 3, 4, 1, 2).reshape(-1, codes.shape[1] * len(pieces))
        )
        return rows, (len(codes), *out, -1)


def _by_row(value: Any, rows: int) -> Any:
    """A number as it is; a tensor [1] or [B] as [1, 1] or [rows, 1], each value for its share of
    the rows.
    """
    if not isinstance(value, Tensor):
        return value
    value = value.to(torch.int32) if value.dtype == torch.uint8 else value
    return (value if len(value) == 1 else value.repeat_interleave(rows // len(value))).view(-1, 1)


KERNELS = (OneDnn, IntMm)


def kernel_for(
    layer: Any, weight: WholeWeight, bits: Sequence[int] = (8,), movable: bool = True
) -> Kernel | str:
    """The first kernel that can do `layer` with `weight` where the weight is, or why none can, in a
    few words.

    It can do some of the slots, whose inputs have so many `bits`: those of at most its `most_bits`.
    `movable`: may rows get an offset?"""
    reasons: list[str] = []
    for kind in KERNELS:
        lacks = kind.lacks(layer, weight)
        made = f"{kind.name}: {lacks}" if lacks else _exact(kind, layer, weight, bits, movable)
        if isinstance(made, Kernel):
            return made
        if made not in reasons:
            reasons.append(made)
    return "; ".join(reasons)


def _exact(
    kind: type[Kernel], layer: Any, weight: WholeWeight, bits: Sequence[int], movable: bool
) -> Kernel | str:
    """A kernel whose sums are exact, or why there is none."""
    sums, most = kind.sums(weight), max((own for own in bits if own <= 8), default=8)
    if sums == Sums.WRONG:
        return f"{kind.name}: {WRONG}"
    if sums == Sums.WHOLE or most < 8:  # int8 fits twice beside seven bits
        return kind(layer, weight)
    fitting = within(weight, most_of_pair(8))
    if fitting is not None and (movable or fitting is weight):
        return kind(layer, fitting)
    if min(bits) == 8:
        return OVERFLOW
    made = kind(layer, weight)
    made.most_bits = 7
    return made


@cache
def lacks_onednn() -> str:
    """What this machine or this torch lacks for oneDNN's int8 kernels; "" if nothing."""
    wanted = ("qlinear_prepack", "qlinear_pointwise", "qconv_prepack", "qconv_pointwise")
    if not torch.backends.mkldnn.is_available() or any(
        not hasattr(torch.ops.onednn, name) for name in wanted
    ):
        return "this torch has no int8 kernels of oneDNN"
    try:
        onednn_sums()
    except (RuntimeError, NotImplementedError):
        return "oneDNN's int8 kernels do not run on this processor"
    return (
        f"int8 is {FAR_SLOWER} times slower than float on this processor, or more"
        if is_far_slower()
        else ""
    )


def _lacks_conv(layer: Any, kinds: Any = CONVS) -> str:
    if isinstance(layer, nn.Linear):
        return ""
    if not isinstance(layer, kinds):
        return f"no kernel for {type(layer).__name__}"
    if isinstance(layer.padding, str) or layer.padding_mode != "zeros":
        return (
            f"padding {layer.padding_mode if isinstance(layer.padding, tuple) else layer.padding!r}"
        )
    return ""


def sums(layer: Any, codes: Tensor, zero: int | Tensor) -> Tensor:
    """What each output sees of its inputs: the sum of codes - zero, float32, one channel for each
    group.

    Shapes: [..., 1] for a linear layer; [B, G, ...] for a convolution with one group, [B, O, ...]
    with more."""
    if isinstance(layer, nn.Linear):
        return codes.sum(-1, keepdim=True, dtype=torch.int32).float() - zero * codes.shape[-1]
    channels = codes.shape[1] // layer.groups
    seen = (
        codes.unflatten(1, (layer.groups, channels)).sum(2, dtype=torch.int32).float()
        - zero * channels
    )
    ones = seen.new_ones(layer.groups, 1, *layer.kernel_size)
    conv = F.conv1d if isinstance(layer, nn.Conv1d) else F.conv2d
    seen = conv(seen, ones, None, layer.stride, layer.padding, layer.dilation, layer.groups)
    return (
        seen if layer.groups == 1 else seen.repeat_interleave(layer.out_channels // layer.groups, 1)
    )
