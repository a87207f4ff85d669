"""Error over time: how the error of several recipes builds up along the steps, and what PCR does about
it.
"""

import dataclasses
import html
import math
from collections.abc import Generator
from typing import Any

import gradio as gr

from dmq.artifacts.model_info import get_info
from dmq.errors import DmqError
from dmq.evaluation import error_curves
from dmq.figures import error_over_time as figures
from dmq.recipe import Comparison, Recipe
from dmq.results import OverTime
from dmq.store.prompts import UNPROMPTED
from dmq.workflow.answers import get_plan

from ..job_panel import FIGURE_SECONDS, JobPanel, format_note, watch
from ..layout import explain_no_capture, show_body, show_hint
from ..request import choose_recipes, list_recipes, make_comparison
from ..session import read


# images: they are generated as one batch, and every denoiser call of theirs is kept while it is
# needed
MAX_IMAGES = 16


def parse_form(
    text: str, prompts: str, seeds: str, others: list[str]
) -> tuple[Comparison, tuple[Recipe, ...]]:
    """What to generate with which recipes. Raises DmqError for what cannot be generated."""
    recipe = read(text)
    sampling = recipe.sampling
    comparison = make_comparison(recipe, prompts, seeds, sampling.steps, sampling.guidance)
    if (images := len(comparison.prompts) * len(comparison.seeds)) > MAX_IMAGES:
        raise DmqError(
            f"{images} images; at most {MAX_IMAGES} are followed along the steps at once."
        )
    recipes, less = (
        choose_recipes(
            recipe, [name for name in others or [] if name not in list_variants(recipe)]
        ),
        [],
    )
    for name, variant in list_variants(recipe).items():
        if name in (others or []) and all(
            dataclasses.replace(variant, name=r.name) != r for r in recipes
        ):
            less.append(variant)
    return comparison, (recipes[0], *less, *recipes[1:])


def list_variants(recipe: Recipe) -> dict[str, Recipe]:
    """`recipe` with less of PCR, by name: what shows the worth of each part."""
    less: dict[str, dict[str, Any]] = {}
    if recipe.progressive or recipe.relaxing:
        less["without PCR"] = {"progressive": None, "relaxing": None}
    if recipe.progressive and recipe.relaxing:
        less |= {
            "without more bits": {"relaxing": None},
            "without progressive ranges": {"progressive": None},
        }
    named = {f"{recipe.name} {what}": changes for what, changes in less.items()}
    return {
        name: dataclasses.replace(recipe, name=name, **changes) for name, changes in named.items()
    }


def show_curves(result: OverTime, recipes: tuple[Recipe, ...]) -> dict[str, Any]:
    """Curves, images and numbers of what was found by now."""
    optional = {"predicted_x0": figures.predicted_x0(result), "weighed": figures.weigh(result)}
    return show_body() | {
        "accumulated": figures.accumulated(result),
        "isolated": figures.isolated(result),
        **{
            name: gr.update(value=figure, visible=figure is not None)
            for name, figure in optional.items()
        },
        "strip": gr.update(value=list_strip(result), columns=len(result.watched) + 1),
        "table": list_rows(result, recipes),
    }


def list_strip(result: OverTime) -> list[tuple[Any, str]]:
    """The images that are foreseen on the way and the finished one: a row for float, and one
    for each recipe.
    """
    return [
        (
            pixels,
            f"{model_name}, step {result.watched[n]}"
            if n < len(result.watched)
            else f"{model_name}, finished",
        )
        for model_name, images in result.strips.items()
        for n, pixels in enumerate(images)
    ]


def list_rows(result: OverTime, recipes: tuple[Recipe, ...]) -> list[list[Any]]:
    """One row for each recipe."""
    return [
        [
            recipe.name,
            format_error(result.accumulated[recipe.name][-1].mean()),
            format_error(result.isolated[recipe.name].mean()),
            f"{result.mean_bits[recipe.name]:.2f}",
            format_size(recipe),
        ]
        for recipe in recipes
        if recipe.name in result.isolated
    ]


def format_error(value: float) -> str:
    """An error, if it is known already."""
    return f"{value:.3e}" if math.isfinite(value) else "…"


def format_size(recipe: Recipe) -> str:
    """The exact size, where what it depends on is there."""
    try:
        return f"{get_plan(recipe).bytes / 1e6:.2f}"
    except DmqError:
        return "–"


def summarize(comparison: Comparison) -> str:
    """What the curves are of, in a sentence."""
    count = len(comparison.prompts) * len(comparison.seeds)
    prompts = ", ".join(prompt for prompt in comparison.prompts if prompt != UNPROMPTED)
    of = f" ({html.escape(prompts)})" if prompts else ""
    text = f"{count} image{'s' if count > 1 else ''}{of}, seeds {', '.join(map(str, comparison.seeds))}, "
    text += "from the same noise. Every error is a squared distance to the float model's over its squared length"
    return text + (": lines are means, bands go from the least to the most." if count > 1 else ".")


def show(text: str, others: list[str] | None) -> dict[str, Any]:
    """The part for the current recipe: the last answer that began with it, and its question in
    the form.
    """
    recipe = read(text)
    known = list_variants(recipe) | list_recipes(recipe)
    form: dict[str, Any] = {
        "others": gr.update(
            choices=list(known), value=[name for name in others or [] if name in known]
        ),
        "prompts": gr.update(visible=get_info(recipe.model).prompted),
    }
    if hint := explain_no_capture(recipe):
        return form | show_hint(hint)
    last = error_curves.find_last_error_curves(recipe)
    if last is None:
        return form | show_hint(
            "Nothing was generated with this recipe yet: press **Generate along the steps**."
        )
    comparison, recipes, result = last
    prompts = [prompt for prompt in comparison.prompts if prompt != UNPROMPTED]
    names_by_recipe = {
        dataclasses.replace(recipe_shown, name=""): name for name, recipe_shown in known.items()
    }
    beside = [
        names_by_recipe.get(dataclasses.replace(recipe_shown, name=""))
        for recipe_shown in recipes[1:]
    ]
    form["others"] = gr.update(choices=list(known), value=[name for name in beside if name])
    form["seeds"] = ", ".join(map(str, comparison.seeds))
    form |= {"prompts": gr.update(visible=True, value="\n".join(prompts))} if prompts else {}
    return form | show_curves(result, recipes) | {"summary": summarize(comparison)}


# --- what runs ------------------------------------------------------------------------------------


JOB = JobPanel(
    start={"go": "Generate along the steps"},
    stop="Stop generating along the steps",
    progress="Progress along the steps",
    stopped="Stopped; what is shown stays, but was not kept.",
)


@JOB.run
def generate(
    text: str, prompts: str, seeds: str, others: list[str]
) -> Generator[dict[str, Any], None, dict[str, Any]]:
    """Generate with the float model and each recipe; curves grow with the steps, and stay after
    Stop.
    """
    comparison, recipes = parse_form(text, prompts, seeds, others)
    yield {}
    summary = {"summary": summarize(comparison)}
    work = error_curves.measure_error_curves(comparison, recipes)
    result = yield from watch(
        work, lambda seen: show_curves(seen, recipes) | summary, seconds=FIGURE_SECONDS
    )
    return (
        show_curves(result, recipes)
        | summary
        | {"status": format_note("Generated; the answer is kept.")}
    )
