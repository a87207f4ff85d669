"""Load a pipeline once, run it as often as wanted: by embedded name, folder, or Hub id, safetensors
only.

What is loaded is shared by everybody and never changed. Whoever changes a layer does so in a
`borrow`ed denoiser, and every run has a scheduler of its own."""

import difflib
import functools
import gc
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
import transformers
from diffusers import DiffusionPipeline, ModelMixin
from torch import Tensor, nn

from ..errors import DmqError
from ..numerics.threads import one_thread
from ..places import ASSETS
from ..public import check_model, offered
from ..recipe import Sampling
from ..results import ModelInfo
from .adapter import AbstractAdapter
from .borrow import borrow
from .checks import PICKLES, check_folder, refuse_caches
from .dit import ClassDiTAdapter, DiTAdapter
from .finite import finite_steps
from .generic import GenericAdapter
from .layer_counts import fingerprint, macs
from .memory import OutOfMemory, release_memory
from .mmdit import MMDiTAdapter
from .noise import one_noise
from .offload import place_offloaded
from .placement import HALF, Place, Placement, get_chosen, resolve, stored_dtype
from .sampling_arguments import arguments, is_prompted, private
from .scheduling import SchedulerCall
from .step_progress import OnStep
from .unet import UNetAdapter
from .weights_on_disk import count_weights


MODELS = ASSETS / "models"
# The first that matches is used.
ADAPTERS: tuple[AbstractAdapter, ...] = (
    UNetAdapter(),
    DiTAdapter(),
    ClassDiTAdapter(),
    MMDiTAdapter(),
    GenericAdapter(),
)
CACHED = 3  # pipelines kept in memory
# What diffusers and transformers raise for files that are missing, broken or of another kind.
UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError, RuntimeError)

