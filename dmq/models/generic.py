"""The adapter of last resort: any pipeline with one obvious denoiser.

All Linear and Conv layers, roles from names.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from .adapter import AbstractAdapter, argument, single_timestep, tensors_of


COMPONENTS = ("transformer", "unet", "prior")
ROLES = {
    ".time": "time",
    "time_": "time",
    ".to_": "attention",
    ".add_q_proj": "attention",
    ".add_k_proj": "attention",
    ".add_v_proj": "attention",
    ".ff.": "feedforward",
    ".ff_context.": "feedforward",
    ".mlp.": "feedforward",
}
SAMPLE = ("hidden_states", "sample")


class GenericAdapter(AbstractAdapter):
    """Knows no family: the first and the last layer are the first and last ones to run, time
    embeddings aside.
    """

    name = "generic"

    def matches(self, pipe: Any) -> bool:
        return any(isinstance(pipe.components.get(name), nn.Module) for name in COMPONENTS)

    def component(self, pipe: Any) -> str:
        return next(name for name in COMPONENTS if isinstance(pipe.components.get(name), nn.Module))

    def role(self, name: str, order: tuple[str, ...]) -> str:
        role = _find_named(name)
        others = [other for other in order if _find_named(other) == "other"]
        return {others[0]: "first", others[-1]: "last"}.get(name, role) if role == "other" else role

    def blocks(self, denoiser: nn.Module) -> tuple[str, ...]:
        lists = [
            (name, child)
            for name, child in denoiser.named_children()
            if isinstance(child, nn.ModuleList)
        ]
        return tuple(f"{name}.{n}" for name, child in lists for n in range(len(child)))

    def timestep(self, args: tuple, kwargs: Mapping[str, Any]) -> float:
        return single_timestep(argument(args, kwargs, 1, "timestep", "timesteps"))

    def sample_of(self, args: tuple, kwargs: Mapping[str, Any]) -> Tensor:
        return argument(args, kwargs, 0, *SAMPLE)

    def conditioning(self, args: tuple, kwargs: Mapping[str, Any]) -> dict[str, Tensor]:
        return tensors_of(
            args, kwargs, ("sample", "timestep"), skip=(*SAMPLE, "timestep", "timesteps")
        )


def _find_named(name: str) -> str:
    return next((role for part, role in ROLES.items() if part in f".{name}."), "other")
