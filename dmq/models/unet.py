"""The adapter of diffusers' U-Nets: UNet2DModel and UNet2DConditionModel."""

from collections.abc import Mapping
from typing import Any

from diffusers import ModelMixin, UNet2DConditionModel, UNet2DModel
from diffusers.models.resnet import ResnetBlock2D, ResnetBlockCondNorm2D
from torch import Tensor, cat

from ..results import TemporalBlock
from .adapter import AbstractAdapter, argument, single_timestep, tensors_of
from .temporal import linear_layers, projection


ROLES = {  # the first pattern found in a layer's dotted name decides
    ".conv_in.": "first",
    ".conv_out.": "last",
    ".time_embedding.": "time",
    ".time_emb_proj.": "time",
    ".add_embedding.": "time",
    ".class_embedding.": "time",
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

    def blocks(self, denoiser: ModelMixin) -> tuple[str, ...]:
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

    def temporal(self, denoiser: ModelMixin) -> TemporalBlock | None:
        if any(isinstance(module, ResnetBlockCondNorm2D) for module in denoiser.modules()):
            return None  # its norms project the time, too
        enters = _conditions(dict(denoiser.config))
        if enters is None:
            return None
        blocks = self.blocks(denoiser)
        resnets = [
            (f"{block}.{name}", module)
            for block in blocks
            for name, module in denoiser.get_submodule(block).named_modules()
            if isinstance(module, ResnetBlock2D) and module.time_emb_proj is not None
        ]
        projections = tuple(
            projection(
                denoiser,
                blocks,
                f"{name}.time_emb_proj",
                None if m.skip_time_act else f"{name}.nonlinearity",
            )
            for name, m in resnets
        )
        roots = tuple(
            root
            for root, module in denoiser.named_children()
            if root in ("time_embedding", "class_embedding", "add_embedding") and module is not None
        )
        return TemporalBlock(
            embeddings=roots,
            projections=projections,
            layers=linear_layers(denoiser, roots, projections),
            depends=("t", *(word for word, _ in enters)),
            arguments=tuple(name for _, name in enters),
        )

    def splits(self, denoiser: ModelMixin) -> dict[str, int]:
        # A residual block of the way up is handed more channels than its predecessor made: those of
        # a shortcut, behind the others. Attention and upsampling between the two leave the number
        # as it is.
        below = (denoiser.mid_block or denoiser.down_blocks[-1]).resnets[-1].out_channels
        found: dict[str, int] = {}
        for b, block in enumerate(denoiser.up_blocks):
            for r, resnet in enumerate(block.resnets):
                layers = (
                    "conv1",
                    *(("conv_shortcut",) if resnet.conv_shortcut is not None else ()),
                )
                if resnet.in_channels > below:
                    found |= {f"up_blocks.{b}.resnets.{r}.{layer}": below for layer in layers}
                below = resnet.out_channels
        return found

    def embeddings(
        self, denoiser: ModelMixin, t: Tensor, given: Mapping[str, Tensor]
    ) -> tuple[Tensor, ...]:
        # Not `denoiser.dtype`: it walks the whole model, and takes longer than the time embedding
        # itself.
        sinusoid = denoiser.time_proj(t).to(denoiser.conv_in.weight.dtype)
        emb = denoiser.time_embedding(sinusoid, *_timestep_condition(given))
        if denoiser.class_embedding is not None:
            labels = given["class_labels"]
            timed = denoiser.config.class_embed_type == "timestep"
            labels = denoiser.class_embedding(
                denoiser.time_proj(labels).to(emb.dtype) if timed else labels
            )
            concat = denoiser.config.get("class_embeddings_concat")
            emb = cat([emb, labels.to(emb.dtype)], dim=-1) if concat else emb + labels.to(emb.dtype)
        if denoiser.config.get("addition_embed_type"):
            added = {
                name.partition(".")[2]: value
                for name, value in given.items()
                if name.startswith(ADDED)
            }
            emb = emb + denoiser.get_aug_embed(emb, given.get("encoder_hidden_states"), added)
        # Only the prompted kind has such an activation.
        if isinstance(denoiser, UNet2DConditionModel) and denoiser.time_embed_act is not None:
            emb = denoiser.time_embed_act(emb)
        return (emb,)


ADDED = "added_cond_kwargs."


def _timestep_condition(given: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    return (given["timestep_cond"],) if "timestep_cond" in given else ()


def _conditions(config: dict[str, Any]) -> tuple[tuple[str, str], ...] | None:
    """(word, argument) of what enters the time embedding beside t; None if dmq does not know the
    kind.
    """
    added = {
        None: (),
        "text": (("prompt", "encoder_hidden_states"),),
        "text_time": (("pooled prompt", f"{ADDED}text_embeds"), ("size", f"{ADDED}time_ids")),
    }.get(config.get("addition_embed_type"))
    if added is None:
        return None
    labelled = (
        config.get("class_embed_type") is not None or config.get("num_class_embeds") is not None
    )
    guided = config.get("time_cond_proj_dim") is not None
    return (
        *((("class", "class_labels"),) if labelled else ()),
        *((("guidance", "timestep_cond"),) if guided else ()),
        *added,
    )
