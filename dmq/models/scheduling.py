"""What a scheduler makes of the denoiser's answer: the finished image it foresees, and how
much an error counts.
"""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


NUDGE = 1e-3  # of the answer's size: small enough for clipped schedulers, large enough for float32


@dataclass(frozen=True)
class SchedulerCall:
    """What a pipeline gives its scheduler at one step."""

    scheduler: Any
    i: int  # position in sampling order
    answer: Tensor  # of the denoiser, guidance applied
    t: Any
    args: tuple
    kwargs: dict[str, Any]

    @property
    def x(self) -> Tensor:
        return self.args[0] if self.args else self.kwargs["sample"]


def predict_x0(call: SchedulerCall) -> Tensor | None:
    """The finished sample that the answer stands for, of x's shape; None for schedulers not known
    here.

    Known are noise, velocity and sample prediction with alphas, Euler's sigmas, and flow matching.
    """
    scheduler, i, x, answer, t = call.scheduler, call.i, call.x, call.answer, call.t
    kind = scheduler.config.get("prediction_type", "epsilon")
    sigmas = getattr(scheduler, "sigmas", None)
    if "FlowMatch" in type(scheduler).__name__ and sigmas is not None:
        return x - float(sigmas[i]) * answer
    if (
        hasattr(scheduler, "scale_model_input")
        and sigmas is not None
        and "Euler" in type(scheduler).__name__
    ):
        sigma = float(sigmas[i])
        made = {
            "epsilon": x - sigma * answer,
            "v_prediction": x / (sigma**2 + 1) - answer * sigma / (sigma**2 + 1) ** 0.5,
            "sample": answer,
        }
        return made.get(kind)
    if not hasattr(scheduler, "alphas_cumprod") or sigmas is not None:
        return None
    kept = float(scheduler.alphas_cumprod[int(t)])
    signal, noise = kept**0.5, (1 - kept) ** 0.5
    made = {
        "epsilon": (x - noise * answer) / signal,
        "v_prediction": signal * x - noise * answer,
        "sample": answer,
    }
    return made.get(kind)


def coefficient(call: SchedulerCall) -> float:
    """How far the scheduler's step moves for each unit of error in the answer: |c_i| of the error
    recursion.

    Measured on copies of the scheduler, so it holds for any: the root mean square of the move over
    that of a small random nudge. What multistep schedulers make of the answer later is not in it.
    Source: pcr, error recursion."""
    generator = torch.Generator().manual_seed(0)
    size = call.answer.float().square().mean().sqrt().clamp(min=1e-12)
    nudge = torch.randn(call.answer.shape, generator=generator).to(call.answer) * size * NUDGE
    moved = _step(call, call.answer + nudge) - _step(call, call.answer)
    return float((moved.square().mean() / nudge.double().square().mean()).sqrt())


def _step(call: SchedulerCall, answer: Tensor) -> Tensor:
    """What a copy of the scheduler makes of `answer`; noise is the same in every call."""
    own, given = copy.deepcopy(call.scheduler), dict(call.kwargs)
    if given.get("generator") is not None:
        several = isinstance(given["generator"], list)
        fresh = [
            torch.Generator().manual_seed(n)
            for n in range(len(given["generator"]) if several else 1)
        ]
        given["generator"] = fresh if several else fresh[0]
    return type(own).step(own, answer, call.t, *call.args, **given)[0].double()
