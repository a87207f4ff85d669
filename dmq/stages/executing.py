"""What runs where: which kernel each layer of a recipe gets, or why it stays in float."""

import dataclasses
from collections.abc import Generator
from dataclasses import dataclass

from ..progress import Progress
from ..recipe import SIMULATED, Recipe
from .engines import EXECUTED
from .planning import computed, plan


REFERENCE = "reference: "


@dataclass(frozen=True)
class Placed:
    """Layers that run alike."""

    where: str  # a kernel's name, or "float, because …", "float: first layer", "cached"
    fell_back: bool  # have they codes, and no kernel that takes them?
    formats: tuple[str, ...]  # such as "W4A8"
    layers: tuple[str, ...]


def placed(recipe: Recipe) -> Generator[Progress, None, tuple[Placed, ...]]:
    """What runs each layer of `recipe` when executed: those on kernels first, then what fell back,
    then what is float.

    Loads the model and prepares its kernels. Raises DmqError if something must be captured or
    learned first."""
    yield Progress("Prepare the kernels", 0, 1)
    made = plan(recipe)
    engine = EXECUTED if recipe.engine == SIMULATED else recipe.engine
    model = computed(dataclasses.replace(recipe, engine=engine))
    from ..runtime.convert import ran

    kernels = ran(model)
    found: dict[tuple[int, str], list] = {}
    for row in made.layers:
        kernel = kernels.get(row.layer.name, "")
        if kernel.startswith(REFERENCE):
            key = 1, f"float, because {kernel.removeprefix(REFERENCE)}"
        elif kernel:
            key = 0, kernel
        else:
            key = (
                2,
                "cached" if row.dropped else f"float: {row.reason or 'its weight stays in float'}",
            )
        found.setdefault(key, []).append(row)
    yield Progress("Prepare the kernels", 1, 1)
    return tuple(
        Placed(
            where,
            order == 1,
            tuple(sorted({row.format for row in rows})),
            tuple(row.layer.name for row in rows),
        )
        for (order, where), rows in sorted(
            found.items(), key=lambda item: (item[0][0], -len(item[1]))
        )
    )
