"""How the layers of a denoiser hand data to each other: the graph that Qua²SeDiMo's predictor
reads, by family.

Nodes are weight layers, and "combine" nodes where values meet without a weight (sums, products,
modulated norms). The wiring is written down from diffusers' own forward functions; a family that
nobody wrote down is one chain of layers, which the graph says. Prompts are not encoded: what reads
only them has nothing before it.

    ResBlock     conv1, time_emb_proj -> conv2 -> add <- conv_shortcut <- x        without a shortcut's layer there is
                                                                                   no add: who reads the sum reads both
    attention    Q, K -> matmul;  V, matmul -> matmul -> Out;  Out, x -> add
"""

from collections import Counter
from collections.abc import Sequence
from functools import singledispatch
from typing import Any

from diffusers import (
    DiTTransformer2DModel,
    HunyuanDiT2DModel,
    ModelMixin,
    PixArtTransformer2DModel,
    Transformer2DModel,
    UNet2DConditionModel,
    UNet2DModel,
)
from diffusers.models.resnet import ResnetBlock2D
from torch import nn

from ..results import Graph
from .adapter import LAYERS, AbstractAdapter
from .graph_wiring import MIDDLE, UP, Flow, Wiring


def denoiser_graph(
    denoiser: ModelMixin,
    adapter: AbstractAdapter,
    order: Sequence[str] = (),
    *,
    split: bool = False,
) -> Graph:
    """The data flow between the layers of `denoiser`; each of its weight layers is one node.

    `order` names the layers as they run (see `survey.macs`), for families whose wiring is not
    known. With `split`, the layers that Qua²SeDiMo's release splits (some that read a long skip)
    are two nodes each, the second one's name ending in ":1"."""
    wiring = Wiring(denoiser, split)
    known = _wire(denoiser, wiring)
    wanted = Counter(_distinct(denoiser))
    if (
        known
        and Counter(name for name in wiring.layers if name and not name.endswith(":1")) == wanted
    ):
        return wiring.graph()
    return _chain(denoiser, adapter, order)


def _distinct(denoiser: ModelMixin) -> list[str]:
    """The weight layers by their first names; a layer that is in several places, or shares its
    weight, counts once.
    """
    found: dict[int, str] = {}
    for name, module in denoiser.named_modules():
        if isinstance(module, LAYERS):
            found.setdefault(id(module.weight), name)
    return list(found.values())


def _chain(denoiser: ModelMixin, adapter: AbstractAdapter, order: Sequence[str]) -> Graph:
    wiring = Wiring(denoiser, False)
    blocks = adapter.blocks(denoiser)
    distinct = _distinct(denoiser)
    inside = {name: next((b for b in blocks if name.startswith(f"{b}.")), "") for name in distinct}
    before: Flow = ()
    known = ""
    for name in (*(n for n in order if n in inside), *(n for n in distinct if n not in order)):
        if inside[name] != known:
            known = inside[name]
            wiring.enter(known) if known else wiring.leave()
        before = wiring.single(name, before)
    note = f"the wiring of {type(denoiser).__name__} is not known: its layers are taken to be one chain"
    return Graph(**{**vars(wiring.graph()), "note": note})


@singledispatch
def _wire(denoiser: ModelMixin, wiring: Wiring) -> bool:
    """Write the graph of `denoiser` down; False if nobody knows its wiring."""
    return False


# --- what families share --------------------------------------------------------------------------


def _attention(
    w: Wiring, name: str, x: Flow, context: Flow | None
) -> tuple[Flow, tuple[Flow, ...]]:
    """Attention to `context` (None: to `x`): its output, and all of its nodes in forward order."""
    heard = x if context is None else context
    q, k, v = (
        w.layer(f"{name}.to_q", x),
        w.layer(f"{name}.to_k", heard),
        w.layer(f"{name}.to_v", heard),
    )
    place = name.removeprefix(w.prefix)
    qk = w.combine(f"{place}.qk", "matmul", q, k)
    mixed = w.combine(f"{place}.vsm", "matmul", v, qk)
    out = w.layer(f"{name}.to_out.0", mixed)
    return out, (q, k, v, qk, mixed, out)


