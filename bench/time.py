"""What grouping, the choice of calibration steps and the time embedding do to noise, images and bytes;
all in one run.

    python -m bench.time [--model emoji-sd] [--settings W8A8 W4A6] [--tables grouping time] [--out FILE] [--per-step]

Noise error: mean (eps_q - eps)^2 / mean eps^2 at the recorded inputs of the float model. Its mean
over the steps is that of the last few, where it is a hundred times larger; the geometric mean
counts all steps alike. PSNR: the images that the pipeline generates with the quantized model against
the float ones of the same noise. Both on images with seeds that nothing has seen; +- is 95 % over
the seeds. "local" is the mean relative error of the activations alone, from statistics; "cosine"
the smallest over (block, step) between temporal features and the float ones; "FSC" the bytes of
ranges per step, of all bytes. Bytes are of the whole plan. "found in s" is "kept" where it was
learned earlier, by a clock unknown; "cpu s" is what measuring took of a processor.

Below each table stand the bars that should hold, and whether they do. With --out, rows that the
file has of the same recipe, model and images are not measured again; searches and roundings are
kept in the run folder."""

import argparse
import re
import sys
import time
from dataclasses import fields, replace
from pathlib import Path

from bench.timing.bars import bars
from bench.timing.candidates import TABLES, Candidate, candidates
from bench.timing.measure import Bench
from bench.timing.results import Results, Row, asked
from dmq.errors import DmqError
from dmq.progress import run_to_end
from dmq.recipe import (
    EMBEDDED,
    Activations,
    Calibration,
    LearnedGroups,
    MinMax,
    MseSearch,
    Recipe,
    Sampling,
    Tiar,
    Weights,
)
from dmq.workflow.learning import capture_statistics


SETTINGS = ("W8A8", "W6A6", "W4A8", "W4A6")
SEARCH = (
    "iterations",
    "trajectories",
    "refits",
    "rate",
    "choice_rate",
    "entropy_weight",
)  # of LearnedGroups
HEADS = (
    f"{'':<16}{'noise error':>12}{'+-':>9}{'geometric':>11}{'+-':>9}{'PSNR dB':>9}{'+-':>6}{'local':>10}{'cosine':>10}"
    f"{'bytes':>12}{'FSC':>8}{'found in s':>12}{'cpu s':>8}"
)


def recipe_for(model: str, setting: str, chosen: argparse.Namespace) -> Recipe:
    """What all rows of a model and setting start from.

    Raises DmqError for a setting that is none.
    """
    bits = re.fullmatch(r"W(\d+)A(\d+)", setting)
    if bits is None:
        raise DmqError(
            f"--settings: {setting!r} is no setting; write W4A8 for 4-bit weights and 8-bit "
            "activations."
        )
    sampling = EMBEDDED.get(model, Sampling())
    return Recipe(
        name=setting,
        model=model,
        sampling=replace(sampling, steps=chosen.steps or sampling.steps),
        calibration=Calibration(samples=chosen.samples),
        weights=Weights(bits=int(bits[1]), range=MinMax() if chosen.fast else MseSearch()),
        activations=Activations(bits=int(bits[2])),
    )


def report(
    bench: Bench, recipe: Recipe, table: str, results: Results, chosen: argparse.Namespace
) -> None:
    """Measure and print one table and its bars."""
    made = []
    for candidate in candidates(table, recipe, chosen):
        if not made:
            print(
                f"\n{table}: {recipe.model} {recipe.name}, {recipe.sampling.steps} steps, "
                f"{chosen.images} unseen "
                f"images for each of {chosen.seeds} seeds\n{HEADS}"
            )
        made.append(row_of(bench, candidate, table, recipe.name, results))
        print(line(made[-1]), flush=True)
        if chosen.per_step:
            print("  " + " ".join(_figure(error, ".1e") for error in made[-1]["steps"]))
    for words, holds in bars(table, made):
        print(f"  {'holds' if holds else 'FAILS'}: {words}", flush=True)


