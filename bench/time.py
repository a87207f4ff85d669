"""What ways of grouping the timesteps do to the noise that a model predicts, all in one run, on unseen pictures.

    python -m bench.time [--model emoji-ddpm] [--bits 8 6] [--groups 8] [--seeds 3] [--pictures 4] [--per-step]

Error: mean (eps_q - eps)^2 / mean eps^2 at the recorded inputs of the float model. Its mean over the steps is that of
the last few, where it is a hundred times larger; the geometric mean counts all steps alike. Pictures are
drawn with seeds that neither capture nor search has seen. The interval is 95 % over the seeds, bytes are of the banks.
"local" is the mean relative error of the activations alone, from statistics. Searches are kept in the run folder.
"""

import argparse
import dataclasses
import time
from collections.abc import Iterator

import numpy as np
from scipy.stats import t as student
from torch import nn

from dmq import stages
from dmq.capture.activations import calibration_pictures
from dmq.capture.replay import noise_errors
from dmq.capture.trajectories import record_trajectory
from dmq.models.borrow import borrow, replace
from dmq.quantizers.apply import quantized
from dmq.quantizers.bank import ActivationBank
from dmq.quantizers.plan import make_plan
from dmq.recipe import (
    EMBEDDED,
    Activations,
    Calibration,
    LearnedGroups,
    MinMax,
    OptimalGroups,
    PerStep,
    Recipe,
    Sampling,
    SharedRange,
    UniformGroups,
    Weights,
)
from dmq.results import GroupErrors, Groups, Plan, Trajectory
from dmq.trajectory.errors import ErrorTable
from dmq.trajectory.grouping import group_timesteps
from dmq.trajectory.search import learned_errors, lloyd, start_groups, without_empty


UNSEEN = 100_000  # first seed of the pictures that are measured


def recipe_for(model: str, bits: int, chosen: argparse.Namespace) -> Recipe:
    sampling = EMBEDDED.get(model, Sampling())
    sampling = dataclasses.replace(sampling, steps=chosen.steps or sampling.steps)
    weights = Weights(bits=chosen.weight_bits, range=MinMax()) if chosen.fast else Weights(bits=chosen.weight_bits)
    learned = {name: getattr(chosen, name) for name in ("iterations", "trajectories", "refits", "rate", "choice_rate")}
    return Recipe(
        name="bench", model=model, sampling=sampling, calibration=Calibration(samples=chosen.samples), weights=weights,
        activations=Activations(bits=bits), grouping=LearnedGroups(count=chosen.groups, **learned),
    )  # fmt: skip


def groupings(recipe: Recipe) -> Iterator[tuple[str, GroupErrors, float]]:
    """Name, groups with ranges, and seconds to find them."""
    spec, table = recipe.grouping, stages.table(recipe)
    count = spec.count
    plain = {
        "shared": SharedRange(),
        f"uniform {count}": UniformGroups(count=count),
        f"optimal {count}": OptimalGroups(count=count, per_layer=True),
        "per step": PerStep(),
    }
    for name, grouping in plain.items():
        begun = time.perf_counter()
        yield name, table.errors(group_timesteps(grouping, table)), time.perf_counter() - begun
    begun = time.perf_counter()
    start = start_groups(spec, table.errors(group_timesteps(PerStep(), table)), table.quantized.tolist())
    yield f"k-means {count}", table.errors(everywhere(start, table)), time.perf_counter() - begun
    begun = time.perf_counter()
    better = np.stack([lloyd(table.losses(s), slot) for s, slot in zip(table.quantized, start, strict=True)])
    yield f"lloyd {count}", table.errors(everywhere(better, table)), time.perf_counter() - begun
    begun = time.perf_counter()
    result = stages.finish(stages.search(recipe))
    yield f"learned {count}", learned_errors(result, table), time.perf_counter() - begun


def everywhere(slot: np.ndarray, table: ErrorTable) -> Groups:
    """Groups of all sites from those of the quantized ones."""
    slots = np.zeros((len(table.sites), table.steps), np.int16)
    slots[table.quantized] = without_empty(slot)[0]
    return Groups(sites=table.sites, slot=slots)


