"""QDiffBench: quantized models against the float one, on the same prompts and seeds, with a noise
floor.

Every batch is kept when it is finished: a benchmark that was interrupted goes on, and ends with an
equal result."""

import dataclasses
import os
import platform
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import DmqError
from ..metrics.references import hash_weights, load_feature_extractor, real_features
from ..models.generation import generate_batch
from ..models.libraries import load
from ..models.work_plan import seconds_a_call, spoken
from ..progress import FLOAT_NAME, GeneratedImage, Progress, progress_timer, relay
from ..recipe import SETS, Benchmark, Domain, Recipe
from ..results import FLOOR_NAME, BenchImage, BenchReport, BenchRow
from ..runs import benchmarks as kept
from ..runs.prompts import UNCONDITIONAL
from .benched import Bench, Part, layout
from .blocks_kept import reconstructed
from .images import check_sampler, check_sampling, check_together
from .known import captured, info
from .planning import computed, coverage, plan
from .preparing import prepare
from .searches import searched
from .time_embedding import temporal_learned
from .trajectory_ranges import calibrated, windows_measured
from .weights_kept import has_learned_weights


if TYPE_CHECKING:
    from torch import nn

    from ..models.loading import Loaded

SLOWER = 1.6  # a quantized model against the float one, where no benchmark says how much
SEEDS = 64  # images of a model without prompts, unless asked otherwise


def bench(
    benchmark: Benchmark, recipes: tuple[Recipe, ...], *, name: str
) -> Generator[Progress | GeneratedImage | BenchReport, None, BenchReport]:
    """Generate and measure the float model, the noise floor and each recipe; returns the report, kept
    under `name`.

    Yields images as they are generated, and the report so far whenever a model is done. If a
    benchmark of that name was interrupted, what it kept is used, and of one with fewer recipes all
    of it: the new ones go on behind. Raises DmqError if that one has other prompts, seeds,
    sampling, weights or recipes."""
    warnings = check_benchmark(benchmark, recipes)
    yield Progress("Load the model", 0, 1)
    loaded = load(recipes[0].model)
    for recipe in recipes:
        yield from prepare(recipe)
    check_sampler(loaded, recipes)
    setting, known, reference = _setting(benchmark, loaded)
    folder = kept.begin(name, benchmark, recipes, known)
    if kept.complete(folder):
        return kept.load_report(name)
    setting = Bench(folder, *setting)
    models: list[tuple[str, Recipe | None]] = [
        (FLOAT_NAME, None),
        (FLOOR_NAME, None),
        *((r.name, r) for r in recipes),
    ]
    rows: list[BenchRow] = []
    images: list[BenchImage] = []
    covered: dict[str, str] = {}
    for who, (called, _) in enumerate(models):
        found = kept.load_rows(folder, who)
        if found is None:
            yield from _generate(setting, loaded, who, models)
            yield Progress(f"Measure {called}", who, len(models))
            kept.save_rows(folder, who, setting.measure(who, called))
            found = kept.load_rows(folder, who)
        if who > 1:
            covered[called] = coverage(recipes[who - 2])
        rows += found.rows
        images += found.images
        warnings += [*found.notes, *_broken(found.rows)]
        made = BenchReport(
            model=recipes[0].model,
            sampler=known["sampler"],
            features=benchmark.features if setting.feature_extractor else "",
            reference=reference,
            benchmark=benchmark,
            rows=tuple(rows),
            images=tuple(images),
            bytes=dict.fromkeys((FLOAT_NAME, FLOOR_NAME)[: who + 1], plan(recipes[0]).float_bytes)
            | {recipe.name: plan(recipe).bytes for recipe in recipes[: max(0, who - 1)]},
            coverage=dict(covered),
            machine=f"{platform.machine()}, {_cores()} cores, {loaded.place.line()}",
            warnings=tuple(warnings),
        )
        yield made
    kept.save_report(folder, made, [called for called, _ in models])
    return kept.load_report(name)


