"""Quantized models measured on many images."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import stages
from ..errors import DmqError
from ..recipe import Domain, Recipe
from ..results import BenchReport
from ..runs import benchmarks
from ..runs.prompts import shipped_domains
from .load_recipe import load_recipes
from .run_to_end import OnProgress, run_to_end


def benchmark(
    recipes: Recipe | str | Path | tuple[Recipe | str | Path, ...],
    *,
    domains: Sequence[Domain | str] | None = None,
    seeds: int = 1,
    images: int | None = None,
    name: str | None = None,
    progress: OnProgress = None,
    **settings: Any,
) -> BenchReport:
    """Measure recipes of one model against the float model (QDiffBench), each figure with its 95 %
    interval.

    `domains` are sets of prompts, or names of those that ship (all unless given); `seeds` images of
    each prompt, at most `images` of each domain. `settings` are further fields of
    `dmq.recipe.Benchmark`, such as `measures`. A benchmark called `name` that was interrupted is
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
    asked = stages.benchmark_of(chosen[0], sets, seeds=seeds, images=images, **settings)
    name = name or benchmarks.free_name(" vs ".join(recipe.name for recipe in chosen))
    return run_to_end(stages.bench(asked, chosen, name=name), progress)


def _domain(domain: Domain | str, shipped: dict[str, Domain]) -> Domain:
    if isinstance(domain, Domain):
        return domain
    if domain not in shipped:
        raise DmqError(
            f"no domain called {domain!r}; give a Domain or one of {', '.join(shipped)}."
        )
    return shipped[domain]
