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

from ..job_panel import JobPanel, format_note, watch
from ..request import choose_engine, choose_recipes, list_recipes, make_comparison
from ..session import read, set_outside
from .report import list_jobs, list_rows, summarize, write_caption


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
    comparison = make_comparison(recipe, prompts, seeds, steps, guidance)
    return recipe, comparison, choose_recipes(recipe, others, computed)


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
    row = count_columns(len(comparison.prompts) * len(comparison.seeds))
    yield {"gallery": gr.update(value=[], columns=row)}
    finished: list[tuple[Any, str]] = []
    on_the_way: dict[tuple[str, int], tuple[Any, str]] = {}

    def add(seen: Any) -> dict[str, Any]:
        if seen.step is None:
            finished.append((seen.pixels, write_caption(seen.recipe, seen.prompt, seen.seed)))
            return {"gallery": list(finished), "results": gr.update(visible=True)}
        if seen.index > 0:
            return {}
        on_the_way[seen.recipe, seen.step] = (seen.pixels, f"{seen.recipe}, step {seen.step}")
        return {"strip": list(on_the_way.values()), "results": gr.update(visible=True)}

    yield from watch(compare.compare_images(comparison, recipes, name=name), add)
    saved = {
        "status": format_note(f"Saved as “{name}”."),
        "run": gr.update(choices=runs.names(), value=name),
    }
    return saved | show_choices(recipe, others) | show_run(name)


def estimate_seconds(text: str, *form: Any) -> float:
    """How long `generate` needs a GPU."""
    _, comparison, recipes = parse_request(text, *form)
    images = len(comparison.prompts) * len(comparison.seeds)
    return gpu_time.estimate_gpu_seconds(
        recipes[0].model, images, comparison.sampling.steps, 1 + len(recipes)
    )


def count_columns(images: int) -> int:
    """How many images stand in a row, so that each recipe has rows of its own where there are
    several of each.
    """
    return images if 1 < images <= 8 else 6


def show_choices(recipe: Recipe, chosen: list[str] | None) -> dict[str, Any]:
    """What can be compared with `recipe`; a run that was removed meanwhile is no longer chosen."""
    known = list_recipes(recipe)
    return {
        "others": gr.update(
            choices=list(known), value=[name for name in chosen or [] if name in known]
        )
    }


def show_run(name: str | None) -> dict[str, Any]:
    """A finished run, from its folder."""
    if not name:
        return {}
    report, images, jobs = runs.load_report(name), runs.load_images(name), list_jobs(name)
    quantized = [model_name for model_name in images if model_name != FLOAT_NAME]
    labels = [(f"{prompt} · seed {seed}", n) for n, (prompt, seed) in enumerate(jobs)]
    return {
        "results": gr.update(visible=True),
        "gallery": gr.update(
            value=[
                (pixels, write_caption(model_name, *jobs[n]))
                for model_name, row in images.items()
                for n, pixels in enumerate(row)
            ],
            columns=count_columns(len(jobs)),
        ),
        "image": gr.update(choices=labels, value=0),
        "recipe_name": gr.update(choices=quantized, value=quantized[0]),
        "summary": summarize(report),
        "table": list_rows(report),
        "psnr": figures.psnr(report),
        "ssim": figures.ssim(report),
        "sheet": str(runs.contact_sheet(name)),
        **show_pair(name, 0, quantized[0]),
    }


def show_pair(name: str, image: int, model_name: str) -> dict[str, Any]:
    """One image of one recipe beside the float one: slider, difference, and how both came
    about.
    """
    images, jobs = runs.load_images(name), list_jobs(name)
    if model_name not in images or not 0 <= int(image) < len(jobs):
        raise DmqError("this image is not part of the run; choose another.")
    ours, floats = images[model_name][int(image)], images[FLOAT_NAME][int(image)]
    steps = runs.load_steps(name)
    return {
        "slider": (floats, ours),
        "difference": figures.difference(floats, ours),
        "strip": [
            (pixels, f"{row}, step {step}")
            for row in (FLOAT_NAME, model_name)
            for (index, step), pixels in sorted(steps.get(row, {}).items())
            if index == int(image)
        ],
    }


def take_recipe(name: str | None, model_name: str | None) -> dict[str, Any]:
    """The recipe of the shown run as the current one."""
    if not name:
        raise DmqError("no run is shown; generate or open one first.")
    recipes = {recipe.name: recipe for recipe in runs.load_recipes(name)}
    return set_outside(recipes.get(model_name or "", next(iter(recipes.values()))))


def show(text: str, others: list[str] | None, computed: str | None = None) -> dict[str, Any]:
    """The tab for the current recipe."""
    recipe = read(text)
    prompted = get_info(recipe.model).prompted
    return show_choices(recipe, others) | {
        "prompt_column": gr.update(visible=prompted),
        "guidance": gr.update(visible=prompted, value=recipe.sampling.guidance),
        "steps": recipe.sampling.steps,
        "run": gr.update(choices=runs.names()),
        "seeds": gr.update() if prompted else "0-3",
        "computed": choose_engine(recipe, computed),
    }
