"""The adapter of diffusers' transformers with a stream for the image and one for the prompt:
SD3, Flux.
"""

from collections.abc import Mapping
from typing import Any

from diffusers import FluxTransformer2DModel, ModelMixin, SD3Transformer2DModel
from torch import Tensor, nn

from ..results import TemporalBlock
from .adapter import AbstractAdapter, argument, single_timestep, tensors_of
from .temporal import linear_layers, projection


ROLES = {  # the first pattern found in a layer's dotted name decides
    ".pos_embed.": "first",
    ".x_embedder.": "first",
    ".transformer_blocks.": "",
    ".single_transformer_blocks.": "",
    ".proj_out.": "last",
    ".time_text_embed.": "time",
    ".norm_out.": "time",
}
INSIDE = {  # of a block
    ".norm1.": "time",
    ".norm1_context.": "time",
    ".norm.": "time",
    ".attn.": "attention",
    ".attn2.": "attention",
    ".ff.": "feedforward",
    ".ff_context.": "feedforward",
    ".proj_mlp.": "feedforward",
    ".proj_out.": "feedforward",
}
NAMES = ("hidden_states", "encoder_hidden_states", "pooled_projections", "timestep")


class MMDiTAdapter(AbstractAdapter):
    """Transformers of the SD3 and Flux kind, whose modulation depends on the time and the pooled
    prompt.
    """

    name = "mmdit"
    shared_arguments = frozenset({"txt_ids", "img_ids"})

    def matches(self, pipe: Any) -> bool:
        return isinstance(
            pipe.components.get("transformer"), (SD3Transformer2DModel, FluxTransformer2DModel)
        )

    def component(self, pipe: Any) -> str:
        return "transformer"

    def role(self, name: str, order: tuple[str, ...]) -> str:
        role = _first(ROLES, name, "other")
        return role or _first(INSIDE, name, "other")

    def blocks(self, denoiser: ModelMixin) -> tuple[str, ...]:
        lists = [
            (name, child)
            for name, child in denoiser.named_children()
            if isinstance(child, nn.ModuleList)
        ]
        return tuple(f"{name}.{n}" for name, child in lists for n in range(len(child)))

    def timestep(self, args: tuple, kwargs: Mapping[str, Any]) -> float:
        return single_timestep(argument(args, kwargs, 3, "timestep"))

    def sample_of(self, args: tuple, kwargs: Mapping[str, Any]) -> Tensor:
        return argument(args, kwargs, 0, "hidden_states")

    def conditioning(self, args: tuple, kwargs: Mapping[str, Any]) -> dict[str, Tensor]:
        return tensors_of(args, kwargs, NAMES, skip=("hidden_states", "timestep"))

    def temporal(self, denoiser: ModelMixin) -> TemporalBlock:
        blocks = self.blocks(denoiser)
        norms = ("norm1", "norm1_context", "norm")
        places = [
            f"{b}.{n}"
            for b in blocks
            for n in norms
            if n in dict(denoiser.get_submodule(b).named_children())
        ]
        projections = tuple(
            projection(denoiser, blocks, f"{place}.linear", f"{place}.silu")
            for place in (*places, "norm_out")
        )
        guided = denoiser.config.get("guidance_embeds")
        return TemporalBlock(
            embeddings=("time_text_embed",),
            projections=projections,
            layers=linear_layers(denoiser, ("time_text_embed",), projections),
            depends=("t", "pooled prompt", *(("guidance",) if guided else ())),
            arguments=("pooled_projections", *(("guidance",) if guided else ())),
        )

    def embeddings(
        self, denoiser: ModelMixin, t: Tensor, given: Mapping[str, Tensor]
    ) -> tuple[Tensor, ...]:
        between: tuple[Tensor, ...] = ()
        if isinstance(denoiser, FluxTransformer2DModel):  # which is called with t / 1000
            t = t.to(denoiser.dtype) * 1000
            between = (given["guidance"].to(denoiser.dtype) * 1000,) if "guidance" in given else ()
        return (denoiser.time_text_embed(t, *between, given["pooled_projections"]),)


def _first(roles: Mapping[str, str], name: str, default: str) -> str:
    return next((role for part, role in roles.items() if part in f".{name}."), default)
