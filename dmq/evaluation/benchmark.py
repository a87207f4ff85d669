"""QDiffBench: quantized models against the float one, on the same prompts and seeds, with a noise
floor.

Every batch is kept when it is finished: a benchmark that was interrupted goes on, and ends with an
equal result."""

import dataclasses
import os
import platform
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..artifacts.model_info import get_info
from ..errors import DmqError
from ..metrics.references import hash_weights, load_feature_extractor, load_real_features
from ..models.generation import generate_batch
from ..models.libraries import load
from ..progress import (
    FLOAT_NAME,
    GeneratedImage,
    OnProgress,
    Progress,
    progress_timer,
    relay,
    run_to_end,
)
from ..recipe import SETS, Benchmark, Domain, Recipe
from ..results import FLOOR_NAME, BenchImage, BenchReport, BenchRow, Coverage
from ..store import benchmarks as kept
from ..store.prompts import UNCONDITIONAL, shipped_domains
from ..workflow.answers import get_coverage, get_model, get_plan
from ..workflow.load_recipe import load_recipes
from ..workflow.steps import carry_out
from .checks import check_sampler, check_sampling, check_together
from .image_batches import Arrays, ImageBatch, share
from .scores import Bench, Part, layout


if TYPE_CHECKING:
    from torch import nn

    from ..models.loading import Loaded

SEEDS = 64  # images of a model without prompts, unless asked otherwise


def benchmark(
    recipes: Recipe | str | Path | tuple[Recipe | str | Path, ...],
    *,
    domains: Sequence[Domain | str] | None = None,
    seeds: int = 1,
    images: int | None = None,
    name: str | None = None,
    progress: OnProgress = None,
    scheduler: str = "",
    workers: int = 1,
    **settings: Any,
) -> BenchReport:
    """Measure recipes of one model against the float model (QDiffBench), each figure with its 95 %
    interval.

    `domains` are sets of prompts, or names of those that ship (all unless given); `seeds` images of
    each prompt, at most `images` of each domain. `settings` are further fields of
    `dmq.recipe.Benchmark`, such as `measures`. `workers` processes share the images, or those of the
    Dask cluster at `scheduler`. A benchmark called `name` that was interrupted is
    resumed; without a name a free one is taken.

    >>> import dmq
    >>> from dmq.recipe import Calibration, Sampling
    >>> small = {"sampling": Sampling(steps=2), "calibration": Calibration(samples=1)}
    >>> recipe = dmq.load_recipe("W8A8, one range", model="emoji-ddpm", **small)
    >>> report = dmq.benchmark(recipe, images=2, measures=("psnr", "ssim"))
    >>> report.row("W8A8, one range", "unconditional").samples
    2
    """
    chosen = load_recipes(recipes)
    if not chosen:
        raise DmqError("nothing to measure: give at least one recipe.")
    shipped = shipped_domains()
    sets = [_domain(domain, shipped) for domain in (list(shipped) if domains is None else domains)]
    asked = make_benchmark(chosen[0], sets, seeds=seeds, images=images, **settings)
    name = name or kept.free_name(" vs ".join(recipe.name for recipe in chosen))
    shared = {"scheduler": scheduler, "workers": workers}
    return run_to_end(run_benchmark(asked, chosen, name=name, **shared), progress)


def _domain(domain: Domain | str, shipped: dict[str, Domain]) -> Domain:
    if isinstance(domain, Domain):
        return domain
    if domain not in shipped:
        raise DmqError(
            f"no domain called {domain!r}; give a Domain or one of {', '.join(shipped)}."
        )
    return shipped[domain]


