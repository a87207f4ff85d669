"""Temporal: what quantization does to the part of the model that sees the timestep only, and how
to keep it whole.
"""

import dataclasses
import json
from collections.abc import Generator, Iterator
from typing import Any

import gradio as gr
import numpy as np

from dmq.artifacts.model_info import get_temporal_block
from dmq.errors import DmqError
from dmq.evaluation import time_embedding_drift
from dmq.figures import temporal as figures
from dmq.recipe import FLOAT, Cache, NearestRounding, Recipe, Temporal
from dmq.results import TemporalErrors
from dmq.workflow.answers import get_time_errors, has_blocks, has_time_rounding
from dmq.workflow.learning import learn_time_rounding

from ..job_panel import JobPanel, format_note, watch
from ..layout import explain_no_capture, show_hint
from ..recipe_forms import change_part, show_part
from ..session import read


STATES = {
    "before": "as all other layers",
    "computed": "with this recipe, computed",
    "after": "with this recipe",
}
MISSING = "The rounding is still to be learned: {}. Until then the figures show nearest codes."
ALONE, WITH_BLOCKS = (
    "press **Learn the rounding**",
    "open **Rounding** and press **Learn the blocks**",
)


def change(paths: list[str], text: str, enabled: bool, *values: Any) -> dict[str, Any]:
    """The recipe after a control has moved: with the time embedding treated as the form says, or
    as all other layers.
    """
    return change_part("temporal", Temporal, paths, text, enabled, *values)


def measure_errors(recipe: Recipe) -> tuple[TemporalErrors, bool]:
    """Summary of the features, and whether that is what the recipe asks: not before its
    rounding was learned.
    """
    with_blocks = recipe.reconstruction is not None and recipe.reconstruction.time
    if has_time_rounding(recipe) and (not with_blocks or has_blocks(recipe)):
        return get_time_errors(recipe), True
    if with_blocks:
        return get_time_errors(dataclasses.replace(recipe, reconstruction=None)), False
    spec = dataclasses.replace(recipe.temporal or Temporal(), rounding=NearestRounding())
    return get_time_errors(dataclasses.replace(recipe, temporal=spec)), False


def show(paths: list[str], text: str, picked: str) -> Iterator[dict[str, Any]]:
    """The tab for the current recipe: the form at once, then the figures."""
    recipe = read(text)
    form = show_part(recipe.temporal, Temporal, paths)
    if why := explain_hindrance(recipe):
        yield form | show_hint(why)
        return
    form |= {"learn": gr.update(visible=not has_time_rounding(recipe))}
    yield form | {"empty": gr.update(visible=False)}
    errors, learned = measure_errors(recipe)
    yield {"body": gr.update(visible=True)} | show_overview(
        recipe, errors, learned, choose_cell(errors, picked)
    )


def explain_hindrance(recipe: Recipe) -> str:
    """Why there is nothing to see, with what to do; empty if there is."""
    if hint := explain_no_capture(recipe):
        return hint
    if get_temporal_block(recipe.model) is None:
        return f"dmq knows no temporal block in **{recipe.model}**: its time layers are treated as all others."
    if recipe.weights.bits == recipe.activations.bits == FLOAT and not recipe.overrides:
        return "This recipe leaves everything in float: there is no error to see. Choose bits."
    return ""


def choose_cell(errors: TemporalErrors, picked: str) -> tuple[int, int]:
    """The feature and step that were clicked, or where the error is largest."""
    if picked:
        name, i = json.loads(picked)
        names = [projection.name for projection in errors.block.projections]
        if name in names and i < len(errors.timesteps):
            return names.index(name), i
    worst = np.unravel_index(errors.cosine_before.argmin(), errors.cosine_before.shape)
    return int(worst[0]), int(worst[1])


def show_overview(
    recipe: Recipe, errors: TemporalErrors, learned: bool, at: tuple[int, int]
) -> dict[str, Any]:
    """All that follows from the recipe without running the model."""
    spec = recipe.temporal or Temporal()
    missing = MISSING.format(ALONE if recipe.temporal else WITH_BLOCKS)
    cache = spec.cache if isinstance(spec.cache, Cache) else None
    return show_maps(errors, at) | {
        "summary": summarize(recipe, errors) + ("" if learned else f"\n\n{missing}"),
        "ranges": figures.ranges(errors),
        "bits": figures.cache_bits(errors, cache.bits if cache else None),
        "deviation": gr.update(value=None, visible=False),  # it was of another recipe
        "loss": gr.update(
            value=figures.rounding_loss(errors.losses) if len(errors.losses) else None,
            visible=len(errors.losses) > 0,
        ),
    }


