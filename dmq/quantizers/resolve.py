"""Which layer gets which format and bits: from the model's description and the recipe alone.

So what is kept for a layer is found without statistics, and before anything is learned. Bits come
from the recipe, then from protection, then from the overrides, each stronger than what comes before
it."""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, replace

from ..errors import DmqError
from ..recipe import FLOAT, Format, LowRank, Recipe, Weights
from ..results import Layer, ModelInfo, Site, TemporalBlock


@dataclass(frozen=True)
class ResolvedLayer:
    """What a recipe makes of one layer."""

    weights: Weights
    activation_bits: int
    reason: str  # why a part is in float
    split: int  # input channels before the cut, 0 if its weight is in one piece


def resolve(info: ModelInfo, recipe: Recipe) -> dict[str, ResolvedLayer]:
    """What `recipe` makes of every layer of the model, by name, in order.

    A budget must be shared out first. Raises DmqError if an override asks for bits that its format
    cannot have."""
    splits = info.splits or {} if recipe.split_shortcuts else {}
    measured = any(layer.macs for layer in info.layers)
    made: dict[tuple[int, Format, bool], Weights] = {}
    resolved = {}
    for layer in info.layers:
        # Some modules only hold weights that others read, such as the projections of Hunyuan-DiT's
        # pooler.
        if measured and not layer.macs:
            weights = replace(recipe.weights, bits=FLOAT)
            resolved[layer.name] = ResolvedLayer(weights, FLOAT, "never called", 0)
            continue
        bits, form, reason = _choose(layer, recipe)
        # Calibrated ranges are those of inputs that are not smoothed.
        smooth = bits["activation"] == FLOAT or recipe.activations.dynamic != "none"
        key = bits["weight"], form, smooth
        if key not in made:
            made[key] = _weights(layer, recipe, *key)
        split = splits.get(layer.name, 0) if min(bits.values()) < FLOAT else 0
        resolved[layer.name] = ResolvedLayer(made[key], bits["activation"], reason, split)
    return resolved


def _choose(layer: Layer, recipe: Recipe) -> tuple[dict[str, int], Format, str]:
    """Bits of weight and activation, the weight's format, and why a part is in float."""
    bits = {"weight": recipe.weights.bits, "activation": recipe.activations.bits}
    why = dict.fromkeys(bits, "recipe")
    if recipe.protection.first_last and layer.role in ("first", "last"):
        bits, why = dict.fromkeys(bits, FLOAT), dict.fromkeys(bits, f"{layer.role} layer")
    form = recipe.weights.format
    for override in recipe.overrides:
        if not override.matches(layer.name):
            continue
        form = override.format or form
        for part in bits:
            chosen = getattr(override, f"{part}_bits")
            if chosen is not None:
                bits[part], why[part] = chosen, f"override {override.layers}"
    reasons = dict.fromkeys(why[part] for part in bits if bits[part] == FLOAT)
    return bits, form, ", ".join(reasons)


def _weights(layer: Layer, recipe: Recipe, bits: int, form: Format, smooth: bool) -> Weights:
    if isinstance(form, LowRank) and not smooth:
        form = replace(form, smooth=False)
    try:
        return replace(recipe.weights, bits=bits, format=form)
    except DmqError as error:
        raise DmqError(f"recipe.overrides: {layer.name}: {error}") from None


def resolve_operands(info: ModelInfo, recipe: Recipe, sites: Iterable[Site]) -> dict[Site, int]:
    """The bits of those `sites` that are operands of attention.

    Overrides match an attention's path or its operand's ("….attn1", "….attn1.probs"). One that
    matches layers too reaches the operands only if the recipe quantizes them: "*" is not meant to
    open them. Raises DmqError if an override matches neither a layer nor an operand."""
    names = [layer.name for layer in info.layers]
    operands = [site for site in sites if site.kind == "attention"]
    every = [*names, *(site.name for site in operands), *(site.label for site in operands)]
    bits = dict.fromkeys(operands, recipe.activations.attention_bits)
    for override in recipe.overrides:
        of_layers = any(map(override.matches, names))
        matched = [s for s in operands if override.matches(s.name) or override.matches(s.label)]
        if not of_layers and not matched:
            blocks = (f"{layer.block}.*" for layer in info.layers)
            near = difflib.get_close_matches(override.layers, [*every, *blocks], n=1, cutoff=0.0)
            hint = f"did you mean {near[0]!r}?" if near else "the model has none."
            raise DmqError(
                f"recipe.overrides: {override.layers!r} matches no layer; {hint} A * stands for "
                "any characters."
            )
        if override.activation_bits is not None and (
            not of_layers or recipe.activations.attention_bits < FLOAT
        ):
            bits |= dict.fromkeys(matched, override.activation_bits)
    return bits


def temporal_block(info: ModelInfo) -> TemporalBlock:
    """The temporal block of the model. Raises DmqError if dmq knows none in it."""
    if info.temporal is None:
        raise DmqError(
            f"recipe.temporal: no temporal block is known in a {info.denoiser} ({info.name}). "
            "Set temporal to null: its time layers are then treated as all others."
        )
    return info.temporal