def _feed_forward(w: Wiring, name: str, x: Flow) -> Flow:
    first = w.layer(f"{name}.net.0.proj", x)
    second = w.layer(f"{name}.net.2", first)
    w.piece(name.removeprefix(w.prefix), "feed-forward", first, second)
    return second


# --- DiT, PixArt, Hunyuan-DiT ---------------------------------------------------------------------


@_wire.register
def _(denoiser: DiTTransformer2DModel, w: Wiring) -> bool:
    x, embeddings = w.single("pos_embed.proj"), []
    for n in range(len(denoiser.transformer_blocks)):
        name = f"transformer_blocks.{n}"
        w.leave()
        known = len(w.nodes)
        embedder = w.pair(f"{name}.norm1.emb.timestep_embedder")
        if len(w.nodes) > known:  # otherwise it is the first block's
            w.piece(f"{name}.norm1.emb", "time", *embedder)
        embeddings.append(embedder[1])
        w.enter(name)
        modulation = w.layer(f"{name}.norm1.linear", embedder[1])
        normed = w.combine("adaln_0", "adaln", x, modulation)
        out, nodes = _attention(w, f"{name}.attn1", normed, None)
        w.piece("attn1", "self-attention", modulation, normed, *nodes)
        x = w.combine("add_sa", "add", out, x)
        normed = w.combine("adaln_1", "adaln", x, modulation)
        x = w.combine("add_ff", "add", _feed_forward(w, f"{name}.ff", normed), x)
    w.leave()
    first = w.layer("proj_out_1", embeddings[0])
    w.piece("proj_out", "output", first, w.layer("proj_out_2", first, x))
    return True


@_wire.register
def _(denoiser: PixArtTransformer2DModel, w: Wiring) -> bool:
    x = w.single("pos_embed.proj")
    embedding, *embedders = _pixart_time(w)
    lin = w.layer("adaln_single.linear", embedding)
    w.piece("adaln_single", "time", *embedders, lin)
    caption: Flow = ()
    if w.has("caption_projection"):
        pair = w.pair("caption_projection")
        w.piece("caption_projection", "caption", *pair)
        caption = pair[1]
    for n in range(len(denoiser.transformer_blocks)):
        name = f"transformer_blocks.{n}"
        w.enter(name)
        normed = w.combine("adaln_0", "adaln", x, lin)
        out, nodes = _attention(w, f"{name}.attn1", normed, None)
        w.piece("attn1", "self-attention", normed, *nodes)
        x = w.combine("add_sa", "add", out, x)
        normed = w.combine("norm", "norm", x)
        out, nodes = _attention(w, f"{name}.attn2", normed, caption)
        w.piece("attn2", "cross-attention", *nodes)
        x = w.combine("add_ca", "add", out, x)
        normed = w.combine("adaln_1", "adaln", x, lin)
        x = w.combine("add_ff", "add", _feed_forward(w, f"{name}.ff", normed), x)
    w.leave()
    w.single("proj_out", w.combine("norm_out", "norm", x, embedding))
    return True


def _pixart_time(w: Wiring) -> tuple[Flow, ...]:
    """The embedding of the time (and of sizes, where they enter), then all nodes that make it."""
    time = w.pair("adaln_single.emb.timestep_embedder")
    if not w.has("adaln_single.emb.resolution_embedder"):
        return time[1], *time
    sides = [w.pair(f"adaln_single.emb.{side}_embedder") for side in ("resolution", "aspect_ratio")]
    total = w.combine("adaln_single.emb.add", "add", time[1], *(pair[1] for pair in sides))
    return total, *time, *(node for pair in sides for node in pair), total


