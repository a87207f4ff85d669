"""What cannot be compared, said before anything is generated."""

from typing import TYPE_CHECKING

from ..artifacts.model_info import get_info
from ..artifacts.of_recipe import search_spec
from ..errors import DmqError
from ..progress import FLOAT_NAME
from ..recipe import FLOAT, Recipe, Sampling
from ..workflow.answers import get_search, get_statistics


if TYPE_CHECKING:
    from ..models.loading import Loaded


def check_together(recipes: tuple[Recipe, ...], taken: tuple[str, ...] = (FLOAT_NAME,)) -> None:
    """Raise DmqError unless the recipes are of one model, each with a name of its own that is
    not among `taken`.
    """
    if not recipes:
        raise DmqError("nothing to compare: choose at least one recipe.")
    if len({recipe.model for recipe in recipes}) > 1:
        raise DmqError(
            f"recipes of different models ({', '.join(r.model for r in recipes)}) cannot be "
            "compared."
        )
    seen = [*taken, *(recipe.name for recipe in recipes)]
    if len(set(seen)) < len(seen):
        said = " or ".join(map(repr, taken))
        raise DmqError(
            f"every recipe needs a name of its own other than {said}; got "
            f"{', '.join(seen[len(taken) :])}."
        )


def check_recipes(recipes: tuple[Recipe, ...], sampling: Sampling) -> list[str]:
    """How `sampling` differs from what the recipes were calibrated for, a line for each difference.

    Raises DmqError if they cannot be compared: no recipe, several models, a name twice, sampling
    that one refuses."""
    check_together(recipes)
    for recipe in recipes:
        get_statistics(recipe)  # what is missing is said before anything is generated
        if search_spec(recipe):
            get_search(recipe)
    return [
        f"{recipe.name}: {line}" for recipe in recipes for line in check_sampling(recipe, sampling)
    ]


def check_sampling(recipe: Recipe, sampling: Sampling) -> list[str]:
    """How `sampling` differs from what the ranges of `recipe` were captured with, a line for each
    difference.

    Raises DmqError for the first one unless the recipe accepts the nearest step,
    `unknown_timestep="nearest"`."""
    spec, lines = recipe.activations, []
    ranges = spec.dynamic == "none" and (
        min(spec.bits, spec.attention_bits) < FLOAT or recipe.overrides
    )
    if not (ranges or recipe.temporal or recipe.relaxing):
        return []  # nothing was learned from the captured steps
    prompted = get_info(recipe.model).prompted
    for name, said in (
        ("steps", "{} steps"),
        ("guidance", "guidance {:g}"),
        ("size", "an image side of {}"),
    ):
        asked, known = getattr(sampling, name), getattr(recipe.sampling, name)
        if asked == known or (name == "guidance" and not prompted):
            continue
        if recipe.unknown_timestep == "error":
            raise DmqError(
                f"{said.format(asked)}, but the ranges were captured for {said.format(known)}; "
                f"generate with {known:g}, "
                f"capture for {asked:g}, or set unknown_timestep of the recipe to nearest."
            )
        lines.append(
            f"generated with {said.format(asked)}, the ranges were captured for {said.format(known)}"
        )
    return lines


def check_sampler(loaded: "Loaded", recipes: tuple[Recipe, ...]) -> None:
    """Raise DmqError if statistics were captured with another sampler than the pipeline has now."""
    from ..capture.activations import sampler_line

    for recipe in recipes:
        then, now = get_statistics(recipe).sampler, sampler_line(loaded, recipe.sampling)
        if then != now:
            raise DmqError(
                f"the statistics were captured with {then}; the pipeline has {now}. Capture again."
            )
