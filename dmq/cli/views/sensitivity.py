"""What each layer's weight costs as each of some choices, as text and CSV."""

import argparse
import csv
import io
import math
import sys

import numpy as np

from ...errors import DmqError
from ...recipe import Recipe, Sensitivity
from ...results import SensitivityTable
from ..arguments import choose_recipe, choose_spec, cluster_options
from ..terminal import check_place, print_table, show_progress, write


SHOWN_LAYERS = 12  # layers that cost most


def add_arguments(to: argparse._ActionsContainer) -> None:
    """Options of what is printed."""
    said = "every layer, not only those that cost most"
    to.add_argument("--layers", action="store_true", help=said)
    to.add_argument("--csv", metavar="FILE", help="also write every layer and choice")


def sensitivity(given: argparse.Namespace) -> None:
    from ...workflow.learning import measure_costs

    ask = choose_spec(given, Sensitivity)
    if given.csv:
        check_place(given.csv)
    recipe = choose_recipe(given.recipe, given.model)
    table = show_progress(measure_costs(recipe, ask, again=given.again, **cluster_options(given)))
    print(f"{recipe.model}: {table.title} ({table.kind}), {table.unit}")
    print_costs(table, len(table.layers) if given.layers else SHOWN_LAYERS)
    print_agreement(table, recipe)
    if table.note:
        print(f"dmq: {table.note}", file=sys.stderr)
    if given.csv:
        write(given.csv, as_csv(table))


def print_tables(recipe: Recipe) -> None:
    """All that is kept of the recipe's model, the newest first."""
    from ...workflow.tables import list_tables, load_table

    tables = [load_table(folder) for _, folder in list_tables(recipe.model)]
    if not tables:
        raise DmqError(
            f"no table of costs for {recipe.model}; `dmq prepare --only sensitivity` makes one."
        )
    for table in tables:
        print(f"{recipe.model}: {table.title} ({table.kind}), {table.unit}")
        print_costs(table, SHOWN_LAYERS)


def print_costs(table: SensitivityTable, count: int) -> None:
    """The layers whose dearest choice costs most, the worst first."""
    worst = np.nan_to_num(table.cost, nan=-np.inf, posinf=np.inf).max(1)
    order = np.argsort(-worst, kind="stable")[:count]
    rows = [
        [
            table.layers[n].name,
            table.layers[n].role,
            f"{table.layers[n].num_weights:,}",
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
    from ...workflow.tables import compare_tables, list_tables, load_table

    for title, folder in list_tables(recipe.model):
        other = load_table(folder)
        if other.kind == table.kind:
            continue
        try:
            ranks = compare_tables(table, other)
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
                    layer.num_weights,
                    label,
                    table.bytes[n, c],
                    *map(_plain, numbers),
                ]
            )
    return text.getvalue()


def _plain(value: float) -> str:
    """A number that reads back as itself; nothing where none is known."""
    return "" if math.isnan(value) else repr(float(value))
