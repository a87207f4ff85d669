"""One training loop for all three networks: warm-up, constant rate, decay; an average of the weights; checkpoints.

A run can be stopped at any moment (SIGTERM or Ctrl-C included) and goes on from its checkpoint as if nothing had
happened: the random numbers of a step depend on the seed and the step only. Because the rate is constant until the decay,
the number of steps may be changed while a run is stopped.
"""

import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long and how fast: `rate` is reached after `warmup` steps and falls to 0 over the last `decay` of `steps`."""

    steps: int
    rate: float
    warmup: int = 100
    decay: float = 0.25
    seed: int = 0
    average: float = 0.999
    weight_decay: float = 1e-3

    def rate_at(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        rising = min(1.0, (step + 1) / self.warmup)
        falling = min(1.0, (self.steps - step) / max(1, self.decay * self.steps))
        return self.rate * rising * falling


class Checkpoint:
    """Weights, their average and the optimizer's two moments in one safetensors file, replaced whole or not at all."""

    def __init__(self, path: Path, weights: list[nn.Parameter], seed: int):
        self.path, self.weights, self.step, self.seconds = path, weights, 0, 0.0
        self.losses: list[tuple[int, float, float]] = []
        self.average = [w.detach().clone() for w in weights]
        self.moments = [[torch.zeros_like(w) for w in weights] for _ in range(2)]
        self.seed = seed
        if path.exists():
            self._load()

    def _tensors(self) -> dict[str, Tensor]:
        kinds = {"weight": self.weights, "average": self.average, "first": self.moments[0], "second": self.moments[1]}
        return {f"{kind}.{i}": t.detach() for kind, ts in kinds.items() for i, t in enumerate(ts)}

    def _load(self) -> None:
        with safe_open(self.path, "pt") as kept:
            for key, tensor in self._tensors().items():
                tensor.copy_(kept.get_tensor(key))
            about = json.loads(kept.metadata()["about"])
        self.step, self.seconds, self.losses = about["step"], about["seconds"], about["losses"]

    def save(self) -> None:
        about = json.dumps({"step": self.step, "seconds": self.seconds, "losses": self.losses, "seed": self.seed})
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_suffix(".part")
        save_file({k: t.contiguous() for k, t in self._tensors().items()}, part, {"about": about})
        os.replace(part, self.path)

    def apply_average(self) -> None:
        """Put the averaged weights into the networks; training on from here would start from the average."""
        for weight, average in zip(self.weights, self.average, strict=True):
            weight.data.copy_(average)


def generator_for(seed: int, step: int) -> torch.Generator:
    """The random numbers of one step, the same after an interruption."""
    return torch.Generator().manual_seed(seed * 10_000_000 + step)


def update_average(average: list[Tensor], weights: list[nn.Parameter], keep: float, step: int) -> None:
    """average = keep * average + (1 - keep) * weights, with a smaller `keep` during the first steps."""
    keep = min(keep, (1 + step) / (10 + step))
    torch._foreach_mul_(average, keep)
    torch._foreach_add_(average, [w.detach() for w in weights], alpha=1 - keep)


def make_optimizer(checkpoint: Checkpoint, weight_decay: float) -> torch.optim.AdamW:
    """AdamW that keeps its moments in the checkpoint's tensors, so saving needs no second copy."""
    optimizer = torch.optim.AdamW(checkpoint.weights, 0.0, betas=(0.9, 0.99), weight_decay=weight_decay, fused=True)
    for weight, first, second in zip(checkpoint.weights, *checkpoint.moments, strict=True):
        state = {"step": torch.tensor(float(checkpoint.step)), "exp_avg": first, "exp_avg_sq": second}
        optimizer.state[weight] = state
    return optimizer


def train(
    checkpoint: Checkpoint, schedule: Schedule, loss_of: Callable[[torch.Generator], tuple[Tensor, float]]
) -> None:
    """Train until `schedule.steps`; `loss_of` draws a batch and returns its loss and the figure to log.

    Raises KeyboardInterrupt after writing a checkpoint when the process is asked to stop.
    """
    stop: list[int] = []
    before = {s: signal.signal(s, lambda number, _: stop.append(number)) for s in (signal.SIGTERM, signal.SIGINT)}
    torch.set_flush_denormal(True)  # tiny moments make CPU arithmetic many times slower
    optimizer = make_optimizer(checkpoint, schedule.weight_decay)
    last = saved = time.monotonic()
    shown = checkpoint.losses[-1][2] if checkpoint.losses else None
    while checkpoint.step < schedule.steps and not stop:
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate_at(checkpoint.step)
        loss, figure = loss_of(generator_for(schedule.seed, checkpoint.step))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(checkpoint.weights, 1.0)
        optimizer.step()
        checkpoint.step += 1
        update_average(checkpoint.average, checkpoint.weights, schedule.average, checkpoint.step)
        shown = figure if shown is None else 0.98 * shown + 0.02 * figure
        now = time.monotonic()
        checkpoint.seconds, last = checkpoint.seconds + now - last, now
        if checkpoint.step % 25 == 0:
            checkpoint.losses.append((checkpoint.step, round(checkpoint.seconds), round(shown, 5)))
            print(f"step {checkpoint.step} of {schedule.steps}, {checkpoint.seconds:.0f} s, loss {shown:.4f}", flush=True)
        if now - saved > 120:
            checkpoint.save()
            saved = now
    checkpoint.save()
    for number, handler in before.items():
        signal.signal(number, handler)
    if stop:
        raise KeyboardInterrupt(f"stopped at step {checkpoint.step}")
