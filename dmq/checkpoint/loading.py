"""dmq's checkpoints in diffusers' own `from_pretrained` and `save_pretrained`, and `load`, which
checks first.
"""

import contextlib
import os
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import DmqError
from ..models.quantizer import Storage, config_data, from_folder
from ..recipe import ENGINES, SIMULATED
from ..runtime.layers import PackedLayer
from .build_model import assemble_model, open_model
from .reading import read, readable
from .settings import Content, metadata_of, quantized_layout, sealed
from .weight_layout import store


VARIABLE = "DMQ_MODE"
_asked: ContextVar[str | None] = ContextVar("mode", default=None)


@contextlib.contextmanager
def mode(name: str) -> Iterator[None]:
    """Models loaded in this block are "executed", "executed bf16" or "simulated", whatever files
    and `$DMQ_MODE` say.

    Diffusers takes no settings from its callers for models that are quantized already, hence this
    way."""
    token = _asked.set(_check_mode(name))
    try:
        yield
    finally:
        _asked.reset(token)


def load(folder: str | Path, how: str | None = None) -> nn.Module:
    """The quantized denoiser in `folder`, as diffusers loads it; `how` is a name that `mode` takes.

    It has its `plan` and its `clock`, as a model by `quantizers.apply.quantized` has. Raises
    DmqError for a folder that is no checkpoint, is damaged, or is of a newer dmq."""
    folder = Path(folder).expanduser()
    content, _, _ = read(folder)
    with contextlib.ExitStack() as stack:
        if how is not None:
            stack.enter_context(mode(how))
        token = _verified.set(content)
        stack.callback(_verified.reset, token)
        with readable(folder):
            return from_folder(folder, content.config)


_verified: ContextVar[Content | None] = ContextVar("verified", default=None)


class Stored(Storage):
    """One checkpoint in diffusers' hands.

    Packed codes of simulated layers are kept, to be saved again.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.settings = {"quant_method": "dmq"} | dict(settings)
        self.mode = _asked.get() or _check_mode(
            os.environ.get(VARIABLE) or self.settings.get("mode")
        )
        self.content: Content  # since `verify`
        self.names: frozenset[str] = frozenset()
        self.plain: list[str] = []  # tensors that the float model has, too
        self.kept: dict[str, Tensor] = {}
        self.ordinary: dict[str, Tensor] = {}
        self.model: nn.Module  # since `prepare`

    def verify(self, files: list[Path]) -> None:
        checked = _verified.get()
        if checked is None:
            checked, _, _ = read(files[0].parent, weights=files)
        self.content = checked

    def prepare(self, model: nn.Module) -> None:
        open_model(model, self.content)
        self.model = model
        self.names = frozenset(quantized_layout(self.settings))
        self.plain = [name for name in model.state_dict() if name not in self.names]

    def owns(self, name: str) -> bool:
        return name in self.names

    def accept(self, name: str, tensor: Tensor, device: torch.device) -> None:
        self.kept[name] = (
            tensor.clone()
        )  # the file's own pages would follow what is done to the file
        place, _, part = name.rpartition(".")
        # With a device map, diffusers moves the model before it is finished: nothing may be without
        # a place.
        self.model.get_submodule(place).register_buffer(part, tensor.new_empty(0))

    def finish(self, model: nn.Module, dtype: torch.dtype) -> None:
        # The same objects that the finished model has, wherever its layers put them.
        self.ordinary = dict(model.named_parameters(remove_duplicate=False))
        fetch = self.kept.__getitem__
        assemble_model(model, self.content, fetch, self.mode, dtype)
        if (
            self.mode != SIMULATED
        ):  # its layers have their codes, from which the same bytes can be made again
            parts = {
                f"{name}."
                for name in self.content.codes
                if isinstance(self._layer(name), PackedLayer)
            }
            self.kept = {
                name: x for name, x in self.kept.items() if not name.startswith(tuple(parts))
            }

    def saved(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
        tensors = dict(self.kept)
        for name in self.content.codes:
            layer = self._layer(name)
            if isinstance(layer, PackedLayer) and f"{name}.codes" not in tensors:
                parts, _ = store(layer.codes)
                tensors |= {f"{name}.{part}": x.cpu() for part, x in parts.items()}
        for name in self.plain:
            tensors[name] = state[name] if name in state else self.ordinary[name].detach()
        return tensors, metadata_of(sealed(config_data(self.model), self.settings), tensors)

    def _layer(self, name: str) -> nn.Module | None:
        """The layer whose weight `name` is; None for other parameters."""
        parent, _, leaf = name.rpartition(".")
        return self.model.get_submodule(parent) if leaf == "weight" else None


def _check_mode(name: Any) -> str:
    if name not in ENGINES:
        raise DmqError(
            f"mode is {name!r:.40}, not one of {', '.join(ENGINES)}; see ${VARIABLE} and "
            "config.json."
        )
    return name
