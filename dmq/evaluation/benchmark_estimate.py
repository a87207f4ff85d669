"""How long a benchmark will take on this machine."""

from dataclasses import dataclass

from ..errors import DmqError
from ..models.work_plan import format_duration, time_step
from ..progress import FLOAT_NAME
from ..recipe import Benchmark, Recipe
from ..store import benchmarks as kept
from ..workflow.steps import list_missing
from .benchmark import check_benchmark
from .scores import layout


SLOWER = 1.6  # a quantized model against the float one, where no benchmark says how much


@dataclass(frozen=True)
class Estimate:
    """How long a benchmark will take on this machine."""

    images: int  # still to be generated, of all models
    calls: int  # of denoisers, a call a batch and step
    seconds: float
    learning: tuple[str, ...]  # recipes that must learn something first, not in `seconds`

    def __str__(self) -> str:
        more = f"; besides, {', '.join(self.learning)} must learn first" if self.learning else ""
        took = f"about {format_duration(self.seconds)} on this machine"
        return f"{self.images:,} images, {self.calls:,} denoiser calls: {took}{more}"


def estimate_benchmark(
    benchmark: Benchmark, recipes: tuple[Recipe, ...], *, name: str | None = None
) -> Estimate:
    """How long `bench` will take, from a few steps sampled now; of an interrupted one called `name`,
    the rest.

    Raises what `bench` would raise. Loads the model; quantized ones are taken to be slower by what
    earlier benchmarks of the model found."""
    check_benchmark(benchmark, recipes)
    folder = kept.folder_of(name) if name else None
    steps, parts = benchmark.sampling.steps, layout(benchmark)
    slower = _slower(recipes[0].model)
    batch = min(benchmark.batch, benchmark.images)
    a_call = time_step(recipes[0].model, benchmark.sampling, batch)
    images, calls, seconds = 0, 0, 0.0
    for who in range(len(recipes) + 2):
        left = [p for p in parts if not (folder and kept.load_batch(folder, who, p.number))]
        count = sum(part.count for part in left)
        images, calls = images + count, calls + steps * len(left)
        # In proportion to images: a smaller batch takes less time.
        seconds += count / benchmark.batch * steps * a_call * (slower if who > 1 else 1.0)
    return Estimate(images, calls, seconds, tuple(r.name for r in recipes if list_missing(r)))


def _slower(model: str) -> float:
    """How much longer quantized models took than the float one in the finished benchmarks of
    `model`.
    """
    for name in kept.list_finished():
        try:
            report = kept.load_report(name)
        except DmqError:
            continue
        if report.model == model:
            took = dict.fromkeys(report.recipes, 0.0)
            for row in report.rows:
                took[row.recipe] += row.seconds
            quantized = [took[who] for who in report.coverage]
            return max(1.0, sum(quantized) / len(quantized) / took[FLOAT_NAME])
    return SLOWER
