"""`dmq bench`: recipes measured against the float model on many images (QDiffBench)."""

import argparse
import sys
from collections.abc import Callable

from ..errors import DmqError
from ..recipe import MEASURES, Benchmark, Recipe
from .arguments import (
    choose_engines,
    choose_recipe,
    choose_sampling,
    cluster_arguments,
    cluster_options,
    engine_argument,
)
from .terminal import show_progress, write


def add_to(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Offer the command; `add` makes a parser from name, function and help."""
    one = add(
        "bench",
        bench,
        "Measure recipes against the float model on many images, with a noise floor (QDiffBench).",
    )
    one.add_argument(
        "recipes",
        nargs="*",
        metavar="RECIPE",
        help="none: go on with, or print, the one called --name",
    )
    one.add_argument("--model", help="use this model instead of the recipes' own")
    engine_argument(one)
    _benchmark_arguments(one)
    cluster_arguments(one)


def _benchmark_arguments(to: argparse.ArgumentParser) -> None:
    to.add_argument(
        "--domain",
        action="append",
        dest="domains",
        metavar="FILE",
        default=[],
        help="a text file with a prompt a line, or names, compositions, paraphrases; may be given "
        "several times; all that ship unless given",
    )
    to.add_argument("--seeds", type=int, default=1, metavar="N", help="images of each prompt")
    to.add_argument(
        "--images", type=int, metavar="N", help="of each domain; without prompts, 64 unless given"
    )
    to.add_argument(
        "--measure", action="append", dest="measures", choices=MEASURES, help="all unless given"
    )
    to.add_argument(
        "--features",
        default="emoji-clip",
        metavar="NAME",
        help="emoji-clip, or a folder or Hub id of CLIP",
    )
    to.add_argument(
        "--real", default="", metavar="FOLDER", help="real images, as a second reference"
    )
    to.add_argument("--batch", type=int, default=8, metavar="N", help="images at a time")
    for name in ("steps", "guidance", "size"):
        to.add_argument(
            f"--{name}", type=float if name == "guidance" else int, help="other than the recipe's"
        )
    to.add_argument("--name", help="of the benchmark; one that was interrupted goes on")
    to.add_argument(
        "--beside",
        action="append",
        default=[],
        metavar="NAME",
        help="a finished one, in the same table",
    )
    to.add_argument("--estimate", action="store_true", help="only say how long it will take")
    to.add_argument("--html", metavar="FILE", help="also write a page that can be mailed")
    to.add_argument("--csv", metavar="FILE", help="also write every figure")
    to.add_argument("--markdown", action="store_true", help="print the table as Markdown")


def choose_benchmark(given: argparse.Namespace, recipe: Recipe) -> Benchmark:
    """The benchmark that the command line asks for, of models like `recipe`'s."""
    from ..evaluation import benchmark
    from ..store import prompts

    settings = {
        "sampling": choose_sampling(given, recipe),
        "features": given.features,
        "reference": given.real,
    }
    settings |= {"batch": given.batch} | (
        {"measures": tuple(given.measures)} if given.measures else {}
    )
    shipped = prompts.shipped_domains()
    asked = given.domains or list(shipped)
    domains = [shipped[name] if name in shipped else prompts.read_prompts(name) for name in asked]
    return benchmark.make_benchmark(
        recipe, domains, seeds=given.seeds, images=given.images, **settings
    )


def bench(given: argparse.Namespace) -> None:
    from ..evaluation import benchmark, benchmark_estimate, joined_benchmarks, rank_inversions
    from ..figures import bench_report, bench_table
    from ..progress import FLOAT_NAME
    from ..store import benchmarks

    if not given.recipes and not given.name:
        raise DmqError(
            "bench what? Name recipes, or with --name a benchmark to go on with or to print."
        )
    if given.engine and not given.recipes:
        raise DmqError(
            "--engine is for recipes that are named; a benchmark goes on with the engines it began "
            "with."
        )
    recipes = choose_engines(
        tuple(choose_recipe(name, given.model) for name in given.recipes), given.engine
    )
    recipes = recipes or benchmarks.load_recipes(given.name)
    asked = (
        choose_benchmark(given, recipes[0])
        if given.recipes
        else benchmarks.load_benchmark(given.name)
    )
    name = given.name or benchmarks.free_name(" vs ".join(recipe.name for recipe in recipes))
    if given.estimate:
        print(benchmark_estimate.estimate_benchmark(asked, recipes, name=name))
        return
    if given.recipes or name in benchmarks.list_unfinished():
        print(
            f"benchmark {name!r}; `dmq bench --name` goes on with it if it is stopped.",
            file=sys.stderr,
        )
        show_progress(benchmark.run_benchmark(asked, recipes, name=name, **cluster_options(given)))
    report = joined_benchmarks.join_benchmarks([name, *given.beside])
    print(bench_table.markdown(report) if given.markdown else bench_table.text(report))
    for finding in [] if given.markdown else rank_inversions.find_inversions(report)[:3]:
        print(f"finding: {finding}")
    if given.csv:
        write(given.csv, benchmarks.as_csv(report))
    if given.html:
        shown = benchmarks.worst(benchmarks.load_report(name)), benchmarks.load_worst(name)
        findings = [str(finding) for finding in rank_inversions.find_inversions(report)[:3]]
        write(given.html, bench_report.page(name, report, *shown, findings, FLOAT_NAME))
