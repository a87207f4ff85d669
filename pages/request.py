"""What a visitor asks to have generated, from the texts and numbers of the Compare tab.

Raises DmqError, generates nothing.
"""

import dataclasses

from dmq.artifacts.model_info import get_info
from dmq.errors import DmqError
from dmq.evaluation import checks, engines
from dmq.progress import FLOAT_NAME
from dmq.recipe import SIMULATED, Comparison, Recipe
from dmq.store import runs
from dmq.store.prompts import UNPROMPTED

from .session import adopt


MAX_IMAGES = 64  # images a visitor may ask for at once, of each model
RUNS = 50  # the newest runs, whose recipes are offered again


def parse_seeds(text: str) -> tuple[int, ...]:
    """Whole numbers with commas or spaces between them, or ranges such as 0-3.

    Raises DmqError for anything else.
    """
    seeds: list[int] = []
    for part in str(text or "").replace(",", " ").split():
        first, dash, last = part.partition("-")
        if not (first.isascii() and first.isdigit()) or (
            dash and not (last.isascii() and last.isdigit())
        ):
            raise DmqError(f"seeds must be whole numbers such as 0, 1, 2 or 0-3, got {part!r:.40}.")
        if len(part) > 40 or int(last or first) - int(first) >= MAX_IMAGES:
            raise DmqError(f"seeds {part!r:.40}: at most {MAX_IMAGES} images at once.")
        seeds += range(int(first), int(last or first) + 1)
    return tuple(dict.fromkeys(seeds))


def make_comparison(
    recipe: Recipe, prompts: str, seeds: str, steps: float, guidance: float
) -> Comparison:
    """What to generate.

    Raises DmqError for an empty or overlong prompt, bad seeds, or too many images.
    """
    lines = tuple(line.strip() for line in (prompts or "").splitlines() if line.strip())
    if get_info(recipe.model).prompted and not lines:
        raise DmqError("a prompt is empty; write what to generate.")
    if not get_info(recipe.model).prompted:
        lines = (UNPROMPTED,)
    if not steps or not float(steps).is_integer():
        raise DmqError(f"steps must be a whole number, got {steps}.")
    sampling = dataclasses.replace(recipe.sampling, steps=int(steps), guidance=float(guidance or 0))
    checks.check_sampling(recipe, sampling)
    comparison = Comparison(prompts=lines, seeds=parse_seeds(seeds), sampling=sampling)
    if len(comparison.prompts) * len(comparison.seeds) > MAX_IMAGES:
        raise DmqError(
            f"{len(comparison.prompts) * len(comparison.seeds)} images; at most {MAX_IMAGES} are generated at once."
        )
    return comparison


def list_recipes(current: Recipe) -> dict[str, Recipe]:
    """What may be compared with `current`, for its model: recipes that ship, then those of earlier
    runs, newest first.

    Those of runs are named for both, such as "W4A6 · run cats 2"; what was there before is not
    offered again."""
    shipped = {name: _adopt(recipe, current) for name, recipe in runs.shipped_recipes().items()}
    known = {dataclasses.replace(recipe, name="") for recipe in shipped.values()}
    earlier: dict[str, Recipe] = {}
    for run in reversed(
        runs.names()[:RUNS]
    ):  # oldest first: a later run of the same recipe renames nothing
        for recipe in load_run_recipes(run):
            adopted = _adopt(recipe, current)
            if (unnamed := dataclasses.replace(adopted, name="")) not in known:
                known.add(unnamed)
                earlier[f"{engines.strip_engine(recipe.name)} · run {run}"] = adopted
    return shipped | dict(reversed(earlier.items()))


def _adopt(recipe: Recipe, current: Recipe) -> Recipe:
    """`recipe` for the model and statistics of `current`, and computed as that one is."""
    return engines.with_engine(adopt(recipe, current), current.engine)


def load_run_recipes(run: str) -> tuple[Recipe, ...]:
    """The recipes of an earlier run; none where they cannot be read, which must not take the
    whole tab away.
    """
    try:
        return runs.load_recipes(run)
    except DmqError:
        return ()


def choose_recipes(
    recipe: Recipe, others: list[str], computed: str | None = None
) -> tuple[Recipe, ...]:
    """The current recipe and the others that were chosen, each with a name of its own, for the same
    model.

    All are `computed` by one engine, or by "both" in turn; unless that is said, by the engine of
    the current recipe."""
    known = list_recipes(recipe) if others else {}
    chosen: dict[str, Recipe] = {}
    for candidate in [recipe, *(known[name] for name in others or [] if name in known)]:
        simulated = engines.with_engine(candidate, SIMULATED)
        if any(
            dataclasses.replace(simulated, name=other.name) == other for other in chosen.values()
        ):
            continue
        names = (simulated.name, *(f"{simulated.name} ({n})" for n in range(2, len(known) + 3)))
        name = next(name for name in names if name not in (*chosen, FLOAT_NAME))
        chosen[name] = dataclasses.replace(simulated, name=name)
    return engines.with_engines(tuple(chosen.values()), computed or recipe.engine)


def choose_engine(recipe: Recipe, computed: str | None) -> str:
    """What the choice of the engine shows for `recipe`: what a visitor chose, unless the recipe
    knows better.
    """
    return recipe.engine if computed in (None, SIMULATED) else computed
