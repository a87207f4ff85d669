"""What a checkpoint says about itself: `quantization_config` of the denoiser's `config.json`, and
the digests.

    quant_method "dmq", format, dmq      which program wrote it, in which format
    mode                                 one of recipe.ENGINES: how it computes unless the reader chooses
    adapter                              how the denoiser is called (dmq.models)
    plan                                 see plans.plan_data
    codes                                by parameter: how its stored tensors are read, see stored
    cache                                by temporal feature: how many rows are stored
    timestep_partition                   which steps share scales, for other programs; dmq reads the banks
    runtime.diffusion_step_policy        only where the partition is one that diffusers and vLLM-Omni know

The file of tensors carries, as metadata "dmq", a digest of each tensor, of these settings and of
the model's other settings: what was damaged on the way is found. They do not tell who wrote a file.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import __version__
from ..errors import DmqError
from ..quantizers.codes import packed
from ..recipe import FLOAT, NoCache
from ..results import Plan
from .plans import banks_of, plan_data, plan_from, plan_layout
from .weight_layout import LARGEST, Layout, layout, stored_bytes, zero_dtype


FORMAT = 1
POLICY_BITS = 8  # of the steps that stay native in a first/last-N policy


@dataclass(frozen=True, kw_only=True)
class Content:
    """A checkpoint of one denoiser, without its tensors."""

    config: Mapping[str, Any]  # of the model, as diffusers wrote it
    settings: Mapping[str, Any]  # its quantization_config
    plan: Plan

    @property
    def codes(self) -> Mapping[str, Mapping[str, Any]]:
        """Plain data by quantized parameter."""
        return self.settings["codes"]


def settings_of(
    plan: Plan, codes: Mapping[str, Any], adapter: str, mode: str, component: str = "transformer"
) -> dict[str, Any]:
    """The `quantization_config` of a checkpoint; `codes` is plain data by quantized parameter."""
    policy = step_policy(plan, component)
    return {
        "quant_method": "dmq",
        "format": FORMAT,
        "dmq": __version__,
        "mode": mode,
        "adapter": adapter,
        "plan": plan_data(plan),
        "codes": dict(codes),
        "cache": cache_rows(plan),
        "timestep_partition": partition(plan),
    } | ({"runtime": {"diffusion_step_policy": policy}} if policy else {})


def quantized_layout(settings: Mapping[str, Any]) -> Layout:
    """All tensors in the file that the float model does not have.

    Raises DmqError for settings that lie.
    """
    plan, codes, cache = (_mapping(settings.get(name), name) for name in ("plan", "codes", "cache"))
    made = plan_layout(plan)
    rows = {row["name"]: row for row in plan["layers"]}
    for name, plain in codes.items():
        try:
            found = layout(plain)
        except DmqError as error:
            raise DmqError(f"{name:.200}: {error}") from None
        row = rows.get(name.removesuffix(".weight")) if name.endswith(".weight") else None
        if row is not None and stored_bytes(found) != row["weight_bytes"]:
            planned = row["weight_bytes"]
            raise DmqError(
                f"{name:.200}: {stored_bytes(found)} bytes, but the plan counts {planned!r:.20}."
            )
        made |= {f"{name}.{part}": x for part, x in found.items()}
    for k, kept in cache.items():
        made |= {f"dmq.cache.{k}.{part}": x for part, x in cache_layout(kept).items()}
    return made


def plan_of_settings(settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Plan:
    """The plan that settings and the "dmq." tensors describe; DmqError if they or the cache do
    not fit to it.
    """
    made = plan_from(_mapping(settings.get("plan"), "plan"), tensors)
    if cache_rows(made) != settings["cache"]:
        raise DmqError("the cache in it is not the one of its plan. Export it again.")
    wanted = {
        f"{row.layer.name}.weight"
        for row in made.layers
        if row.weights.bits < FLOAT and not row.dropped
    }
    if missing := sorted(wanted - set(settings["codes"])):
        raise DmqError(
            f"{missing[0]}: the plan quantizes it, but it has no codes. Export it again."
        )
    return made


# --- the cache of temporal features ---------------------------------------------------------------


def cache_rows(plan: Plan) -> dict[str, dict[str, int]]:
    """By position of the projection: rows, width and bits of the table of a stored cache."""
    time = plan.temporal
    cache = time.spec.cache if time else NoCache()
    if time is None or time.cached is None or time.per_request or isinstance(cache, NoCache):
        return {}
    rows = zip(time.cached.sum(1).tolist(), time.block.projections, strict=True)
    return {
        str(k): {"rows": n, "width": projection.width, "bits": cache.bits}
        for k, (n, projection) in enumerate(rows)
        if n
    }


def cache_layout(kept: Mapping[str, Any]) -> Layout:
    """The tensors of one table of temporal features."""
    kept = _mapping(kept, "cache")
    sizes: list[Any] = [kept.get(name) for name in ("rows", "width", "bits")]
    rows, width, bits = sizes
    if not all(type(n) is int and 0 < n <= LARGEST for n in sizes) or bits > 16:
        raise DmqError(
            f"the cache in it is damaged ({rows!r:.20} rows of {width!r:.20} and {bits!r:.20} "
            "bits)."
        )
    if bits == 16:
        return {"codes": (torch.float16, (rows, width))}
    return {
        "codes": (torch.uint8, (packed(rows * width, bits),)),
        "scale": (torch.float32, (rows, 1)),
        "zero": (zero_dtype(bits), (rows, 1)),
    }


# --- the time axis, for other programs ------------------------------------------------------------


def partition(plan: Plan) -> dict[str, Any]:
    """Which steps share scales: a slot for each step, once for each way in which activations
    share them.
    """
    ways: dict[tuple[int, ...], int] = {}
    for bank in banks_of(plan):
        slot = tuple(bank.slot.tolist())
        ways[slot] = ways.get(slot, 0) + 1
    return {
        "index_space": "scheduler_timestep",
        "timesteps": list(plan.timesteps),
        "unknown_timestep": plan.unknown_timestep,
        "partitions": [{"activations": count, "slot": list(slot)} for slot, count in ways.items()],
        "relaxed_steps": list(plan.relaxed),
        "relaxed_bits": plan.relaxed_bits,
    }


def step_policy(plan: Plan, component: str) -> dict[str, Any] | None:
    """The partition as diffusers' `diffusion_step_policy`, version 1; None where it is no such
    policy.

    It is one if all banks have 8 bits, but 16 in the first and last N steps, in one range each, and
    weights have 8. Diffusers itself follows the key for Cosmos3 in ModelOpt's FP8 only. Source:
    PEERS, findings 1 and 2."""
    steps, relaxed = len(plan.timesteps), set(plan.relaxed)
    first = next((i for i in range(steps) if i not in relaxed), steps)
    last = next((i for i in range(steps) if steps - 1 - i not in relaxed), steps)
    if not relaxed or first + last != len(relaxed) or plan.relaxed_bits != 16:
        return None
    wanted = [plan.relaxed_bits if i in relaxed else POLICY_BITS for i in range(steps)]
    if any(bank.bits[bank.slot].tolist() != wanted for bank in banks_of(plan)):
        return None
    if any(row.weights.bits not in (POLICY_BITS, FLOAT) for row in plan.layers):
        return None
    return {
        "schema_version": 1,
        "type": "first_last_n",
        "index_space": "denoising_loop_iteration",
        "scope": [component],
        "default_mode": "native",
        "first_steps": {"count": first, "mode": "a16"},
        "last_steps": {"count": last, "mode": "a16"},
        "overlap": "a16",
        "reasoner": "a16",
    }


# --- digests --------------------------------------------------------------------------------------


UNSEALED = {"settings": 16 * "0", "model": 16 * "0"}  # of files whose settings are not known yet


def metadata_of(seal: Mapping[str, str], tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """The metadata of a file with `tensors`."""
    own = {
        "format": FORMAT,
        **seal,
        "tensors": {name: tensor_digest(x) for name, x in tensors.items()},
    }
    return {"format": "pt", "dmq": json.dumps(own)}


def sealed(config: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, str]:
    """The digests of what `config.json` says."""
    return {"settings": data_digest(settings, ("mode",)), "model": model_digest(config)}


def model_digest(config: Mapping[str, Any]) -> str:
    """16 hex digits of what a model's `config.json` says of the model itself."""
    private = [name for name in config if name.startswith("_") and name != "_class_name"]
    return data_digest(config, ("quantization_config", *private))


def data_digest(data: Mapping[str, Any], without: tuple[str, ...] = ()) -> str:
    """16 hex digits of plain data, whatever the order of its keys."""
    kept = {name: value for name, value in data.items() if name not in without}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]


def tensor_digest(x: Tensor) -> str:
    """16 hex digits of a tensor's bytes, as the file holds them."""
    raw = x.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.sha256(raw.numpy().data).hexdigest()[:16]


def _mapping(given: Any, name: str) -> Mapping[str, Any]:
    if not isinstance(given, Mapping):
        raise DmqError(f"quantization_config.{name} is missing or damaged. Export it again.")
    return given
