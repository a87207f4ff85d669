"""Mixed precision at equal bytes: what a choice for each layer does to images, all in one run.

    python -m bench.layers [--model emoji-sd] [--bits 3.4 3.7 4.0] [--activations 32 8 6] [--out FILE]

Every row of a table has the same bytes: "4.0" bits are those of UAQ-4 everywhere, 3.4 and 3.7 are
that share of them. Where a format has no such number of bits, it has more in some layers and fewer
in others, generated at random: "UAQ alone" is that, and at 4.0 simply UAQ-4. "random" generates formats too
(the six choices of Qua2SeDiMo: UAQ, KMC and KMA at 4 and 3 bits). "measured", "fisher" and "ridge"
give the budget solver costs of these six choices, "predictor op" and "predictor block" scores of
the graph network. "fisher, all" may also take UAQ and k-means at 2 bits, HQQ, GPTQ and low rank (of
rank 4). Activations are dynamic, a range for each token. The first and the last layer stay in
float.

Latent error: squared distance of the finished sample from the float one over its squared length;
its geometric mean counts all images alike. PSNR is of the images, FID of their features to
those of the float images (the floor: of float images with other seeds), match 100 * cosine of
image and prompt, all by emoji-clip. Images have seeds that nothing has seen; +- is 95 % over
the seeds; "better" the share of images with a smaller latent error than with "UAQ alone", with
its one-sided sign test."""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
from scipy.stats import binomtest

from bench.timing.generated import GeneratedBatch, half
from bench.timing.results import Results, Row, asked
from dmq.allocation import budget
from dmq.allocation.budget import random_allocation
from dmq.artifacts.model_info import get_info
from dmq.errors import DmqError
from dmq.metrics.sets import fid
from dmq.models.clip import load_clip
from dmq.models.trajectories import SampledTrajectory
from dmq.progress import run_to_end
from dmq.quantizers.weights import weight_bytes
from dmq.recipe import (
    EMBEDDED,
    FLOAT,
    Activations,
    Budget,
    LowRank,
    Predictor,
    Recipe,
    Sampling,
    Sensitivity,
    Uaq,
    WeightFormat,
    Weights,
    parse_format,
)
from dmq.results import Allocation, Layer, SensitivityTable
from dmq.workflow import bit_allocation
from dmq.workflow.answers import get_plan
from dmq.workflow.learning import capture_statistics, learn_scores, measure_costs
from dmq.workflow.steps import carry_out


SIX = tuple(f"{name}-{bits}" for bits in (4, 3) for name in ("UAQ", "KMC", "KMA"))
MORE = (
    *SIX,
    "UAQ-2",
    "KMC-2",
    "KMA-2",
    "HQQ-3",
    "HQQ-2",
    "GPTQ-4",
    "GPTQ-3",
    "GPTQ-2",
    "LR-3",
    "LR-2",
)
ALONE = {
    "UAQ": ("UAQ-4", "UAQ-3"),
    "KMC": ("KMC-4", "KMC-3"),
    "KMA": ("KMA-4", "KMA-3"),
    "HQQ": ("HQQ-4", "HQQ-3", "HQQ-2"),
    "GPTQ": ("GPTQ-4", "GPTQ-3"),
    "low rank": ("LR-4", "LR-3", "LR-2"),
}
# of the low-rank factors: 32 would take more bits than all the rest in layers of 256 channels
RANK = 4
RANDOM = 3  # random allocations
HEADS = (
    f"{'':<20}{'latent error':>13}{'geometric':>11}{'+-':>9}{'better':>8}{'p':>8}{'PSNR dB':>9}{'+-':>6}{'FID':>8}"
    f"{'match':>8}{'bits':>7}{'bytes':>11}"
)
BARS = ("measured", "fisher", "predictor block")


def choice(label: str) -> WeightFormat:
    """A choice by its short name, low-rank ones with a rank that suits small layers."""
    made = parse_format(label)
    return (
        replace(made, format=replace(made.format, rank=RANK))
        if isinstance(made.format, LowRank)
        else made
    )


