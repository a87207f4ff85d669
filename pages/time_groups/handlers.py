"""Time groups: cut the steps into groups by hand or by rule, and see at once what that does to
the error.
"""

import dataclasses
import math
from itertools import pairwise
from typing import Any

import gradio as gr

from dmq import jsonio
from dmq.describe import DYNAMIC_NOTE, describe_grouping, short_name
from dmq.errors import DmqError
from dmq.figures import groups as figures
from dmq.recipe import (
    FLOAT,
    LearnedGroups,
    ManualGroups,
    OptimalGroups,
    PerStep,
    Recipe,
    SharedRange,
    UniformGroups,
)
from dmq.results import GroupErrors
from dmq.workflow.answers import (
    get_error_curves,
    get_errors,
    get_statistics,
    has_search,
)

from ..layout import explain_no_capture, show_body, show_hint
from ..session import read
from ..widgets.partition_strip import PartitionStrip


SHARED, PER_STEP = "shared", "per step"
COUNTS = (1, 2, 3, 4, 6, 8, 12, 16)


def replace_grouping(recipe: Recipe, grouping: Any) -> Recipe:
    """`recipe` with another partition, and a name that says so."""
    changed = dataclasses.replace(recipe, grouping=grouping)
    return dataclasses.replace(changed, name=short_name(changed))


def format_decibels(error: float) -> str:
    """A relative error as a signal-to-noise ratio."""
    return f"{-10 * math.log10(error):.1f} dB" if error > 0 else "no error"


def describe_error(recipe: Recipe, now: GroupErrors, lines: dict[str, GroupErrors]) -> str:
    """The total error, alone and against a shared range and a range per step."""
    if not now.total:
        return "This recipe leaves all activations in float: there is no error to see. Choose activation bits."
    shared, per_step = lines[SHARED].total, lines[PER_STEP].total
    text = f"### {describe_grouping(recipe).capitalize()}: {format_decibels(now.total)}\n"
    if recipe.activations.dynamic != "none":
        text += f"{DYNAMIC_NOTE} Groups of steps change nothing.\n\n"
    text += f"The activations' error is **{100 * now.total:.3g} %** of their power"
    if shared > 0 and abs(shared - now.total) > 1e-12 * shared:
        text += f", **{100 * (1 - now.total / shared):.1f} % less** than with one range ({format_decibels(shared)})"
    if shared - per_step > 1e-12 * shared:
        text += f"; a range per step reaches {format_decibels(per_step)}, of that gain this partition has "
        text += f"{100 * (shared - now.total) / (shared - per_step):.0f} %"
    return text + "."


def show_figures(recipe: Recipe) -> dict[str, Any]:
    """All that follows from a partition, from statistics alone."""
    now = get_errors(recipe)
    references: dict[str, SharedRange | PerStep] = {SHARED: SharedRange(), PER_STEP: PerStep()}
    lines = {
        name: get_errors(dataclasses.replace(recipe, grouping=g)) for name, g in references.items()
    }
    cuts = now.groups.boundaries()
    # Learned groups may be scattered and have ranges of their own: cuts would say too little of
    # them.
    is_free = isinstance(recipe.grouping, LearnedGroups) or bool(
        (now.groups.slot != now.groups.slot[:1]).any()
    )
    counts = tuple(n for n in COUNTS if n <= recipe.sampling.steps)
    timesteps = [round(t, 3) for t in get_statistics(recipe).timesteps]
    shown = {
        "strip": PartitionStrip(
            [] if is_free else list(cuts), steps=len(timesteps), timesteps=timesteps, locked=is_free
        ),
        "locked": gr.update(visible=is_free),
        "summary": describe_error(recipe, now, lines),
        "slots": figures.slot_map(now.groups),
    }
    if not (now.bits < FLOAT).any():
        return shown | {"per_step": None, "per_site": None, "against": None}
    current = (int(now.groups.slot.max()) + 1, now.total)
    return shown | {
        "per_step": figures.error_per_step({"current": now, **lines}, cuts if not is_free else ()),
        "per_site": figures.error_per_site({"current": now, **lines}),
        "against": figures.error_against_count(counts, get_error_curves(recipe, counts), current),
    }


def show(text: str, count: float) -> dict[str, Any]:
    """The tab for the current recipe."""
    recipe = read(text)
    if hint := explain_no_capture(recipe):
        return show_hint(hint)
    if not has_search(recipe):
        hint = "These groups are still to be learned. Open **Learn the groups** below and press **Search**."
        return show_hint(hint)
    top = min(64, recipe.sampling.steps)
    count = getattr(recipe.grouping, "count", min(count, top))
    return show_body() | {
        "count": gr.update(maximum=top, value=count),
        "per_layer": getattr(recipe.grouping, "per_layer", False),
        **show_figures(recipe),
    }


def regroup(recipe: Recipe, grouping: Any) -> dict[str, Any]:
    """Everything after another partition was chosen."""
    changed = replace_grouping(recipe, grouping)
    return {"recipe": jsonio.dumps(changed)} | show_figures(changed)


def group_by_hand(text: str, cuts: list[int]) -> dict[str, Any]:
    """These cuts, on the strip too."""
    return regroup(read(text), ManualGroups(boundaries=tuple(cuts))) | {"per_layer": False}


def drag(text: str, cuts: list[int]) -> dict[str, Any]:
    """The partition that was set on the strip, which is left alone: the next drag may have
    begun.
    """
    answer = group_by_hand(text, cuts)
    del answer["strip"]
    return answer


def group_shared(text: str) -> dict[str, Any]:
    """One range for all steps."""
    return regroup(read(text), SharedRange()) | {"per_layer": False}


def group_uniform(text: str, count: float) -> dict[str, Any]:
    """Groups of equal length."""
    return regroup(read(text), UniformGroups(count=int(count))) | {"per_layer": False}


def group_optimal(text: str, count: float, per_layer: bool) -> dict[str, Any]:
    """The best cuts for this many groups."""
    return regroup(read(text), OptimalGroups(count=int(count), per_layer=bool(per_layer))) | {
        "per_layer": per_layer
    }


def group_per_step(text: str) -> dict[str, Any]:
    """A range for every step."""
    return regroup(read(text), PerStep()) | {"per_layer": False}


def recount(text: str, count: float, per_layer: bool) -> dict[str, Any]:
    """Another number of groups, by the rule that is in force."""
    equal = isinstance(read(text).grouping, UniformGroups)
    return group_uniform(text, count) if equal else group_optimal(text, count, per_layer)


def split(text: str, cuts: list[int]) -> dict[str, Any]:
    """A new boundary in the middle of the longest group."""
    edges = [0, *cuts, read(text).sampling.steps]
    length, start = max((b - a, -a) for a, b in pairwise(edges))
    if length < 2:
        raise DmqError("every group is one step long already; there is nothing to split.")
    return group_by_hand(text, sorted([*cuts, -start + length // 2]))


def merge(text: str, cuts: list[int]) -> dict[str, Any]:
    """The two neighbours that are shortest together become one group."""
    if not cuts:
        raise DmqError("there is one group only; there is nothing to merge.")
    edges = [0, *cuts, read(text).sampling.steps]
    _, k = min((edges[k + 2] - edges[k], k) for k in range(len(cuts)))
    return group_by_hand(text, [*cuts[:k], *cuts[k + 1 :]])