def row_of(bench: Bench, candidate: Candidate, table: str, setting: str, results: Results) -> Row:
    """The row of a candidate, measured unless `results` has it."""
    place = (candidate.recipe.model, setting, table, candidate.name)
    images = [bench.loaded.info.fingerprint, bench.seeds, bench.images]
    key = asked(candidate.recipe, candidate.conditions, *images)
    row = results.find(place, key)
    if row is None:
        found = candidate.find(candidate.recipe, results.learned)
        row = dict(zip(("model", "setting", "table", "name"), place, strict=True))
        row |= {"asked": key, "seconds": found.seconds, "local": found.local}
        row |= bench.measure(found.plan, found.codes)
    results.put(row)
    return row


def line(row: Row) -> str:
    """A row as it is printed."""
    noise, typical, psnr = (row[name] for name in ("noise", "typical", "psnr"))
    share, seconds = row.get("fsc_share"), row["seconds"]
    return (
        f"{row['name']:<16}{_figure(noise, '.3e'):>12}{_figure(row['noise_interval'], '.1e'):>9}"
        f"{_figure(typical, '.3e'):>11}{_figure(row['typical_interval'], '.1e'):>9}"
        f"{_figure(psnr, '.2f'):>9}{_figure(row['psnr_interval'], '.2f'):>6}{row['local']:>10.2e}"
        f"{_figure(row.get('cosine'), '.6f'):>10}{row['bytes']:>12,}{_figure(share, '.3%'):>8}"
        f"{'kept' if seconds is None else f'{seconds:.1f}':>12}{row['took']:>8.1f}"
    )


def _figure(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def options() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", action="append", dest="models", help=f"default: {', '.join(EMBEDDED)}"
    )
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), metavar="W4A8")
    parser.add_argument("--tables", nargs="+", default=list(TABLES), choices=TABLES)
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="JSON of all rows, to quote and to go on from"
    )
    parser.add_argument("--again", action="store_true", help="measure also what is in FILE")
    parser.add_argument("--per-step", action="store_true", help="print the error of every step too")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--images", type=int, default=2, help="measured for each seed")
    parser.add_argument("--steps", type=int, help="other than the model's own")
    parser.add_argument(
        "--samples", type=int, default=Calibration().samples, help="calibration images"
    )
    parser.add_argument("--fast", action="store_true", help="min-max weights")
    parser.add_argument("--groups", type=int, default=8)
    parser.add_argument(
        "--drawn",
        type=int,
        help="samples of a choice of calibration steps; default: half the steps",
    )
    parser.add_argument("--tiar-iterations", type=int, default=Tiar().iterations)
    parser.add_argument(
        "--block-iterations",
        type=int,
        default=200,
        dest="iterations_of_blocks",
        help="for each block; 0: no such row",
    )
    parser.add_argument("--block-images", type=int, default=4, help="that blocks are learned from")
    learned = "search for groups always, with at most 6 activation bits, or never"
    parser.add_argument("--learned", choices=("all", "low", "none"), default="low", help=learned)
    known = {f.name: f for f in fields(LearnedGroups)}
    for name in SEARCH:
        default = known[name].default
        parser.add_argument(
            f"--{name.replace('_', '-')}", type=type(default), default=default, help="of the search"
        )
    return parser


def main(arguments: list[str] | None = None) -> None:
    chosen = options().parse_args(arguments)
    chosen.search = {name: getattr(chosen, name) for name in SEARCH}
    begun = time.perf_counter()
    try:
        recipes = [
            [recipe_for(m, setting, chosen) for setting in chosen.settings]
            for m in chosen.models or EMBEDDED
        ]
        results = Results(chosen.out, chosen.again)
        for of_model in recipes:
            run_to_end(capture_statistics(of_model[0]))
            first = of_model[0]
            bench = Bench(
                first.model, first.sampling, first.calibration, chosen.seeds, chosen.images
            )
            for recipe in of_model:
                for table in chosen.tables:
                    report(bench, recipe, table, results, chosen)
    except DmqError as error:
        sys.exit(f"error: {error}")
    print(
        f"\n{time.perf_counter() - begun:.0f} s in all, {time.process_time():.0f} s of a processor"
    )


if __name__ == "__main__":
    main()