@_wire.register
def _(denoiser: HunyuanDiT2DModel, w: Wiring) -> bool:
    x = w.single("pos_embed.proj")
    time = w.pair("time_extra_emb.timestep_embedder")
    pool = [w.layer(f"time_extra_emb.pooler.{part}_proj") for part in "qkv"]
    pool.append(w.layer("time_extra_emb.pooler.c_proj", *pool))
    w.piece("time_extra_emb.pooler", "pooled prompt", *pool)
    extra = w.pair("time_extra_emb.extra_embedder", pool[-1])
    embedding = w.combine("time_extra_emb.add", "add", time[1], extra[1])
    w.piece("time_extra_emb", "time", *time, *extra, embedding)
    caption = w.pair("text_embedder")
    w.piece("text_embedder", "caption", *caption)
    skips: list[Flow] = []
    half = len(denoiser.blocks) // 2
    for n in range(len(denoiser.blocks)):
        name = f"blocks.{n}"
        w.enter(name)
        if n > half:
            x = _hunyuan_skip(w, name, x, skips.pop())
        modulation = w.layer(f"{name}.norm1.linear", embedding)
        normed = w.combine("adaln_0", "adaln", x, modulation)
        out, nodes = _attention(w, f"{name}.attn1", normed, None)
        w.piece("attn1", "self-attention", modulation, normed, *nodes)
        x = w.combine("add_sa", "add", out, x)
        normed = w.combine("norm_0", "norm", x)
        out, nodes = _attention(w, f"{name}.attn2", normed, caption[1])
        w.piece("attn2", "cross-attention", *nodes)
        x = w.combine("add_ca", "add", out, x)
        normed = w.combine("norm_1", "norm", x)
        x = w.combine("add_ff", "add", _feed_forward(w, f"{name}.ff", normed), x)
        if n < half - 1:
            skips.append(x)
    w.leave()
    modulation = w.layer("norm_out.linear", embedding)
    normed = w.combine("norm_out", "norm", x, modulation)
    w.piece("proj_out", "output", modulation, normed, w.layer("proj_out", normed))
    return True


def _hunyuan_skip(w: Wiring, name: str, x: Flow, skip: Flow) -> Flow:
    if not w.split:
        return w.single(f"{name}.skip_linear", x, skip)
    halves = w.layer(f"{name}.skip_linear", x), w.second(f"{name}.skip_linear", skip)
    joined = w.combine("add_skip", "add", *halves)
    w.piece("skip_linear", "skip_linear", *halves, joined)
    return joined


# --- U-Nets ---------------------------------------------------------------------------------------


@_wire.register(UNet2DModel)
@_wire.register(UNet2DConditionModel)
def _(denoiser: UNet2DModel | UNet2DConditionModel, w: Wiring) -> bool:
    time = _unet_time(denoiser, w)
    x = w.single("conv_in")
    skips = [x]
    for b, block in enumerate(denoiser.down_blocks):
        name = f"down_blocks.{b}"
        for n, _ in enumerate(block.resnets):
            x = _resnet(w, f"{name}.resnets.{n}", x, time)
            x = _find_attended(w, block, name, n, x)
            skips.append(x)
        for n, sampler in enumerate(block.downsamplers or ()):
            x = _sampler(w, f"{name}.downsamplers.{n}", sampler, x, time)
            skips.append(x)
    w.now = MIDDLE
    if denoiser.mid_block is not None:
        x = _resnet(w, "mid_block.resnets.0", x, time)
        for n in range(1, len(denoiser.mid_block.resnets)):
            x = _find_attended(w, denoiser.mid_block, "mid_block", n - 1, x)
            x = _resnet(w, f"mid_block.resnets.{n}", x, time)
    w.now = UP
    for b, block in enumerate(denoiser.up_blocks):
        name = f"up_blocks.{b}"
        for n, _ in enumerate(block.resnets):
            if not skips:
                return False
            x = _resnet(w, f"{name}.resnets.{n}", x, time, skips.pop())
            x = _find_attended(w, block, name, n, x)
        for n, sampler in enumerate(block.upsamplers or ()):
            x = _sampler(w, f"{name}.upsamplers.{n}", sampler, x, time)
    w.leave()
    w.single("conv_out", x)
    return True


def _unet_time(denoiser: ModelMixin, w: Wiring) -> Flow:
    """The embedding that all blocks read: of the time, and of what else is added to it."""
    condition = w.layer("time_embedding.cond_proj") if w.has("time_embedding.cond_proj") else ()
    time = w.pair("time_embedding", condition)
    others = [
        w.pair(name)
        for name in ("class_embedding", "add_embedding")
        if w.has(f"{name}.linear_1") and w.has(f"{name}.linear_2")
    ]
    if not others:
        w.piece("time_embedding", "time", condition, *time)
        return time[1]
    total = w.combine("add_time", "add", time[1], *(pair[1] for pair in others))
    w.piece(
        "time_embedding",
        "time",
        condition,
        *time,
        *(node for pair in others for node in pair),
        total,
    )
    return total


