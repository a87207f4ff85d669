"""The adapter of diffusers' transformers with one stream of tokens: DiT, PixArt (alpha and
sigma), Hunyuan-DiT.
"""

from collections.abc import Mapping
from functools import singledispatch
from typing import Any

import numpy as np
from diffusers import DiTTransformer2DModel, HunyuanDiT2DModel, ModelMixin, PixArtTransformer2DModel
from torch import Tensor

from ..results import Projection, TemporalBlock
from .adapter import AbstractAdapter, argument, single_timestep, tensors_of
from .temporal import linear_layers, projection


ROLES = {  # the first pattern found in a layer's dotted name decides
    ".pos_embed.": "first",
    ".proj_out.": "last",
    ".proj_out_2.": "last",
    ".proj_out_1.": "time",
    ".norm1.": "time",
    ".norm_out.": "time",
    ".adaln_single.": "time",
    ".time_extra_emb.": "time",
    ".to_q.": "attention",
    ".to_k.": "attention",
    ".to_v.": "attention",
    ".to_out.": "attention",
    ".ff.": "feedforward",
    ".skip_linear.": "residual",
}
SIZES = ("added_cond_kwargs.resolution", "added_cond_kwargs.aspect_ratio")


class DiTAdapter(AbstractAdapter):
    """Transformers that modulate each block by the time."""

    name = "dit"
    shared_arguments = frozenset({"image_rotary_emb"})

    def matches(self, pipe: Any) -> bool:
        return isinstance(
            pipe.components.get("transformer"), (PixArtTransformer2DModel, HunyuanDiT2DModel)
        )

    def component(self, pipe: Any) -> str:
        return "transformer"

    def role(self, name: str, order: tuple[str, ...]) -> str:
        return next((role for part, role in ROLES.items() if part in f".{name}."), "other")

    def blocks(self, denoiser: ModelMixin) -> tuple[str, ...]:
        name = "blocks" if isinstance(denoiser, HunyuanDiT2DModel) else "transformer_blocks"
        return tuple(f"{name}.{n}" for n in range(len(denoiser.get_submodule(name))))

    def timestep(self, args: tuple, kwargs: Mapping[str, Any]) -> float:
        return single_timestep(argument(args, kwargs, 1, "timestep"))

    def sample_of(self, args: tuple, kwargs: Mapping[str, Any]) -> Tensor:
        return argument(args, kwargs, 0, "hidden_states")

    def conditioning(self, args: tuple, kwargs: Mapping[str, Any]) -> dict[str, Tensor]:
        return tensors_of(
            args, kwargs, ("hidden_states", "timestep"), skip=("hidden_states", "timestep")
        )

    def temporal(self, denoiser: ModelMixin) -> TemporalBlock | None:
        return _temporal(denoiser, self.blocks(denoiser))

    def embeddings(
        self, denoiser: ModelMixin, t: Tensor, given: Mapping[str, Tensor]
    ) -> tuple[Tensor, ...]:
        return _embeddings(denoiser, t, given)


class ClassDiTAdapter(DiTAdapter):
    """DiT proper, whose pipeline stacks guidance the other way round: conditional rows come
    first.
    """

    name = "class-dit"

    def matches(self, pipe: Any) -> bool:
        return isinstance(pipe.components.get("transformer"), DiTTransformer2DModel)

    def halves(self, rows: int, images: int) -> np.ndarray:
        halves = super().halves(rows, images)
        return np.where(halves < 0, halves, 1 - halves).astype(np.int8)


@singledispatch
def _temporal(denoiser: ModelMixin, blocks: tuple[str, ...]) -> TemporalBlock | None:
    return None


@singledispatch
def _embeddings(denoiser: ModelMixin, t: Tensor, given: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    raise TypeError(f"no embeddings are written for {type(denoiser).__name__}")


# --- DiT: every block has an embedding of its own, mostly copies of one; the output reads the first
# one's ------------


@_temporal.register
def _(denoiser: DiTTransformer2DModel, blocks: tuple[str, ...]) -> TemporalBlock:
    projections = (
        *(
            projection(denoiser, blocks, f"{b}.norm1.linear", f"{b}.norm1.silu", n)
            for n, b in enumerate(blocks)
        ),
        projection(denoiser, blocks, "proj_out_1", f"{blocks[0]}.norm1.silu"),
    )
    roots = tuple(f"{b}.norm1.emb" for b in blocks)
    return TemporalBlock(
        embeddings=roots,
        projections=projections,
        layers=linear_layers(denoiser, roots, projections),
        depends=("t", "class"),
        arguments=("class_labels",),
    )


@_embeddings.register
def _(
    denoiser: DiTTransformer2DModel, t: Tensor, given: Mapping[str, Tensor]
) -> tuple[Tensor, ...]:
    labels, dtype = given["class_labels"], denoiser.dtype
    return tuple(
        block.norm1.emb(t, labels, hidden_dtype=dtype) for block in denoiser.transformer_blocks
    )


# --- PixArt: one modulation for all blocks; the output reads the embedding itself -----------------


@_temporal.register
def _(denoiser: PixArtTransformer2DModel, blocks: tuple[str, ...]) -> TemporalBlock:
    shared = projection(denoiser, blocks, "adaln_single.linear", "adaln_single.silu")
    width = denoiser.adaln_single.linear.in_features
    projections = (shared, Projection(name="adaln_single.emb", block="norm_out", width=width))
    sized = denoiser.adaln_single.emb.use_additional_conditions
    return TemporalBlock(
        embeddings=("adaln_single.emb",),
        projections=projections,
        layers=linear_layers(denoiser, ("adaln_single.emb",), projections),
        depends=("t", "size") if sized else ("t",),
        arguments=SIZES if sized else (),
    )


@_embeddings.register
def _(
    denoiser: PixArtTransformer2DModel, t: Tensor, given: Mapping[str, Tensor]
) -> tuple[Tensor, ...]:
    sizes = (given.get(name) for name in SIZES)
    return (denoiser.adaln_single.emb(t, *sizes, batch_size=len(t), hidden_dtype=denoiser.dtype),)


# --- Hunyuan-DiT: a shift for every block ---------------------------------------------------------


@_temporal.register
def _(denoiser: HunyuanDiT2DModel, blocks: tuple[str, ...]) -> TemporalBlock:
    places = (*(f"{b}.norm1" for b in blocks), "norm_out")
    projections = tuple(projection(denoiser, blocks, f"{p}.linear", f"{p}.silu") for p in places)
    styled = denoiser.time_extra_emb.use_style_cond_and_image_meta_size
    return TemporalBlock(
        embeddings=("time_extra_emb",),
        projections=projections,
        layers=linear_layers(denoiser, ("time_extra_emb",), projections),
        depends=("t", "pooled prompt", *(("size", "style") if styled else ())),
        arguments=("encoder_hidden_states_t5", *(("image_meta_size", "style") if styled else ())),
    )


@_embeddings.register
def _(denoiser: HunyuanDiT2DModel, t: Tensor, given: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    prompt, *extra = (
        given.get(name) for name in ("encoder_hidden_states_t5", "image_meta_size", "style")
    )
    t = t.to(denoiser.dtype)
    return (denoiser.time_extra_emb(t, prompt, *extra, hidden_dtype=t.dtype),)
