"""What every recipe that ships becomes for every embedded model: python -m tools.golden [FILE]
[--compare FILE]

A reference for changes that may not change anything: the folders that a recipe stands on, exact
bytes, formats, slots, scales and zero points, and a hash of the codes of every weight. Nothing is
learned or captured: where something does not ship, the table has the error that a person would
read. `--compare` prints every difference and then exits with 1.

The exact table holds for one machine and its libraries; `--portable` writes what any processor
should agree on."""

import argparse
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dmq.artifacts import store
from dmq.artifacts.model_info import for_model
from dmq.describe import describe_plan
from dmq.errors import DmqError
from dmq.models import libraries
from dmq.recipe import EMBEDDED, Recipe
from dmq.results import ActivationQParams, Plan, PlannedLayer
from dmq.store import folders, runs
from dmq.store.folders import home
from dmq.workflow.answers import get_codes, get_plan
from dmq.workflow.steps import STEPS


RTOL = 1e-4  # of sums of scales, which differ between processors by the order of additions
LOOSE = ("scale_sum",)  # the only numbers of a portable table that need not be equal


def shipped_cases() -> Iterator[tuple[str, Recipe]]:
    """`"model name"` and recipe, of all recipes that ship for all embedded models."""
    for model in EMBEDDED:
        for name, recipe in runs.shipped_recipes().items():
            yield f"{model} {name}", for_model(recipe, model)


# --- folders --------------------------------------------------------------------------------------


def answer_folders(recipe: Recipe) -> dict[str, Any]:
    """The names of the folders that `recipe` stands on, by what is in them; "" where one does not
    ship.

    Meant for an empty run folder. A name is that of the folder where it ships, or where it would be
    kept."""
    found: dict[str, Any] = {}
    for kind, step in _STEPS.items():
        try:
            places = [_place(folder) for folder in _folders(recipe, step)]
        except DmqError as error:
            found[kind] = f"missing: {error}"
            continue
        if places:
            found[kind] = places if step == "weights" else places[0]
    return found


def _place(folder: Path) -> str:
    root = next(root for root in (folders.ASSETS / "runs", home()) if folder.is_relative_to(root))
    name = folder.relative_to(root).as_posix()
    return name if folder.is_dir() else f"{name} (not shipped)"


# The steps of preparing by the names that they have in tables.
_STEPS = {
    "capture": "capture",
    "search": "groups",
    "mix": "bits",
    "weights": "weights",
    "time rounding": "time",
    "block rounding": "blocks",
    "windows": "windows",
    "progressive ranges": "ranges",
}


def _folders(recipe: Recipe, step: str) -> list[Path]:
    asked = next(each for each in STEPS if each.name == step)
    questions = asked.questions(recipe) if asked.is_asked(recipe) else []
    return sorted({store.place(question) for question in questions})


# --- plans ----------------------------------------------------------------------------------------


def planned(recipe: Recipe) -> dict[str, Any]:
    """The plan of `recipe` as plain data, every number in it; or the error that says what is
    missing.
    """
    try:
        plan = get_plan(recipe)
    except DmqError as error:
        return {"missing": f"missing: {error}"}
    return {
        "bytes": plan.bytes,
        "weight_bytes": plan.weight_bytes,
        "table_bytes": plan.table_bytes,
        "cache_bytes": plan.cache_bytes,
        "vector_bytes": plan.vector_bytes,
        "float_bytes": plan.float_bytes,
        "coverage": describe_plan(plan),
        "relaxed": list(plan.relaxed),
        "step_sizes": plan.step_sizes,
        "cached": 0
        if plan.temporal is None or plan.temporal.cached is None
        else int(plan.temporal.cached.sum()),
        "layers": {row.layer.name: layer_line(row) for row in plan.layers},
        "banks": {bank.site.label: _bank(bank) for bank in _banks(plan)},
    }


def layer_line(row: PlannedLayer) -> str:
    """All that a plan says of a layer but its bank."""
    return (
        f"{row.format} {row.rounding} {row.activation_bits} {row.split} "
        f"{row.weight_bytes} {row.bias_bytes} {row.reason}"
    )


def _banks(plan: Plan) -> list[ActivationQParams]:
    shared = {bank.site: bank for bank in (row.bank for row in plan.layers) if bank}
    return [*shared.values(), *plan.attention]


def _bank(bank: ActivationQParams) -> dict[str, Any]:
    return {
        "bits": bank.bits.tolist(),
        "slots": digest([bank.slot]),
        "scale": digest([bank.scale]),
        "zero": digest([bank.zero]),
        "scale_sum": float(bank.scale.astype(np.float64).sum()),
        "dynamic": bank.dynamic,
    }


def digest(arrays: Iterable[Any]) -> str:
    """A hash of arrays and texts, type and shape included."""
    made = hashlib.sha256()
    for x in arrays:
        array = np.ascontiguousarray(x)
        made.update(f"{array.dtype.str}{array.shape}".encode() + array.tobytes())
    return made.hexdigest()[:16]


