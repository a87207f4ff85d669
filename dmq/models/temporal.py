"""The temporal information block: the part of a denoiser that turns the time into one vector for
each block.

    h(t, ...)     time embedding, plus what else is added to it (class, pooled prompt, size)   [rows, embedding]
    g_k(h)        activation and linear layer of block k                                       [rows, C_k]

It sees no image, so that for T steps it has T different inputs, unless a class or a prompt
enters. Source: tfm, "Temporal feature and TIB". Where the block is in a family is its adapter's
business."""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from ..errors import DmqError
from ..results import Projection, TemporalBlock
from .adapter import AbstractAdapter


def temporal_features(
    model: nn.Module,
    adapter: AbstractAdapter,
    block: TemporalBlock,
    t: Tensor,
    given: Mapping[str, Tensor],
) -> list[Tensor]:
    """What every projection gives for rows of timesteps and conditioning, by the modules of `model`
    itself.

    Shapes: `t` [rows] and the tensors of `given` [rows, ...] to [rows, C_k] for each projection k,
    float32, where `model` is. `model` is the denoiser that `block` describes, or a copy with other
    layers in the same places."""
    first = next(p for p in model.parameters() if p.is_floating_point())
    t = t.to(first.device)
    given = {
        name: x.to(first.device, first.dtype if x.is_floating_point() else x.dtype)
        for name, x in given.items()
    }
    embeddings = adapter.embeddings(model, t, given)
    return [
        _project(model, block, projection, embeddings[projection.source]).float()
        for projection in block.projections
    ]


def _project(
    model: nn.Module, block: TemporalBlock, projection: Projection, embedding: Tensor
) -> Tensor:
    if projection.name in block.embeddings:
        return embedding
    if projection.activation is not None:
        embedding = model.get_submodule(projection.activation)(embedding)
    return model.get_submodule(projection.name)(embedding)


def conditioning_rows(
    calls: Iterable[Mapping[str, Tensor]], block: TemporalBlock, most: int = 64
) -> dict[str, Tensor]:
    """Distinct rows of what enters `block` beside t in the conditioning of denoiser calls
    (`adapter.conditioning`).

    Tensors [R, ...] by argument, R at most `most`. Raises DmqError if a call came without one of
    them."""
    rows: dict[bytes, tuple[Tensor, ...]] = {}
    for call in calls:
        missing = [name for name in block.arguments if name not in call]
        if missing:
            raise DmqError(
                f"the pipeline gives no {missing[0]}, which the time embedding needs; dmq cannot follow "
                "it."
            )
        for row in zip(*(_on_cpu(call[name]) for name in block.arguments), strict=True):
            rows.setdefault(b"".join(x.contiguous().numpy().tobytes() for x in row), row)
    kept = list(rows.values())[:most]
    return {
        name: torch.stack(column)
        for name, column in zip(block.arguments, zip(*kept, strict=True), strict=True)
    }


def _on_cpu(x: Tensor) -> Tensor:
    """`x` as numpy can hold it: half precision as float32, which changes no value."""
    x = x.detach().cpu()
    return x.float() if x.is_floating_point() else x


def every_pair(
    timesteps: Sequence[float], given: Mapping[str, Tensor]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Each of T timesteps with each of R rows of conditioning: t and `given` with T * R rows,
    steps outermost.
    """
    rows = max([len(x) for x in given.values()], default=1)
    t = timestep_rows(timesteps).repeat_interleave(rows)
    return t, {name: x.repeat(len(timesteps), *[1] * (x.ndim - 1)) for name, x in given.items()}


def timestep_rows(timesteps: Iterable[float]) -> Tensor:
    """Recorded timesteps as a denoiser gets them, [T]: int64 if all are whole numbers by type,
    else float32.
    """
    values = list(timesteps)
    return torch.tensor(
        values, dtype=torch.int64 if all(type(t) is int for t in values) else torch.float32
    )


def projection(
    denoiser: nn.Module, blocks: tuple[str, ...], name: str, activation: str | None, source: int = 0
) -> Projection:
    """The `Projection` whose linear layer is called `name`."""
    block = next((b for b in blocks if name.startswith(f"{b}.")), name.partition(".")[0])
    width = len(denoiser.get_parameter(f"{name}.weight"))
    return Projection(name=name, block=block, width=width, source=source, activation=activation)


def linear_layers(
    denoiser: nn.Module, embeddings: Iterable[str], projections: Iterable[Projection]
) -> tuple[str, ...]:
    """`TemporalBlock.layers`: linear layers inside the modules `embeddings`, then those of the
    projections.
    """
    embeddings = tuple(embeddings)
    roots = tuple(f"{root}." for root in embeddings)
    inside = [
        n
        for n, m in denoiser.named_modules()
        if isinstance(m, nn.Linear) and f"{n}.".startswith(roots)
    ]
    return (*inside, *(p.name for p in projections if p.name not in embeddings))
