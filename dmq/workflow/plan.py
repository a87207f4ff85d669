"""A recipe resolved for its model."""

from pathlib import Path

from ..progress import OnProgress
from ..recipe import Recipe
from ..results import Plan
from ..workflow.answers import get_plan
from .load_recipe import load_recipe
from .prepare import prepare


def plan(recipe: Recipe | str | Path, *, progress: OnProgress = None) -> Plan:
    """What every layer of the model gets (weight format, ranges by timestep), what stays float, and
    the exact bytes.

    >>> import dmq
    >>> plan = dmq.plan("W8A6, 8 best groups")
    >>> plan.bytes < plan.float_bytes / 3
    True
    >>> sorted({row.weights.bits for row in plan.layers})  # 32: the first and the last layer stay float
    [8, 32]
    """
    recipe = load_recipe(recipe)
    prepare(recipe, progress=progress)
    return get_plan(recipe)