def show_maps(errors: TemporalErrors, at: tuple[int, int]) -> dict[str, Any]:
    """The maps with the chosen cell framed, and the vectors behind it."""
    k, i = at
    cos = {name: float(getattr(errors, f"cosine_{name}")[k, i]) for name in ("before", "after")}
    where = f"### {figures.feature_name(errors.block.projections[k])}, step {i} (t = {errors.timesteps[i]:g})\n"
    text = f"cosine {cos['before']:.6f} before, {cos['after']:.6f} with this recipe; "
    shift = int(errors.shift_before[k, i]), int(errors.shift_after[k, i])
    text += f"the step it is taken for: {i + shift[0]} before, {i + shift[1]} with this recipe."
    return {
        "before": figures.cosine_map(errors, "before", at),
        "after": figures.cosine_map(errors, "after", at),
        "shift_before": figures.shift_map(errors, "before", at),
        "shift_after": figures.shift_map(errors, "after", at),
        "selection": gr.update(
            value=figures.selection_map(errors, at) if errors.cached.any() else None,
            visible=bool(errors.cached.any()),
        ),
        "cell": where + text,
        "vectors": figures.vectors(errors, k, i),
        "picked": json.dumps([errors.block.projections[k].name, i]),
    }


def summarize(recipe: Recipe, errors: TemporalErrors) -> str:
    """The worst cosine, the mismatched steps and the bytes, in two or three sentences."""
    block, steps = errors.block, len(errors.timesteps)
    worst = {name: float(getattr(errors, f"cosine_{name}").min()) for name in ("before", "after")}
    wrong = {
        name: 100 * float((getattr(errors, f"shift_{name}") != 0).mean())
        for name in ("before", "after")
    }
    text = (
        f"{len(block.projections)} features of {steps} steps depend on {', '.join(block.depends)}. "
    )
    text += (
        f"Worst cosine **{worst['after']:.6f}**, taken for another step: **{wrong['after']:.0f} %**"
    )
    if recipe.temporal is not None or (recipe.reconstruction and recipe.reconstruction.time):
        text += f" (as all other layers: {worst['before']:.6f}, {wrong['before']:.0f} %)"
    if not block.finite:
        text += f"; worst of {errors.conditionings} rows of conditioning"
    share = 100 * errors.cached.mean()
    text += f". Layers of the time embedding: {errors.computed_bytes / 1000:.1f} kB"
    text += f"; {share:.0f} % of the features come from the cache." if errors.cached.any() else "."
    return text + (f"\n\n⚠ {errors.note}" if errors.note else "")


def pick(text: str, click: gr.SelectData) -> dict[str, Any]:
    """The feature and step that were clicked in a map."""
    errors, _ = measure_errors(read(text))
    k, i = click.index if isinstance(click.index, list | tuple) else (-1, -1)
    if not (0 <= k < len(errors.block.projections) and 0 <= i < len(errors.timesteps)):
        raise DmqError("this cell is no longer there; click again.")
    return show_maps(errors, (int(k), int(i)))


# --- what runs ------------------------------------------------------------------------------------


JOB = JobPanel(
    start={"learn": "Learn the rounding", "run": "Run with the time embedding alone quantized"},
    hidden=("learn",),
    stop="Stop it",
    progress="Progress of the time embedding",
    stopped="Stopped; nothing was kept.",
    after_stop=lambda text: {"learn": gr.update(visible=not has_time_rounding(read(text)))},
)


@JOB.run
def learn(text: str) -> Generator[dict[str, Any], None, dict[str, Any]]:
    """Learn the rounding of the time embedding, with a bar; nothing is kept when it is stopped."""
    recipe = read(text)
    yield {}
    yield from watch(learn_time_rounding(recipe))
    errors, learned = measure_errors(recipe)
    return {"status": format_note("Learned.")} | show_overview(
        recipe, errors, learned, choose_cell(errors, "")
    )


@JOB.run
def deviate(text: str, images: float) -> Generator[dict[str, Any], None, dict[str, Any]]:
    """Generate with the time embedding alone quantized, and show how far the latents get from the float
    ones.
    """
    recipe = read(text)
    yield {"learn": gr.update()}
    result = yield from watch(time_embedding_drift.measure_drift(recipe, images=int(images)))
    lines = {STATES[name]: values for name, values in result.items()}
    return {"deviation": gr.update(value=figures.deviation(lines), visible=True)}
