"""Images of quantized models beside those of the float model."""

from collections.abc import Sequence
from pathlib import Path

from .. import stages
from ..recipe import Comparison, Recipe, Sampling
from ..results import Report
from .load_recipe import load_recipes
from .prepare import prepare
from .run_to_end import OnImage, OnProgress, run_to_end


def compare(
    recipes: Recipe | str | Path | tuple[Recipe | str | Path, ...],
    *,
    prompts: Sequence[str] = ("grinning cat",),
    seeds: Sequence[int] = (0,),
    sampling: Sampling | None = None,
    name: str | None = None,
    progress: OnProgress = None,
    on_image: OnImage = None,
) -> Report:
    """Generate images with the float model and with each recipe of it, from the same noise; returns
    the report.

    The report holds PSNR (dB) and SSIM against the float images, the noise floor (float against
    float with another seed), bytes, seconds and what stayed in float. `sampling` is the first
    recipe's unless given. With a `name`, the run is saved under it with its images. `on_image` gets
    each `Image`, also those on the way (`step` is not None). Raises DmqError for recipes of
    several models or of one name.

    >>> import dmq
    >>> from dmq.recipe import Calibration, Sampling
    >>> small = {"sampling": Sampling(steps=2), "calibration": Calibration(samples=1)}
    >>> recipe = dmq.load_recipe("W8A8, one range", model="emoji-ddpm", **small)
    >>> report = dmq.compare(recipe, seeds=[0, 1])
    >>> [score.seed for score in report.scores], report.bytes["W8A8, one range"] < report.bytes["float"]
    ([0, 1], True)
    """
    chosen = load_recipes(recipes)
    for recipe in chosen:
        prepare(recipe, progress=progress)
    prompts = (prompts,) if isinstance(prompts, str) else tuple(prompts)
    sampling = sampling or (chosen[0].sampling if chosen else Sampling())
    comparison = Comparison(prompts=prompts, seeds=tuple(seeds), sampling=sampling)
    return run_to_end(stages.compare(comparison, chosen, name=name), progress, on_image)
