"""Images and the report: the float model and quantized ones generated from the same noise."""

from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import jsonio
from ..artifacts.model import check_engine
from ..artifacts.model_info import get_info
from ..models.generation import generate_batch, space_evenly
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
from ..store import learned, runs
from ..store.folders import answer_folder, discard
from ..workflow.answers import get_coverage, get_model, get_plan, trajectory_key
from ..workflow.load_recipe import load_recipes
from ..workflow.steps import carry_out
from .checks import check_recipes, check_sampler
from .image_batches import ImageBatch, read_notes, share


if TYPE_CHECKING:
    from torch import nn

    from ..models.loading import Loaded


Generated = tuple[list[np.ndarray], float, list[str]]  # images, seconds, notes

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
    scheduler: str = "",
    workers: int = 1,
) -> Report:
    """Generate images with the float model and with each recipe of it, from the same noise; returns
    the report.

    The report holds PSNR (dB) and SSIM against the float images, the noise floor (float against
    float with another seed), bytes, seconds and what stayed in float. `sampling` is the first
    recipe's unless given. With a `name`, the run is saved under it with its images. `on_image` gets
    each `Image`, also those on the way (`step` is not None). `workers` processes share the images,
    or those of the Dask cluster at `scheduler`. Raises DmqError for recipes of
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
    shared = {"scheduler": scheduler, "workers": workers}
    return run_to_end(run_comparison(chosen, comparison, name=name, **shared), progress, on_image)


def compare_images(
    comparison: Comparison,
    recipes: tuple[Recipe, ...],
    *,
    name: str | None = None,
    scheduler: str = "",
    workers: int = 1,
) -> Generator[Progress | GeneratedImage, None, Report]:
    """Generate the comparison with the float model, then with each recipe, from the same noise; returns
    the report.

    Images are yielded as they come. With a `name`, the finished run is saved under it. `scheduler`
    and `workers` are those of `engine.run`: batches of images go there, and those that are finished
    are kept until all are.
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
    shared: dict[str, Any] = {"scheduler": scheduler, "workers": workers}
    is_shared = bool(scheduler or workers != 1)
    for quantized in (None, *recipes):
        who, model = quantized.name if quantized else FLOAT_NAME, loaded.denoiser
        if quantized:
            yield from carry_out(quantized, **shared)
            yield Progress(f"Quantize {who}", 0, 1)
            plans[who] = get_plan(quantized)
            model = model if is_shared else get_model(quantized)
            covered[who] = get_coverage(quantized)
        on_the_way[who] = {}
        if is_shared:
            work = _share(recipes[0], quantized, who, jobs, comparison, **shared)
        else:
            work = _generate(loaded, model, who, jobs, comparison)

        def keep(item: Any, who: str = who) -> Any:
            if isinstance(item, GeneratedImage) and item.step is not None:
                on_the_way[who][item.index, item.step] = item.pixels
            return item

        generated[who], seconds[who], notes = yield from relay(work, keep)
        warnings += [f"{who}: {note}" for note in notes]
    floor = "noise floor", floor_jobs, comparison
    if is_shared:
        others, *_ = yield from _share(recipes[0], None, *floor, shown=False, **shared)
    else:
        others, *_ = yield from _generate(loaded, loaded.denoiser, *floor, shown=False)
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
    for quantized in (None, *recipes) if is_shared else ():
        discard(_unfinished(recipes[0], quantized, comparison))
    return report


def run_comparison(
    recipe: Recipe | tuple[Recipe, ...],
    comparison: Comparison,
    *,
    name: str | None,
    **shared: Any,
) -> Generator[Progress | GeneratedImage, None, Report]:
    """Carry a recipe, or several, out from nothing: prepare, quantize, compare, save under `name`.

    `shared` are the `scheduler` and `workers` of `engine.run`.
    """
    if name is not None:
        runs.folder_of(name)  # a name that cannot be saved is better refused before the work
    recipes = recipe if isinstance(recipe, tuple) else (recipe,)
    for one in recipes:
        yield from carry_out(one, **shared)
    return (yield from compare_images(comparison, recipes, name=name, **shared))


def _generate(
    loaded: "Loaded",
    model: "nn.Module",
    who: str,
    jobs: list[tuple[str, int]],
    comparison: Comparison,
    *,
    shown: bool = True,
) -> Generator[Progress | GeneratedImage, None, Generated]:
    """All images of `jobs` in batches, the seconds that sampling took without decoding images on the
    way, and notes of the model.
    """
    at, steps = progress_timer(f"Generate {who}"), comparison.sampling.steps
    watched = space_evenly(steps, SHOWN_STEPS) if shown else ()
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
    return images, spent, list(getattr(vars(model).get("clock"), "notes", ()))


def _share(
    any_recipe: Recipe,
    recipe: Recipe | None,
    who: str,
    jobs: list[tuple[str, int]],
    comparison: Comparison,
    *,
    shown: bool = True,
    **shared: Any,
) -> Generator[Progress | GeneratedImage, None, Generated]:
    """Like `_generate`, by workers; `recipe` None is the float model of `any_recipe`."""
    sampling, total = comparison.sampling, len(jobs) * comparison.sampling.steps
    steps = frozenset(space_evenly(sampling.steps, SHOWN_STEPS) if shown else ())
    first = 0 if shown else 50_000  # those of the noise floor lie beside the others
    batches = [
        ImageBatch(any_recipe.model, recipe, tuple(jobs[n : n + BATCH]), sampling, first + n, steps)
        for n in range(0, len(jobs), BATCH)
    ]
    folder = _unfinished(any_recipe, recipe, comparison)
    there = learned.part_names(folder)
    missing = [batch for batch in batches if batch.name not in there]
    done = total - sum(len(batch.jobs) for batch in missing) * sampling.steps
    at = progress_timer(f"Generate {who}", done)
    yield from share(
        missing,
        lambda batch, arrays: learned.save_part(folder, batch.name, arrays),
        lambda more: at(done + more, total),
        **shared,
    )
    images: list[np.ndarray] = []
    spent, notes = 0.0, list[str]()
    for batch in batches:
        arrays = learned.load_part(folder, batch.name) or {}
        before, notes = len(images), read_notes(arrays)
        spent += float(arrays["seconds"])
        for (n, i), pixels in zip(arrays["between_at"].tolist(), arrays["between"], strict=True):
            yield GeneratedImage(who, before + n, batch.jobs[n][0], batch.jobs[n][1], pixels, i)
        images += list(arrays["images"])
        for n, pixels in enumerate(arrays["images"] if shown else ()):
            yield GeneratedImage(who, before + n, *batch.jobs[n], pixels)
    return images, spent, notes


def _unfinished(any_recipe: Recipe, recipe: Recipe | None, comparison: Comparison) -> Path:
    """Where shared images of a comparison are kept until all are there."""
    model = get_info(any_recipe.model)
    what = [model.fingerprint, model.scheduler]
    if recipe is not None:
        what = [*trajectory_key(recipe), recipe.engine]
    return answer_folder("shared-images", jsonio.key_data(comparison), *what, own=True)


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
