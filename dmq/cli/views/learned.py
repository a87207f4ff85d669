"""What was captured and learned for a recipe, as text; `dmq show RECIPE WHAT` prints it."""

import math
import sys

import numpy as np

from ...describe import describe_plan
from ...errors import DmqError
from ...recipe import Recipe, format_name
from ...results import WindowEffects
from ..terminal import print_table


SHOWN_LAYERS = 10  # that err most
MOVED = 8  # inputs whose ranges moved most
WAYS = {
    "first": "noisy end (first)",
    "last": "clean end (last)",
    "list": "given steps",
    "auto": "measured (auto)",
}


def print_capture(recipe: Recipe) -> None:
    """What the statistics are of."""
    from ...workflow.answers import get_statistics

    stats = get_statistics(recipe)
    print(
        f"{stats.model}: {len(stats.sites)} sites on {stats.samples} images, "
        f"{len(stats.timesteps)} steps; captured on {stats.made_on or 'an unknown device'}"
    )
    print(stats.sampler)


def print_groups(recipe: Recipe) -> None:
    """The errors of learned groups beside others."""
    from ...artifacts.of_recipe import search_spec
    from ...workflow.answers import get_search

    if search_spec(recipe) is None:
        raise DmqError(
            "nothing to search: set grouping to LearnedGroups, or calibration_steps to ActiveSteps."
        )
    result = get_search(recipe)
    print("error of the activations, % of their power")
    for way, errors in result.local.items():
        print(f"  {way:9} {100 * errors.mean():.4g}")
    errors_of = {"mixed": result.soft, "hard": result.hard, "as kept": result.refitted}
    line = ", ".join(f"{name} {100 * errors.mean():.4g}" for name, errors in errors_of.items())
    print(f"error of the denoiser's answer, %: {line}")
    if result.note:
        print(f"dmq: {result.note}", file=sys.stderr)


def print_time(recipe: Recipe) -> None:
    """The errors of the time embedding, as all other layers are rounded and with the recipe."""
    from ...workflow.answers import get_time_errors

    errors = get_time_errors(recipe)
    for name, cosine, shift in (
        ("as all other layers", errors.cosine_before, errors.shift_before),
        ("with this recipe", errors.cosine_after, errors.shift_after),
    ):
        wrong = 100 * (shift != 0).mean()
        print(f"{name:20} worst cosine {cosine.min():.6f}, taken for another step {wrong:.1f} %")
    if errors.cached.any():
        print(
            f"from the cache: {100 * errors.cached.mean():.0f} % of {errors.cached.size} features"
        )
    if errors.note:
        print(f"dmq: {errors.note}", file=sys.stderr)


def print_blocks(recipe: Recipe) -> None:
    """The errors of blocks whose rounding was learned."""
    from ...workflow.answers import get_blocks

    if recipe.reconstruction is None or (result := get_blocks(recipe)) is None:
        raise DmqError(
            "nothing to reconstruct: set the recipe's reconstruction to BlockReconstruction."
        )
    width = max(map(len, result.after), default=0)
    more = ", step sizes too" if result.stepped else ""
    print(f"squared error of a block's output over its power, %: nearest rounding, learned{more}")
    for block, after in result.after.items():
        row = [
            result.before[block],
            after,
            *([result.stepped[block]] if block in result.stepped else []),
        ]
        print(f"  {block:{width}}  " + "  ".join(f"{100 * error:10.4g}" for error in row))
    if result.note:
        print(f"dmq: {result.note}", file=sys.stderr)


def print_weights(recipe: Recipe, *, layers: bool = False) -> None:
    """The errors of layers whose weights were learned from their inputs, the worst first, or all
    `layers`.
    """
    from ...workflow.answers import get_layer_codes, get_plan

    found = get_layer_codes(recipe)
    if recipe.mixed:
        print(describe_plan(get_plan(recipe)))
    if not found and recipe.mixed:
        return
    if not found:
        raise DmqError(
            "nothing to learn from inputs: set the recipe's weights.format to Gptq, or to LowRank "
            "with activations that are in float or dynamic."
        )
    rows = {row.layer.name: row for row in get_plan(recipe).layers}
    order = (
        list(found) if layers else sorted(found, key=lambda name: -found[name].after)[:SHOWN_LAYERS]
    )
    print(
        "squared error of a layer's output over its power, %: nearest codes or unsmoothed, learned"
    )
    print_table(
        ["layer", "weights", "before", "learned", "smoothing"],
        [
            [
                name,
                format_name(rows[name].weights),
                f"{100 * found[name].before:.4g}",
                f"{100 * found[name].after:.4g}",
                _smoothing(found[name].exponent),
            ]
            for name in order
        ],
        left=2,
    )
    means = (
        100 * sum(getattr(one, part) for one in found.values()) / len(found)
        for part in ("before", "after")
    )
    print("mean of {} layers: {:.4g} before, {:.4g} learned".format(len(found), *means))
    for name, one in found.items():
        if one.note:
            print(f"dmq: {name}: {one.note}", file=sys.stderr)