def run_benchmark(
    benchmark: Benchmark, recipes: tuple[Recipe, ...], *, name: str, **shared: Any
) -> Generator[Progress | GeneratedImage | BenchReport, None, BenchReport]:
    """Generate and measure the float model, the noise floor and each recipe; returns the report, kept
    under `name`.

    Yields images as they are generated, and the report so far whenever a model is done. If a
    benchmark of that name was interrupted, what it kept is used, and of one with fewer recipes all
    of it: the new ones go on behind. `shared` are the `scheduler` and `workers` of `engine.run`,
    where batches of images go. Raises DmqError if that one has other prompts, seeds,
    sampling, weights or recipes."""
    warnings = check_benchmark(benchmark, recipes)
    yield Progress("Load the model", 0, 1)
    loaded = load(recipes[0].model)
    for recipe in recipes:
        yield from carry_out(recipe, **shared)
    check_sampler(loaded, recipes)
    setting, known = _setting(benchmark, loaded)
    folder = kept.begin(name, benchmark, recipes, known)
    if kept.is_complete(folder):
        return kept.load_report(name)
    setting = dataclasses.replace(setting, folder=folder)
    models = [(FLOAT_NAME, None), (FLOOR_NAME, None), *((r.name, r) for r in recipes)]
    rows: list[BenchRow] = []
    images: list[BenchImage] = []
    covered: dict[str, Coverage] = {}
    for who, (called, _) in enumerate(models):
        found = kept.load_rows(folder, who)
        if found is None:
            yield from _generate(setting, loaded, who, models, **shared)
            yield Progress(f"Measure {called}", who, len(models))
            kept.save_rows(folder, who, setting.measure(who, called))
            found = kept.load_rows(folder, who)
        assert found is not None
        if who > 1:
            covered[called] = get_coverage(recipes[who - 2])
        rows += found.rows
        images += found.images
        warnings += [*found.notes, *_list_broken(found.rows)]
        made = BenchReport(
            model=recipes[0].model,
            sampler=known["sampler"],
            features=benchmark.features if setting.feature_extractor else "",
            reference=known["reference"],
            benchmark=benchmark,
            rows=tuple(rows),
            images=tuple(images),
            bytes=dict.fromkeys(
                (FLOAT_NAME, FLOOR_NAME)[: who + 1], get_plan(recipes[0]).float_bytes
            )
            | {recipe.name: get_plan(recipe).bytes for recipe in recipes[: max(0, who - 1)]},
            coverage=dict(covered),
            machine=f"{platform.machine()}, {_cores()} cores, {loaded.place.line()}",
            warnings=tuple(warnings),
        )
        yield made
    kept.save_report(folder, made, [called for called, _ in models])
    return kept.load_report(name)


