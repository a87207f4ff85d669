"""What was measured of images: comparisons and benchmarks with all their context."""

from dataclasses import dataclass

from ..recipe import ENGINES, SIMULATED, Benchmark


@dataclass(frozen=True, kw_only=True)
class ImageScore:
    """One quantized image against the float one from the same noise."""

    recipe: str
    prompt: str
    seed: int
    psnr: float  # dB, on images in 0..1; inf when equal
    ssim: float


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was measured in a comparison, with its context."""

    scores: tuple[ImageScore, ...]
    seconds: dict[str, float]  # by recipe name, "float" included: sampling time of all its images
    bytes: dict[str, int]
    coverage: dict[str, str]  # by recipe name, one line: what stayed in float
    noise_floor: dict[
        str, float
    ]  # PSNR and SSIM of float images against float ones with other seeds
    samples: int
    warnings: tuple[str, ...] = ()
    place: str = ""  # where it ran: device, dtype, offload


@dataclass(frozen=True)
class Execution:
    """A line of coverage in its parts: what is quantized to what, what computed it, and which
    kernels ran it.
    """

    quantized: str
    engine: str  # one of ENGINES
    kernels: tuple[str, ...] = ()  # such as "41 layers on oneDNN int8"; empty if simulated
    fell_back: tuple[str, ...] = ()  # such as "2 in float (it is split and has groups)"

    @classmethod
    def of(cls, coverage: str) -> "Execution":
        """The parts of what `stages.coverage` says, of which a report keeps only the line."""
        for engine in ENGINES:
            quantized, executed, ran = coverage.partition(f"; {engine}: ")
            if executed:
                parts = ran.split("; ")
                slow = tuple(part for part in parts if " in float (" in part)
                return cls(
                    quantized, engine, tuple(part for part in parts if part not in slow), slow
                )
        return cls(coverage, SIMULATED)

    def line(self) -> str:
        """What computed it: "simulated", or "executed: 41 layers on oneDNN int8; ⚠ fell back: 2
        in float (…)".
        """
        said = f"{self.engine}: {', '.join(self.kernels)}" if self.kernels else self.engine
        return f"{said}; ⚠ fell back: {', '.join(self.fell_back)}" if self.fell_back else said


def speed(seconds: float, float_seconds: float) -> str:
    """How many times as fast as the float model, such as "1.83×"; "–" where no time was taken."""
    return f"{float_seconds / seconds:.2f}×" if seconds > 0 else "–"


@dataclass(frozen=True, kw_only=True)
class Measure:
    """What a figure of a benchmark means."""

    name: str
    label: str
    unit: str
    higher: bool  # is more better?
    digits: int
    help: str
    paired: bool = True  # a number for each image; otherwise one for a set of images
    times: float = 1.0  # shown values are this times the measure as published


BENCH_MEASURES = {
    measure.name: measure
    for measure in (
        Measure(
            name="psnr",
            label="PSNR",
            unit="dB",
            higher=True,
            digits=2,
            help="peak signal-to-noise ratio against the float image of the same noise",
        ),
        Measure(
            name="ssim",
            label="SSIM",
            unit="",
            higher=True,
            digits=4,
            help="structural similarity to the float image of the same noise",
        ),
        Measure(
            name="distance",
            label="Feature distance",
            unit="",
            higher=False,
            digits=4,
            help="distance of features from those of the float image, over the length of the "
            "latter",
        ),
        Measure(
            name="latent",
            label="Latent error",
            unit="",
            higher=False,
            digits=4,
            help="squared distance of the finished sample from the float one, over the power of "
            "the latter",
        ),
        Measure(
            name="fid",
            label="FID to float",
            unit="",
            higher=False,
            digits=3,
            paired=False,
            help="Fréchet distance of features to those of the float images; biased upwards at "
            "small n",
        ),
        Measure(
            name="kid",
            label="KID to float × 1000",
            unit="",
            higher=False,
            digits=4,
            paired=False,
            times=1000,
            help="kernel distance of features to those of the float images, unbiased: may be "
            "below 0",
        ),
        Measure(
            name="cmmd",
            label="CMMD to float",
            unit="",
            higher=False,
            digits=4,
            paired=False,
            help="Gaussian-kernel distance of unit features to those of the float images, times "
            "1000",
        ),
        Measure(
            name="clip",
            label="CLIP score",
            unit="",
            higher=True,
            digits=2,
            help="100 times the cosine of image and prompt, 0 where negative",
        ),
        Measure(
            name="real fid",
            label="FID to real",
            unit="",
            higher=False,
            digits=3,
            paired=False,
            help="Fréchet distance of features to those of real images: another domain, never "
            "read alone",
        ),
        Measure(
            name="real kid",
            label="KID to real × 1000",
            unit="",
            higher=False,
            digits=4,
            paired=False,
            times=1000,
            help="kernel distance of features to those of real images: another domain",
        ),
        Measure(
            name="real cmmd",
            label="CMMD to real",
            unit="",
            higher=False,
            digits=4,
            paired=False,
            help="Gaussian-kernel distance of unit features to those of real images: another "
            "domain",
        ),
    )
}


FLOOR_NAME = "float, other seeds"  # whose figures are the noise floor of a benchmark


@dataclass(frozen=True, kw_only=True)
class BenchImage:
    """One image of a benchmark against the float one of the same prompt and seed."""

    recipe: str
    domain: str
    number: int  # position among the benchmark's images, which is also its file's name
    prompt: str
    seed: int
    finite: bool  # otherwise it has no values: it is counted, and in no mean
    values: dict[str, float]  # by measure


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A measured value with its 95 % interval over prompts."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class BenchRow:
    """What one model got in one domain; the noise floor is the row of FLOOR_NAME."""

    recipe: str
    domain: str
    samples: int  # images that the figures are of
    failed: int  # images with numbers that are not finite, left out
    figures: dict[str, Figure]  # by measure
    seconds: float  # of sampling all images of the domain


@dataclass(frozen=True, kw_only=True)
class BenchReport:
    """A benchmark with all its context (contract 8)."""

    model: str
    sampler: str
    features: str
    reference: str  # what the real images are; "" without
    benchmark: Benchmark
    rows: tuple[BenchRow, ...]
    images: tuple[BenchImage, ...]
    bytes: dict[str, int]  # by recipe name, "float" included
    coverage: dict[str, str]  # by recipe name, one line
    machine: str  # where the seconds were taken
    warnings: tuple[str, ...] = ()

    def row(self, recipe: str, domain: str) -> BenchRow | None:
        return next(
            (row for row in self.rows if (row.recipe, row.domain) == (recipe, domain)), None
        )

    def floor(self, domain: str, measure: str) -> float:
        """The noise floor: the measure of float images with other seeds; nan if it was not
        measured.
        """
        row = self.row(FLOOR_NAME, domain)
        return row.figures[measure].value if row and measure in row.figures else float("nan")

    @property
    def recipes(self) -> tuple[str, ...]:
        """The rows' models in order: float and its noise floor first."""
        return tuple(dict.fromkeys(row.recipe for row in self.rows))
