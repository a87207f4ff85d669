"""The command line: `dmq serve | capture | search | temporal | reconstruct | run | …`, each a
few lines of Python.
"""

import argparse
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path

from . import __version__, runs
from .commands import doctor, exporting, layers, learning, predict, prepare, sensitivity, walks
from .commands.asking import (
    choose_place,
    chosen_comparison,
    chosen_engines,
    chosen_recipe,
    chosen_sampling,
    comparison_arguments,
    engine_argument,
    place_arguments,
    recipe_argument,
    recipes_argument,
    told,
    write,
)
from .errors import DmqError, disk_error
from .recipe import MEASURES, Benchmark, Recipe
from .results import Execution, speed


def main(arguments: list[str] | None = None) -> int:
    """Carry a command out; returns the exit code: 0, 1 for what the user can fix, 130 after
    Ctrl-C.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(
            stream, io.TextIOWrapper
        ):  # a console or pipe of Windows may lack × and ⚠: they become ? there
            stream.reconfigure(errors="replace")
    chosen = parser().parse_args(arguments)
    try:
        choose_place(chosen)
        chosen.command(chosen)
        sys.stdout.flush()
    except (
        BrokenPipeError
    ):  # `… | head`: nobody reads on, and Python would complain when it flushes at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except DmqError as error:
        print(f"dmq: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ndmq: stopped; nothing half-written was left.", file=sys.stderr)
        return 130
    except Exception as error:
        if (told := disk_error(error)) is None:
            raise
        print(f"dmq: {told}", file=sys.stderr)
        return 1
    return 0


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="dmq", description=__doc__.split(".")[0])
    top.add_argument("--version", action="version", version=f"dmq {__version__}")
    commands = top.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def add(name: str, command: Callable, help: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=help, description=help)
        made.set_defaults(command=command)
        place_arguments(made)
        return made

    one = add("serve", serve, "Start the app in the browser.")
    one.add_argument("--host", default="127.0.0.1")
    one.add_argument("--port", type=int, default=7860)
    one.add_argument(
        "--public",
        action="store_true",
        help="for strangers: models that ship or are named in "
        "$DMQ_MODELS, everybody's own runs, at most $DMQ_RUNS_QUOTA (2GB, …) kept",
    )
    prepare.add_to(add)
    one = add("capture", capture, "Watch the float model draw, and keep its activation statistics.")
    recipe_argument(one)
    one.add_argument(
        "--again", action="store_true", help="even if there are such statistics already"
    )
    one.add_argument(
        "--trajectories",
        type=int,
        default=0,
        metavar="N",
        help="keep the denoiser calls of N pictures",
    )
    one = add(
        "search",
        search,
        "Learn the groups of timesteps that a recipe stands on (ADP-DM), and keep them.",
    )
    recipe_argument(one)
    one.add_argument("--again", action="store_true", help="even if they were learned already")
    one = add(
        "temporal",
        temporal,
        "Learn the rounding of the time path (TIAR) if the recipe asks; print its errors.",
    )
    recipe_argument(one)
    one.add_argument("--again", action="store_true", help="even if it was learned already")
    one = add(
        "reconstruct",
        reconstruct,
        "Learn the rounding of the blocks (AdaRound, BRECQ); print their errors.",
    )
    recipe_argument(one)
    one.add_argument("--again", action="store_true", help="even if it was learned already")
    one = add(
        "run",
        run,
        "Capture, search and learn as needed, quantize, compare with the float model, save the "
        "run.",
    )
    recipe_argument(one)
    comparison_arguments(one)
    one = add("compare", compare, "Compare several recipes of one model, from the same noise.")
    recipes_argument(one)
    comparison_arguments(one)
    learning.add_to(add)
    walks.add_to(add)
    sensitivity.add_to(add)
    layers.add_to(add)
    predict.add_to(add)
    exporting.add_to(add)
    doctor.add_to(add)
    one = add(
        "bench",
        bench,
        "Measure recipes against the float model on many pictures, with a noise floor "
        "(QDiffBench).",
    )
    one.add_argument(
        "recipes",
        nargs="*",
        metavar="RECIPE",
        help="none: go on with, or print, the one called --name",
    )
    one.add_argument("--model", help="use this model instead of the recipes' own")
    engine_argument(one)
    benchmark_arguments(one)
    one = add("show", show, "List the runs; print a run, or what a recipe does to its model.")
    one.add_argument(
        "name",
        nargs="?",
        metavar="NAME",
        help="of a run, or a recipe (JSON file or one that ships)",
    )
    one.add_argument(
        "--layers", action="store_true", help="also every layer's bits, why it is float, bytes"
    )
    one.add_argument("--model", help="of the recipe, instead of its own")
    one.add_argument("--remove", action="store_true", help="delete the run")
    return top


def benchmark_arguments(to: argparse.ArgumentParser) -> None:
    to.add_argument(
        "--domain",
        action="append",
        dest="domains",
        metavar="FILE",
        default=[],
        help="a text file with a prompt a line, or names, compositions, paraphrases; may be given "
        "several times; all that ship unless given",
    )
    to.add_argument("--seeds", type=int, default=1, metavar="N", help="pictures of each prompt")
    to.add_argument(
        "--pictures", type=int, metavar="N", help="of each domain; without prompts, 64 unless given"
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
        "--real", default="", metavar="FOLDER", help="real pictures, as a second reference"
    )
    to.add_argument("--batch", type=int, default=8, metavar="N", help="pictures at a time")
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


def chosen_benchmark(given: argparse.Namespace, recipe: Recipe) -> Benchmark:
    """The benchmark that the command line asks for, of models like `recipe`'s."""
    from . import stages
    from .runs import prompts

    settings = {
        "sampling": chosen_sampling(given, recipe),
        "features": given.features,
        "reference": given.real,
    }
    settings |= {"batch": given.batch} | (
        {"measures": tuple(given.measures)} if given.measures else {}
    )
    shipped = prompts.shipped_domains()
    asked = given.domains or list(shipped)
    domains = [shipped[name] if name in shipped else prompts.read_prompts(name) for name in asked]
    return stages.benchmark_of(
        recipe, domains, seeds=given.seeds, pictures=given.pictures, **settings
    )