# --- codes ----------------------------------------------------------------------------------------


def codes(recipe: Recipe) -> dict[str, str]:
    """By layer a hash of the codes of its weight and their tables, and "model": one of all that the
    model holds.

    Empty where something is missing.
    """
    from dmq.quantizers.apply import quantize_model, simulated_layer

    try:
        plan, learned = get_plan(recipe), get_codes(recipe).codes
    except DmqError:
        return {}
    found: dict[str, str] = {}

    def make(layer: Any, row: Any, bank: Any, weight: Any) -> Any:
        found[row.layer.name] = _codes(weight)
        return simulated_layer(layer, row, bank, weight)

    loaded = libraries.load(recipe.model)
    model = quantize_model(loaded.denoiser, plan, loaded.adapter, learned, make)
    found["model"] = digest(
        x for name, t in sorted(model.state_dict().items()) for x in (name, t.cpu().numpy())
    )
    return found


def _codes(weight: Any) -> str:
    from dmq.quantizers.codes import to_arrays

    arrays, plain = to_arrays(weight)
    return digest(
        [
            *(x for name in sorted(arrays) for x in (name, np.asarray(arrays[name]))),
            json.dumps(plain),
        ]
    )


# --- tables ---------------------------------------------------------------------------------------


def exact(recipe: Recipe) -> dict[str, Any]:
    """All that is known of `recipe`: equal before and after on one machine."""
    return {"folders": answer_folders(recipe), "plan": planned(recipe), "codes": codes(recipe)}


def portable(recipe: Recipe) -> dict[str, Any]:
    """What all processors agree on, a few lines: folders, bytes, counts, a digest of formats,
    the sum of scales.
    """
    return {"folders": portable_folders(recipe), "plan": portable_plan(recipe)}


def portable_folders(recipe: Recipe) -> dict[str, Any]:
    """Like `answer_folders`; of many folders their number and a digest of their names."""
    return {
        kind: f"{len(names)} folders {digest(sorted(names))}" if isinstance(names, list) else names
        for kind, names in answer_folders(recipe).items()
    }


def portable_plan(recipe: Recipe) -> dict[str, Any]:
    """Like `planned`, in a few numbers."""
    plan = planned(recipe)
    if "missing" in plan:
        return plan
    banks = plan.pop("banks").values()
    layers = plan.pop("layers")
    return plan | {
        "layers": len(layers),
        "formats": digest(f"{name} {line}" for name, line in layers.items()),
        "banks": len(banks),
        "slots": sum(len(bank["bits"]) for bank in banks),
        "bits": digest(np.array(bank["bits"]) for bank in banks),
        "scale_sum": float(f"{sum(bank['scale_sum'] for bank in banks):.7g}"),
    }


def differences(before: Any, after: Any, path: str = "") -> list[str]:
    """A line for each place at which two tables differ; sums of scales only by more than RTOL."""
    if isinstance(before, dict) and isinstance(after, dict):
        names = [*before, *(name for name in after if name not in before)]
        nothing = "nothing"
        return [
            line
            for name in names
            for line in differences(
                before.get(name, nothing), after.get(name, nothing), f"{path}/{name}"
            )
        ]
    numbers = isinstance(before, float) and isinstance(after, float)
    loose = (
        path.rpartition("/")[2] in LOOSE
        and numbers
        and np.isclose(before, after, rtol=RTOL, atol=0)
    )
    return [] if loose or before == after else [f"{path}: {before} before, {after} after"]


def main() -> int:
    given = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    given.add_argument("file", type=Path, nargs="?", help="where to write the table")
    given.add_argument(
        "--compare", type=Path, metavar="FILE", help="print every difference from this table"
    )
    given.add_argument(
        "--portable", action="store_true", help="the table that all processors agree on"
    )
    given.add_argument("--only", default="", help="cases whose name has this in it")
    given.add_argument(
        "--no-codes", action="store_true", help="without hashes of codes, which take minutes"
    )
    chosen = given.parse_args()
    table: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as empty:
        os.environ["DMQ_RUNS"] = empty  # only what ships counts
        for name, recipe in shipped_cases():
            if chosen.only in name:
                print(name, file=sys.stderr, flush=True)
                plain = (
                    {"folders": answer_folders(recipe), "plan": planned(recipe)}
                    if chosen.no_codes
                    else None
                )
                table[name] = portable(recipe) if chosen.portable else plain or exact(recipe)
    if chosen.file:
        chosen.file.write_text(json.dumps(table, indent=1, ensure_ascii=False) + "\n", "utf-8")
    if not chosen.compare:
        return 0
    before = json.loads(chosen.compare.read_text("utf-8"))
    before = {name: held for name, held in before.items() if chosen.only in name}
    if chosen.no_codes:
        before = {
            name: {k: x for k, x in held.items() if k != "codes"} for name, held in before.items()
        }
    lines = differences(before, json.loads(json.dumps(table)))
    print("\n".join(lines) or f"{len(table)} cases are equal")
    return bool(lines)


if __name__ == "__main__":
    sys.exit(main())
