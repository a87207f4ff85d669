"""A denoiser of many gigabytes, quantized tensor by tensor from its files: it is never in memory as
a whole.

Each weight is read, coded, written and forgotten, so that memory holds one tensor in float32 with
what its search needs, and what waits to be written."""

from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import DmqError
from ..models.adapter import LAYERS, AbstractAdapter
from ..models.generic import GenericAdapter
from ..models.layer_counts import fingerprint
from ..models.loading import ADAPTERS
from ..models.quantizer import config_data, skeleton
from ..quantizers.codes import WeightCodes
from ..quantizers.plan import make_plan
from ..recipe import FLOAT, Recipe
from ..results import ActivationStats, GroupErrors, Groups, ModelInfo, Plan
from .plans import plan_tensors
from .reading import Files, read_files, read_json, readable, weight_files
from .settings import cache_rows, sealed, settings_of
from .writing import (
    Coder,
    Collected,
    Exported,
    Shards,
    check_target,
    find_exported,
    write_beside,
    write_config,
    writing,
)


WAITING = 250_000_000  # bytes that wait to be written


class Lazy(nn.Module):
    """Stands for a denoiser whose tensors are read one at a time, where only its fingerprint is
    wanted.
    """

    def __init__(self, model: nn.Module, files: Files) -> None:
        super().__init__()
        self.config, self.names, self.files = model.config, list(model.state_dict()), files

    def state_dict(self, *_: Any, **__: Any) -> Any:
        return self

    def items(self) -> Iterator[tuple[str, Tensor]]:
        """As a state's."""
        return ((name, self.files.fetch(name)) for name in self.names)


@torch.no_grad()
def quantize_shards(
    source: str | Path,
    how: Recipe | Plan,
    target: str | Path,
    *,
    learned: Mapping[str, WeightCodes] | None = None,
    mode: str = "executed",
) -> Generator[tuple[int, int], None, Exported]:
    """Quantize the denoiser in the folder `source` into a checkpoint in `target`; yields (done, of)
    by tensor.

    `how` is a plan for it, or a recipe that leaves activations in float: such a one needs no
    statistics. Floats keep the precision of the source, though a plan counts four bytes for each.
    Raises DmqError for a plan of other weights, for one with a cache, which is made of the running
    model, and as `export_denoiser` does."""
    source, target = Path(source).expanduser(), Path(target).expanduser()
    check_target(target)
    with readable(source):
        config = read_json(source / "config.json")
        files = read_files(weight_files(source), sealed=False)
        model = skeleton(config)
        _check(model, files, source)
        adapter = adapter_for(model)
        plan = how if isinstance(how, Plan) else weights_plan(model, adapter, how, source.name)
        if isinstance(how, Plan) and fingerprint(Lazy(model, files)) != plan.fingerprint:
            raise DmqError(
                f"{source}: the plan was made for other weights of {plan.model!r}. Make a plan "
                "anew."
            )
        if cache_rows(plan):
            raise DmqError(
                "a cache of temporal features is made of the running model: set temporal.cache to "
                "NoCache."
            )
        names = {name for name, _ in model.named_parameters()}
        coder = Coder(plan=plan, parameters=names, learned=learned or {})
        small: dict[str, Tensor] = {}
        with writing(target) as part:
            shards = Shards(part, WAITING)
            for done, name in enumerate(files.places):
                for own, x in coder.stored(name, files.fetch(name)).items():
                    shards.add(own, x)
                    small[own] = torch.empty_like(x, device="meta")
                yield done + 1, len(files.places)
            for own, x in plan_tensors(plan).items():
                shards.add(own, x)
                small[own] = torch.empty_like(x, device="meta")
            settings = settings_of(plan, coder.codes, adapter.name, mode)
            shards.finish(sealed(config_data(model), settings))
            write_config(part, config_data(model), settings)
            recipe = how if isinstance(how, Recipe) else None
            write_beside(part, plan, settings, recipe, None, "", small)
    collected = Collected(
        tensors=small, codes=coder.codes, beyond=frozenset(set(files.places) - names)
    )
    return find_exported(target, plan, collected)


def weights_plan(model: nn.Module, adapter: AbstractAdapter, recipe: Recipe, name: str) -> Plan:
    """The plan of a recipe that needs no statistics, from the shapes of a skeleton alone.

    Raises DmqError for one that quantizes activations.
    """
    if (
        recipe.activations.bits < FLOAT
        or recipe.activations.attention_bits < FLOAT
        or recipe.temporal
    ):
        raise DmqError(
            "recipe.activations: quantized activations need statistics of the running model; set "
            "their bits to 32 and "
            "temporal to null, or give a plan that was made with them."
        )
    layers = adapter.layers(
        model, {name: 1 for name, m in model.named_modules() if isinstance(m, LAYERS)}
    )
    inside = {f"{layer.name}.{leaf}" for layer in layers for leaf in ("weight", "bias")}
    vectors = tuple(
        p.numel() for n, p in model.named_parameters() if n not in inside and p.ndim < 2
    )
    info = ModelInfo(
        name=name,
        pipeline="",
        denoiser=type(model).__name__,
        adapter=adapter.name,
        scheduler="",
        prompted=False,
        size=(0, 0),
        parameters=sum(p.numel() for p in model.parameters()),
        pipeline_parameters=0,
        layers=layers,
        fingerprint="",
        vectors=vectors,
        splits=adapter.splits(model),
    )
    steps, none = recipe.sampling.steps, np.zeros(0, np.int32)
    nothing = np.zeros((0, steps))
    stats = ActivationStats(
        model=name,
        fingerprint="",
        sampler="",
        timesteps=tuple(map(float, range(steps, 0, -1))),
        sites=(),
        samples=0,
        subset=0,
        exponent=none.astype(np.int16),
        first=none,
        counts=(),
        elements=nothing.astype(np.int64),
        minimum=nothing,
        maximum=nothing,
        power_sums=np.zeros((0, steps, 4)),
        channel_min=(),
        channel_max=(),
    )
    errors = GroupErrors(
        groups=Groups(sites=(), slot=nothing.astype(np.int16)),
        bits=np.full((1, steps), FLOAT, np.uint8),
        low=nothing,
        high=nothing,
        rounding=nothing,
        clipping=nothing,
        power=nothing,
    )
    return make_plan(info, recipe, stats, errors)


def adapter_for(model: nn.Module) -> AbstractAdapter:
    """The adapter of a denoiser without a pipeline around it."""
    pipe = Alone(model)
    return next((adapter for adapter in ADAPTERS if adapter.matches(pipe)), GenericAdapter())


class Alone:
    """A pipeline of nothing but a denoiser, for adapters that ask one."""

    def __init__(self, model: nn.Module) -> None:
        self.components = {"unet": model, "transformer": model}
        self.unet = self.transformer = model


def _check(model: nn.Module, files: Files, source: Path) -> None:
    wanted = {name: tuple(x.shape) for name, x in model.state_dict().items()}
    for name in sorted(wanted.keys() | files.places.keys()):
        found = files.places[name].shape if name in files.places else None
        if wanted.get(name) != found:
            what = (
                "is missing"
                if found is None
                else f"has shape {list(found)}, expected {wanted.get(name)}"
            )
            raise DmqError(f"{source}: {name:.200} {what}; config.json and the tensors do not fit.")