def serve(given: argparse.Namespace) -> None:
    if given.public:
        os.environ["DMQ_PUBLIC"] = (
            "1"  # before the app is imported, and for the processes that it starts
        )
    from pages.app import launch

    from . import stages

    if (
        stages.chosen_placement() != stages.Placement()
    ):  # said now, not at the first click of somebody
        stages.use_placement(stages.chosen_placement())
    try:
        runs.check_writable()
    except DmqError as error:
        print(
            f"dmq: {error} Until then the app shows what ships, and keeps nothing.", file=sys.stderr
        )
    try:
        launch(server_name=given.host, server_port=given.port)
    except OSError as error:
        if (told := disk_error(error)) is not None or "port" not in str(error):
            raise told or error from None
        raise DmqError(
            f"port {given.port} of {given.host} cannot be opened, perhaps since another program "
            "has it; choose one with --port."
        ) from None


def capture(given: argparse.Namespace) -> None:
    from . import stages

    recipe = chosen_recipe(given.recipe, given.model)
    print(told(stages.capture(recipe, again=given.again, trajectories=given.trajectories)))


def search(given: argparse.Namespace) -> None:
    from . import stages

    recipe = chosen_recipe(given.recipe, given.model)
    result = told(stages.search(recipe, again=given.again))
    print("error of the activations, % of their power")
    for way, errors in result.local.items():
        print(f"  {way:9} {100 * errors.mean():.4g}")
    parts = {"mixed": result.soft, "hard": result.hard, "as kept": result.refitted}
    said = ", ".join(f"{name} {100 * errors.mean():.4g}" for name, errors in parts.items())
    print(f"error of the denoiser's answer, %: {said}")
    if result.note:
        print(f"dmq: {result.note}", file=sys.stderr)


