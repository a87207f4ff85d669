"""`dmq sensitivity`: what each layer's weight costs as each of some choices, in a terminal."""

import argparse
import csv
import io
import math
import sys
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import numpy as np

from ..errors import DmqError
from ..recipe import FORMATS, Recipe, Sensitivity, choice_of
from ..results import SensitivityTable
from .asking import check_place, chosen_recipe, print_table, recipe_argument, told, write


SHOWN = 12  # layers that cost most
WORDS = ("how", "mode", "measure")
NUMBERS = ("steps", "pictures", "probes", "seed")


def add_to(add: Callable[[str, Callable, str], argparse.ArgumentParser]) -> None:
    """Offer the command of this file; `add` makes a parser from name, function and help."""
    one = add(
        "sensitivity",
        sensitivity,
        "Tell what each layer's weight costs in few bits; interrupted, it goes on.",
    )
    recipe_argument(one)
    one.add_argument(
        "--choices",
        nargs="+",
        metavar="CHOICE",
        help=f"weights are made into these, as UAQ-4 KMC-3; formats: {', '.join(FORMATS)}",
    )
    known = {field.name: field for field in fields(Sensitivity)}
    for name in WORDS:
        one.add_argument(
            f"--{name}", choices=known[name].metadata["choices"], help=known[name].metadata["help"]
        )
    for name in NUMBERS:
        label = known[name].metadata["label"].lower()
        one.add_argument(
            f"--{name}", type=int, metavar="N", help=f"{label}; {known[name].default} unless given"
        )
    one.add_argument(
        "--activations", action="store_true", help="quantized as in the recipe, instead of float"
    )
    one.add_argument(
        "--scheduler", default="", metavar="tcp://HOST:PORT", help="let a Dask cluster do it"
    )
    one.add_argument(
        "--workers", type=int, default=1, metavar="N", help="processes of this machine"
    )
    one.add_argument(
        "--layers", action="store_true", help="every layer, not only those that cost most"
    )
    one.add_argument("--csv", metavar="FILE", help="also write every layer and choice")
    one.add_argument("--again", action="store_true", help="even if the same was asked before")


def sensitivity(given: argparse.Namespace) -> None:
    from .. import stages

    ask = chosen_question(given)
    if given.csv:
        check_place(given.csv)
    recipe = chosen_recipe(given.recipe, given.model)
    how = {"again": given.again, "scheduler": given.scheduler, "workers": given.workers}
    table = told(stages.sensitivity(recipe, ask, **how))
    print(f"{recipe.model}: {table.title} ({table.kind}), {table.unit}")
    print_costs(table, len(table.layers) if given.layers else SHOWN)
    print_agreement(table, recipe)
    if table.note:
        print(f"dmq: {table.note}", file=sys.stderr)
    if given.csv:
        write(given.csv, as_csv(table))


def chosen_question(given: argparse.Namespace) -> Sensitivity:
    """What the command line asks. Raises DmqError for what makes no sense."""
    wishes: dict[str, Any] = {name: getattr(given, name) for name in (*WORDS, *NUMBERS)}
    wishes = {name: value for name, value in wishes.items() if value is not None}
    choices = {"choices": tuple(map(choice_of, given.choices))} if given.choices else {}
    return Sensitivity(activations=given.activations, **choices, **wishes)


def print_costs(table: SensitivityTable, count: int) -> None:
    """The layers whose dearest choice costs most, the worst first."""
    worst = np.nan_to_num(table.cost, nan=-np.inf, posinf=np.inf).max(1)
    order = np.argsort(-worst, kind="stable")[:count]
    rows = [
        [
            table.layers[n].name,
            table.layers[n].role,
            f"{table.layers[n].weights:,}",
            *(f"{cost:.4g}" for cost in table.cost[n]),
        ]
        for n in order
    ]
    print_table(["layer", "role", "weights", *table.labels], rows, left=2)
    if len(order) < len(table.layers):
        print(f"{len(table.layers) - len(order)} layers more cost less; --layers shows them.")


def print_agreement(table: SensitivityTable, recipe: Recipe) -> None:
    """How well tables of the same model that were made in other ways rank layers and choices as
    this one does.
    """
    from .. import stages

    for title, folder in stages.tables(recipe.model):
        other = stages.load_table(folder)
        if other.kind == table.kind:
            continue
        try:
            ranks = stages.agreement(table, other)
        except DmqError:  # nothing in common
            continue
        print(
            f"agrees with {title!r} ({other.kind}): Spearman {ranks.spearman:.3f}, Kendall "
            f"{ranks.kendall:.3f} over {ranks.cells} layers and choices"
        )


def as_csv(table: SensitivityTable) -> str:
    """A line for each layer and choice: bytes, cost, standard error, error of the weight, cost
    at each step.
    """
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    steps = [f"cost at t={t:g}" for t in table.timesteps]
    lines.writerow(
        [
            "model",
            "kind",
            "unit",
            "layer",
            "block",
            "role",
            "weights",
            "choice",
            "bytes",
            "cost",
            "spread",
            "weight_error",
            *steps,
        ]
    )
    for n, layer in enumerate(table.layers):
        for c, label in enumerate(table.labels):
            local = math.nan if table.local is None else table.local[n, c]
            numbers = [table.cost[n, c], table.spread[n, c], local]
            numbers += [] if table.per_step is None else list(table.per_step[n, c])
            lines.writerow(
                [
                    table.model,
                    table.kind,
                    table.unit,
                    layer.name,
                    layer.block,
                    layer.role,
                    layer.weights,
                    label,
                    table.bytes[n, c],
                    *map(_plain, numbers),
                ]
            )
    return text.getvalue()


def _plain(value: float) -> str:
    """A number that reads back as itself; nothing where none is known."""
    return "" if math.isnan(value) else repr(float(value))
