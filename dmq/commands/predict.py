"""`dmq predict`: what random mixes of choices teach about layers, and whether a simpler way
would do as well.
"""

import argparse
import dataclasses
import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from ..recipe import FORMATS, Predictor, choice_label, choice_of
from ..results import PredictorResult
from .asking import check_place, chosen_recipe, print_table, recipe_argument, told, write


NUMBERS = (
    "configurations",
    "pictures",
    "steps",
    "repeats",
    "width",
    "epochs",
    "combinations",
    "seed",
)
FLOATS = ("bits_price", "weight", "rate")
WORDS = ("label", "loss")


def add_to(add: Callable[[str, Callable, str], argparse.ArgumentParser]) -> None:
    """Offer the command of this file; `add` makes a parser from name, function and help."""
    one = add(
        "predict",
        predict,
        "Learn from random mixes what each choice is worth (Qua²SeDiMo), beside controls.",
    )
    recipe_argument(one)
    said = f"what weights are made into, such as UAQ-4 KMC-3; formats are {', '.join(FORMATS)}"
    one.add_argument("--choices", nargs="+", metavar="CHOICE", help=said)
    known = {field.name: field for field in fields(Predictor)}
    for name in (*WORDS, *NUMBERS, *FLOATS):
        told_of = known[name].metadata
        said = f"{told_of['label']}: {known[name].default} unless given. {told_of['help']}".strip()
        how: dict[str, Any] = (
            {"choices": told_of["choices"]}
            if name in WORDS
            else {"type": int if name in NUMBERS else float, "metavar": "N"}
        )
        one.add_argument(f"--{name.replace('_', '-')}", help=said, **how)
    one.add_argument(
        "--scheduler",
        default="",
        metavar="tcp://HOST:PORT",
        help="let a Dask cluster judge the mixes",
    )
    one.add_argument(
        "--workers", type=int, default=1, metavar="N", help="processes of this machine"
    )
    one.add_argument("--json", metavar="FILE", help="also write scores, labels and correlations")
    one.add_argument(
        "--again", action="store_true", help="learn anew from the labels that are there"
    )


def predict(given: argparse.Namespace) -> None:
    from .. import stages

    spec = chosen_predictor(given)
    if given.json:
        check_place(given.json)
    recipe = chosen_recipe(given.recipe, given.model)
    how = {"again": given.again, "scheduler": given.scheduler, "workers": given.workers}
    result = told(stages.predict(recipe, spec, **how))
    low, high = result.average_bits.min(), result.average_bits.max()
    print(
        f"{recipe.model}: {len(result.labels)} random mixes of "
        f"{', '.join(map(choice_label, result.choices))}; "
        f"{low:.2f} to {high:.2f} bits a weight"
    )
    print(
        f"label: {result.label}, deviation {result.labels.std():.3g}, of it noise "
        f"{_number(result.noise, '.3g')}"
    )
    print_predictions(result)
    print_insights(result)
    if result.note:
        print(f"dmq: {result.note}", file=sys.stderr)
    if given.json:
        write(given.json, json.dumps(plain(result), indent=2) + "\n")


def chosen_predictor(given: argparse.Namespace) -> Predictor:
    """The question that the command line asks."""
    wishes: dict[str, Any] = {name: getattr(given, name) for name in (*WORDS, *NUMBERS, *FLOATS)}
    wishes["choices"] = given.choices and tuple(map(choice_of, given.choices))
    return Predictor(**{name: value for name, value in wishes.items() if value is not None})


def print_predictions(result: PredictorResult) -> None:
    """Every way to predict in one table, and whether a simpler one does as well."""
    print("order of mixes that were not learned from (1: right, 0: chance), mean over folds")
    rows = [
        [
            one.name,
            f"{one.srcc:.3f}",
            f"±{one.spread:.3f}",
            f"{one.quality:.3f}",
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
                choice_label(result.choices[int(own.mean(0).argmax())]),
            ]
            for name, own in sorted(
                groups.items(), key=lambda item: -np.ptp(item[1], axis=1).mean()
            )
        ]
        print_table(["", "layers", "median", "range", "best"], rows)


def plain(result: PredictorResult) -> dict[str, Any]:
    """All that a notebook may want of a result, as JSON can hold it."""
    block, spread = result.block_scores()
    columns: dict[str, Sequence] = {
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
        "choices": [choice_label(choice) for choice in result.choices],
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
