"""What is timed: one denoiser step of a U-Net as large as Stable Diffusion 1.5's, or whole images
of a pipeline.

A subject is made ready once (`prepare`: random weights on disk, dmq's capture, denoiser calls to
calibrate from), then opened by every row in a process of its own. It never goes through
`dmq.models.loading.load`, whose cache would keep the float weights that a quantized model does
without."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    DiffusionPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from dmq.capture.activations import calibration_images, capture_activations
from dmq.capture.replay import repeat, rows_of
from dmq.capture.trajectories import record_trajectory
from dmq.errors import DmqError
from dmq.models import libraries
from dmq.models.borrow import borrow
from dmq.models.loading import ADAPTERS, MODELS, Loaded, is_embedded, quiet, sample, with_denoiser
from dmq.models.tiny import calm, ddim_scheduler, letters, tiny_sd
from dmq.progress import run_to_end
from dmq.quantizers.plan import make_plan, site_bits
from dmq.recipe import (
    EMBEDDED,
    Activations,
    Calibration,
    MinMax,
    Override,
    Recipe,
    Sampling,
    SharedRange,
    UniformGroups,
    Weights,
)
from dmq.results import Plan
from dmq.store import captures, folders
from dmq.trajectory.errors import ErrorTable
from dmq.trajectory.grouping import group_timesteps
from dmq.workflow.learning import capture_statistics


UNET = "unet"  # the subject that is one step
STEPS = 8  # that its ranges come from
UNSEEN = 100_000  # first seed of the images that are timed
IMAGES = 16  # of them, before they come again
CALLS = 64  # denoiser calls that peers calibrate from, at most


class _Enough(Exception):
    pass


@dataclass(frozen=True)
class Subject:
    """A float pipeline, the recipe that dmq quantizes it by, and the work that is timed."""

    name: str
    loaded: Loaded
    recipe: Recipe

    @property
    def sample_name(self) -> str:
        """What the denoiser calls its noisy image."""
        return "sample" if self.loaded.component == "unet" else "hidden_states"

    def calls(self) -> list[dict[str, Any]]:
        """Keyword arguments of recorded denoiser calls: evenly spread steps, each of another
        calibration image.
        """
        if self.name == UNET:
            trajectory, images = captures.load_trajectory(captures.find_capture(self.recipe)), 1
        else:
            prompts, seeds = zip(
                *calibration_images(self.loaded, self.recipe.calibration), strict=True
            )
            images = len(seeds)
            trajectory, _ = record_trajectory(
                self.loaded, prompts=prompts, seeds=seeds, sampling=self.recipe.sampling
            )
        seen: list[dict[str, Any]] = []

        def stop(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
            seen.append(kwargs)
            raise _Enough

        denoiser = borrow(self.loaded.denoiser)
        denoiser.register_forward_pre_hook(stop, with_kwargs=True)
        every = np.unique(np.linspace(0, len(trajectory.step) - 1, CALLS).round().astype(int))
        for n in every.tolist():
            try:
                repeat(denoiser, trajectory, n, rows_of(trajectory, n, [n % images]))
            except _Enough:
                pass
        return seen

    def plan(
        self, groups: int = 1, dynamic: str = "none", overrides: tuple[Override, ...] = ()
    ) -> Plan:
        """What dmq makes of the captured statistics with `groups` uniform groups of steps, or
        `dynamic` ranges.

        `get_plan` would do, but keeps the float model in memory, whose share of it is measured
        here."""
        recipe = replace(
            self.recipe,
            grouping=UniformGroups(count=groups) if groups > 1 else SharedRange(),
            activations=replace(self.recipe.activations, dynamic=dynamic),
            overrides=overrides,
        )
        stats, info = captures.load_stats(captures.find_capture(recipe)), self.loaded.info
        table = ErrorTable(stats, recipe.activations, site_bits(info, recipe, stats))
        return make_plan(info, recipe, stats, table.errors(group_timesteps(recipe.grouping, table)))

    def work(self, denoiser: nn.Module) -> Callable[[int], Tensor]:
        """What a round is: `work(n)` computes with `denoiser` and returns what is compared to the
        float model's.

        It holds nothing of the float denoiser.
        """
        return self._step(denoiser) if self.name == UNET else self._image(denoiser)

    def _step(self, denoiser: nn.Module) -> Callable[[int], Tensor]:
        # Mirrored, the recorded calls are new to everybody and still what the model meets at these
        # steps.
        calls = [
            call | {self.sample_name: call[self.sample_name].flip(-1)} for call in self.calls()
        ]
        return lambda n: denoiser(**calls[n % len(calls)])[0]

    def _image(self, denoiser: nn.Module) -> Callable[[int], Tensor]:
        pipe = with_denoiser(self.loaded, denoiser)
        bare = replace(self.loaded, pipe=pipe)
        sampling = self.recipe.sampling
        jobs = calibration_images(bare, Calibration(samples=IMAGES, seed=UNSEEN))

        def image(n: int) -> Tensor:
            prompt, seed = jobs[n % len(jobs)]
            last: list[Tensor] = []
            sample(
                pipe,
                bare,
                prompts=[prompt],
                seeds=[seed],
                sampling=sampling,
                on_step=lambda i, t, latents: last.__setitem__(slice(None), [latents]),
            )
            return last[0]

        return image


def recipe_of(name: str, work: Path) -> Recipe:
    """The W8A8 that dmq runs, static; for the step, ranges of `STEPS` steps of one image."""
    model = str(work / UNET) if name == UNET else name
    sampling = Sampling(steps=STEPS) if name == UNET else EMBEDDED.get(name, Sampling())
    calibration = Calibration(samples=1, batch=1) if name == UNET else Calibration()
    # With 8 bits clipping costs more than it saves: on emoji-sd, ranges by MseSearch were four
    # times further off.
    weights = Weights(bits=8, symmetric=True)
    if name == UNET:  # searching its ranges takes minutes, and gains nothing on random weights
        weights = replace(weights, range=MinMax())
    return Recipe(
        model=model,
        sampling=sampling,
        calibration=calibration,
        weights=weights,
        activations=Activations(bits=8, range=MinMax()),
    )


def prepare(name: str, work: Path, small: bool) -> None:
    """Make, in `work` and the folder of runs, what `opened` opens; what is there already stays."""
    recipe = recipe_of(name, work)
    if name != UNET:
        run_to_end(capture_statistics(recipe))
        return
    if not (work / UNET).is_dir():
        with folders.write_folder(work / UNET) as part:
            (tiny_sd() if small else random_sd()).save_pretrained(part)
    if captures.find_capture(recipe) is None:
        loaded = libraries.load(recipe.model)
        # Not the stage: it also watches the operands of attention, which takes several times longer
        # at this size.
        watched = capture_activations(
            loaded, recipe.sampling, recipe.calibration, attention=False, trajectories=1
        )
        seen = run_to_end(watched)
        captures.save_stats(
            folders.home() / "captures" / captures.capture_key(recipe),
            seen.stats,
            loaded.info,
            seen.trajectory,
        )


def opened(name: str, work: Path) -> Subject:
    """The subject that was prepared, in memory of this process alone."""
    recipe = recipe_of(name, work)
    place = MODELS / name if name in is_embedded() else Path(recipe.model)
    with quiet():
        pipe = calm(
            DiffusionPipeline.from_pretrained(str(place), use_safetensors=True, dtype=torch.float32)
        )
    adapter = next(adapter for adapter in ADAPTERS if adapter.matches(pipe))
    for weight in getattr(pipe, adapter.component(pipe)).parameters():
        # They are views of one mapped file, of which all would count as memory for as long as a
        # single norm is used.
        weight.data = weight.data.clone()
    return Subject(
        name,
        Loaded(pipe=pipe, adapter=adapter, info=captures.load_info(captures.find_capture(recipe))),
        recipe,
    )


def random_sd(seed: int = 0) -> StableDiffusionPipeline:
    """Stable Diffusion 1.5's U-Net with random weights; text encoder and VAE are as small as fit
    around it.
    """
    small = tiny_sd()
    letter = letters()
    letter.model_max_length = 77
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768)
        text = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=64,
                hidden_size=768,
                intermediate_size=768,
                num_hidden_layers=1,
                num_attention_heads=12,
                max_position_embeddings=77,
                bos_token_id=0,
                eos_token_id=1,
                pad_token_id=1,
            )
        )
    vae: AutoencoderKL = small.vae
    return calm(
        StableDiffusionPipeline(
            vae=vae,
            text_encoder=text,
            tokenizer=letter,
            unet=unet,
            scheduler=ddim_scheduler(),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    )


def nested(flat: dict[str, Tensor]) -> dict[str, Any]:
    """Arguments by name, those called "outer.inner" in a dict."""
    made: dict[str, Any] = {}
    for name, value in flat.items():
        outer, _, inner = name.partition(".")
        if inner:
            made.setdefault(outer, {})[inner] = value
        else:
            made[name] = value
    return made


def main(name: str, work: str, size: str) -> None:
    try:
        prepare(name, Path(work), size == "small")
    except DmqError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main(*sys.argv[1:])
