"""A budget of bits, in the Layers tab: the slider, what every layer gets, layers set by hand,
the recipe.
"""

import fnmatch
import glob
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import gradio as gr
import numpy as np

from dmq.allocation import budget
from dmq.errors import DmqError
from dmq.figures import budget as figures
from dmq.figures.style import plain
from dmq.recipe import Budget, Rule, format_name, parse_format
from dmq.results import Allocation, SensitivityTable
from dmq.store import folders
from dmq.workflow import bit_allocation

from ..events import on
from ..session import Shared, make_stamp, read, set_outside
from ..widgets.plotly_view import PlotlyView
from .tables import Key, escape, find_key, load


INPUTS = ("bits", "allowed", "rules")  # the components that say what is asked for
RULES = ["Layers, with * for any", "Format", "Least bits", "All the same"]
HEAD = ["Layer", "Block", "Role", "Format", "Bytes", "Cost", "Why"]
NAME, CHOICE = HEAD.index("Layer"), HEAD.index("Format")
FIRST = 3.5  # bits a weight that a table is opened with, where it can have them
POINTS = 33  # budgets on the front

Rows = list[list[Any]]  # what a table of the page holds


@dataclass(frozen=True)
class BudgetRequest:
    """A table, the choices that are allowed, and the rules: what the front of all budgets
    depends on.
    """

    key: Key
    labels: tuple[str, ...]
    rules: tuple[Rule, ...]

    @property
    def table(self) -> SensitivityTable:
        """The table with all its choices."""
        return load(self.key)

    @property
    def by_hand(self) -> frozenset[str]:
        """The layers that were set by hand: a rule fixes each of them alone."""
        alone = {rule.layers for rule in self.rules if rule.choice}
        return frozenset(name for name in self.table.row if glob.escape(name) in alone)


def parse_form(
    text: str, name: str | None, allowed: Sequence[str] | None, rules: Rows
) -> BudgetRequest:
    """What the form asks for.

    Raises DmqError for rules that cannot be read, and if no choice is allowed.
    """
    key = find_key(read(text).model, name)
    labels = tuple(label for label in load(key).labels if label in (allowed or ()))
    if not labels:
        raise DmqError("no choice is allowed: tick at least one.")
    return BudgetRequest(key, labels, parse_rules(rules))


def parse_rules(rows: Rows | None) -> tuple[Rule, ...]:
    """The rules of the table's rows; one that is still being written is left out.

    Raises DmqError for nonsense.
    """
    parsed = []
    for number, row in enumerate(rows or [], 1):
        layers, choice, least, same = (*row, *[""] * 4)[:4]
        layers, choice = str(layers or "").strip(), str(choice or "").strip()
        try:
            bits = int(float(least or 0))
        except (TypeError, ValueError, OverflowError):
            raise DmqError(
                f"rules, row {number}: least bits must be a number, got {least!r:.40}."
            ) from None
        alike = str(same).strip().lower() in ("true", "1", "yes")
        if layers and (choice or bits or alike):
            try:
                parsed.append(Rule(layers=layers, choice=choice, least=bits, same=alike))
            except DmqError as error:
                raise DmqError(f"rules, row {number}: {error}") from None
    return tuple(parsed)


def list_rule_rows(rules: Sequence[Rule]) -> Rows:
    """The table's rows for `rules`, with room for more."""
    return [[r.layers, r.choice, r.least or None, r.same] for r in rules] + [
        ["", "", None, False] for _ in range(2)
    ]


# --- what is shared out ---------------------------------------------------------------------------


@lru_cache(maxsize=16)
def restrict_table(request: BudgetRequest) -> SensitivityTable:
    """The table without the choices that are not allowed, except where a rule asks for one."""
    table, cost = request.table, request.table.cost.copy()
    fixed = [
        (rule.layers, format_name(parse_format(rule.choice)))
        for rule in request.rules
        if rule.choice
    ]
    for c, label in enumerate(table.labels):
        if label not in request.labels:
            patterns = [pattern for pattern, choice in fixed if choice == label]
            open_ = [
                any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
                for name in table.row
            ]
            cost[:, c] = np.where(open_, cost[:, c], np.nan)
    return replace(table, cost=cost)