@dataclass
class Evidence:
    """What rows are made from: tables of one model, each made when it is first asked for."""

    recipe: Recipe
    layers: tuple[Layer, ...]
    configurations: int
    tables: dict[str, SensitivityTable] = field(default_factory=dict)

    def bytes(self, labels: tuple[str, ...]) -> SensitivityTable:
        """A table that knows what some choices take, and says that all cost the same."""
        choices = tuple(map(choice, labels))
        stored = [
            [
                weight_bytes(layer.shape, Weights(bits=one.bits, format=one.format))
                for one in choices
            ]
            for layer in self.layers
        ]
        nothing = np.zeros((len(self.layers), len(choices)))
        return SensitivityTable(
            title="bytes",
            kind="measured",
            unit="",
            model=self.recipe.model,
            fingerprint=get_info(self.recipe.model).fingerprint,
            layers=self.layers,
            choices=choices,
            bytes=np.array(stored, np.int64),
            cost=nothing,
            spread=nothing,
        )

    def table(self, name: str) -> SensitivityTable:
        """Costs or scores of choices, measured or predicted."""
        if name not in self.tables:
            self.tables[name] = self._asked(name).only({layer.name for layer in self.layers})
        return self.tables[name]

    def _asked(self, name: str) -> SensitivityTable:
        if name.startswith("predictor") or name == "ridge":
            spec = Predictor(choices=tuple(map(choice, SIX)), configurations=self.configurations)
            found = run_to_end(learn_scores(self.recipe, spec))
            return (
                found.ridge_table()
                if name == "ridge"
                else found.table(name.removeprefix("predictor "))
            )
        if name == "fisher, all":
            every = Sensitivity(choices=tuple(map(choice, MORE)), how="fisher")
            return run_to_end(measure_costs(self.recipe, every))
        asked_ = Sensitivity(
            how="fisher" if name == "fisher" else "measure"
        )  # also at 2 bits: it ships so
        return run_to_end(measure_costs(self.recipe, asked_)).among(SIX)


def allocations(evidence: Evidence, size: int) -> Iterator[tuple[str, Callable[[], Allocation]]]:
    """Name of each row, and what makes its choices for at most `size` bytes."""

    def at_random(labels: tuple[str, ...], seed: int) -> Allocation:
        table = evidence.bytes(labels)
        return random_allocation(table, within(table, size), seed)

    def solved(name: str) -> Allocation:
        table = evidence.table(name)
        return budget.allocate(table, within(table, size))

    for name, labels in ALONE.items():
        yield f"{name} alone", partial(at_random, labels, 0)
    for seed in range(RANDOM):
        yield f"random {seed + 1}", partial(at_random, SIX, seed)
    for name in ("measured", "fisher", "ridge", "predictor op", "predictor block", "fisher, all"):
        yield name, partial(solved, name)


def within(table: SensitivityTable, size: int) -> Budget:
    """`size` bytes, or all that the table's choices can take: KMA-4 takes less than UAQ-4."""
    return Budget(bits=None, bytes=min(size, budget.limits(table)[1]))


class Judged(GeneratedBatch):
    """Images with the features that FID is of."""

    def __init__(self, recipe: Recipe, seeds: int, images: int) -> None:
        super().__init__(recipe, seeds, images)
        self.feature_extractor = load_clip()
        self.seen = self.feature_extractor.features(self.floats.images)
        others = [(prompt, seed + 2 * len(self.jobs)) for prompt, seed in self.jobs]
        self.floor = fid(
            self.feature_extractor.features(self.walk(self.loaded.denoiser, others).images),
            self.seen,
        )

    def judge(self, generated: SampledTrajectory) -> Row:
        return super().judge(generated) | {
            "fid": fid(self.feature_extractor.features(generated.images), self.seen)
        }


def line(row: Row, other: Row | None, generated: Judged) -> str:
    """A row as it is printed."""
    error = generated.of_seeds(row["error"])
    typical, near = (
        np.exp(np.log(np.maximum(error, 1e-30)).mean(1)),
        generated.of_seeds(row["psnr"]).mean(1),
    )
    better = p = ""
    if other is not None:
        wins, total = (
            int((np.array(row["error"]) < np.array(other["error"])).sum()),
            len(row["error"]),
        )
        better, p = f"{wins}/{total}", f"{binomtest(wins, total, alternative='greater').pvalue:.3f}"
    match = np.array(row["match"], float).mean()
    return (
        f"{row['name']:<20}{error.mean():>13.3e}{typical.mean():>11.3e}{half(typical):>9}{better:>8}{p:>8}"
        f"{near.mean():>9.2f}{half(near, '.2f'):>6}{row['fid']:>8.2f}{match:>8.2f}{row['bits']:>7.3f}"
        f"{row['size']:>11,}"
    )


