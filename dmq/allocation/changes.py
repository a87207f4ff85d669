"""What each of some choices changes the weights of many layers by: held as codes, and as numbers
where there is room.

A sweep of gradients wants all of them at once. In float32 those of nine choices take nine models;
their codes take a byte for each weight and choice."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from ..numerics.devices import free_memory
from ..quantizers.codes import WeightCodes
from ..results import Layer


SHARE = 2  # of free memory, the part that codes may take
UNKNOWN = 4 * 2**30  # bytes that are counted on where nobody tells how many are free
MAX_CHANGES_BYTES = (
    2**30
)  # bytes of main memory: changes beyond are made from codes again, which takes little beside a sweep
MORE = 1.25  # codes and their tables, and what lies about, for each byte of the codes alone


class Changes(Mapping[str, Tensor]):
    """By layer the changes of its weight, one behind the other: [C, *weight] float32, where the
    weight is.

    Made from codes when they are asked for. They stay as they are made as long as they take `room`
    bytes together."""

    def __init__(
        self, model: nn.Module, codes: Mapping[str, Sequence[WeightCodes]], room: int = 0
    ) -> None:
        self.model, self.codes, self.room = model, dict(codes), room
        self.made: dict[str, Tensor] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(self.codes)

    def __len__(self) -> int:
        return len(self.codes)

    def choices(self, name: str) -> int:
        """How many there are for a layer."""
        return len(self.codes[name])

    def __getitem__(self, name: str) -> Tensor:
        if name in self.made:
            return self.made[name]
        with torch.no_grad():
            weight = self.model.get_parameter(f"{name}.weight").detach()
            rows = torch.empty(len(self.codes[name]), *weight.shape, device=weight.device)
            for row, code in zip(rows, self.codes[name], strict=True):
                row.copy_(code.dequantize().to(weight)).sub_(
                    weight
                )  # what the layer would have, in its precision
        if rows.nbytes <= self.room:
            self.room -= rows.nbytes
            self.made[name] = rows
        return rows


def code_bytes(weights: int, bits: Sequence[int]) -> int:
    """About what the codes of so many weights take in memory, for choices of so many `bits`."""
    return int(MORE * weights * sum(1 if n <= 8 else 4 for n in bits))


def home_of(needed: int, device: torch.device) -> torch.device:
    """Where codes of `needed` bytes are kept: where the model is if they fit there, else on the
    CPU.
    """
    return device if needed <= find_room(device) else torch.device("cpu")


def find_room(device: torch.device, share: int = SHARE) -> int:
    """Bytes on `device` that may be used: one part in `share` of those that are free."""
    free = free_memory(device)
    return (UNKNOWN if free is None else free) // share


def measure_room(device: torch.device) -> int:
    """Bytes that changes may take once they are made: a quarter of what is free, of main memory
    MAX_CHANGES_BYTES at most.
    """
    room = find_room(device, 4)
    return min(room, MAX_CHANGES_BYTES) if device.type == "cpu" else room


def sweeps(layers: Sequence[Layer], bits: Sequence[int], room: int) -> list[tuple[str, ...]]:
    """The layers in runs whose codes take at most `room` bytes; a single run if all do."""
    runs: list[list[str]] = []
    taken = 0
    for layer in layers:
        size = code_bytes(layer.num_weights, bits)
        if not runs or taken + size > room:
            runs.append([])
            taken = 0
        runs[-1].append(layer.name)
        taken += size
    return [tuple(names) for names in runs]
