"""What a peer makes of a denoiser, and the small things that several of them need."""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn


@dataclass(frozen=True)
class Made:
    """A denoiser that stands in the place of the float one."""

    denoiser: nn.Module
    bytes: int  # of its weights in a file, as this peer stores them
    note: str = ""  # what of the model it leaves in float, or what else must be known


class StandIn(nn.Module):
    """A denoiser to its pipeline, whose answers come from `answer`, called with the same arguments.

    It has the configuration of `like` but none of its weights, so that these can be given back.
    """

    def __init__(self, like: nn.Module, answer: Callable[..., Tensor]) -> None:
        super().__init__()
        self.config, self.dtype, self.device = like.config, torch.float32, torch.device("cpu")
        self.answer = answer

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Tensor]:
        return (self.answer(*args, **kwargs),)


def float_bytes(denoiser: nn.Module, size: int) -> int:
    """Bytes of all parameters and buffers in a file that has `size` bytes for each number."""
    return size * sum(x.numel() for x in denoiser.state_dict().values())


def saved_bytes(save: Callable[[Path], Any]) -> int:
    """Bytes of all files that `save(folder)` writes, which are deleted again."""
    with tempfile.TemporaryDirectory() as place:
        save(Path(place))
        return sum(file.stat().st_size for file in Path(place).rglob("*") if file.is_file())


def tensor_bytes(tensors: Mapping[str, Tensor]) -> int:
    """Bytes of a safetensors file of `tensors`; what shares memory counts once for each name."""
    own = {
        name: tensor.detach().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    return saved_bytes(lambda folder: save_file(own, folder / "weights.safetensors"))


def float_layers(denoiser: nn.Module, kinds: tuple[type, ...]) -> str:
    """How many layers of plain `kinds` are left in a quantized denoiser, as a note; "" if none
    is.
    """
    left = sum(type(module) in kinds for module in denoiser.modules())
    return f"{left} {' and '.join(kind.__name__ for kind in kinds)} layers in float" if left else ""
