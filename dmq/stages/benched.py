"""The figures of one model in a benchmark, from what was drawn; no model is run but the one that
sees features.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import DmqError
from ..recipe import PAIRED, SETS, Benchmark
from ..results import BENCH_MEASURES, BenchPicture, BenchRow, Figure
from ..runs import benchmarks as kept
from .reference import seen


if TYPE_CHECKING:
    from ..models.clip import PictureText


@dataclass(frozen=True)
class Part:
    """A batch of the benchmark's layout: pictures of one domain, drawn by one pipeline call."""

    number: int
    domain: str
    first: int  # number of its first picture
    count: int


def layout(benchmark: Benchmark) -> list[Part]:
    """The batches of every model: fixed, since a picture may depend on the size of its batch in
    the last bit.
    """
    parts, first = [], 0
    for domain in benchmark.domains:
        count = len(domain.prompts) * len(benchmark.seeds)
        for start in range(0, count, benchmark.batch):
            parts.append(
                Part(len(parts), domain.name, first + start, min(benchmark.batch, count - start))
            )
        first += count
    return parts


@dataclass(frozen=True)
class Bench:
    """What measuring needs besides pictures."""

    folder: Any  # of the benchmark
    benchmark: Benchmark
    prompted: bool
    eye: "PictureText | None"  # None: no measure needs features
    real: np.ndarray | None  # features [N, D] of real pictures

    @property
    def measures(self) -> tuple[str, ...]:
        return tuple(name for name in self.benchmark.measures if name != "clip" or self.prompted)

    def measure(self, who: int, name: str) -> kept.Found:
        """What there is to say of model `who`, called `name`; `who` 0 is the float model."""
        parts = [
            (part, kept.load_batch(self.folder, who, part.number))
            for part in layout(self.benchmark)
        ]
        jobs, finite, columns = kept.jobs_of(self.benchmark), [], []
        floats = kept.load_rows(self.folder, 0).arrays if who else {}
        for part, batch in parts:
            ok = np.isfinite(batch.latents.reshape(part.count, -1)).all(1)
            column = dict(self._seen(batch, [jobs[part.first + n][1] for n in range(part.count)]))
            if who:
                rows = slice(part.first, part.first + part.count)
                ok &= floats["finite"][rows].astype(bool)
                against = kept.load_batch(self.folder, 0, part.number)
                column |= dict(
                    self._paired(batch, against, column, {k: x[rows] for k, x in floats.items()})
                )
            finite.append(ok)
            columns.append(column)
        whole = {key: np.concatenate([column[key] for column in columns]) for key in columns[0]}
        arrays = {"finite": np.concatenate(finite).astype(np.uint8)}
        arrays |= {"features": whole.pop("features")} if "features" in whole else {}
        pictures = [self._picture(name, n, job, arrays, whole) for n, job in enumerate(jobs)]
        seconds = {d.name: 0.0 for d in self.benchmark.domains}
        for part, batch in parts:
            seconds[part.domain] += batch.seconds
        notes: list[str] = []
        made = tuple(
            self._row(name, domain, pictures, arrays, floats, seconds[domain.name], notes)
            for domain in self.benchmark.domains
        )
        return kept.Found(made, tuple(pictures), arrays, tuple(notes))

    def _seen(self, batch: kept.Batch, prompts: list[str]) -> Iterator[tuple[str, np.ndarray]]:
        from ..metrics.text import clip_score
        from ..numerics.threads import one_thread

        if self.eye is not None and {"distance", *SETS} & set(self.measures):
            yield "features", seen(self.eye, batch.pictures)
        if self.eye is not None and "clip" in self.measures:
            with one_thread():
                yield "clip", clip_score(self.eye.match(batch.pictures, prompts))

    def _paired(
        self, batch: kept.Batch, floats: kept.Batch, own: dict, their: dict
    ) -> Iterator[tuple[str, np.ndarray]]:
        from ..metrics import paired

        yield from (
            item
            for item in paired.pixels(batch.pictures, floats.pictures).items()
            if item[0] in self.measures
        )
        if "latent" in self.measures:
            with np.errstate(
                invalid="ignore", over="ignore"
            ):  # of pictures that have no values in the end
                yield "latent", paired.relative_error(batch.latents, floats.latents)
        if "distance" in self.measures:
            yield "distance", paired.feature_distance(own["features"], their["features"])

    def _picture(self, name: str, n: int, job: tuple, arrays: dict, columns: dict) -> BenchPicture:
        domain, prompt, seed = job
        finite = bool(arrays["finite"][n])
        values = {key: float(column[n]) for key, column in columns.items()} if finite else {}
        return BenchPicture(
            recipe=name,
            domain=domain,
            number=n,
            prompt=prompt,
            seed=seed,
            finite=finite,
            values=values,
        )

    def _row(
        self,
        name: str,
        domain: Any,
        pictures: list,
        arrays: dict,
        floats: dict,
        seconds: float,
        notes: list[str],
    ) -> BenchRow:
        own = [picture for picture in pictures if picture.domain == domain.name]
        good = [picture for picture in own if picture.finite]
        figures = dict(self._means(good))
        if "features" in arrays and good:
            rows = np.array([picture.number for picture in good])
            said = f"{name}, {domain.name}"
            figures |= dict(
                self._distances(rows, _prompts(good, self.prompted), arrays, floats, said, notes)
            )
        return BenchRow(
            recipe=name,
            domain=domain.name,
            samples=len(good),
            failed=len(own) - len(good),
            figures=figures,
            seconds=seconds,
        )

    def _means(self, good: list[BenchPicture]) -> Iterator[tuple[str, Figure]]:
        from ..metrics.intervals import bootstrap

        clusters = _prompts(good, self.prompted)
        for key in (*PAIRED, "clip"):
            values = np.array([picture.values[key] for picture in good if key in picture.values])
            if len(values):
                low, high = bootstrap(values, clusters)
                yield key, Figure(value=float(values.mean()), low=low, high=high)

    def _distances(
        self,
        rows: np.ndarray,
        clusters: np.ndarray,
        arrays: dict,
        floats: dict,
        said: str,
        notes: list[str],
    ) -> Iterator[tuple[str, Figure]]:
        """Distances between sets: to the float pictures, of the same prompts and seeds, and to
        real ones.
        """
        from ..metrics.sets import SET_MEASURES, Features

        own = arrays["features"][rows].astype(np.float64)
        theirs = floats["features"][rows].astype(np.float64) if floats else None
        real = Features(self.real.astype(np.float64)) if self.real is not None else None
        for key in (key for key in SETS if key in self.measures):
            measure = SET_MEASURES[key]

            def to_float(chosen: np.ndarray, measure: Callable = measure) -> float:
                return measure(own[chosen], theirs[chosen], len(own) - len(chosen))

            def to_real(chosen: np.ndarray, measure: Callable = measure) -> float:
                return measure(own[chosen], real, len(own) - len(chosen))

            for label, distance, there in ((key, to_float, theirs), (f"real {key}", to_real, real)):
                if there is None:
                    continue
                try:
                    yield label, _figure(distance, clusters, BENCH_MEASURES[label].times)
                except DmqError as error:
                    notes.append(f"{said}: {error}")


def _figure(distance: Callable[[np.ndarray], float], clusters: np.ndarray, times: float) -> Figure:
    from ..metrics.intervals import jackknife

    value, (low, high) = distance(np.arange(len(clusters))), jackknife(distance, clusters)
    return Figure(value=times * value, low=times * low, high=times * high)


def _prompts(pictures: list[BenchPicture], prompted: bool) -> np.ndarray:
    """A number for each picture that is the same for those of one prompt; without prompts, each
    stands alone.
    """
    if not prompted:
        return np.array([picture.number for picture in pictures])
    numbers = {
        prompt: n for n, prompt in enumerate(dict.fromkeys(picture.prompt for picture in pictures))
    }
    return np.array([numbers[picture.prompt] for picture in pictures])
