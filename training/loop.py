"""One training loop for all three networks: warm-up, constant rate, decay; an average of the
weights; checkpoints.

A run can be stopped at any moment (SIGTERM or Ctrl-C included) and goes on from its checkpoint as
if nothing had happened: the random numbers of a step depend on the seed and the step only. Because
the rate is constant until the decay, the number of steps may be changed while a run is stopped."""

import json
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from training import muon


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long and how fast: `rate` is reached after `warmup` steps and falls to 0 over the last
    `decay` of `steps`.

    With a `muon_rate`, matrices are trained by Muon at that rate and only the rest by AdamW at
    `rate`."""

    steps: int
    rate: float
    muon_rate: float = 0.0
    warmup: int = 100
    decay: float = 0.6
    seed: int = 0
    average: float = 0.999
    weight_decay: float = 1e-3

    def fraction_at(self, step: int) -> float:
        """The part of the full rates that holds at a step, counted from 0."""
        rising = min(1.0, (step + 1) / self.warmup)
        return rising * min(1.0, (self.steps - step) / max(1, self.decay * self.steps))


class Checkpoint:
    """Weights, their average and the optimizer's two moments in one safetensors file, replaced
    whole or not at all.
    """

    def __init__(self, path: Path, weights: list[nn.Parameter], seed: int):
        self.path, self.weights, self.step, self.seconds = path, weights, 0, 0.0  # CPU seconds
        self.losses: list[tuple[int, float, float]] = []
        self.average = [w.detach().clone() for w in weights]
        self.moments = [[torch.zeros_like(w) for w in weights] for _ in range(2)]
        self.seed = seed
        if path.exists():
            self._load()

    def _tensors(self) -> dict[str, Tensor]:
        kinds = {
            "weight": self.weights,
            "average": self.average,
            "first": self.moments[0],
            "second": self.moments[1],
        }
        return {f"{kind}.{i}": t.detach() for kind, ts in kinds.items() for i, t in enumerate(ts)}

    def _load(self) -> None:
        with safe_open(self.path, "pt") as kept:
            for key, tensor in self._tensors().items():
                tensor.copy_(kept.get_tensor(key))
            about = json.loads(kept.metadata()["about"])
        self.step, self.seconds, self.losses = about["step"], about["seconds"], about["losses"]

    def log(self, figure: float, steps: int) -> None:
        """Keep a (smoothed) figure for the loss curve and print it."""
        self.losses.append((self.step, round(self.seconds), round(figure, 5)))
        print(
            f"{self.path.stem}: step {self.step} of {steps}, {self.seconds:.0f} CPU s, "
            f"{figure:.4f}",
            flush=True,
        )

    def save(self) -> None:
        """Write everything to the file."""
        about = json.dumps(
            {"step": self.step, "seconds": self.seconds, "losses": self.losses, "seed": self.seed}
        )
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_suffix(".part")
        save_file({k: t.contiguous() for k, t in self._tensors().items()}, part, {"about": about})
        part.replace(self.path)

    def apply_average(self) -> None:
        """Put the averaged weights into the networks; training on from here would start from the
        average.
        """
        for weight, average in zip(self.weights, self.average, strict=True):
            weight.data.copy_(average)


def generator_for(seed: int, step: int) -> torch.Generator:
    """The random numbers of one step, the same after an interruption."""
    return torch.Generator().manual_seed(seed * 10_000_000 + step)


def update_average(
    average: list[Tensor], weights: list[nn.Parameter], keep: float, step: int
) -> None:
    """average = keep * average + (1 - keep) * weights, with a smaller `keep` during the first
    steps.
    """
    keep = min(keep, (1 + step) / (10 + step))
    torch._foreach_mul_(average, keep)
    torch._foreach_add_(average, [w.detach() for w in weights], alpha=1 - keep)


class Optimizer:
    """AdamW, or Muon for matrices and AdamW for the rest; the moments are the checkpoint's."""

    def __init__(self, checkpoint: Checkpoint, schedule: Schedule):
        self.schedule, self.checkpoint = schedule, checkpoint
        triples = list(zip(checkpoint.weights, *checkpoint.moments, strict=True))
        self.matrices = [
            (w, m)
            for w, m, _ in triples
            if schedule.muon_rate and w.ndim > 1 and min(w.shape[:2]) >= 16
        ]
        taken = {id(w) for w, _ in self.matrices}
        others = [(w, m, v) for w, m, v in triples if id(w) not in taken]
        self.adamw = torch.optim.AdamW(
            [w for w, _, _ in others],
            0.0,
            betas=(0.9, 0.99),
            weight_decay=schedule.weight_decay,
            fused=True,
        )
        for weight, first, second in others:
            state = {
                "step": torch.tensor(float(checkpoint.step)),
                "exp_avg": first,
                "exp_avg_sq": second,
            }
            self.adamw.state[weight] = state

    def step(self, loss: Tensor) -> None:
        """Backward pass, clipping to norm 1, one update, and the average of the weights."""
        kept, fraction = self.checkpoint, self.schedule.fraction_at(self.checkpoint.step)
        for weight in kept.weights:
            weight.grad = None
        loss.backward()
        torch.nn.utils.clip_grad_norm_(kept.weights, 1.0)
        for group in self.adamw.param_groups:
            group["lr"] = self.schedule.rate * fraction
        self.adamw.step()
        if self.matrices:
            muon.step(
                *map(list, zip(*self.matrices, strict=True)), self.schedule.muon_rate * fraction
            )
        kept.step += 1
        update_average(kept.average, kept.weights, self.schedule.average, kept.step)


@contextmanager
def asked_to_stop() -> Iterator[list[int]]:
    """A list that is no longer empty once the process got SIGTERM or Ctrl-C."""
    asked: list[int] = []
    before = {
        s: signal.signal(s, lambda number, _: asked.append(number))
        for s in (signal.SIGTERM, signal.SIGINT)
    }
    yield asked
    for number, handler in before.items():
        signal.signal(number, handler)


def train(
    checkpoint: Checkpoint,
    schedule: Schedule,
    loss_of: Callable[[torch.Generator], tuple[Tensor, float]],
) -> None:
    """Train until `schedule.steps`; `loss_of` draws a batch and returns its loss and the figure to
    log.

    Raises KeyboardInterrupt after writing a checkpoint when the process is asked to stop.
    """
    if checkpoint.step >= schedule.steps:
        return
    torch.set_flush_denormal(True)  # tiny moments make CPU arithmetic many times slower
    optimizer = Optimizer(checkpoint, schedule)
    shown = checkpoint.losses[-1][2] if checkpoint.losses else None
    used, saved = time.process_time(), time.monotonic()
    with asked_to_stop() as asked:
        while checkpoint.step < schedule.steps and not asked:
            loss, figure = loss_of(generator_for(schedule.seed, checkpoint.step))
            optimizer.step(loss)
            shown = figure if shown is None else 0.98 * shown + 0.02 * figure
            checkpoint.seconds, used = (
                checkpoint.seconds + time.process_time() - used,
                time.process_time(),
            )
            if checkpoint.step % 25 == 0:
                checkpoint.log(shown, schedule.steps)
            if time.monotonic() - saved > 120:
                checkpoint.save()
                saved = time.monotonic()
        checkpoint.save()
    if asked:
        raise KeyboardInterrupt(f"stopped at step {checkpoint.step}")