@lru_cache(maxsize=16)
def find_limits(request: BudgetRequest) -> tuple[int, int]:
    """The smallest and the largest number of bytes that there is an answer for."""
    return budget.limits(restrict_table(request), request.rules)


@lru_cache(maxsize=16)
def find_front(request: BudgetRequest) -> tuple[Allocation, ...]:
    """The best answer for each of some budgets."""
    return tuple(budget.pareto(restrict_table(request), request.rules, POINTS))


def allocate(request: BudgetRequest, bits: Any) -> Allocation:
    """The best answer for `bits` a weight on average; what is beyond the ends counts as the end."""
    low, high = find_limits(request)
    return _allocate(
        request, min(max(int(check_number(bits) * request.table.num_weights / 8), low), high)
    )


@lru_cache(maxsize=64)
def _allocate(request: BudgetRequest, size: int) -> Allocation:
    return budget.allocate(
        restrict_table(request), Budget(bits=None, bytes=size, rules=request.rules)
    )


def check_number(bits: Any) -> float:
    """The slider's value. Raises DmqError if it was emptied."""
    if isinstance(bits, bool) or not isinstance(bits, int | float) or not math.isfinite(bits):
        raise DmqError(f"average bits: expected a number, got {bits!r:.40}.")
    return float(bits)


# --- what is shown --------------------------------------------------------------------------------


def open_budget(
    text: str, name: str | None, bits: Any, allowed: list[str] | None, rules: Rows
) -> dict[str, Any]:
    """The budget for a table that was just opened: choices that it has not are dropped; all, if
    none is left.
    """
    labels = load(find_key(read(text).model, name)).labels
    ticked = [label for label in labels if label in (allowed or ())] or list(labels)
    return {"allowed": gr.update(choices=list(labels), value=ticked)} | change(
        text, name, bits, ticked, rules
    )


def change(
    text: str, name: str | None, bits: Any, allowed: list[str] | None, rules: Rows
) -> dict[str, Any]:
    """The answer, within the ends of other choices or rules."""
    try:
        request = parse_form(text, name, allowed, rules)
        ends = [8 * size / request.table.num_weights for size in find_limits(request)]
        low, high = math.floor(100 * ends[0]) / 100, math.ceil(100 * ends[1]) / 100
        value = min(max(check_number(bits), low), high)
        return show_answer(request, value) | {
            "bits": gr.update(minimum=low, maximum=max(high, low + 0.01), value=value)
        }
    except DmqError as error:
        return show_error(error)


def move(
    text: str,
    name: str | None,
    bits: Any,
    allowed: list[str] | None,
    rules: Rows,
    shown: Rows | None = None,
) -> dict[str, Any]:
    """The answer for another place of the slider.

    Rows that are `shown` already are not sent again: that would end what is being written into a
    cell."""
    try:
        shown_answer = show_answer(parse_form(text, name, allowed, rules), bits)
    except DmqError as error:
        return show_error(error)
    if shown_answer["shown"] == shown:
        del shown_answer["shown"], shown_answer["layers"]
    return shown_answer


def show_error(error: DmqError) -> dict[str, Any]:
    """What is said in place of an answer; the figures before must not stay."""
    return {
        "summary": f"⚠ {escape(folders.hide_places(error))}",
        "strip": None,
        "front": None,
        "layers": [],
        "shown": [],
        "forget": gr.update(visible=False),
        "apply": gr.update(interactive=False),
        "compare": gr.update(interactive=False),
    }


def show_answer(request: BudgetRequest, bits: Any) -> dict[str, Any]:
    """An allocation in words, figures and rows."""
    allocation = allocate(request, bits)
    every = list_rows(request, allocation)
    return {
        "summary": describe_allocation(request, allocation),
        "strip": figures.strip(request.table, allocation, request.by_hand),
        "front": figures.front(request.table, list(find_front(request)), allocation),
        "layers": every,
        "shown": every,
        "forget": gr.update(
            visible=bool(request.by_hand),
            value=f"Clear {len(request.by_hand)} set by hand",
        ),
        "apply": gr.update(interactive=True),
        "compare": gr.update(interactive=True),
    }


