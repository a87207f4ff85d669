"""Images and the report: the float model and quantized ones generated from the same noise."""

from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import runs
from ..errors import DmqError
from ..models.generation import generate_batch
from ..models.libraries import load
from ..models.work_plan import plan_work
from ..progress import (
    FLOAT_NAME,
    GeneratedImage,
    Progress,
    Value,
    progress_timer,
    relay,
    relay_each,
)
from ..recipe import FLOAT, Comparison, Recipe, Sampling
from ..results import ImageScore, Report
from .known import info, statistics
from .planning import check_engine, computed, coverage, plan
from .preparing import prepare
from .searches import search_result, search_spec


if TYPE_CHECKING:
    from torch import nn

    from ..models.loading import Loaded


BATCH = 8  # images generated at a time when comparing
SHOWN_STEPS = 8  # intermediate images of a trajectory


def compare(
    comparison: Comparison, recipes: tuple[Recipe, ...], *, name: str | None = None
) -> Generator[Progress | GeneratedImage, None, Report]:
    """Generate the comparison with the float model, then with each recipe, from the same noise; returns
    the report.

    Images are yielded as they come. With a `name`, the finished run is saved under it.
    """
    warnings = check_recipes(recipes, comparison.sampling)
    yield Progress("Load the model", 0, 1)
    loaded = load(recipes[0].model)
    check_sampler(loaded, recipes)
    for recipe in recipes:
        check_engine(recipe, loaded)
    jobs = [(prompt, seed) for prompt in comparison.prompts for seed in comparison.seeds]
    generated: dict[str, list[np.ndarray]] = {}
    on_the_way: dict[str, dict[tuple[int, int], np.ndarray]] = {}
    batches = [len(jobs[start : start + BATCH]) for start in range(0, len(jobs), BATCH)]
    yield plan_work("Compare", recipes[0].model, comparison.sampling, batches * (len(recipes) + 1))
    seconds, plans, covered = {}, {}, {}
    floor_jobs = [(prompt, comparison.seeds[0] + 1) for prompt in comparison.prompts[:BATCH]]
    for who, recipe in [(FLOAT_NAME, None), *((recipe.name, recipe) for recipe in recipes)]:
        model = loaded.denoiser
        if recipe is not None:
            yield from prepare(recipe)
            yield Progress(f"Quantize {who}", 0, 1)
            plans[who], model = plan(recipe), computed(recipe)
            covered[who] = coverage(recipe)
        on_the_way[who] = {}
        work = _generate(loaded, model, who, jobs, comparison)
        generated[who], seconds[who] = yield from _keeping(work, on_the_way[who])
        warnings += [
            f"{who}: {note}" for note in getattr(getattr(model, "clock", None), "notes", ())
        ]
    others, _ = yield from _generate(
        loaded, loaded.denoiser, "noise floor", floor_jobs, comparison, shown=False
    )
    report = Report(
        scores=tuple(_scores(jobs, generated)),
        seconds=seconds,
        bytes={FLOAT_NAME: next(iter(plans.values())).float_bytes}
        | {who: p.bytes for who, p in plans.items()},
        coverage=covered,
        noise_floor=_floor(generated[FLOAT_NAME][:: len(comparison.seeds)], others),
        samples=len(jobs),
        place=loaded.place.line(),
        warnings=tuple(warnings),
    )
    if name is not None:
        runs.save_run(name, recipes, comparison, report, generated, on_the_way)
    return report


def _keeping(
    work: Generator[Any, None, Value], kept: dict[tuple[int, int], np.ndarray]
) -> Generator[Any, None, Value]:
    """`work`, with its images on the way put into `kept` as they pass."""

    def keep(item: Any) -> Any:
        if isinstance(item, GeneratedImage) and item.step is not None:
            kept[item.index, item.step] = item.pixels
        return item

    return (yield from relay(work, keep))


def run(
    recipe: Recipe | tuple[Recipe, ...], comparison: Comparison, *, name: str
) -> Generator[Progress | GeneratedImage, None, Report]:
    """Carry a recipe, or several, out from nothing: capture if need be, quantize, compare, save
    under `name`.
    """
    runs.folder_of(
        name
    )  # a name that cannot be saved is better refused before the work than after it
    recipes = recipe if isinstance(recipe, tuple) else (recipe,)
    for one in recipes:
        yield from prepare(one)
    return (yield from compare(comparison, recipes, name=name))


def difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Where two images differ, four times brighter than it is, uint8 [H, W, 3]."""
    from ..metrics import pixel

    return pixel.difference(a, b)


def check_together(recipes: tuple[Recipe, ...], taken: tuple[str, ...] = (FLOAT_NAME,)) -> None:
    """Raise DmqError unless the recipes are of one model, each with a name of its own that is
    not among `taken`.
    """
    if not recipes:
        raise DmqError("nothing to compare: choose at least one recipe.")
    if len({recipe.model for recipe in recipes}) > 1:
        raise DmqError(
            f"recipes of different models ({', '.join(r.model for r in recipes)}) cannot be "
            "compared."
        )
    seen = [*taken, *(recipe.name for recipe in recipes)]
    if len(set(seen)) < len(seen):
        said = " or ".join(map(repr, taken))
        raise DmqError(
            f"every recipe needs a name of its own other than {said}; got "
            f"{', '.join(seen[len(taken) :])}."
        )


def check_recipes(recipes: tuple[Recipe, ...], sampling: Sampling) -> list[str]:
    """How `sampling` differs from what the recipes were calibrated for, a line for each difference.

    Raises DmqError if they cannot be compared: no recipe, several models, a name twice, sampling
    that one refuses."""
    check_together(recipes)
    for recipe in recipes:
        statistics(recipe)  # what is missing is said before anything is generated
        if search_spec(recipe):
            search_result(recipe)
    return [
        f"{recipe.name}: {line}" for recipe in recipes for line in check_sampling(recipe, sampling)
    ]


def check_sampling(recipe: Recipe, sampling: Sampling) -> list[str]:
    """How `sampling` differs from what the ranges of `recipe` were captured with, a line for each
    difference.

    Raises DmqError for the first one unless the recipe accepts the nearest step,
    `unknown_timestep="nearest"`."""
    spec, lines = recipe.activations, []
    ranges = spec.dynamic == "none" and (
        min(spec.bits, spec.attention_bits) < FLOAT or recipe.overrides
    )
    if not (ranges or recipe.temporal or recipe.relaxing):
        return []  # nothing was learned from the captured steps
    prompted = info(recipe.model).prompted
    for name, said in (
        ("steps", "{} steps"),
        ("guidance", "guidance {:g}"),
        ("size", "an image side of {}"),
    ):
        asked, known = getattr(sampling, name), getattr(recipe.sampling, name)
        if asked == known or (name == "guidance" and not prompted):
            continue
        if recipe.unknown_timestep == "error":
            raise DmqError(
                f"{said.format(asked)}, but the ranges were captured for {said.format(known)}; "
                f"generate with {known:g}, "
                f"capture for {asked:g}, or set unknown_timestep of the recipe to nearest."
            )
        lines.append(
            f"generated with {said.format(asked)}, the ranges were captured for {said.format(known)}"
        )
    return lines


def check_sampler(loaded: "Loaded", recipes: tuple[Recipe, ...]) -> None:
    """Raise DmqError if statistics were captured with another sampler than the pipeline has now."""
    from ..capture.activations import sampler_line

    for recipe in recipes:
        then, now = statistics(recipe).sampler, sampler_line(loaded, recipe.sampling)
        if then != now:
            raise DmqError(
                f"the statistics were captured with {then}; the pipeline has {now}. Capture again."
            )


def _generate(
    loaded: "Loaded",
    model: "nn.Module",
    who: str,
    jobs: list[tuple[str, int]],
    comparison: Comparison,
    *,
    shown: bool = True,
) -> Generator[Progress | GeneratedImage, None, tuple[list[np.ndarray], float]]:
    """All images of `jobs` in batches, and the seconds that sampling took without decoding
    images on the way.
    """
    at, steps = progress_timer(f"Generate {who}"), comparison.sampling.steps
    watched = (
        set(np.linspace(0, steps - 1, min(SHOWN_STEPS, steps)).round().astype(int).tolist())
        if shown
        else set()
    )
    images: list[np.ndarray] = []
    spent = 0.0
    for start in range(0, len(jobs), BATCH):
        part = jobs[start : start + BATCH]

        def seen(
            pixels: list[np.ndarray | None], step: int | None, start: int = start, part: list = part
        ) -> list[GeneratedImage]:
            rows = [
                (n, made) for n, made in enumerate(pixels) if made is not None
            ]  # None: of the other half
            return [GeneratedImage(who, start + n, *part[n], made, step) for n, made in rows]

        work = generate_batch(loaded, model, part, comparison.sampling, watched)

        def told(
            i: int, pixels: list, start: int = start, part: list = part, seen: Any = seen
        ) -> Iterator[Any]:
            yield from seen(pixels, i)
            yield at(start * steps + (i + 1) * len(part), len(jobs) * steps)

        generated = yield from relay_each(work, told)
        images += generated.images
        spent += generated.seconds
        if shown:
            yield from seen(generated.images, None)
    return images, spent


def _scores(
    jobs: list[tuple[str, int]], generated: dict[str, list[np.ndarray]]
) -> Iterator[ImageScore]:
    from ..metrics import pixel

    for who, images in generated.items():
        if who == FLOAT_NAME:
            continue
        for (prompt, seed), ours, floats in zip(jobs, images, generated[FLOAT_NAME], strict=True):
            quality = {"psnr": pixel.psnr(ours, floats), "ssim": pixel.ssim(ours, floats)}
            yield ImageScore(recipe=who, prompt=prompt, seed=seed, **quality)


def _floor(ours: list[np.ndarray], others: list[np.ndarray]) -> dict[str, float]:
    """Mean PSNR and SSIM of float images against float images of the same prompts with
    another seed.
    """
    from ..metrics import pixel

    pairs = list(zip(ours, others, strict=False))
    return {
        "psnr": float(np.mean([pixel.psnr(a, b) for a, b in pairs])),
        "ssim": float(np.mean([pixel.ssim(a, b) for a, b in pairs])),
    }