_cache: OrderedDict[tuple[str, Placement], "Loaded"] = OrderedDict()
_lock = threading.Lock()  # of the cache
LOADING = (
    threading.Lock()
)  # transformers and diffusers patch torch while they load, so one at a time


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A pipeline that nobody changes, its adapter, what there is to know about it, and where it
    runs.
    """

    pipe: DiffusionPipeline
    adapter: AbstractAdapter
    info: ModelInfo
    place: Place = field(default_factory=Place)

    @property
    def component(self) -> str:
        return self.adapter.component(self.pipe)

    @property
    def denoiser(self) -> nn.Module:
        return getattr(self.pipe, self.component)


def is_embedded() -> tuple[str, ...]:
    """Names of the models that ship with dmq and are there."""
    return tuple(sorted(index.parent.name for index in MODELS.glob("*/model_index.json")))


def load(name: str) -> Loaded:
    """The pipeline `name`: an embedded model, a folder, or a Hub id "owner/name". Cached, quiet,
    safe in threads.

    It lies where `placement.get_chosen()` says. Raises DmqError for an unknown name, a folder that is
    no pipeline, pickled weights, code, no network, a device that is not there, and a model that
    does not fit; in public mode, in the same words for all that the host does not offer."""
    check_model(name, is_embedded())
    key = name, get_chosen()
    if (loaded := _load_cached(key)) is not None:
        return loaded
    with LOADING:
        if (loaded := _load_cached(key)) is None:  # else somebody loaded it while we waited
            source = _source(name)
            _forget(key[1])
            with one_thread():  # see stepping: threads of torch belong to the run
                loaded = describe(name, *_open(name, source, key[1]))
            with _lock:
                _cache[key] = loaded
                while len(_cache) > CACHED:
                    _cache.popitem(last=False)
    return loaded


def _load_cached(key: tuple[str, Placement]) -> Loaded | None:
    with _lock:
        if key in _cache:
            _cache.move_to_end(key)
        return _cache.get(key)


def _forget(placement: Placement) -> None:
    """Let go of pipelines that lie elsewhere: a model is never held on two devices, or in two
    dtypes.
    """
    with _lock:
        others = [key for key in _cache if key[1] != placement]
        for key in others:
            del _cache[key]
    if others:
        gc.collect()
        release_memory()


def _source(name: str) -> str | Path:
    """Where `name` is to be read from; DmqError if nothing can be there."""
    if name in is_embedded():
        return MODELS / name
    source = offered().get(name, name)
    path = Path(source).expanduser()
    if path.is_dir():
        check_folder(path)
        return path
    if path.is_file():
        pickled = ", and a pickle, which dmq never opens" if path.suffix in PICKLES else ""
        raise DmqError(
            f"{name}: is a single file{pickled}; give the folder that pipe.save_pretrained(...) "
            "wrote."
        )
    if re.fullmatch(r"[\w.-]+/[\w.-]+", source) and not path.is_absolute():
        return source
    close = difflib.get_close_matches(name, is_embedded(), 1)
    meant = f" Did you mean {close[0]!r}?" if close else ""
    shipped = ", ".join(is_embedded()) or "none"
    raise DmqError(
        f"{name!r} is no model that ships ({shipped}), no folder and no Hub id owner/name.{meant}"
    )


def find_weights(name: str) -> dict[str, dict[str, int]] | None:
    """How many numbers each part of the model `name` has, by dtype; None for a Hub id, which would
    be fetched for it.

    Raises DmqError as `load` does for a name that is nothing.
    """
    source = _source(name)
    return count_weights(source) if isinstance(source, Path) else None


def _open(name: str, source: str | Path, placement: Placement) -> tuple[DiffusionPipeline, Place]:
    """The pipeline on its device.

    Each part is read in its dtype and moved, so that no weight is held twice.
    """
    try:
        with quiet():
            folder = source if isinstance(source, Path) else Path(_fetch(source))
            weights = count_weights(folder)
            place = resolve(placement, weights, name)
            kept = stored_dtype(weights) if place.dtype in HALF else place.dtype
            pipe = DiffusionPipeline.from_pretrained(
                str(folder), use_safetensors=True, dtype=getattr(torch, kept)
            )
            if (
                kept != place.dtype
            ):  # the weights are known by what is in the file, not by what is left of it
                denoiser = pipe.components.get("transformer") or pipe.components.get("unet")
                if denoiser is not None:
                    denoiser.known_fingerprint = fingerprint(denoiser)
            pipe.to(place.resident, place.torch_dtype)
    except torch.OutOfMemoryError as error:
        raise DmqError(
            f"{name}: {placement.device} ran out of memory while loading; try --offload group."
        ) from error
    except DmqError:
        raise
    except UNREADABLE as error:
        raise unreadable(name, source, error, "pipeline") from error
    return pipe, place


def _fetch(name: str) -> str:
    """The folder of a Hub id, downloaded unless it is there already."""
    return DiffusionPipeline.download(name, use_safetensors=True)


def unreadable(name: str, source: str | Path, error: Exception, what: str) -> DmqError:
    """The one line to show when `source`, a folder or a Hub id, gave `error` instead of a
    `what`.
    """
    why = str(error).strip().partition("\n")[0].partition(". ")[0]
    if isinstance(source, Path):
        return DmqError(
            f"{name}: cannot be read ({why}). Save the {what} again with save_pretrained."
        )
    return DmqError(
        f"{name}: cannot be fetched from the Hugging Face Hub ({why}). Check name and network, or "
        "give a folder."
    )


def describe(name: str, pipe: DiffusionPipeline, place: Place | None = None) -> Loaded:
    """`pipe` as a `Loaded`: made read-only, its adapter chosen, its layers listed.

    DmqError if no adapter fits.
    """
    pipe.set_progress_bar_config(disable=True)
    parts = [part for part in pipe.components.values() if isinstance(part, nn.Module)]
    for part in parts:
        part.eval().requires_grad_(False)
    adapter = next((adapter for adapter in ADAPTERS if adapter.matches(pipe)), None)
    if adapter is None:
        raise DmqError(
            f"{name}: {type(pipe).__name__} has no unet or transformer to quantize. Load another "
            "pipeline."
        )
    denoiser = getattr(pipe, adapter.component(pipe))
    refuse_caches(denoiser)
    layers = adapter.layers(denoiser, macs(pipe, adapter))
    inside = {f"{layer.name}.{leaf}" for layer in layers for leaf in ("weight", "bias")}
    info = ModelInfo(
        name=name,
        pipeline=type(pipe).__name__,
        denoiser=type(denoiser).__name__,
        adapter=adapter.name,
        scheduler=type(pipe.scheduler).__name__,
        prompted=is_prompted(pipe),
        size=_size(pipe, denoiser),
        parameters=sum(p.numel() for p in denoiser.parameters()),
        pipeline_parameters=sum(p.numel() for part in parts for p in part.parameters()),
        layers=layers,
        fingerprint=fingerprint(denoiser),
        vectors=tuple(
            p.numel()
            for name, p in denoiser.named_parameters()
            if name not in inside and p.ndim < 2
        ),
        temporal=adapter.temporal(denoiser),
        splits=adapter.splits(denoiser),
    )
    return Loaded(pipe=pipe, adapter=adapter, info=info, place=place or _place_of(denoiser))


def _place_of(denoiser: nn.Module) -> Place:
    """Where a denoiser is that was not loaded by name."""
    first = next(denoiser.parameters())
    return Place(str(first.device), str(first.dtype).removeprefix("torch."))


def _size(pipe: DiffusionPipeline, denoiser: ModelMixin) -> tuple[int, int]:
    side = denoiser.config.get("sample_size") or vars(pipe).get("default_sample_size") or 0
    height, width = side if isinstance(side, (list, tuple)) else (side, side)
    vae = pipe.components.get("vae")
    factor = 2 ** (len(vae.config.block_out_channels) - 1) if vae is not None else 1
    return height * factor, width * factor


def with_denoiser(loaded: Loaded, denoiser: nn.Module) -> DiffusionPipeline:
    """A new pipeline with `denoiser` and a scheduler of its own; the other networks are shared,
    unchanged.
    """
    pipe = private(loaded.pipe)
    setattr(pipe, loaded.component, denoiser)
    return pipe


def sample(
    pipe: DiffusionPipeline,
    loaded: Loaded,
    *,
    prompts: Sequence[str],
    seeds: Sequence[int],
    sampling: Sampling,
    on_step: OnStep | None = None,
    decoded: bool = True,
    on_output: Callable[[SchedulerCall], None] | None = None,
) -> list[np.ndarray]:
    """One image a seed, uint8 [H, W, 3], by one call of diffusers' own pipeline; unprompted ones
    ignore `prompts`.

    Not `decoded`, latents of a VAE are left as they are and no images are returned.

    A seed gives the same noise in any batch. `pipe` itself is not changed, so several may sample
    with it at once. `on_step(i, t, latents)` is called after each scheduler step, `on_output(call)`
    before it with what the scheduler is given; what they raise ends the run and comes out here.
    Raises OutOfMemory where the device has too little, and DmqError where half precision gives no
    numbers: it names layer and step."""
    own = private(pipe)
    with ExitStack() as around:
        checked = around.enter_context(
            finite_steps(getattr(own, loaded.component), loaded.place, on_step)
        )
        if checked is not None or on_output is not None:
            _report_steps(own.scheduler, checked, on_output)
        if loaded.place.dtype == "float16" and (vae := own.components.get("vae")) is not None:
            own.vae = borrow(vae)  # some pipelines cast theirs to float32 and back
        call = arguments(own, prompts, seeds, sampling)
        around.enter_context(place_offloaded(own, loaded.place))
        around.enter_context(one_noise(loaded.place.torch_dtype))
        return _run(own, loaded, call, decoded)


def _run(
    pipe: DiffusionPipeline, loaded: Loaded, call: dict[str, Any], decoded: bool
) -> list[np.ndarray]:
    latent = not decoded and pipe.components.get("vae") is not None
    sampling, rows = call["num_inference_steps"], len(call["generator"])
    try:
        images = pipe(**call, output_type="latent" if latent else "np").images
    except torch.OutOfMemoryError as error:
        raise OutOfMemory.at(loaded.place, loaded.info.name, rows) from error
    except IndexError as error:  # schedulers read past the end of their tables
        why = f"{type(pipe.scheduler).__name__} cannot make {sampling} steps ({error})"
        raise DmqError(f"{loaded.info.name}: {why}. Use fewer steps.") from error
    return _to_bytes(images) if decoded else []


def decode(loaded: Loaded, latents: Tensor) -> list[np.ndarray]:
    """Images uint8 [H, W, 3] of what `on_step` reports, noise and all.

    Latents of a VAE are [B, C, h, w]; packed ones [B, patches, C] are unpacked by the pipeline, as
    a square. Of other shapes there is nothing to see: no images."""
    vae = loaded.pipe.components.get("vae")
    if vae is None:
        images = latents
    else:
        if latents.ndim == 3 and hasattr(loaded.pipe, "_unpack_latents"):
            factor = loaded.pipe.vae_scale_factor
            side = round(latents.shape[1] ** 0.5) * 2 * factor
            latents = loaded.pipe._unpack_latents(latents, side, side, factor)
        if latents.ndim != 4:
            return []
        shift = vae.config.get("shift_factor") or 0.0
        vae = _decoder(vae)
        if loaded.place.offload == "none":
            latents = latents.to(vae.device)
        with torch.no_grad():
            images = vae.decode((latents / vae.config.scaling_factor + shift).to(vae.dtype)).sample
    return _to_bytes((images.float() / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).cpu().numpy())


def _decoder(vae: ModelMixin) -> ModelMixin:
    """`vae`, in float32 where its configuration says that float16 overflows in it; as pipelines
    do at their end.
    """
    return (
        borrow(vae).float()
        if vae.dtype == torch.float16 and vae.config.get("force_upcast")
        else vae
    )


def _report_steps(
    scheduler: Any, on_step: OnStep | None, on_output: Callable[[SchedulerCall], None] | None
) -> None:
    """Wrap `scheduler.step`, the one thing that all pipelines call each step; some have no
    callback.
    """
    step, seen = scheduler.step, []

    @functools.wraps(step)  # pipelines look at its signature
    def report_steps(model_output: Tensor, timestep: Any, *args: Any, **kwargs: Any) -> Any:
        t = float(timestep)
        if t not in seen:
            seen.append(t)
        if on_output is not None:
            on_output(SchedulerCall(scheduler, seen.index(t), model_output, timestep, args, kwargs))
        output = step(model_output, timestep, *args, **kwargs)
        if on_step is not None:
            on_step(seen.index(t), t, output[0])
        return output

    scheduler.step = report_steps


def _to_bytes(images: np.ndarray) -> list[np.ndarray]:
    colours = images if images.shape[-1] == 3 else images.repeat(3, -1)
    return list((colours * 255).round().astype(np.uint8))


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and no advice on other packages while loading; all of it as before
    afterwards.
    """
    libraries = (diffusers.utils.logging, transformers.utils.logging)
    levels = [library.get_verbosity() for library in libraries]
    bars = [library.is_progress_bar_enabled() for library in libraries]
    for library in libraries:
        library.set_verbosity_error()
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library, level, bar in zip(libraries, levels, bars, strict=True):
            library.set_verbosity(level)
            if bar:
                library.enable_progress_bar()