def bars(rows: dict[str, Row]) -> list[tuple[str, bool]]:
    """What should hold, and whether it does, in the geometric mean of the latent error over all
    images.
    """
    error = {
        name: float(np.exp(np.log(np.maximum(row["error"], 1e-30)).mean()))
        for name, row in rows.items()
    }
    uniform = {name: error[f"{name} alone"] for name in ("UAQ", "KMC", "KMA")}
    generated = min(error[f"random {n + 1}"] for n in range(RANDOM))
    made = [
        (f"{name} < {other} alone", error[name] < least)
        for name in BARS
        for other, least in uniform.items()
    ]
    return made + [(f"{name} < best of {RANDOM} random", error[name] < generated) for name in BARS]


def report(
    evidence: Evidence,
    generated: Judged,
    bits: float,
    activation: int,
    results: Results,
    rows: list[str],
) -> None:
    """Measure and print the table of one budget and number of activation bits."""
    size = int(evidence.bytes(("UAQ-4",)).bytes.sum() * bits / 4)
    setting = f"{bits:g} bits, " + (
        "float activations" if activation == FLOAT else f"A{activation}"
    )
    print(
        f"\n{evidence.recipe.model}, {setting}: {size:,} bytes of weights, {generated.images} unseen "
        "images for each "
        f"of {generated.seeds} seeds; FID floor {generated.floor:.2f}, match of the float model "
        f"{generated.match.mean():.2f}\n"
        f"{HEADS}"
    )
    base = replace(
        evidence.recipe, activations=replace(evidence.recipe.activations, bits=activation)
    )
    made: dict[str, Row] = {}
    for name, choose in allocations(evidence, size):
        if rows and name not in rows:
            continue
        row = row_of(base, choose(), (base.model, setting, "layers", name), generated, results)
        made[name] = row
        print(line(row, made.get("UAQ alone"), generated), flush=True)
    for words, holds in () if rows else bars(made):
        print(f"  {'holds' if holds else 'FAILS'}: {words}", flush=True)


def row_of(
    base: Recipe, chosen: Allocation, place: tuple[str, ...], generated: Judged, results: Results
) -> Row:
    """The row of an allocation, measured unless `results` has it."""
    recipe = bit_allocation.apply_allocation(base, chosen)
    key = asked(recipe, generated.loaded.info.fingerprint, generated.seeds, generated.images)
    row = results.find(place, key)
    if row is None:
        begun = time.process_time()
        run_to_end(carry_out(recipe))
        row = dict(zip(("model", "setting", "table", "name"), place, strict=True)) | {"asked": key}
        row |= generated.measure(recipe) | {"size": chosen.bytes, "bits": chosen.average_bits}
        row |= {"took": time.process_time() - begun}
    results.put(row)
    return row


def evidence_of(model: str, chosen: argparse.Namespace) -> Evidence:
    """A model's layers that are given choices: all that are called, but for the first and the
    last one.
    """
    sampling = EMBEDDED.get(model, Sampling())
    recipe = Recipe(
        name="",
        model=model,
        sampling=replace(sampling, steps=chosen.steps or sampling.steps),
        weights=Weights(bits=4, format=Uaq()),
        activations=Activations(bits=FLOAT, dynamic="token"),
    )
    run_to_end(capture_statistics(recipe))
    layers = tuple(row.layer for row in get_plan(recipe).layers if row.weights.bits < FLOAT)
    return Evidence(recipe, layers, chosen.configurations)


def options() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", action="append", dest="models", help="default: emoji-sd and emoji-dit"
    )
    parser.add_argument("--bits", nargs="+", type=float, default=[3.4, 3.7, 4.0])
    parser.add_argument(
        "--activations", nargs="+", type=int, default=[FLOAT, 8, 6], help="bits; 32 is float"
    )
    parser.add_argument(
        "--configurations", type=int, default=Predictor().configurations, help="of the predictor"
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="JSON of all rows, to quote and to go on from"
    )
    parser.add_argument("--again", action="store_true", help="measure also what is in FILE")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--images", type=int, default=8, help="measured for each seed")
    parser.add_argument("--steps", type=int, help="other than the model's own")
    parser.add_argument(
        "--rows", nargs="+", metavar="NAME", default=[], help="only these rows, and no bars"
    )
    return parser


def main(arguments: list[str] | None = None) -> None:
    chosen = options().parse_args(arguments)
    try:
        results = Results(chosen.out, chosen.again)
        for model in chosen.models or ["emoji-sd", "emoji-dit"]:
            evidence = evidence_of(model, chosen)
            generated = Judged(evidence.recipe, chosen.seeds, chosen.images)
            for activation in chosen.activations:
                for bits in chosen.bits:
                    report(evidence, generated, bits, activation, results, chosen.rows)
    except DmqError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
