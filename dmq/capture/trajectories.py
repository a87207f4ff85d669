"""The denoiser calls of real pipeline runs, kept as they were made."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..models.adapter import AbstractAdapter
from ..models.borrow import borrow
from ..models.checks import refuse_caches
from ..models.loading import Loaded, sample, with_denoiser
from ..models.step_progress import OnStep
from ..recipe import Sampling
from ..results import Trajectory


class TrajectoryRecorder:
    """Keeps the calls of the first `images` images; guidance halves stay together in a call."""

    def __init__(self, adapter: AbstractAdapter, images: int) -> None:
        self.adapter, self.images = adapter, images
        self.drawn = 0  # images of the batches before this one
        self.batch = 0
        self._timesteps: dict[float, int] = {}
        self._step: list[int] = []
        self._inputs: list[np.ndarray] = []
        self._outputs: list[np.ndarray] = []
        self._half: list[np.ndarray] = []
        self._arguments: list[dict[str, str]] = []
        self._conditioning: dict[str, np.ndarray] = {}
        self._keys: dict[tuple, str] = {}

    def next_batch(self, images: int) -> None:
        """The pipeline is about to generate `images` more."""
        self.drawn, self.batch = self.drawn + self.batch, images

    def see(self, args: tuple, kwargs: Mapping[str, Any], answer: Any) -> None:
        """Keep a denoiser call with what it answered, the rows of the wanted images."""
        x = self.adapter.sample_of(args, kwargs)
        keep = torch.arange(len(x), device=x.device)
        keep = keep[keep % self.batch + self.drawn < self.images]
        if not len(keep):
            return
        t = self.adapter.timestep(args, kwargs)
        self._step.append(self._timesteps.setdefault(t, len(self._timesteps)))
        self._inputs.append(_numpy(x[keep]))
        self._outputs.append(_numpy((answer if isinstance(answer, Tensor) else answer[0])[keep]))
        self._half.append(self.adapter.halves(len(x), self.batch)[keep.cpu().numpy()])
        given = self.adapter.conditioning(args, kwargs)
        rows = {
            name: value[keep] if value.shape[:1] == x.shape[:1] else value
            for name, value in given.items()
        }
        self._arguments.append(
            {name: self._keep(name, _numpy(value)) for name, value in rows.items()}
        )

    def _keep(self, name: str, value: np.ndarray) -> str:
        """The key of an equal array that is kept already, or of this one from now on."""
        content = (value.shape, value.dtype.str, value.tobytes())
        if content not in self._keys:
            key = self._keys[content] = f"{len(self._step) - 1}/{name}"
            self._conditioning[key] = value
        return self._keys[content]

    def finished(self) -> Trajectory:
        """What was kept, copied out."""
        return Trajectory(
            timesteps=tuple(self._timesteps),
            step=np.array(self._step, np.int32),
            inputs=tuple(self._inputs),
            outputs=tuple(self._outputs),
            half=tuple(self._half),
            conditioning=self._conditioning,
            arguments=tuple(self._arguments),
        )


def record_trajectory(
    loaded: Loaded,
    *,
    prompts: Sequence[str],
    seeds: Sequence[int],
    sampling: Sampling,
    on_step: OnStep | None = None,
) -> tuple[Trajectory, list[np.ndarray]]:
    """The denoiser calls of one pipeline run, an image a seed, and the images uint8 [H, W, 3].

    `on_step` is that of `models.loading.sample`.
    """
    denoiser: nn.Module = borrow(loaded.denoiser)
    refuse_caches(denoiser)
    recorder = TrajectoryRecorder(loaded.adapter, len(seeds))
    recorder.next_batch(len(seeds))
    denoiser.register_forward_hook(
        lambda m, args, kwargs, out: recorder.see(args, kwargs, out), with_kwargs=True
    )
    pipe = with_denoiser(loaded, denoiser)
    images = sample(pipe, loaded, prompts=prompts, seeds=seeds, sampling=sampling, on_step=on_step)
    return recorder.finished(), images


def _numpy(x: Tensor) -> np.ndarray:
    return (x.float() if x.is_floating_point() else x).detach().cpu().numpy().copy()
