"""What quantized models are tried on: comparisons, benchmarks, probes."""

from dataclasses import dataclass

from ..errors import DmqError
from .recipe import Sampling
from .spec import Spec, check_prompts, option


@dataclass(frozen=True, kw_only=True)
class Comparison(Spec):
    """Images to generate with the float model and with quantized ones, from the same noise."""

    prompts: tuple[str, ...] = (
        "grinning cat",
    )  # for a model without prompts, their number is what counts
    seeds: tuple[int, ...] = (0,)
    sampling: Sampling = Sampling()

    def __post_init__(self) -> None:
        check_prompts(self.prompts)
        if not self.prompts or not self.seeds:
            raise DmqError("a comparison needs at least one prompt and one seed.")
        if any(type(seed) is not int or not 0 <= seed < 2**63 for seed in self.seeds):
            raise DmqError(f"seeds must be whole numbers from 0, got {list(self.seeds)}.")


PAIRED = (
    "psnr",
    "ssim",
    "distance",
    "latent",
)  # one number for each image, against the float one of the same noise


SETS = ("fid", "kid", "cmmd")  # one number for all images of a domain


MEASURES = (*PAIRED, *SETS, "clip")


@dataclass(frozen=True, kw_only=True)
class Domain(Spec):
    """A named list of prompts; for a model without prompts, their number is what counts."""

    name: str
    prompts: tuple[str, ...]

    def __post_init__(self) -> None:
        check_prompts(self.prompts)
        if not self.name.strip() or len(self.name) > 60:
            raise DmqError(f"a domain needs a name of 1 to 60 characters, got {self.name!r:.80}.")
        if not self.prompts:
            raise DmqError(f"domain {self.name!r} has no prompts.")
        if len(set(self.prompts)) < len(self.prompts):
            twice = next(
                prompt for n, prompt in enumerate(self.prompts) if prompt in self.prompts[:n]
            )
            raise DmqError(
                f"domain {self.name!r} has the prompt {twice!r} twice: it would count as two."
            )


@dataclass(frozen=True, kw_only=True)
class Benchmark(Spec):
    """Images by which quantized models are measured against the float one (QDiffBench).

    The noise floor is the float model with as many other seeds.
    """

    domains: tuple[Domain, ...]
    seeds: tuple[int, ...] = (0,)
    sampling: Sampling = Sampling()
    features: str = "emoji-clip"  # or a folder or Hub id of a CLIP model
    reference: str = (
        ""  # a folder of real images; none: those that ship with the features, if any do
    )
    measures: tuple[str, ...] = MEASURES
    batch: int = option(8, "Images at a time", 1, 256)

    def __post_init__(self) -> None:
        super().__post_init__()
        names = [domain.name for domain in self.domains]
        if not names or len(set(names)) < len(names):
            raise DmqError(f"a benchmark needs domains with different names, got {names}.")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise DmqError(f"a benchmark needs seeds that differ, got {list(self.seeds)}.")
        if any(type(seed) is not int or not 0 <= seed < 2**62 for seed in self.seeds):
            raise DmqError(f"seeds must be whole numbers from 0, got {list(self.seeds)}.")
        if unknown := [name for name in self.measures if name not in MEASURES]:
            raise DmqError(f"measures: {unknown[0]!r} is none of {', '.join(MEASURES)}.")
        if not self.measures:
            raise DmqError(f"nothing to measure: choose among {', '.join(MEASURES)}.")

    @property
    def floor_seeds(self) -> tuple[int, ...]:
        """As many seeds as `seeds`, all of them others."""
        return tuple(max(self.seeds) + 1 + k for k in range(len(self.seeds)))

    @property
    def images(self) -> int:
        """How many images each model generates."""
        return len(self.seeds) * sum(len(domain.prompts) for domain in self.domains)


@dataclass(frozen=True, kw_only=True)
class Probe(Spec):
    """An experiment: the quantization error of some steps, amplified, with all other steps in
    float (PCR).
    """

    windows: int = option(
        4, "Windows", 1, 20, help="The trajectory is cut into so many, and each is tried."
    )
    first: int | None = None  # a single window from here …
    last: int | None = None  # … to here, both included
    gains: tuple[float, ...] = (1.0, 2.0, 4.0)
    prompt: str = "grinning cat"
    seed: int = option(0, "Seed", 0, 2**31 - 1)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_prompts((self.prompt,))
        if (self.first is None) != (self.last is None):
            raise DmqError("a window of its own needs both its first and its last step.")
        if not self.gains or not all(0 <= gain <= 100 for gain in self.gains):
            raise DmqError(
                f"gains must be one or more numbers from 0 to 100, got {list(self.gains)}."
            )
