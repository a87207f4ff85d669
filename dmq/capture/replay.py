"""Repeat recorded denoiser calls with another model, or with the same one: no pipeline, no
scheduler.
"""

import inspect
from collections.abc import Generator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..numerics.devices import double
from ..numerics.threads import few_threads
from ..results import Trajectory


HALF = (torch.float16, torch.bfloat16)
# Arguments that diffusers gives in float32 to models of any precision: positions, whose digits
# matter.
EXACT = frozenset({"image_rotary_emb", "img_ids", "txt_ids", "time_ids", "guidance"})


def images_in(trajectory: Trajectory, n: int) -> int:
    """How many images call n generates: with guidance, each has two rows."""
    half = trajectory.half[n]
    return len(half) // 2 if (half >= 0).any() else len(half)


def rows_of(
    trajectory: Trajectory, n: int, images: Sequence[int] | np.ndarray | None
) -> np.ndarray:
    """The rows of call n that generate `images` (positions among those of the call), halves
    together; all if None.
    """
    rows = np.arange(len(trajectory.half[n]))
    return rows if images is None else rows[np.isin(rows % images_in(trajectory, n), images)]


def repeat(model: nn.Module, trajectory: Trajectory, n: int, rows: np.ndarray) -> Tensor:
    """What `model` answers to those rows of call n, float32 (rows, ...).

    Calls are kept in float32 whatever they were made in; here they are as precise as the model.
    """
    device, dtype = next(model.parameters()).device, precision(model)
    total = len(trajectory.half[n])

    def find_arguments(x: np.ndarray, name: str) -> Tensor:
        tensor = torch.from_numpy(x[rows] if x.shape[:1] == (total,) else x).to(device)
        return (
            tensor.to(dtype)
            if tensor.is_floating_point() and not EXACT & set(name.split("."))
            else tensor
        )

    flat = {
        name: find_arguments(trajectory.conditioning[key], name)
        for name, key in trajectory.arguments[n].items()
    }
    known = inspect.signature(model.forward).parameters
    sample = "sample" if "sample" in known else "hidden_states"
    # A tensor keeps a float t, which some denoisers would round if it came as a number.
    t = torch.tensor([trajectory.timesteps[trajectory.step[n]]] * len(rows), device=device)
    answer = model(
        **{
            sample: find_arguments(trajectory.inputs[n], sample),
            "timestep": t,
            **_open_nested(flat),
        }
    )
    return (answer if isinstance(answer, Tensor) else answer[0]).float()


def precision(model: nn.Module) -> torch.dtype:
    """What `model` computes in: half precision if any weight is kept in it (what is learned is
    not), else float32.
    """
    return next((p.dtype for p in model.parameters() if p.dtype in HALF), torch.float32)


def select_wanted(model: nn.Module, trajectory: Trajectory, n: int, rows: np.ndarray) -> Tensor:
    """What was answered when call n was recorded, float32 (rows, ...), where `model` is."""
    return torch.from_numpy(trajectory.outputs[n][rows]).to(next(model.parameters()).device)


def noise_errors(
    model: nn.Module, trajectory: Trajectory, images: Sequence[int] | None = None
) -> Generator[tuple[int, int], None, np.ndarray]:
    """Yield (calls done, calls in all); return the noise-prediction error of `model` at every step
    [T] float64.

    That is mean (eps_q - eps)^2 / mean eps^2 on the recorded inputs, eps being what was recorded,
    whatever the model predicts; inf where the answer is not finite."""
    wrong, power = np.zeros((2, len(trajectory.timesteps)))
    for n, i in enumerate(trajectory.step):
        rows = rows_of(trajectory, n, images)
        if len(rows):
            with few_threads(model.parameters()), torch.no_grad():
                answer, target = (
                    repeat(model, trajectory, n, rows),
                    select_wanted(model, trajectory, n, rows),
                )
                error = double(answer - target.to(answer.device)).square().sum().item()
                wrong[i] += error if np.isfinite(error) else np.inf
                power[i] += double(target).square().sum().item()
        yield n + 1, len(trajectory.step)
    return wrong / np.maximum(power, 1e-30)


def _open_nested(flat: dict[str, Tensor]) -> dict[str, Any]:
    """Arguments as they were given: "outer.inner" back in a dict, "outer.0" in a list."""
    nested: dict[str, Any] = {}
    for name, value in flat.items():
        outer, _, inner = name.partition(".")
        if inner:
            nested.setdefault(outer, {})[inner] = value
        else:
            nested[name] = value
    return {name: _opened(value) for name, value in nested.items()}


def _opened(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    inner = _open_nested(value)
    return list(inner.values()) if all(key.isdigit() for key in inner) else inner
