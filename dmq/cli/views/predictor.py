"""What random mixes of choices teach about layers, and whether a simpler way would do as well, as
text and JSON.
"""

import argparse
import dataclasses
import json
import math
import sys
from typing import Any

import numpy as np

from ...errors import DmqError
from ...recipe import Predictor, Recipe, format_name
from ...results import PredictorResult
from ..arguments import choose_recipe, choose_spec, cluster_options
from ..terminal import check_place, print_table, show_progress, write


def add_arguments(to: argparse._ActionsContainer) -> None:
    """Options of what is printed."""
    said = "also write scores, labels and correlations"
    to.add_argument("--json", metavar="FILE", help=said)


def predict(given: argparse.Namespace) -> None:
    from ...workflow.learning import learn_scores

    spec = choose_spec(given, Predictor)
    if given.json:
        check_place(given.json)
    recipe = choose_recipe(given.recipe, given.model)
    result = show_progress(learn_scores(recipe, spec, again=given.again, **cluster_options(given)))
    print_result(result)
    if given.json:
        write(given.json, json.dumps(plain(result), indent=2) + "\n")


def print_predictions(recipe: Recipe) -> None:
    """All that was learned from random mixes of the recipe's model, the newest first."""
    from ...artifacts.model_info import get_info
    from ...store.learned import find_predictors, load_predictor

    folders = find_predictors(get_info(recipe.model).fingerprint)
    if not folders:
        raise DmqError(
            f"nothing was learned from mixes of {recipe.model}; `dmq prepare --only predictor` "
            "does."
        )
    for folder in folders:
        print_result(load_predictor(folder))


def print_result(result: PredictorResult) -> None:
    """What was learned, in tables."""
    low, high = result.average_bits.min(), result.average_bits.max()
    print(
        f"{result.model}: {len(result.labels)} random mixes of "
        f"{', '.join(map(format_name, result.choices))}; "
        f"{low:.2f} to {high:.2f} bits a weight"
    )
    print(
        f"label: {result.label}, deviation {result.labels.std():.3g}, of it noise "
        f"{_number(result.noise, '.3g')}"
    )
    print_ways(result)
    print_insights(result)
    if result.note:
        print(f"dmq: {result.note}", file=sys.stderr)


def print_ways(result: PredictorResult) -> None:
    """Every way to predict in one table, and whether a simpler one does as well."""
    print("order of mixes that were not learned from (1: right, 0: chance), mean over folds")
    rows = [
        [
            one.name,
            f"{one.srcc:.3f}",
            f"±{one.spread:.3f}",
            f"{one.partial_srcc:.3f}",
            f"{one.ndcg:.3f}",
            _number(one.tau, ".3f"),
        ]
        for one in result.predictions
    ]
    print_table(["", "SRCC", "", "at equal bits", "NDCG", "tau of folds"], rows)
    if result.as_good:
        print(f"a control is as good: {', '.join(result.as_good)}")


def print_insights(result: PredictorResult) -> None:
    """The scores by kind of layer and by block: their median, and how much the choice matters."""
    scores = result.block_scores()[0]
    for title, names in (
        ("kind of layer", result.types),
        ("block", [layer.block for layer in result.layers]),
    ):
        print(f"median score and range over choices, by {title}; a wide range: the choice matters")
        groups = {
            name: scores[[n for n, one in enumerate(names) if one == name]]
            for name in dict.fromkeys(names)
        }
        rows = [
            [
                name or "(none)",
                str(len(own)),
                f"{np.median(own):.2f}",
                f"{np.ptp(own, axis=1).mean():.2f}",
                format_name(result.choices[int(own.mean(0).argmax())]),
            ]
            for name, own in sorted(
                groups.items(), key=lambda item: -np.ptp(item[1], axis=1).mean()
            )
        ]
        print_table(["", "layers", "median", "range", "best"], rows)


def plain(result: PredictorResult) -> dict[str, Any]:
    """All that a notebook may want of a result, as JSON can hold it."""
    block, spread = result.block_scores()
    columns: dict[str, np.ndarray] = {
        "op score": result.op_scores,
        "block score": block,
        "block spread": spread,
        "ridge": result.ridge,
        "bytes": result.bytes,
        "weight error": result.local,
    }
    return {
        "model": result.model,
        "fingerprint": result.fingerprint,
        "label": result.label,
        "note": result.note,
        "choices": [format_name(choice) for choice in result.choices],
        "noise": _finite(result.noise),
        "predictions": [
            {name: _finite(value) for name, value in dataclasses.asdict(one).items()}
            for one in result.predictions
        ],
        "layers": [
            {"layer": layer.name, "type": kind, "block": layer.block}
            | {name: values[n].tolist() for name, values in columns.items()}
            for n, (layer, kind) in enumerate(zip(result.layers, result.types, strict=True))
        ],
        "mixes": result.mixes.tolist(),
        "labels": result.labels.tolist(),
        "bits": result.average_bits.tolist(),
        "predicted": result.predicted.tolist(),
        "fold": result.fold.tolist(),
    }


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _number(value: float, form: str) -> str:
    return f"{value:{form}}" if math.isfinite(value) else "–"