def describe_allocation(request: BudgetRequest, allocation: Allocation) -> str:
    """Size and predicted loss, and those of the best single choice of that size."""
    table = request.table
    text = f"**{allocation.average_bits:.2f} bits** a weight on average: **{allocation.bytes:,} bytes** "
    text += f"for the weights of {len(table.layers)} layers ({4 * table.num_weights:,} in float). "
    text += f"Predicted loss: **{plain(allocation.cost)}** "
    text += f"({escape(table.unit)}), the sum over the layers"
    if math.isfinite(allocation.bound) and allocation.cost - allocation.bound > 1e-3 * abs(
        allocation.cost
    ):
        text += f"; nothing of this size costs less than {plain(allocation.bound)}"
    sizes, costs = table.bytes.sum(0), table.cost.sum(0)
    fits = [
        c for c in range(len(costs)) if sizes[c] <= allocation.bytes and math.isfinite(costs[c])
    ]
    if fits:
        best = min(fits, key=lambda c: costs[c])
        text += f". {table.labels[best]} in all layers: {sizes[best]:,} bytes, {plain(float(costs[best]))}"
    text += ". What is not in the table stays as the recipe has it: biases, norms, activations"
    return f"{text}; that costs add up is an approximation, so generate and compare before you believe it."


def list_rows(request: BudgetRequest, allocation: Allocation) -> Rows:
    """What every layer gets, in forward order."""
    table, hand, lines = request.table, request.by_hand, []
    for n, (layer, choice) in enumerate(zip(table.layers, allocation.choices, strict=True)):
        label = format_name(choice)
        c = table.labels.index(label) if label in table.labels else None
        size = 4 * layer.num_weights if c is None else int(table.bytes[n, c])
        cost = plain(0.0 if c is None else float(table.cost[n, c]))
        why = "set by hand" if layer.name in hand else allocation.reasons[n]
        lines.append([layer.name, layer.block, layer.role, label, f"{size:,}", cost, why])
    return lines


# --- by hand --------------------------------------------------------------------------------------


def edit(
    text: str,
    name: str | None,
    bits: Any,
    allowed: list[str] | None,
    rules: Rows,
    edited: Rows,
    shown: Rows,
) -> dict[str, Any]:
    """The answer after choices were written into the table of layers; what cannot be is told,
    and put back.
    """
    rows_before = {row[NAME]: row for row in shown}
    if any(
        not row or list_fixed_cells(row) != list_fixed_cells(rows_before.get(row[NAME], ()))
        for row in edited
    ):
        return {
            "layers": shown
        }  # one edit may be told twice: here the table as it was before the answer
    changes = {
        row[NAME]: str(row[CHOICE] or "").strip()
        for row in edited
        if row[CHOICE] != rows_before[row[NAME]][CHOICE]
    }
    if not changes:
        return {}
    before = parse_form(text, name, allowed, rules)
    try:
        with_changes = tuple(set_by_hand(before.rules, changes))
        allocate(replace(before, rules=with_changes), bits)
    except DmqError as error:
        gr.Warning(escape(folders.hide_places(error)))
        return {"layers": list_rows(before, allocate(before, bits))}
    return change(text, name, bits, allowed, list_rule_rows(with_changes)) | {
        "rules": list_rule_rows(with_changes)
    }


def list_fixed_cells(row: Sequence[Any]) -> list[Any]:
    """The cells of a layer that nobody can write into."""
    return [cell for column, cell in enumerate(row) if column != CHOICE]


