"""Images and the report: the float model and quantized ones generated from the same noise."""

from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..artifacts.model import check_engine
from ..models.generation import evenly_spaced, generate_batch
from ..models.libraries import load
from ..models.work_plan import plan_work
from ..progress import (
    FLOAT_NAME,
    GeneratedImage,
    OnImage,
    OnProgress,
    Progress,
    progress_timer,
    relay,
    relay_each,
    run_to_end,
)
from ..recipe import Comparison, Recipe, Sampling
from ..results import ImageScore, Report
from ..store import runs
from ..workflow.answers import get_coverage, get_model, get_plan
from ..workflow.load_recipe import load_recipes
from ..workflow.steps import carry_out
from .checks import check_recipes, check_sampler


if TYPE_CHECKING:
    from torch import nn

    from ..models.loading import Loaded


BATCH = 8  # images generated at a time when comparing
SHOWN_STEPS = 8  # intermediate images of a trajectory


def compare(
    recipes: Recipe | str | Path | tuple[Recipe | str | Path, ...],
    *,
    prompts: Sequence[str] = ("grinning cat",),
    seeds: Sequence[int] = (0,),
    sampling: Sampling | None = None,
    name: str | None = None,
    progress: OnProgress = None,
    on_image: OnImage = None,
) -> Report:
    """Generate images with the float model and with each recipe of it, from the same noise; returns
    the report.

    The report holds PSNR (dB) and SSIM against the float images, the noise floor (float against
    float with another seed), bytes, seconds and what stayed in float. `sampling` is the first
    recipe's unless given. With a `name`, the run is saved under it with its images. `on_image` gets
    each `Image`, also those on the way (`step` is not None). Raises DmqError for recipes of
    several models or of one name.

    >>> import dmq
    >>> from dmq.recipe import Calibration, Sampling
    >>> small = {"sampling": Sampling(steps=2), "calibration": Calibration(samples=1)}
    >>> recipe = dmq.load_recipe("W8A8, one range", model="emoji-ddpm", **small)
    >>> report = dmq.compare(recipe, seeds=[0, 1])
    >>> [score.seed for score in report.scores], report.bytes["W8A8, one range"] < report.bytes["float"]
    ([0, 1], True)
    """
    chosen = load_recipes(recipes)
    prompts = (prompts,) if isinstance(prompts, str) else tuple(prompts)
    sampling = sampling or (chosen[0].sampling if chosen else Sampling())
    comparison = Comparison(prompts=prompts, seeds=tuple(seeds), sampling=sampling)
    return run_to_end(run_comparison(chosen, comparison, name=name), progress, on_image)


def compare_images(
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
    for quantized in (None, *recipes):
        who, model = quantized.name if quantized else FLOAT_NAME, loaded.denoiser
        if quantized:
            yield from carry_out(quantized)
            yield Progress(f"Quantize {who}", 0, 1)
            plans[who], model = get_plan(quantized), get_model(quantized)
            covered[who] = get_coverage(quantized)
        on_the_way[who] = {}
        work = _generate(loaded, model, who, jobs, comparison)

        def keep(item: Any, who: str = who) -> Any:
            if isinstance(item, GeneratedImage) and item.step is not None:
                on_the_way[who][item.index, item.step] = item.pixels
            return item

        generated[who], seconds[who] = yield from relay(work, keep)
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


def run_comparison(
    recipe: Recipe | tuple[Recipe, ...], comparison: Comparison, *, name: str | None
) -> Generator[Progress | GeneratedImage, None, Report]:
    """Carry a recipe, or several, out from nothing: prepare, quantize, compare, save under `name`."""
    if name is not None:
        runs.folder_of(name)  # a name that cannot be saved is better refused before the work
    recipes = recipe if isinstance(recipe, tuple) else (recipe,)
    for one in recipes:
        yield from carry_out(one)
    return (yield from compare_images(comparison, recipes, name=name))


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
    watched = evenly_spaced(steps, SHOWN_STEPS) if shown else ()
    images: list[np.ndarray] = []
    spent = 0.0
    for start in range(0, len(jobs), BATCH):
        part = jobs[start : start + BATCH]

        def convert(i: int, pixels: list, start: int = start, part: list = part) -> Iterator[Any]:
            for n, made in enumerate(pixels):
                if made is not None:  # else of the other half
                    yield GeneratedImage(who, start + n, part[n][0], part[n][1], made, i)
            yield at(start * steps + (i + 1) * len(part), len(jobs) * steps)

        work = generate_batch(loaded, model, part, comparison.sampling, set(watched))
        generated = yield from relay_each(work, convert)
        images += generated.images
        spent += generated.seconds
        if shown:
            for n, made in enumerate(generated.images):
                yield GeneratedImage(who, start + n, *part[n], made)
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
