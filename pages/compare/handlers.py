"""Compare: the float model and quantized ones generate from the same noise; images come as they
are generated.
"""

from collections.abc import Generator
from typing import Any

import gradio as gr

from dmq.artifacts.model_info import get_info
from dmq.errors import DmqError
from dmq.evaluation import compare
from dmq.figures import images as figures
from dmq.progress import FLOAT_NAME
from dmq.recipe import Comparison, Recipe
from dmq.store import runs
from dmq.workflow import gpu_time

from ..job_panel import JobPanel, note, watch
from ..request import comparison_of, engine_shown, offered, recipes_of
from ..session import read, set_outside
from .report import caption, jobs_of, summary, table


JOB = JobPanel(
    start={"go": "Generate"},
    stop="Stop generating",
    progress="Progress of the generating",
    stopped="Stopped; nothing was saved.",
)


def parse_request(
    text: str,
    prompts: str,
    seeds: str,
    steps: float,
    guidance: float,
    others: list[str],
    computed: str | None = None,
) -> tuple[Recipe, Comparison, tuple[Recipe, ...]]:
    """The current recipe, what to generate and with which recipes.

    Raises DmqError for what cannot be generated.
    """
    recipe = read(text)
    comparison = comparison_of(recipe, prompts, seeds, steps, guidance)
    return recipe, comparison, recipes_of(recipe, others, computed)


@JOB.run
def generate(
    text: str,
    prompts: str,
    seeds: str,
    steps: float,
    guidance: float,
    others: list[str],
    computed: str | None = None,
) -> Generator[dict[str, Any], None, dict[str, Any]]:
    """Generate and compare, showing images as they come; the finished run is saved and shown like
    any other.
    """
    recipe, comparison, recipes = parse_request(
        text, prompts, seeds, steps, guidance, others, computed
    )
    name = runs.free_name(f"{recipe.model} {recipe.name}")
    row = across(len(comparison.prompts) * len(comparison.seeds))
    yield {"gallery": gr.update(value=[], columns=row)}
    drawn: list[tuple[Any, str]] = []
    on_the_way: dict[tuple[str, int], tuple[Any, str]] = {}

    def add(seen: Any) -> dict[str, Any]:
        if seen.step is None:
            drawn.append((seen.pixels, caption(seen.recipe, seen.prompt, seen.seed)))
            return {"gallery": list(drawn), "results": gr.update(visible=True)}
        if seen.index > 0:
            return {}
        on_the_way[seen.recipe, seen.step] = (seen.pixels, f"{seen.recipe}, step {seen.step}")
        return {"strip": list(on_the_way.values()), "results": gr.update(visible=True)}

    yield from watch(compare.compare_images(comparison, recipes, name=name), add)
    saved = {
        "status": note(f"Saved as “{name}”."),
        "run": gr.update(choices=runs.names(), value=name),
    }
    return saved | choices(recipe, others) | show_run(name)


def seconds(text: str, *form: Any) -> float:
    """How long `generate` needs a GPU."""
    _, comparison, recipes = parse_request(text, *form)
    images = len(comparison.prompts) * len(comparison.seeds)
    return gpu_time.estimate_gpu_seconds(
        recipes[0].model, images, comparison.sampling.steps, 1 + len(recipes)
    )


def across(images: int) -> int:
    """How many images stand in a row, so that each recipe has rows of its own where there are
    several of each.
    """
    return images if 1 < images <= 8 else 6


def choices(recipe: Recipe, chosen: list[str] | None) -> dict[str, Any]:
    """What can be compared with `recipe`; a run that was removed meanwhile is no longer chosen."""
    known = offered(recipe)
    return {
        "others": gr.update(
            choices=list(known), value=[name for name in chosen or [] if name in known]
        )
    }


def show_run(name: str | None) -> dict[str, Any]:
    """A finished run, from its folder."""
    if not name:
        return {}
    report, images, jobs = runs.load_report(name), runs.load_images(name), jobs_of(name)
    quantized = [who for who in images if who != FLOAT_NAME]
    labels = [(f"{prompt} · seed {seed}", n) for n, (prompt, seed) in enumerate(jobs)]
    return {
        "results": gr.update(visible=True),
        "gallery": gr.update(
            value=[
                (pixels, caption(who, *jobs[n]))
                for who, row in images.items()
                for n, pixels in enumerate(row)
            ],
            columns=across(len(jobs)),
        ),
        "image": gr.update(choices=labels, value=0),
        "who": gr.update(choices=quantized, value=quantized[0]),
        "summary": summary(report),
        "table": table(report),
        "psnr": figures.psnr(report),
        "ssim": figures.ssim(report),
        "sheet": str(runs.contact_sheet(name)),
        **pair(name, 0, quantized[0]),
    }


def pair(name: str, image: int, who: str) -> dict[str, Any]:
    """One image of one recipe beside the float one: slider, difference, and how both came
    about.
    """
    images, jobs = runs.load_images(name), jobs_of(name)
    if who not in images or not 0 <= int(image) < len(jobs):
        raise DmqError("this image is not part of the run; choose another.")
    ours, floats = images[who][int(image)], images[FLOAT_NAME][int(image)]
    steps = runs.load_steps(name)
    return {
        "slider": (floats, ours),
        "difference": figures.difference(floats, ours),
        "strip": [
            (pixels, f"{row}, step {step}")
            for row in (FLOAT_NAME, who)
            for (index, step), pixels in sorted(steps.get(row, {}).items())
            if index == int(image)
        ],
    }


def take(name: str | None, who: str | None) -> dict[str, Any]:
    """The recipe of the shown run as the current one."""
    if not name:
        raise DmqError("no run is shown; generate or open one first.")
    found = {recipe.name: recipe for recipe in runs.load_recipes(name)}
    return set_outside(found.get(who or "", next(iter(found.values()))))


def show(text: str, others: list[str] | None, computed: str | None = None) -> dict[str, Any]:
    """The tab for the current recipe."""
    recipe = read(text)
    prompted = get_info(recipe.model).prompted
    return choices(recipe, others) | {
        "asked": gr.update(visible=prompted),
        "guidance": gr.update(visible=prompted, value=recipe.sampling.guidance),
        "steps": recipe.sampling.steps,
        "run": gr.update(choices=runs.names()),
        "seeds": gr.update() if prompted else "0-3",
        "computed": engine_shown(recipe, computed),
    }