def with_banks(model: nn.Module, plan: Plan) -> nn.Module:
    """A quantized model with the banks of another plan: the weights' ranges are not searched again."""
    twin = borrow(model)
    places = {f"{row.layer.name}.input": row.bank for row in plan.layers if row.bank}
    places |= {f"{bank.site.name}.processor.{bank.site.point}": bank for bank in plan.attention}
    for place, bank in places.items():
        replace(twin, place, ActivationBank(bank, twin.get_submodule(place).clock))
    return twin


def unseen(recipe: Recipe, seed: int, pictures: int) -> Trajectory:
    """The float model's denoiser calls for pictures that nothing was learned from."""
    loaded = stages.load(recipe.model)
    calibration = dataclasses.replace(recipe.calibration, samples=pictures, seed=UNSEEN + seed * pictures)
    prompts, seeds = zip(*calibration_pictures(loaded, calibration), strict=True)
    return record_trajectory(loaded, prompts=prompts, seeds=seeds, sampling=recipe.sampling)[0]


def interval(values: np.ndarray) -> float:
    """Half of the 95 % interval of the mean; nan for a single value."""
    if len(values) < 2:
        return float("nan")
    return float(student.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5)


def measure(
    recipe: Recipe, trajectories: list[Trajectory]
) -> Iterator[tuple[str, Plan, GroupErrors, np.ndarray, float]]:
    """Name, plan, layer-local errors, noise errors [seeds, T] and seconds of every way of grouping."""
    loaded, stats, model = stages.load(recipe.model), stages.statistics(recipe), None
    for name, errors, seconds in groupings(recipe):
        plan = make_plan(loaded.info, recipe, stats, errors)
        model = model or quantized(loaded.denoiser, plan, loaded.adapter)
        twin = with_banks(model, plan)
        yield name, plan, errors, np.array([stages.finish(noise_errors(twin, t)) for t in trajectories]), seconds


def report(recipe: Recipe, chosen: argparse.Namespace) -> None:
    stages.finish(stages.capture(recipe))
    trajectories = [unseen(recipe, seed, chosen.pictures) for seed in range(chosen.seeds)]
    print(
        f"\n{recipe.model} W{recipe.weights.bits}A{recipe.activations.bits}, {recipe.sampling.steps} steps, "
        f"{chosen.pictures} unseen pictures for each of {chosen.seeds} seeds"
    )
    heads = f"{'noise error':>12}{'+-':>9}{'geometric':>11}{'+-':>9}{'local':>10}{'table bytes':>13}{'found in s':>12}"
    print(f"{'groups':<12}{heads}")
    for name, plan, errors, noise, seconds in measure(recipe, trajectories):
        each, typical = noise.mean(1), np.exp(np.log(np.maximum(noise, 1e-30)).mean(1))
        shown = f"{each.mean():>12.3e}{interval(each):>9.1e}{typical.mean():>11.3e}{interval(typical):>9.1e}"
        print(f"{name:<12}{shown}{errors.total:>10.2e}{plan.table_bytes:>13,}{seconds:>12.1f}", flush=True)
        if chosen.per_step:
            print("  " + " ".join(f"{error:.1e}" for error in noise.mean(0)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", dest="models", help=f"default: {', '.join(EMBEDDED)}")
    parser.add_argument("--bits", type=int, nargs="+", default=[8, 6], help="of activations")
    parser.add_argument("--weight-bits", type=int, default=8)
    parser.add_argument("--groups", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--pictures", type=int, default=4, help="measured for each seed")
    parser.add_argument("--steps", type=int, help="other than the model's own")
    parser.add_argument("--samples", type=int, default=Calibration().samples, help="calibration pictures")
    for name, kind in (
        ("iterations", int),
        ("trajectories", int),
        ("refits", int),
        ("rate", float),
        ("choice_rate", float),
    ):
        default = getattr(LearnedGroups(), name)
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, default=default, help="of the search")
    parser.add_argument("--fast", action="store_true", help="min-max weights")
    parser.add_argument("--per-step", action="store_true", help="print the error of every step too")
    chosen = parser.parse_args()
    for model in chosen.models or EMBEDDED:
        for bits in chosen.bits:
            report(recipe_for(model, bits, chosen), chosen)


if __name__ == "__main__":
    main()
