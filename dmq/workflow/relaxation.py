"""What giving more bits to one end or another promises, from windows that were measured: nothing
is run here.
"""

import dataclasses
from dataclasses import dataclass

import numpy as np

from ..recipe import FLOAT, Recipe, Relaxing
from ..results import WindowEffects
from ..workflow.answers import get_relaxed_steps, get_statistics, get_window_effects


@dataclass(frozen=True, kw_only=True)
class RelaxedChoice:
    """Steps that could be relaxed, and what they promise at most: as if they were not quantized
    at all.
    """

    where: str  # "first", "last", "list" or "auto"
    judge: str  # what decided, with "auto"; otherwise ""
    steps: tuple[int, ...]
    mean_bits: float  # of the activations, over denoiser calls
    fidelity: float  # decibels of latent error that go away, typical image
    text: float  # match that is won; nan where nothing judged it


def compare_relaxations(recipe: Recipe) -> tuple[RelaxedChoice, ...]:
    """The recipe's own choice, then the noisy end, the clean end and what measuring finds, at the
    same mean bits.

    Raises DmqError if the windows of `recipe` were not measured yet.
    """
    effects, spec = get_window_effects(recipe), recipe.relaxing or Relaxing()
    judges = ("fidelity", "text") if np.isfinite(effects.clip_score_all).any() else ("fidelity",)
    share = len(_steps(spec, recipe, effects)) / recipe.sampling.steps
    ends = [("first", spec.judge), ("last", spec.judge), *(("auto", judge) for judge in judges)]
    spec_of_share = dataclasses.replace(spec, fraction=share, steps=(), match_reference_code=False)
    others = [dataclasses.replace(spec_of_share, where=w, judge=judge) for w, judge in ends]
    return tuple(_choice(one, recipe, effects, judges) for one in (spec, *others))


def mean_activation_bits(recipe: Recipe) -> float:
    """Mean activation bits over the denoiser calls of `recipe`.

    Raises DmqError if a choice needs measuring first.
    """
    spec = recipe.relaxing or Relaxing(bits=FLOAT, fraction=0.0)
    return _mean_bits(recipe, spec, get_relaxed_steps(recipe))


def _mean_bits(recipe: Recipe, spec: Relaxing, steps: tuple[int, ...]) -> float:
    from ..trajectory.relaxing import mean_bits

    # In proportion to how often each step's timestep is visited.
    calls = get_statistics(recipe).elements[0]
    return mean_bits(recipe.activations.bits, spec.bits, steps, calls)


def _steps(spec: Relaxing, recipe: Recipe, effects: WindowEffects) -> tuple[int, ...]:
    from ..trajectory.relaxing import choose_relaxed_steps

    return choose_relaxed_steps(spec, recipe.sampling.steps, effects)


def _choice(
    spec: Relaxing, recipe: Recipe, effects: WindowEffects, judges: tuple[str, ...]
) -> RelaxedChoice:
    steps = _steps(spec, recipe, effects)
    gains = {judge: float(effects.step_gains(judge)[list(steps)].sum()) for judge in judges}
    return RelaxedChoice(
        where=spec.where,
        judge=spec.judge if spec.where == "auto" else "",
        steps=steps,
        mean_bits=_mean_bits(recipe, spec, steps),
        fidelity=gains["fidelity"],
        text=gains.get("text", float("nan")),
    )
