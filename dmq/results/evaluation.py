"""What was measured of images: comparisons and benchmarks with all their context."""

from dataclasses import dataclass, field

from ..recipe import SIMULATED, Benchmark


@dataclass(frozen=True, kw_only=True)
class ImageScore:
    """One quantized image against the float one from the same noise."""

    recipe: str
    prompt: str
    seed: int
    psnr: float  # dB, on images in 0..1; inf when equal
    ssim: float


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """What is quantized to what in a model that was measured, and what computed it."""

    quantized: str  # to what, in one sentence for people
    in_float: str = "nothing"  # what stays there, for people
    engine: str = SIMULATED  # one of ENGINES
    kernels: dict[str, int] = field(default_factory=dict)  # layers by what ran them, if executed
    fell_back: dict[str, int] = field(default_factory=dict)  # layers by the reason why none did


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was measured in a comparison, with its context."""

    scores: tuple[ImageScore, ...]
    seconds: dict[str, float]  # by recipe name, "float" included: sampling time of all its images
    bytes: dict[str, int]
    coverage: dict[str, Coverage]  # by recipe name
    noise_floor: dict[
        str, float
    ]  # PSNR and SSIM of float images against float ones with other seeds
    samples: int
    warnings: tuple[str, ...] = ()
    place: str = ""  # where it ran: device, dtype, offload


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
    coverage: dict[str, Coverage]  # by recipe name
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