def temporal(given: argparse.Namespace) -> None:
    from . import stages

    recipe = chosen_recipe(given.recipe, given.model)
    told(stages.capture(recipe))
    told(stages.learn_temporal(recipe, again=given.again))
    errors = stages.temporal_errors(recipe)
    for name, cosine, shift in (
        ("as all other layers", errors.cosine_before, errors.shift_before),
        ("with this recipe", errors.cosine_after, errors.shift_after),
    ):
        wrong = 100 * (shift != 0).mean()
        print(f"{name:20} worst cosine {cosine.min():.6f}, taken for another step {wrong:.1f} %")
    if errors.cached.any():
        print(
            f"from the cache: {100 * errors.cached.mean():.0f} % of {errors.cached.size} features"
        )
    if errors.note:
        print(f"dmq: {errors.note}", file=sys.stderr)


def reconstruct(given: argparse.Namespace) -> None:
    from . import stages

    recipe = chosen_recipe(given.recipe, given.model)
    if recipe.reconstruction is None:
        raise DmqError(
            "nothing to reconstruct: set the recipe's reconstruction to BlockReconstruction."
        )
    told(stages.capture(recipe))
    if not stages.searched(recipe):
        told(stages.search(recipe))
    told(stages.reconstruct(recipe, again=given.again))
    result = stages.blocks_result(recipe)
    width = max(map(len, result.after), default=0)
    more = ", step sizes too" if result.stepped else ""
    print(f"squared error of a block's output over its power, %: nearest rounding, learned{more}")
    for block, after in result.after.items():
        row = [
            result.before[block],
            after,
            *([result.stepped[block]] if block in result.stepped else []),
        ]
        print(f"  {block:{width}}  " + "  ".join(f"{100 * error:10.4g}" for error in row))
    if result.note:
        print(f"dmq: {result.note}", file=sys.stderr)


def run(given: argparse.Namespace) -> None:
    from . import stages

    recipe = chosen_recipe(given.recipe, given.model)
    recipes = chosen_engines((recipe,), given.engine)
    name = given.name or runs.free_name(recipe.name)
    told(stages.run(recipes, chosen_comparison(given, recipe), name=name))
    print_run(name)


def compare(given: argparse.Namespace) -> None:
    from . import stages

    recipes = chosen_engines(
        tuple(chosen_recipe(name, given.model) for name in given.recipes), given.engine
    )
    name = given.name or runs.free_name(" vs ".join(recipe.name for recipe in recipes))
    told(stages.compare(chosen_comparison(given, recipes[0]), recipes, name=name))
    print_run(name)


def bench(given: argparse.Namespace) -> None:
    from . import stages
    from .figures import bench_report, bench_table
    from .runs import benchmarks

    if not given.recipes and not given.name:
        raise DmqError(
            "bench what? Name recipes, or with --name a benchmark to go on with or to print."
        )
    if given.engine and not given.recipes:
        raise DmqError(
            "--engine is for recipes that are named; a benchmark goes on with the engines it began "
            "with."
        )
    recipes = chosen_engines(
        tuple(chosen_recipe(name, given.model) for name in given.recipes), given.engine
    )
    recipes = recipes or benchmarks.load_recipes(given.name)
    asked = (
        chosen_benchmark(given, recipes[0])
        if given.recipes
        else benchmarks.load_benchmark(given.name)
    )
    name = given.name or benchmarks.free_name(" vs ".join(recipe.name for recipe in recipes))
    if given.estimate:
        print(stages.estimate(asked, recipes, name=name))
        return
    if given.recipes or name in benchmarks.unfinished():
        print(
            f"benchmark {name!r}; `dmq bench --name` goes on with it if it is stopped.",
            file=sys.stderr,
        )
        told(stages.bench(asked, recipes, name=name))
    report = stages.joined([name, *given.beside])
    print(bench_table.markdown(report) if given.markdown else bench_table.text(report))
    for finding in [] if given.markdown else stages.inversions(report)[:3]:
        print(f"finding: {finding}")
    if given.csv:
        write(given.csv, benchmarks.as_csv(report))
    if given.html:
        shown = benchmarks.worst(benchmarks.load_report(name)), benchmarks.load_worst(name)
        findings = [str(finding) for finding in stages.inversions(report)[:3]]
        write(given.html, bench_report.page(name, report, *shown, findings, stages.FLOAT_NAME))


