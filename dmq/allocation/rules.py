"""A table and a budget's rules as one small problem: rows to choose for, what each choice takes and
costs there.

Rules are carried out before anything is solved: a choice that they forbid is not choosable, and
layers that must be alike become one row whose bytes and costs are the sums of theirs. What is left
is a knapsack with one choice a row."""

import difflib
import fnmatch
from dataclasses import dataclass

import numpy as np

from ..errors import DmqError
from ..recipe import Rule, WeightFormat, format_name, parse_format
from ..results import SensitivityTable


NAMED = 3  # layers that a message names before it counts them


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Rows R to choose for, C choices; each layer of the table belongs to one row."""

    table: SensitivityTable
    rules: tuple[Rule, ...]
    choices: tuple[
        WeightFormat, ...
    ]  # the table's, and "float" behind them where only a rule asks for it
    labels: tuple[str, ...]
    layer_bytes: np.ndarray  # [L, C] int64
    layer_cost: np.ndarray  # [L, C] float64; nan: not choosable
    row: np.ndarray  # [L] the row of each layer; rows are numbered by their first layer
    bytes: np.ndarray  # [R, C] int64
    cost: np.ndarray  # [R, C] float64; nan: not choosable
    fixed: tuple[
        str, ...
    ]  # of each layer: the pattern of the rule that fixes its choice; "" without
    tied: tuple[
        str, ...
    ]  # of each layer: the pattern of the rule that makes it like others; "" without

    @property
    def open(self) -> np.ndarray:
        """[R, C] bool: may this row have this choice?"""
        return np.isfinite(self.cost)

    def members(self, row: int) -> np.ndarray:
        """The positions of the layers of a row."""
        return np.flatnonzero(self.row == row)


def problem(table: SensitivityTable, rules: tuple[Rule, ...] = ()) -> Problem:
    """What `rules` leave of `table`.

    Raises DmqError that names rule and layer: for rules that contradict each other or match
    nothing, for a choice that the table does not have, and for a layer none of whose costs are
    known."""
    names = [layer.name for layer in table.layers]
    if not names or not table.choices:
        raise DmqError(
            f"the table {table.title!r} has no layers or no choices: there is nothing to share out."
        )
    matched = [_match(rule, names) for rule in rules]
    table_bytes, cost = _columns(table, rules, matched)
    choices = (
        table.choices
        if cost.shape[1] == len(table.choices)
        else (*table.choices, parse_format("float"))
    )
    labels = tuple(map(format_name, choices))
    fixed = _fix(names, labels, cost, rules, matched)
    limited = _raise_bits(names, choices, cost, rules, matched, fixed)
    unknown = [
        name for name, known in zip(names, np.isfinite(cost).any(1), strict=True) if not known
    ]
    if unknown:
        raise DmqError(
            f"{_named(unknown)}: no cost is known for any choice that is allowed there; finish the "
            "table, or fix the "
            f"choice by a rule such as {unknown[0]}=float."
        )
    row, tied = _rows(len(names), rules, matched)
    made = Problem(
        table=table,
        rules=rules,
        choices=choices,
        labels=labels,
        layer_bytes=table_bytes,
        layer_cost=cost,
        row=row,
        bytes=_sum_rows(table_bytes, row),
        cost=_sum_rows(cost, row),
        fixed=fixed,
        tied=tied,
    )
    _check_alike(made, limited)
    return made


def _match(rule: Rule, names: list[str]) -> list[int]:
    found = [n for n, name in enumerate(names) if fnmatch.fnmatchcase(name, rule.layers)]
    if not found:
        near = difflib.get_close_matches(rule.layers, names, n=1, cutoff=0.0)
        hint = f"did you mean {near[0]!r}?" if near else "the table has none."
        raise DmqError(
            f"rules: {rule.layers!r} matches no layer; {hint} A * stands for any characters."
        )
    return found


def _columns(
    table: SensitivityTable, rules: tuple[Rule, ...], matched: list[list[int]]
) -> tuple[np.ndarray, ...]:
    """Bytes and costs [L, C]; with a column for float if a rule asks for it and the table has
    none.
    """
    taken, cost = (
        table.bytes.astype(np.int64),
        np.where(np.isfinite(table.cost), table.cost, np.nan),
    )
    if "float" in table.labels or not any(rule.choice == "float" for rule in rules):
        return taken, cost
    floats = np.array([[4 * layer.num_weights] for layer in table.layers], dtype=np.int64)
    free = np.full((len(floats), 1), np.nan)
    for rule, layers in zip(rules, matched, strict=True):
        if rule.choice == "float":
            free[layers] = 0
    return np.hstack([taken, floats]), np.hstack([cost, free])


def _fix(
    names: list[str],
    labels: tuple[str, ...],
    cost: np.ndarray,
    rules: tuple[Rule, ...],
    matched: list[list[int]],
) -> tuple[str, ...]:
    """Close all other choices where a rule fixes one, also in `cost`; returns the patterns of
    those rules.
    """
    by: dict[int, tuple[str, str]] = {}
    for rule, layers in zip(rules, matched, strict=True):
        if not rule.choice:
            continue
        label = format_name(parse_format(rule.choice))
        if label not in labels:
            raise DmqError(
                f"rules: {rule.layers!r} asks for {label}, which the table has not: "
                f"{', '.join(labels)}."
            )
        for n in layers:
            pattern, other = by.setdefault(n, (rule.layers, label))
            if other != label:
                raise DmqError(
                    f"rules: {names[n]} is {other} by {pattern!r} and {label} by {rule.layers!r}; "
                    "drop one of them."
                )
            if not np.isfinite(cost[n, labels.index(label)]):
                raise DmqError(
                    f"rules: {names[n]} is {label} by {rule.layers!r}, but its cost there is not "
                    "known."
                )
    for n, (_, label) in by.items():
        cost[n, np.arange(len(labels)) != labels.index(label)] = np.nan
    return tuple(by[n][0] if n in by else "" for n in range(len(names)))


def _raise_bits(
    names: list[str],
    choices: tuple[WeightFormat, ...],
    cost: np.ndarray,
    rules: tuple[Rule, ...],
    matched: list[list[int]],
    fixed: tuple[str, ...],
) -> tuple[str, ...]:
    """Close the choices with fewer bits than a rule allows, in `cost`; returns the patterns of what
    limits layers.

    That is the rule that fixes a layer's choice, or the last one that closed something there.
    """
    limited, bits = list(fixed), np.array([choice.bits for choice in choices])
    for rule, layers in zip(rules, matched, strict=True):
        for n in layers:
            known = np.isfinite(cost[n])
            if known.any() and not (known & (bits >= rule.least)).any():
                most = format_name(choices[int(np.where(known, bits, 0).argmax())])
                why = (
                    f"it is {most} by {fixed[n]!r}"
                    if fixed[n]
                    else f"the most that it can have is {most}"
                )
                raise DmqError(
                    f"rules: {names[n]} needs {rule.least} bits by {rule.layers!r}, but {why}."
                )
            if (known & (bits < rule.least)).any():
                cost[n, bits < rule.least], limited[n] = np.nan, rule.layers
    return tuple(limited)


def _rows(
    count: int, rules: tuple[Rule, ...], matched: list[list[int]]
) -> tuple[np.ndarray, tuple[str, ...]]:
    """The row of each layer, and the rule that ties it to others.

    Rules that share a layer tie all of theirs.
    """
    first, tied = np.arange(count), [""] * count
    for rule, layers in zip(rules, matched, strict=True):
        if rule.same:
            joined = np.isin(first, first[layers])
            first[joined] = first[joined].min()
            for n in layers:
                tied[n] = tied[n] or rule.layers
    return np.unique(first, return_inverse=True)[1], tuple(tied)


def _sum_rows(values: np.ndarray, row: np.ndarray) -> np.ndarray:
    """[R, C]: sums over the layers of each row; nan where one of them is."""
    sums = np.zeros((row.max(initial=-1) + 1, values.shape[1]), dtype=values.dtype)
    np.add.at(sums, row, values)
    return sums


def _check_alike(made: Problem, limited: tuple[str, ...]) -> None:
    """Raise DmqError if layers that must be alike have no choice in common."""
    known = np.isfinite(made.layer_cost)
    for row in np.flatnonzero(~made.open.any(1)):
        layers = sorted(made.members(int(row)), key=lambda n: known[n].sum())
        first = layers[
            0
        ]  # the one with the fewest choices, and one that shares none of them if there is such
        other = next((n for n in layers if not (known[first] & known[n]).any()), layers[1])
        said = " and ".join(
            f"{made.table.layers[n].name} can only be "
            + " or ".join(label for label, can in zip(made.labels, known[n], strict=True) if can)
            + (f" by {limited[n]!r}" if limited[n] else "")
            for n in (first, other)
        )
        raise DmqError(
            f"rules: {made.tied[first]!r} wants the same choice for its layers, but {said}."
        )


def _named(layers: list[str]) -> str:
    more = f" and {len(layers) - NAMED} more layers" if len(layers) > NAMED else ""
    return ", ".join(layers[:NAMED]) + more
