"""What an error at some steps does to the image (PCR)."""

import itertools
from collections.abc import Generator
from pathlib import Path
from typing import Any

from .. import jsonio
from ..errors import DmqError
from ..metrics.references import load_scorer
from ..models.libraries import import_libraries, load
from ..models.trajectories import SampledTrajectory, measure_latent_errors, sample_trajectory
from ..progress import Progress, progress_timer
from ..recipe import Probe, Recipe
from ..results import ProbeImage
from ..store import learned
from ..workflow.answers import get_simulated, trajectory_key
from ..workflow.steps import carry_out
from .error_curves import questions


def split_windows(spec: Probe, steps: int) -> tuple[tuple[int, int], ...]:
    """First step and last plus one of each of the probe's windows.

    Raises DmqError if there are more than steps.
    """
    if spec.first is not None:
        if spec.last is None or not 0 <= spec.first < spec.last < steps:
            raise DmqError(
                f"the window {spec.first} to {spec.last} does not lie within 0 to {steps - 1}."
            )
        return ((spec.first, spec.last + 1),)
    if spec.windows > steps:
        raise DmqError(f"{spec.windows} windows of {steps} steps; ask for {steps} or fewer.")
    return tuple(
        itertools.pairwise(round(n * steps / spec.windows) for n in range(spec.windows + 1))
    )


def run_probe(
    recipe: Recipe, spec: Probe, *, again: bool = False
) -> Generator[Progress | ProbeImage, None, tuple[ProbeImage, ...]]:
    """Multiply the quantization error eps_q - eps by a gain within one window of steps, leave the
    rest in float.

    Yields and returns what each (window, gain) makes of the image beside the float one. A
    question that was answered before is answered from what was kept, unless `again`. Source: pcr,
    "the probe"."""
    from ..metrics import pixel

    windows = split_windows(spec, recipe.sampling.steps)
    if not again and (kept := find_probe(recipe, spec)):
        return kept
    yield from carry_out(recipe)
    yield Progress("Load the model", 0, 1)
    import_libraries()
    from ..models.windows import amplify_error

    loaded, jobs = load(recipe.model), [(spec.prompt, spec.seed)]
    scorer = load_scorer(recipe.model)
    at, steps = progress_timer("Probe"), recipe.sampling.steps
    total = (1 + len(windows) * len(spec.gains)) * steps
    started = itertools.count()

    def generate(model: Any) -> Generator[Progress, None, SampledTrajectory]:
        before = next(started) * steps
        return sample_trajectory(
            loaded, model, jobs, recipe.sampling, lambda done, _: at(before + done, total)
        )

    def match(walked: SampledTrajectory) -> float:
        return float(scorer.match(walked.images, [spec.prompt])[0]) if scorer else float("nan")

    exact = yield from generate(loaded.denoiser)
    found = []
    for start, end in windows:
        for gain in spec.gains:
            model = amplify_error(
                get_simulated(recipe), loaded.denoiser, range(start, end), inside=gain
            )
            own = yield from generate(model)
            found.append(
                ProbeImage(
                    start=start,
                    end=end,
                    gain=gain,
                    pixels=own.images[0],
                    exact=exact.images[0],
                    error=float(measure_latent_errors(own.latents[-1], exact.latents[-1])[0]),
                    psnr=pixel.psnr(own.images[0], exact.images[0]),
                    match=match(own),
                    match_float=match(exact),
                )
            )
            yield found[-1]
    question = {"recipes": (recipe,), "probe": spec}
    learned.save_probe(_probe_folder(recipe, spec, own=True), question, tuple(found))
    return tuple(found)


def find_probe(recipe: Recipe, spec: Probe) -> tuple[ProbeImage, ...] | None:
    """What `probe` found when it was asked the same; None if it was not, or if the recipe is not
    prepared.
    """
    try:
        folder = _probe_folder(recipe, spec)
    except DmqError:  # something that the recipe stands on was not captured or measured yet
        return None
    return learned.load_probe(folder) if folder.is_dir() else None


def find_last_probe(recipe: Recipe) -> tuple[Probe, tuple[ProbeImage, ...]] | None:
    """The last probe of `recipe` and what it found; None if there was none."""
    for question in questions("probe", recipe, recipes=tuple[Recipe, ...], probe=Probe):
        if found := find_probe(recipe, question["probe"]):
            return question["probe"], found
    return None


def _probe_folder(recipe: Recipe, spec: Probe, *, own: bool = False) -> Path:
    return learned.trajectory_folder(
        "probe", jsonio.key_data(spec), trajectory_key(recipe), own=own
    )
