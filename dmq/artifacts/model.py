"""The quantized denoiser of a recipe, simulated or executed, and all codes that it learned."""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial as bind
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DmqError
from ..models.libraries import import_libraries, load
from ..progress import Progress
from ..recipe import SIMULATED, Recipe, compiles, lowered
from ..results import Plan
from ..store.artifact import compute
from .questions import LayerCodes, QuantizedModel, RecipeCodes


if TYPE_CHECKING:
    from torch import nn

    from ..models.loading import Loaded
    from ..quantizers.codes import WeightCodes
    from ..reconstruction.block import LearnedBlocks
    from ..reconstruction.from_inputs import LearnedWeight
    from ..reconstruction.temporal import LearnedRounding


@dataclass(frozen=True, eq=False)
class LearnedCodes:
    """The codes of layers that were learned, by name, and what is to be known about them."""

    codes: "dict[str, WeightCodes]"
    notes: tuple[str, ...]


@compute.register(RecipeCodes)
def _(
    question: RecipeCodes,
    partial: Path,
    layers: "dict[LayerCodes, LearnedWeight] | None" = None,
    time: "LearnedRounding | None" = None,
    blocks: "LearnedBlocks | None" = None,
) -> Generator[Progress, None, LearnedCodes]:
    yield from ()
    codes = {each.layer: weight.codes for each, weight in (layers or {}).items()}
    learned: dict[str, Any] = {
        "rounding of the time embedding": time,
        "rounding of the blocks": blocks,
    }
    for part in (time, blocks):
        codes.update(part.codes if part else {})
    learned |= {each.layer: weight for each, weight in (layers or {}).items()}
    lines = (f"{what}: {part.note}" for what, part in learned.items() if part and part.note)
    return LearnedCodes(codes, tuple(lines))


@compute.register(QuantizedModel)
def _(
    question: QuantizedModel, partial: Path, plan: Plan, codes: LearnedCodes
) -> Generator[Progress, None, "nn.Module"]:
    yield Progress("Load the model", 0, 1)
    import_libraries()
    loaded = load(question.recipe.model)
    check_engine(question.recipe, loaded)
    quantize = _quantizer(question.recipe)
    model = quantize(loaded.denoiser, plan, loaded.adapter, codes.codes)
    vars(model)["clock"].notes.extend(codes.notes)
    return model


def check_engine(recipe: Recipe, loaded: "Loaded") -> None:
    """Raise DmqError if the engine of `recipe` cannot run where the model does."""
    if recipe.engine != SIMULATED and loaded.place.offload in ("sequential", "group"):
        raise DmqError(
            f"engine {recipe.engine!r}: with offload {loaded.place.offload!r} diffusers brings "
            "parameters to the "
            "device layer by layer, but no packed weights; try --offload model or none, or "
            "simulate."
        )


def _quantizer(recipe: Recipe) -> "Callable[..., nn.Module]":
    """What makes a model from the float one, the plan, the adapter and learned codes."""
    if recipe.engine == SIMULATED:
        from ..quantizers.apply import quantize_model

        return quantize_model
    import torch

    from ..runtime.convert import execute_model

    rest = torch.bfloat16 if lowered(recipe.engine) else torch.float32
    return bind(execute_model, rest=rest, compiling=compiles(recipe.engine))