def benchmark_of(
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
    if not info(recipe.model).prompted:
        return Benchmark(domains=(UNCONDITIONAL,), seeds=tuple(range(images or SEEDS)), **settings)
    most = None if images is None else -(-images // seeds)
    cut = tuple(dataclasses.replace(domain, prompts=domain.prompts[:most]) for domain in domains)
    return Benchmark(domains=cut, seeds=tuple(range(seeds)), **settings)


def check_benchmark(benchmark: Benchmark, recipes: tuple[Recipe, ...]) -> list[str]:
    """Raise DmqError for what makes no sense, before anything is generated; returns warnings."""
    from ..metrics.sets import check_count

    check_together(recipes, (FLOAT_NAME, FLOOR_NAME))
    prompted = info(recipes[0].model).prompted
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


def _setting(benchmark: Benchmark, loaded: "Loaded") -> tuple[tuple, dict[str, Any], str]:
    """What a `Bench` is made of, what its result depends on besides the specs, and what the real
    images are.
    """
    from ..capture.activations import sampler_line

    prompted = loaded.info.prompted
    wanted = set(benchmark.measures) - (set() if prompted else {"clip"})
    feature_extractor = (
        load_feature_extractor(benchmark.features) if wanted & {"distance", "clip", *SETS} else None
    )
    real = (
        real_features(benchmark, loaded.info.name, feature_extractor)
        if wanted & set(SETS)
        else None
    )
    known = {
        "model": loaded.info.name,
        "weights": loaded.info.fingerprint,
        "sampler": sampler_line(loaded, benchmark.sampling),
        "features": hash_weights(feature_extractor) if feature_extractor else "",
        "reference": real[1] if real else "",
    }
    return (
        (benchmark, prompted, feature_extractor, real[0] if real else None),
        known,
        known["reference"],
    )


def _generate(
    setting: Bench, loaded: "Loaded", who: int, models: list[tuple[str, Recipe | None]]
) -> Generator[Progress | GeneratedImage, None, None]:
    """Generate what is missing of model `who`, keeping every batch."""
    called, recipe = models[who]
    parts, steps = layout(setting.benchmark), setting.benchmark.sampling.steps
    missing = [part for part in parts if kept.load_batch(setting.folder, who, part.number) is None]
    if not missing:
        return
    model: nn.Module = loaded.denoiser
    if recipe is not None:
        yield Progress(f"Quantize {called}", who, len(models))
        model = computed(recipe)
    each = setting.benchmark.images * steps
    done = (
        who * each
        + (sum(part.count for part in parts) - sum(part.count for part in missing)) * steps
    )
    at = progress_timer(f"Generate {called} (model {who + 1} of {len(models)})", done)
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


def _jobs(benchmark: Benchmark, who: int, part: Part) -> list[tuple[str, int]]:
    """Prompt and seed of each image of a batch; the noise floor has seeds of its own."""
    chosen = kept.jobs_of(benchmark)[part.first : part.first + part.count]
    other = dict(zip(benchmark.seeds, benchmark.floor_seeds, strict=True))
    return [(prompt, other[seed] if who == 1 else seed) for _, prompt, seed in chosen]


def _broken(rows: tuple[BenchRow, ...]) -> Iterator[str]:
    for row in rows:
        if row.failed:
            yield (
                f"{row.recipe}, {row.domain}: {row.failed} of {row.failed + row.samples} images "
                "are not finite "
                "numbers; they are in no figure."
            )


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# --- how long it will take ------------------------------------------------------------------------


@dataclass(frozen=True)
class Estimate:
    """How long a benchmark will take on this machine."""

    images: int  # still to be generated, of all models
    calls: int  # of denoisers, a call a batch and step
    seconds: float
    learning: tuple[
        str, ...
    ]  # recipes for which something must be learned first, which is not in `seconds`

    def __str__(self) -> str:
        more = f"; besides, {', '.join(self.learning)} must learn first" if self.learning else ""
        took = f"about {spoken(self.seconds)} on this machine"
        return f"{self.images:,} images, {self.calls:,} denoiser calls: {took}{more}"


def estimate(
    benchmark: Benchmark, recipes: tuple[Recipe, ...], *, name: str | None = None
) -> Estimate:
    """How long `bench` will take, from a few steps sampled now; of an interrupted one called `name`,
    the rest.

    Raises what `bench` would raise. Loads the model; quantized ones are taken to be slower by what
    earlier benchmarks of the model found."""
    check_benchmark(benchmark, recipes)
    folder = kept.folder_of(name) if name else None
    steps, parts = benchmark.sampling.steps, layout(benchmark)
    slower = _slower(recipes[0].model)
    images, calls, seconds = 0, 0, 0.0
    for who in range(len(recipes) + 2):
        missing = [p for p in parts if not (folder and kept.load_batch(folder, who, p.number))]
        images += sum(part.count for part in missing)
        calls += steps * len(missing)
        share = (
            sum(part.count for part in missing) / benchmark.batch
        )  # a smaller batch takes less time
        a_call = seconds_a_call(
            recipes[0].model, benchmark.sampling, min(benchmark.batch, benchmark.images)
        )
        seconds += share * steps * a_call * (slower if who > 1 else 1.0)
    return Estimate(images, calls, seconds, tuple(r.name for r in recipes if not _prepared(r)))


def _prepared(recipe: Recipe) -> bool:
    learned = (
        captured(recipe)
        and searched(recipe)
        and temporal_learned(recipe)
        and has_learned_weights(recipe)
    )
    return learned and reconstructed(recipe) and windows_measured(recipe) and calibrated(recipe)


def _slower(model: str) -> float:
    """How much longer quantized models took than the float one in the finished benchmarks of
    `model`.
    """
    for name in kept.finished():
        try:
            report = kept.load_report(name)
        except DmqError:
            continue
        if report.model == model:
            took = {
                who: sum(r.seconds for r in report.rows if r.recipe == who)
                for who in report.recipes
            }
            quantized = [took[who] for who in report.coverage]
            return max(1.0, sum(quantized) / len(quantized) / took[FLOAT_NAME])
    return SLOWER


def joined(names: list[str]) -> BenchReport:
    """Several finished benchmarks as one; a recipe whose name is taken is called after its
    benchmark too.

    Raises DmqError, naming both, if they have other prompts, seeds, sampling or models.
    """
    reports = [(name, kept.load_report(name)) for name in dict.fromkeys(names)]
    first_name, first = reports[0]
    for name, report in reports[1:]:
        kept.check_alike(first_name, first.benchmark, name, report.benchmark)
        for part in ("model", "sampler", "features", "reference"):
            if getattr(first, part) != getattr(report, part):
                raise DmqError(
                    f"{first_name} has {part} {getattr(first, part)!r}, {name} has "
                    f"{getattr(report, part)!r}: their "
                    "figures cannot be compared."
                )
        first = _with(first, report, name)
    return first


def _with(first: BenchReport, other: BenchReport, name: str) -> BenchReport:
    new = {who: who if who not in first.recipes else f"{who} · {name}" for who in other.coverage}

    def renamed(items: tuple) -> tuple:
        return tuple(
            dataclasses.replace(item, recipe=new[item.recipe])
            for item in items
            if item.recipe in new
        )

    return dataclasses.replace(
        first,
        rows=first.rows + renamed(other.rows),
        images=first.images + renamed(other.images),
        bytes=first.bytes | {new[who]: size for who, size in other.bytes.items() if who in new},
        coverage=first.coverage | {new[who]: line for who, line in other.coverage.items()},
        warnings=(*first.warnings, *other.warnings),
    )
