"""How many bits where, within a budget of bytes, as text and CSV."""

import argparse
import csv
import io
from collections import Counter
from pathlib import Path

from ... import jsonio
from ...errors import DmqError
from ...recipe import Budget, Recipe, Rule, format_name
from ...results import Allocation, SensitivityTable
from ..arguments import choose_recipe
from ..terminal import check_place, print_table, write


TABLE = (
    "the folder of a table, the title or name of one that is kept, or block, op, ridge: of a "
    "predictor"
)


def add_arguments(to: argparse._ActionsContainer) -> None:
    """Options of the budget."""
    how_much = to.add_mutually_exclusive_group()
    how_much.add_argument(
        "--bits", type=float, metavar="B", help="bits a weight on average; 4 unless given"
    )
    how_much.add_argument(
        "--bytes", type=int, metavar="N", help="of all layers' weights, instead of bits"
    )
    to.add_argument(
        "--rule",
        action="append",
        dest="rules",
        metavar="RULE",
        default=[],
        help='such as "conv_in=float", "*.attn1.*=UAQ-4", "*.ff.*>=4" (bits), "*.attn2.*=same"; '
        "may be given several times",
    )
    to.add_argument("--out", metavar="FILE.json", help="write the recipe with these choices")
    to.add_argument(
        "--front",
        metavar="FILE.csv",
        help="write the best of every budget, from smallest to largest",
    )


def budget(given: argparse.Namespace) -> None:
    from ...allocation.budget import allocate, pareto
    from ...workflow import bit_allocation

    for file, suffix in ((given.out, ".json"), (given.front, ".csv")):
        if file:
            check_written(file, suffix)
    bits = 4.0 if given.bits is None and given.bytes is None else given.bits
    asked = Budget(bits=bits, bytes=given.bytes, rules=tuple(map(rule_of, given.rules)))
    recipe = choose_recipe(given.recipe, given.model)
    table = choose_table(given.table, recipe)
    found = allocate(table, asked)
    mixed = bit_allocation.apply_allocation(recipe, found)
    if given.front:
        write(given.front, as_csv(pareto(table, asked.rules)))
    if given.out:
        write(given.out, jsonio.dumps(mixed))
    print_allocation(table, found)
    print(f"{mixed.name}: {recipe.model}" + (f", written to {given.out}" if given.out else ""))


def check_written(file: str, suffix: str) -> None:
    """Raise DmqError unless `file` could be written and says what it is."""
    if not file.lower().endswith(suffix):
        raise DmqError(f"{file}: give a name that ends with {suffix}.")
    check_place(file)


def rule_of(text: str) -> Rule:
    """The rule that the command line writes as "GLOB=CHOICE", "GLOB=same" or "GLOB>=BITS"."""
    least = ">=" in text
    layers, _, wanted = text.rpartition(">=" if least else "=")
    if not layers or not wanted or (least and not wanted.isdigit()):
        raise DmqError(
            f'--rule {text!r:.80}: write "LAYERS=UAQ-4", "LAYERS=float", "LAYERS>=4" or '
            '"LAYERS=same".'
        )
    try:
        if least:
            return Rule(layers=layers, least=int(wanted))
        return (
            Rule(layers=layers, same=True)
            if wanted == "same"
            else Rule(layers=layers, choice=wanted)
        )
    except DmqError as error:
        raise DmqError(f"--rule {text!r:.80}: {error}") from None


def choose_table(name: str, recipe: Recipe) -> SensitivityTable:
    """The table in a folder, or the one that is kept for the recipe's model under this title or
    folder name.

    Of what was learned from random mixes, "block", "op" and "ridge" name the tables of the latest.
    """
    from ...artifacts.model_info import get_info
    from ...store.learned import TABLES, find_predictors, load_predictor
    from ...workflow.tables import list_tables, load_table

    if Path(name).is_dir():
        return load_table(Path(name), recipe.model)
    kept = list_tables(recipe.model)
    folder = next((folder for title, folder in kept if name in (title, folder.name)), None)
    if folder is not None:
        return load_table(folder, recipe.model)
    learned = find_predictors(get_info(recipe.model).fingerprint)
    for found in learned:
        for level, made in TABLES.items():
            if name in (level, f"{found.name}.{level}"):
                return made(load_predictor(found))
    titles = [*(title for title, _ in kept), *(TABLES if learned else ())]
    some = (
        f"kept are: {'; '.join(titles)}"
        if titles
        else "make one with `dmq sensitivity` or `dmq predict`"
    )
    raise DmqError(f"no table {name!r:.80} for {recipe.model}; {some}.")


def print_allocation(table: SensitivityTable, found: Allocation) -> None:
    """A line for each layer, then the totals."""
    taken = [find_taken(table, n, format_name(choice)) for n, choice in enumerate(found.choices)]
    width = max(len(f"{count:,}") for count in taken)
    rows = [
        [layer, format_name(choice), f"{count:{width},}", why]
        for layer, choice, count, why in zip(
            found.layers, found.choices, taken, found.reasons, strict=True
        )
    ]
    print_table(["layer", "choice", "bytes", "why"], rows, left=4)
    counts = Counter(map(format_name, found.choices)).most_common()
    print(f"{len(rows)} layers: " + ", ".join(f"{count} {label}" for label, count in counts))
    print(
        f"{found.bytes:,} bytes, {found.average_bits:.3f} bits a weight; cost {found.cost:.6g} "
        f"({table.unit}), no choice within the budget costs less than {found.bound:.6g}"
    )


def find_taken(table: SensitivityTable, n: int, label: str) -> int:
    """Bytes of layer n as one of the table's choices, or in float because a rule says so."""
    if label not in table.labels:
        return 4 * table.layers[n].num_weights
    return int(table.bytes[n, table.labels.index(label)])


def as_csv(front: list[Allocation]) -> str:
    """A line for each point of the front."""
    labels = sorted({format_name(choice) for point in front for choice in point.choices})
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["bytes", "average_bits", "cost", "bound", *labels])
    for point in front:
        counts = Counter(map(format_name, point.choices))
        numbers = (point.average_bits, point.cost, point.bound)
        table.writerow([point.bytes, *map(repr, numbers), *(counts[label] for label in labels)])
    return text.getvalue()