def show(given: argparse.Namespace) -> None:
    if given.name is None and (given.layers or given.model or given.remove):
        raise DmqError("show what? Name a run or a recipe; `dmq show` alone lists the runs.")
    if given.name is None:
        for name in runs.names():
            print(name)
        if not runs.names():
            print(f"no runs in {runs.home()} yet; `dmq run` makes one.", file=sys.stderr)
    elif given.remove:
        runs.remove(given.name)
    elif is_recipe(given.name):
        print_recipe(chosen_recipe(given.name, given.model), layers=given.layers)
    elif given.model:
        raise DmqError("--model is for recipes; a run is of the model it was made with.")
    elif runs.folder_of(given.name) and given.name not in runs.names():
        shipped = "; ".join(runs.shipped_recipes())
        raise DmqError(
            f"no run or recipe called {given.name!r}; `dmq show` lists the runs, recipes are: "
            f"{shipped}."
        )
    else:
        print_run(given.name)
        for recipe in runs.load_recipes(given.name) if given.layers else ():
            print()
            print_recipe(recipe, layers=True)


def is_recipe(name: str) -> bool:
    """Does `name` mean a recipe? A run of the same name comes first."""
    return name not in runs.names() and (
        Path(name).suffix == ".json" or name in runs.shipped_recipes()
    )


def print_recipe(recipe: Recipe, *, layers: bool) -> None:
    """What a recipe does to its model: size, coverage, and with `layers` a line for each of
    them.
    """
    from . import stages

    plan = stages.plan(recipe)
    print(
        f"{recipe.name}: {recipe.model}, {plan.bytes / 1e6:.2f} of {plan.float_bytes / 1e6:.2f} "
        f"MB, weights {plan.average_bits:.1f} bits on average, {recipe.engine}"
    )
    print(plan.coverage_line())
    if not layers:
        return
    columns = {
        "layer": "<",
        "weights": "<",
        "activations": "<",
        "groups": ">",
        "rounding": "<",
        "bytes": ">",
        "reason": "<",
    }
    rows = [{name: name for name in columns} | {"reason": "why float"}, *plan.coverage_rows()]
    width = {name: max(len(str(row[name])) for row in rows) for name in columns}
    for row in rows:
        print(
            "  ".join(f"{row[name]:{side}{width[name]}}" for name, side in columns.items()).rstrip()
        )


def print_run(name: str) -> None:
    """The report of a run as plain text: quality with its noise floor, bytes, seconds, coverage."""
    report = runs.load_report(name)
    print(f"{name}: {runs.folder_of(name)}" + (f"; ran on {report.place}" if report.place else ""))
    width = max(len(who) for who in report.seconds)
    print(f"{'':{width}}  PSNR dB    SSIM       MB  seconds   speed")
    for who, seconds in report.seconds.items():
        mine = [score for score in report.scores if score.recipe == who]
        quality = " " * 15
        if mine:
            means = (
                sum(getattr(score, part) for score in mine) / len(mine) for part in ("psnr", "ssim")
            )
            quality = "{:7.2f}  {:6.4f}".format(*means)
        fast = speed(seconds, next(iter(report.seconds.values())))  # the float model is the first
        print(
            f"{who:{width}}  {quality}  {report.bytes[who] / 1e6:7.2f}  {seconds:7.1f}  {fast:>6}"
        )
    floor = report.noise_floor
    print(
        f"{report.samples} pictures each; float pictures with other seeds are at "
        f"{floor['psnr']:.2f} dB, SSIM {floor['ssim']:.4f}."
    )
    for who, line in report.coverage.items():
        ran = Execution.of(line)
        print(f"{who}: {ran.quantized}")
        print(f"{' ' * len(who)}  {ran.line()}")
    for warning in report.warnings:
        print(f"note: {warning}")


if __name__ == "__main__":
    sys.exit(main())
