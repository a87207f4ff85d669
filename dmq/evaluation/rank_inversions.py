"""What a benchmark's table shows that is easily overlooked: where the two references disagree
about who is better.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import product

import numpy as np

from ..progress import FLOAT_NAME
from ..recipe import SETS, Domain
from ..results import BENCH_MEASURES, FLOOR_NAME, BenchReport, BenchRow, Figure


@dataclass(frozen=True, kw_only=True)
class Inversion:
    """Real images rank `damaged` above `better`, the float model's own images surely do not."""

    domain: str
    measure: str  # "fid", "kid" or "cmmd"
    damaged: str
    better: str
    to_float: tuple[Figure, Figure]  # of both, the damaged one first; the float model's own is 0
    to_real: tuple[Figure, Figure]
    psnr: tuple[float, float]  # nan where it was not measured
    samples: int
    apart: bool  # do the intervals of the distances to the float images not overlap?
    lost: tuple[float, float] | None = None  # interval of the PSNR that it has more, image by image

    @property
    def sure(self) -> bool:
        """Do the intervals of the distances to real images not overlap either?"""
        return self.to_real[0].high < self.to_real[1].low

    def __str__(self) -> str:
        overlap = ", intervals overlap"
        label = BENCH_MEASURES[self.measure].label.partition(" ")[0]
        a, b = (
            f"{figure.value:.3g} [{figure.low:.3g}, {figure.high:.3g}]" for figure in self.to_real
        )
        c, d = (f"{figure.value:.3g}" for figure in self.to_float)
        seen = f", PSNR {self.psnr[0]:.1f} dB" if self.psnr[0] == self.psnr[0] else ""
        seen += f" against {self.psnr[1]:.1f} dB" if self.psnr[1] == self.psnr[1] and seen else ""
        if self.lost and seen:
            seen += f", image by image [{self.lost[0]:+.1f}, {self.lost[1]:+.1f}] dB"
        return (
            f"{self.domain}: by {label} to real images {self.damaged} is better than "
            f"{self.better} ({a} against {b}{'' if self.sure else overlap}), by {label} to the "
            f"float images it is worse ({c} against {d}{'' if self.apart else overlap}{seen}); n "
            f"= {self.samples}."
        )


def find_inversions(report: BenchReport) -> list[Inversion]:
    """Pairs of models where distance to real images prefers the more damaged one, the clearest
    first.

    "More damaged" means farther from the float images by the same measure, and not closer by
    PSNR; and surely so: the intervals of that measure do not overlap, or PSNR is surely lower over
    the same images, which is the sharper question where both generate them from the same noise. The
    float model itself is at distance 0 from its images."""
    found = [one for domain in report.benchmark.domains for one in _in_domain(report, domain)]
    return sorted(found, key=_rank)


def _rank(one: Inversion) -> tuple:
    return (
        not (one.sure and one.apart),
        not one.apart,
        SETS.index(one.measure),
        one.better != FLOAT_NAME,
        -_gap(one),
    )


def _gap(one: Inversion) -> float:
    """By how much of its own size the distance to real images is smaller for the damaged one."""
    damaged, better = (figure.value for figure in one.to_real)
    return (better - damaged) / max(abs(better), 1e-12)


def _in_domain(report: BenchReport, domain: Domain) -> Iterator[Inversion]:
    names = [name for name in report.recipes if name != FLOOR_NAME]
    rows = [row for row in (report.row(name, domain.name) for name in names) if row]
    lost = _lost(report, domain)
    for measure, damaged, better in product(SETS, rows, rows):
        pair = _pair(damaged, better, measure)
        if pair is None or pair.psnr[0] > pair.psnr[1]:
            continue
        pair = replace(pair, lost=lost(damaged.recipe, better.recipe))
        if pair.apart or (pair.lost is not None and pair.lost[1] < 0):
            yield pair


def _pair(damaged: BenchRow, better: BenchRow, measure: str) -> Inversion | None:
    """The two as an inversion if their figures are in opposite order, however unsure."""
    real = f"real {measure}"
    # The float model is no damaged one, though an unbiased KID of images of the same seeds lies
    # below its 0.
    if (
        damaged is better
        or damaged.recipe == FLOAT_NAME
        or not all(real in row.figures for row in (damaged, better))
    ):
        return None
    first, second = (_to_float(row, measure) for row in (damaged, better))
    to_real = damaged.figures[real], better.figures[real]
    values = [row.figures.get("psnr") for row in (damaged, better)]
    psnr = [figure.value if figure else math.nan for figure in values]
    if first is None or second is None or not first.value > second.value:
        return None
    if not to_real[0].value < to_real[1].value:
        return None
    if f"{to_real[0].value:.3g}" == f"{to_real[1].value:.3g}":  # a difference that nobody goes by
        return None
    return Inversion(
        domain=damaged.domain,
        measure=measure,
        damaged=damaged.recipe,
        better=better.recipe,
        to_float=(first, second),
        to_real=to_real,
        psnr=(psnr[0], psnr[1]),
        samples=min(damaged.samples, better.samples),
        apart=first.low > second.high,
    )


def _lost(report: BenchReport, domain: Domain) -> Callable[[str, str], tuple[float, float] | None]:
    """A function of two models: the interval of the first one's PSNR less the second one's over
    the same images.
    """
    psnr: dict[str, dict[int, float]] = {}
    prompts = {image.number: image.prompt for image in report.images if image.domain == domain.name}
    for image in report.images:
        if image.domain == domain.name and math.isfinite(image.values.get("psnr", math.inf)):
            psnr.setdefault(image.recipe, {})[image.number] = image.values["psnr"]

    @cache
    def interval(one: str, other: str) -> tuple[float, float] | None:
        from ..metrics.intervals import bootstrap

        both = sorted(psnr.get(one, {}).keys() & psnr.get(other, {}).keys())
        if len(both) < 2:
            return None
        seeds_alone = len(domain.prompts) == 1
        clusters = np.unique(
            [str(n) if seeds_alone else prompts[n] for n in both], return_inverse=True
        )[1]
        low, high = bootstrap(np.array([psnr[one][n] - psnr[other][n] for n in both]), clusters)
        return (low, high) if math.isfinite(low) else None

    return interval


def _to_float(row: BenchRow, measure: str) -> Figure | None:
    zero = Figure(value=0.0, low=0.0, high=0.0)
    return zero if row.recipe == FLOAT_NAME else row.figures.get(measure)
