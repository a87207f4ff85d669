"""The adapter of diffusers' U-Nets: UNet2DModel and UNet2DConditionModel."""

from collections.abc import Mapping
from typing import Any

from diffusers import UNet2DConditionModel, UNet2DModel
from torch import Tensor, nn

from .adapter import AbstractAdapter, argument, single_timestep, tensors_of


ROLES = {  # the first pattern found in a layer's dotted name decides
    ".conv_in.": "first",
    ".conv_out.": "last",
    ".time_embedding.": "time",
    ".time_emb_proj.": "time",
    ".downsamplers.": "sampling",
    ".upsamplers.": "sampling",
    ".to_q.": "attention",
    ".to_k.": "attention",
    ".to_v.": "attention",
    ".to_out.": "attention",
    ".ff.": "feedforward",
    ".resnets.": "residual",
}


class UNetAdapter(AbstractAdapter):
    """U-Nets with 2-D convolutions, with or without a prompt."""

    name = "unet"

    def matches(self, pipe: Any) -> bool:
        return isinstance(pipe.components.get("unet"), (UNet2DModel, UNet2DConditionModel))

    def component(self, pipe: Any) -> str:
        return "unet"

    def role(self, name: str, order: tuple[str, ...]) -> str:
        return next((role for part, role in ROLES.items() if part in f".{name}."), "other")

    def blocks(self, denoiser: nn.Module) -> tuple[str, ...]:
        down = (f"down_blocks.{n}" for n in range(len(denoiser.down_blocks)))
        up = (f"up_blocks.{n}" for n in range(len(denoiser.up_blocks)))
        return (*down, *(("mid_block",) if denoiser.mid_block is not None else ()), *up)

    def timestep(self, args: tuple, kwargs: Mapping[str, Any]) -> float:
        return single_timestep(argument(args, kwargs, 1, "timestep"))

    def sample_of(self, args: tuple, kwargs: Mapping[str, Any]) -> Tensor:
        return argument(args, kwargs, 0, "sample")

    def conditioning(self, args: tuple, kwargs: Mapping[str, Any]) -> dict[str, Tensor]:
        names = ("sample", "timestep", "encoder_hidden_states")
        return tensors_of(args, kwargs, names, skip=("sample", "timestep"))