def make_benchmark(
    recipe: Recipe,
    domains: Sequence[Domain],
    *,
    seeds: int = 1,
    images: int | None = None,
    **settings: Any,
) -> Benchmark:
    """A benchmark for `recipe`'s model: `seeds` images of each prompt, at most `images` of each
    domain.

    A model without prompts has one domain of `images` seeds. Raises DmqError for numbers below 1.
    """
    if seeds < 1 or (images is not None and images < 1):
        raise DmqError("a benchmark needs at least one seed and one image.")
    settings = {"sampling": recipe.sampling} | settings
    if not get_info(recipe.model).prompted:
        return Benchmark(domains=(UNCONDITIONAL,), seeds=tuple(range(images or SEEDS)), **settings)
    most = None if images is None else -(-images // seeds)
    cut = tuple(dataclasses.replace(domain, prompts=domain.prompts[:most]) for domain in domains)
    return Benchmark(domains=cut, seeds=tuple(range(seeds)), **settings)


def check_benchmark(benchmark: Benchmark, recipes: tuple[Recipe, ...]) -> list[str]:
    """Raise DmqError for what makes no sense, before anything is generated; returns warnings."""
    from ..metrics.sets import check_count

    check_together(recipes, (FLOAT_NAME, FLOOR_NAME))
    prompted = get_info(recipes[0].model).prompted
    if not prompted and set(benchmark.measures) <= {"clip"}:
        raise DmqError(
            f"{recipes[0].model} generates without prompts: there is no CLIP score of it. Choose other "
            "measures."
        )
    if not prompted and any(len(domain.prompts) > 1 for domain in benchmark.domains):
        raise DmqError(
            f"{recipes[0].model} generates without prompts: only seeds make a difference. Give one "
            "prompt."
        )
    for domain in benchmark.domains:
        for measure in (name for name in SETS if name in benchmark.measures):
            try:
                check_count(measure, len(domain.prompts) * len(benchmark.seeds))
            except DmqError as error:
                raise DmqError(f"{domain.name}: {error}") from None
    return [f"{r.name}: {line}" for r in recipes for line in check_sampling(r, benchmark.sampling)]


def _setting(benchmark: Benchmark, loaded: "Loaded") -> tuple[Bench, dict[str, str]]:
    """What measuring needs, its folder apart, and what its result depends on besides the specs."""
    from ..capture.activations import sampler_line

    prompted = loaded.info.prompted
    wanted = set(benchmark.measures) - (set() if prompted else {"clip"})
    extractor, real = None, None
    if wanted & {"distance", "clip", *SETS}:
        extractor = load_feature_extractor(benchmark.features)
    if extractor is not None and wanted & set(SETS):
        real = load_real_features(
            loaded.info.name, extractor, benchmark.features, benchmark.reference
        )
    features, reference = real or (None, "")
    known = {
        "model": loaded.info.name,
        "weights": loaded.info.fingerprint,
        "sampler": sampler_line(loaded, benchmark.sampling),
        "features": hash_weights(extractor) if extractor else "",
        "reference": reference,
    }
    return Bench(None, benchmark, prompted, extractor, features), known


def _generate(
    setting: Bench,
    loaded: "Loaded",
    who: int,
    models: list[tuple[str, Recipe | None]],
    scheduler: str = "",
    workers: int = 1,
) -> Generator[Progress | GeneratedImage, None, None]:
    """Generate what is missing of model `who`, keeping every batch."""
    called, recipe = models[who]
    parts, steps = layout(setting.benchmark), setting.benchmark.sampling.steps
    missing = [part for part in parts if kept.load_batch(setting.folder, who, part.number) is None]
    if not missing:
        return
    each = setting.benchmark.images * steps
    done = who * each + sum(part.count for part in parts if part not in missing) * steps
    at = progress_timer(f"Generate {called} (model {who + 1} of {len(models)})", done)
    if scheduler or workers != 1:
        elsewhere = _share(setting, loaded.info.name, who, recipe, missing, scheduler, workers)
        yield from relay(elsewhere, lambda more: at(done + more, len(models) * each))
        return
    model: nn.Module = loaded.denoiser
    if recipe is not None:
        yield Progress(f"Quantize {called}", who, len(models))
        model = get_model(recipe)
    for part in missing:
        jobs = _jobs(setting.benchmark, who, part)
        work = generate_batch(loaded, model, jobs, setting.benchmark.sampling)
        generated = yield from relay(
            work,
            lambda i, _, done=done, part=part: at(done + (i + 1) * part.count, len(models) * each),
        )
        done += part.count * steps
        batch = kept.Batch(generated.images, generated.latents, generated.seconds)
        kept.save_batch(setting.folder, who, part.number, part.first, batch)
        for n, pixels in enumerate(generated.images):
            yield GeneratedImage(called, part.first + n, *jobs[n], pixels)


def _share(
    setting: Bench,
    model: str,
    who: int,
    recipe: Recipe | None,
    missing: list[Part],
    scheduler: str,
    workers: int,
) -> Generator[int, None, None]:
    """Let workers generate what is `missing` of model `who`; yields how many steps are done."""
    benchmark, first = setting.benchmark, {part.number: part.first for part in missing}

    def keep(batch: ImageBatch, arrays: Arrays) -> None:
        made = kept.Batch(list(arrays["images"]), arrays["latents"], float(arrays["seconds"]))
        kept.save_batch(setting.folder, who, batch.number, first[batch.number], made)

    batches = [
        ImageBatch(
            model, recipe, tuple(_jobs(benchmark, who, part)), benchmark.sampling, part.number
        )
        for part in missing
    ]
    yield from share(batches, keep, lambda more: more, scheduler=scheduler, workers=workers)


def _jobs(benchmark: Benchmark, who: int, part: Part) -> list[tuple[str, int]]:
    """Prompt and seed of each image of a batch; the noise floor has seeds of its own."""
    chosen = kept.jobs_of(benchmark)[part.first : part.first + part.count]
    other = dict(zip(benchmark.seeds, benchmark.floor_seeds, strict=True))
    return [(prompt, other[seed] if who == 1 else seed) for _, prompt, seed in chosen]


def _list_broken(rows: tuple[BenchRow, ...]) -> Iterator[str]:
    for row in rows:
        if row.failed:
            yield (
                f"{row.recipe}, {row.domain}: {row.failed} of {row.failed + row.samples} images "
                "are not finite numbers; they are in no figure."
            )


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