def _smoothing(exponent: float | None) -> str:
    return "none" if exponent is None else f"{exponent:.2g}"


def print_ranges(recipe: Recipe, when: str = "in an earlier run") -> None:
    """How the ranges that were set along the quantized trajectory differ from the captured ones."""
    from ...evaluation import range_change
    from ...workflow.answers import get_ranges

    if recipe.progressive is None or (ranges := get_ranges(recipe)) is None:
        raise DmqError("nothing to set: set the recipe's progressive to Progressive.")
    change = range_change.compare_ranges(recipe)
    print(
        f"{recipe.name}: ranges set on {recipe.calibration.samples} images, {ranges.calls} "
        f"denoiser calls, {when}"
    )
    wider = change.wider
    print(
        f"a range is {100 * np.abs(wider).mean():.2f} % wider or narrower than on the float "
        "trajectory on average"
    )
    most = np.abs(wider).max(1)
    rows = []
    for s in np.argsort(-most, kind="stable")[:MOVED]:
        i = int(np.abs(wider[s]).argmax())
        ends = (change.float_low, change.float_high, change.low, change.high)
        rows.append(
            [
                change.sites[s].label,
                str(i),
                f"{100 * wider[s, i]:+.2f} %",
                *(f"{x[s, i]:.4g}" for x in ends),
            ]
        )
    print_table(["moved most", "step", "wider", "float low", "high", "set low", "high"], rows)
    if ranges.widest_change > 0:
        print(
            "note: some range serves several calls, and grew by up to "
            f"{100 * ranges.widest_change:.2f} % after it "
            "was first used; a range per step avoids this."
        )


def print_windows(recipe: Recipe) -> None:
    """What windows of steps are worth, and which steps that would relax."""
    from ...workflow import relaxation
    from ...workflow.answers import get_window_effects

    print_effects(get_window_effects(recipe))
    own, *others = relaxation.compare_relaxations(recipe)
    print_choices(
        [
            *([("this recipe", own)] if recipe.relaxing else []),
            *((WAYS[one.where], one) for one in others),
        ]
    )


def print_effects(effects: WindowEffects) -> None:
    """Both curves: what each step of a window brings whose activations are in float."""
    judged = bool(np.isfinite(effects.clip_score_all).any())
    each, match = effects.gains("fidelity"), effects.gains("text") if judged else None
    count = len(effects.fidelity_all)
    print(
        f"all steps quantized: latent error {effects.typical_error:.4g}, geometric mean of {count} "
        "images",
        end="",
    )
    text = (
        f", match {effects.clip_score_all.mean():.2f} (float {effects.clip_score_float.mean():.2f})"
        if judged
        else ""
    )
    print(text)
    left = effects.typical_error * 10 ** (-effects.gain_per_image("fidelity").mean(1) / 10)
    rows = [
        [
            f"{start} to {end - 1}",
            f"{left[w]:.4g}",
            f"{each[w]:+.4g} dB",
            f"{effects.clip_score[w].mean():.2f}" if judged else "–",
            f"{match[w]:+.4f}" if match is not None else "–",
        ]
        for w, (start, end) in enumerate(effects.windows)
    ]
    print_table(["unrounded", "latent error", "less, per step", "match", "more, per step"], rows)


def print_choices(choices: list) -> None:
    """Ways to choose as many steps, what they cost and promise at best."""
    from ...figures.error_over_time import steps_text

    rows = [
        [
            name + (f", {one.judge}" if one.judge else ""),
            steps_text(one.steps) or "none",
            f"{one.mean_bits:.4g}",
            f"{one.fidelity:.4g} dB",
            f"{one.text:+.2f}" if math.isfinite(one.text) else "–",
        ]
        for name, one in choices
    ]
    print_table(
        ["more bits for", "steps", "mean bits", "less error, at best", "more match, at best"],
        rows,
        left=2,
    )


VIEWS = {
    "capture": print_capture,
    "groups": print_groups,
    "weights": print_weights,
    "time": print_time,
    "blocks": print_blocks,
    "windows": print_windows,
    "ranges": print_ranges,
}