def _resnet(w: Wiring, name: str, x: Flow, time: Flow, skip: Flow = ()) -> Flow:
    """A residual block that reads `x` and, beside it, the long skip `skip`."""
    w.enter(name)
    shortcut = w.has(f"{name}.conv_shortcut")
    # As Qua²SeDiMo's release has it: SDXL's blocks have a node for their input, and it is conv1
    # that is split there, in other U-Nets the shortcut.
    large = w.denoiser.config.get("addition_embed_type") == "text_time"
    halved = "" if not (w.split and skip) else "conv1" if large else "conv_shortcut"
    given = w.combine("input", "input", x, () if halved else skip) if shortcut and large else x
    merged = (
        skip if halved or given == x else ()
    )  # what reads all of the input reads this beside `given`
    first = [w.layer(f"{name}.conv1", given, () if halved == "conv1" else merged)]
    first += [w.second(f"{name}.conv1", skip)] if halved == "conv1" else []
    projected = w.layer(f"{name}.time_emb_proj", time) if w.has(f"{name}.time_emb_proj") else ()
    second = w.layer(f"{name}.conv2", *first, projected)
    if not shortcut:
        w.piece("resnet", "ResBlock", *first, projected, second)
        return tuple(dict.fromkeys((*second, *x)))
    parts = [w.layer(f"{name}.conv_shortcut", given, () if halved == "conv_shortcut" else merged)]
    if halved == "conv_shortcut":
        parts.append(w.second(f"{name}.conv_shortcut", skip))
        parts.append(w.combine("add_halves", "add", *parts))
    total = w.combine("add", "add", second, parts[-1])
    w.piece(
        "resnet", "ResBlock", given if given != x else (), *first, projected, second, *parts, total
    )
    return total


def _find_attended(w: Wiring, block: Any, name: str, n: int, x: Flow) -> Flow:
    """What the attention behind resnet `n` of a block, if there is one, makes of `x`."""
    if not w.has(f"{name}.attentions") or block.attentions[n] is None:
        return x
    place = f"{name}.attentions.{n}"
    if not isinstance(block.attentions[n], Transformer2DModel):
        w.enter(place)
        out, nodes = _attention(w, place, x, None)
        w.piece("attention", "self-attention", *nodes)
        return tuple(dict.fromkeys((*out, *x)))
    w.enter(place)
    own, entrance = w.unit, w.layer(f"{place}.proj_in", x)
    inner = entrance
    for k, basic in enumerate(block.attentions[n].transformer_blocks):
        here = f"{place}.transformer_blocks.{k}"
        w.enter(here)
        out, nodes = _attention(
            w, f"{here}.attn1", inner, () if basic.only_cross_attention else None
        )
        w.piece("attn1", "self-attention", *(() if k else (entrance,)), *nodes)
        inner = w.combine("add_sa", "add", out, inner)
        if basic.attn2 is not None:
            out, nodes = _attention(
                w, f"{here}.attn2", inner, None if basic.attn2.cross_attention_dim is None else ()
            )
            w.piece("attn2", "cross-attention", *nodes)
            inner = w.combine("add_ca", "add", out, inner)
        inner = w.combine("add_ff", "add", _feed_forward(w, f"{here}.ff", inner), inner)
    w.unit, w.prefix = own, f"{place}."
    return tuple(dict.fromkeys((*w.single(f"{place}.proj_out", inner), *x)))


def _sampler(w: Wiring, name: str, sampler: nn.Module, x: Flow, time: Flow) -> Flow:
    if isinstance(sampler, ResnetBlock2D):
        return _resnet(w, name, x, time)
    w.leave()
    w.prefix = f"{'.'.join(name.split('.')[:2])}."
    made = w.single(f"{name}.conv", x) if w.has(f"{name}.conv") else x
    w.leave()
    return made