def set_by_hand(rules: Sequence[Rule], changes: dict[str, str]) -> list[Rule]:
    """`rules` with a rule for each layer of `changes`, which are new choices; an empty one frees
    the layer again.
    """
    alone = {glob.escape(layer) for layer in changes}
    others = [rule for rule in rules if not (rule.choice and rule.layers in alone)]
    return others + [
        Rule(layers=glob.escape(layer), choice=format_name(parse_format(label)))
        for layer, label in changes.items()
        if label
    ]


def forget(
    text: str, name: str | None, bits: Any, allowed: list[str] | None, rules: Rows
) -> dict[str, Any]:
    """Give the layers that were set by hand back to the budget."""
    request = parse_form(text, name, allowed, rules)
    left = list_rule_rows(set_by_hand(request.rules, dict.fromkeys(request.by_hand, "")))
    return change(text, name, bits, allowed, left) | {"rules": left}


# --- to the recipe --------------------------------------------------------------------------------


def apply(
    text: str, name: str | None, bits: Any, allowed: list[str] | None, rules: Rows
) -> dict[str, Any]:
    """The recipe with what every layer got, as the current one."""
    allocation = allocate(parse_form(text, name, allowed, rules), bits)
    return set_outside(bit_allocation.apply_allocation(read(text), allocation))


def compare(text: str, *form: Any) -> dict[str, Any]:
    """The same, and the tab where it is generated."""
    return apply(text, *form) | {"wanted": f"compare {make_stamp()}"}


def build(out: dict[str, Any]) -> None:
    """The slider, its answer, and every layer."""
    gr.Markdown("### How many bits each layer gets")
    with gr.Row():
        with gr.Column(scale=3, min_width=300):
            out["bits"] = gr.Slider(
                2,
                8,
                FIRST,
                step=0.01,
                label="Budget: bits a weight on average",
                elem_id="budget-bits",
            )
            out["summary"] = gr.Markdown(label="Result of the budget", elem_id="budget-summary")
        with gr.Column(scale=2, min_width=280):
            out["allowed"] = gr.CheckboxGroup([], label="Choices allowed", elem_id="budget-allowed")
    out["strip"] = PlotlyView(label="Bits of every layer in forward order", elem_id="budget-strip")
    out["front"] = PlotlyView(label="Other budgets", elem_id="budget-front")
    out["rules"] = gr.Dataframe(
        list_rule_rows(()),
        headers=RULES,
        datatype=["str", "str", "number", "bool"],
        type="array",
        interactive=True,
        label="Rules that every budget respects",
        column_count=4,
        max_height=220,
        elem_id="budget-rules",
        column_widths=["46%", "18%", "18%", "18%"],
    )
    out["layers"] = gr.Dataframe(
        headers=HEAD,
        label="Every layer; write another choice, such as UAQ-4 or float, to set it by hand",
        type="array",
        interactive=True,
        max_height=460,
        show_search="search",
        column_count=len(HEAD),
        static_columns=[n for n in range(len(HEAD)) if n != CHOICE],
        elem_id="budget-layers",
        column_widths=[300, 120, 100, 90, 100, 90, 420],
    )
    out["shown"] = gr.State([])  # what the table of layers was filled with
    with gr.Row(elem_classes="dmq-buttons"):
        out["apply"] = gr.Button("Apply to the recipe", variant="primary", min_width=180)
        out["compare"] = gr.Button("Apply and compare images", min_width=180)
        out["forget"] = gr.Button("Clear layers set by hand", visible=False, min_width=180)


def connect(shared: Shared, out: dict[str, Any]) -> None:
    """The budget's events."""
    form = [shared.recipe, out["name"], *(out[name] for name in INPUTS)]
    latest: dict[str, Any] = {"trigger_mode": "always_last"}
    on(out["bits"].input, move, [*form, out["shown"]], out, **latest)
    on([out["allowed"].input, out["rules"].input], change, form, out, **latest)
    on(out["layers"].input, edit, [*form, out["layers"], out["shown"]], out, **latest)
    on(out["forget"].click, forget, form, out)
    chosen = shared.chosen
    on(out["apply"].click, apply, form, chosen)
    on(out["compare"].click, compare, form, chosen | {"wanted": shared.wanted})
