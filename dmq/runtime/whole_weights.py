"""Weights as whole numbers of eight bits, the form that integer kernels multiply."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..quantizers.codes import LowRankWeight, QuantizedWeight, SplitWeight, WeightCodes


@dataclass(frozen=True, kw_only=True)
class WholeWeight:
    """A weight, or its part for a run of input channels, as (values + offset) * scale.

    `values` [O, I, ...] int8. Codes of fewer than eight bits always fit with an `offset` of 0, and
    so do those of a symmetric grid; other rows of eight bits reach from -zero to 255 - zero, and
    are moved until they fit."""

    values: Tensor
    scale: Tensor  # [O] float32
    offset: Tensor | None  # [O] float32, whole numbers; None if all of them are 0

    def to(self, device: torch.device) -> "WholeWeight":
        """The same, on another device."""
        offset = None if self.offset is None else self.offset.to(device)
        return WholeWeight(
            values=self.values.to(device), scale=self.scale.to(device), offset=offset
        )

    def dequantize(self) -> Tensor:
        """The weight that is meant, float32."""
        shape = (-1, *[1] * (self.values.ndim - 1))
        whole = (
            self.values.float()
            if self.offset is None
            else self.values.float() + self.offset.view(shape)
        )
        return whole * self.scale.view(shape)


def whole_parts(codes: WeightCodes) -> list[WholeWeight] | str:
    """`codes` as one part for each side of a split, or a few words on why they are no whole
    numbers.
    """
    if isinstance(codes, SplitWeight):
        first, second = whole_parts(codes.first), whole_parts(codes.second)
        if isinstance(first, str):
            return first
        return second if isinstance(second, str) else first + second
    if isinstance(codes, LowRankWeight):
        return whole_parts(codes.rest)
    if not isinstance(codes, QuantizedWeight):
        return "its codes are not on a grid"
    if codes.bits > 8:
        return f"its codes have {codes.bits} bits"
    if codes.zero.is_floating_point():
        return "its zero points are no whole numbers"
    if codes.scale.shape[1] > (2 if codes.split else 1):
        return "scales change within a row"
    return _on_grid(codes)


def _on_grid(codes: QuantizedWeight) -> list[WholeWeight]:
    rows, columns = codes.shape[0], codes.codes.numel() // codes.shape[0]
    whole = (codes.codes.to(torch.int32) - codes.zero[:, :1]).reshape(rows, columns)
    scale = codes.scale[:, :1].expand(len(codes.scale), 1)
    if not codes.split:
        return [_fit_whole(whole.view(codes.shape), scale.reshape(-1).expand(rows))]
    second = codes.codes.to(torch.int32).reshape(rows, columns) - codes.zero[:, 1:]
    sides = (
        side.reshape(rows, -1, *codes.shape[2:])
        for side in (whole[:, : codes.split], second[:, codes.split :])
    )
    return [_fit_whole(side, codes.scale[:, i].expand(rows)) for i, side in enumerate(sides)]


def _fit_whole(whole: Tensor, scale: Tensor) -> WholeWeight:
    low, high = whole.flatten(1).aminmax(dim=1)
    offset = (high - 127).clamp(min=0) + (low + 128).clamp(
        max=0
    )  # a row spans 255 at most, so one of them is 0
    values = (whole - offset.view(-1, *[1] * (whole.ndim - 1))).to(torch.int8)
    moved = offset.float() if offset.any() else None
    return WholeWeight(values=values.contiguous(), scale=scale.float().contiguous(), offset=moved)


def within(weight: WholeWeight, most: int) -> WholeWeight | None:
    """The same weight, moved row by row where no two values of one sign may add up to more than
    `most`.

    None if a row reaches too far for that. Rows that are as they should be stay.
    """
    rows = torch.nn.functional.pad(weight.values.flatten(1), (0, 1)).to(
        torch.int32
    )  # a value may stand alone
    least = rows.topk(2, dim=1, largest=False).values
    largest = rows.topk(2, dim=1).values
    # A pair of which one is of the other sign is no larger than the other alone.
    lowest = torch.maximum(largest[:, 0] - min(most, 127), -((most - largest.sum(1)) // 2))
    highest = torch.minimum(least[:, 0] + min(most, 128), (least.sum(1) + most) // 2)
    if (lowest > highest).any():
        return None
    move = torch.zeros_like(lowest).clamp(lowest, highest)
    if not move.any():
        return weight
    values = (weight.values.to(torch.int32) - move.view(-1, *[1] * (weight.values.ndim - 1))).to(
        torch.int8
    )
    offset = move.float() if weight.offset is None else weight.offset + move
    return WholeWeight(values=values.contiguous(), scale=weight.scale, offset=offset)
