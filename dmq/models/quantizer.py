"""What diffusers must know so that its own `from_pretrained` and `save_pretrained` read and write
dmq's checkpoints.

Only the hooks are here: what a checkpoint is, and how a model is made of it, is said by the
`Storage` that `register` is given."""

import enum
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import accelerate
import diffusers
import huggingface_hub
import torch
from diffusers import DiffusionPipeline, ModelMixin
from diffusers.quantizers import auto
from diffusers.quantizers.base import DiffusersQuantizer
from diffusers.quantizers.quantization_config import QuantizationConfigMixin
from torch import Tensor

from ..errors import DmqError
from .loading import UNREADABLE, quiet


class Method(str, enum.Enum):  # noqa: UP042 – a plain StrEnum has other text, which diffusers writes into files
    """The name of dmq's checkpoints in `config.json`, in the form that diffusers wants."""

    DMQ = "dmq"


class Storage(ABC):
    """A checkpoint while diffusers loads a model from it, and afterwards, when it saves the
    model again.
    """

    @abstractmethod
    def verify(self, files: list[Path]) -> None:
        """Look at the files before a tensor of theirs is used; DmqError if they are not what
        they should be.
        """

    @abstractmethod
    def prepare(self, model: ModelMixin) -> None:
        """Make places for the stored tensors in a skeleton without values."""

    @abstractmethod
    def owns(self, name: str) -> bool:
        """Is this one of the stored tensors that are no parameter of the float model?"""

    @abstractmethod
    def accept(self, name: str, tensor: Tensor, device: torch.device) -> None:
        """Take a stored tensor as it is in the file."""

    @abstractmethod
    def finish(self, model: ModelMixin, dtype: torch.dtype) -> None:
        """Make the quantized model of the skeleton, in place, once all tensors are there."""

    @abstractmethod
    def saved(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
        """The tensors to write for the finished model, whose own ones are `state`, and metadata
        of the file.
        """


class DmqConfig(QuantizationConfigMixin):
    """`quantization_config` of a denoiser's `config.json`, kept as it was read."""

    def __init__(self, **settings: Any) -> None:
        self.quant_method = Method.DMQ  # type: ignore[assignment]  # an enum cannot be extended
        self.settings = {name: value for name, value in settings.items() if name != "quant_method"}

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {"quant_method": Method.DMQ.value} | self.settings

    def to_diff_dict(self) -> dict[str, Any]:
        """What diffusers prints."""
        return {
            name: value
            for name, value in self.to_dict().items()
            if not isinstance(value, (dict, list))
        }


class DmqQuantizer(DiffusersQuantizer):
    """Hands what diffusers does while loading and saving to a `Storage`."""

    make: Callable[[Mapping[str, Any]], Storage]

    def __init__(self, quantization_config: DmqConfig, **kwargs: Any) -> None:
        super().__init__(quantization_config, **kwargs)
        if not self.pre_quantized:
            raise DmqError(
                "dmq does not quantize while loading: quantize the loaded pipeline and export it, "
                "or run `dmq export`."
            )
        self.storage = type(self).make(quantization_config.settings)
        self.dtype = torch.float32

    def update_torch_dtype(self, torch_dtype: Any) -> Any:  # a dtype or None, as diffusers has it
        self.dtype = torch_dtype or torch.float32
        return torch_dtype

    def maybe_update_loaded_keys(
        self, loaded_keys: list[str], checkpoint_files: list[str]
    ) -> list[str]:
        self.storage.verify([Path(file) for file in checkpoint_files])
        return loaded_keys

    def check_if_quantized_param(
        self,
        model: ModelMixin,
        param_value: Tensor,
        param_name: str,
        state_dict: dict[str, Any],
        **_: Any,
    ) -> bool:
        return self.storage.owns(param_name)

    def check_quantized_param_shape(self, param_name: str, current: Tensor, loaded: Tensor) -> None:
        raise DmqError(
            f"{param_name} has shape {tuple(loaded.shape)}, expected {tuple(current.shape)}."
        )

    def create_quantized_param(  # type: ignore[override]  # diffusers uses no answer
        self,
        model: ModelMixin,
        param_value: Tensor,
        param_name: str,
        target_device: torch.device,
        state_dict: dict[str, Any],
        *_: Any,
        **__: Any,
    ) -> None:
        # Not `param_value`, which diffusers has cast to the model's dtype.
        self.storage.accept(param_name, state_dict[param_name], target_device)

    def get_state_dict_and_metadata(
        self, state_dict: dict[str, Any], safe_serialization: bool = False
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        if not safe_serialization:
            raise DmqError("dmq writes safetensors only: save with safe_serialization=True.")
        return self.storage.saved(state_dict)

    def _process_model_before_weight_loading(self, model: ModelMixin, **_: Any) -> None:
        self.storage.prepare(model)

    def _process_model_after_weight_loading(self, model: ModelMixin, **_: Any) -> None:
        self.storage.finish(model, self.dtype)

    @property
    def is_serializable(self) -> bool:
        return True

    @property
    def is_trainable(self) -> bool:
        return False


def register(make: Callable[[Mapping[str, Any]], Storage]) -> None:
    """Let diffusers load checkpoints whose `quant_method` is "dmq"; `make` is given their other
    settings.
    """
    DmqQuantizer.make = staticmethod(make)
    auto.AUTO_QUANTIZER_MAPPING[Method.DMQ.value] = DmqQuantizer
    auto.AUTO_QUANTIZATION_CONFIG_MAPPING[Method.DMQ.value] = DmqConfig


def model_class(name: Any) -> type[ModelMixin]:
    """The class of diffusers' models that is called `name`; DmqError if there is none."""
    # dir, not getattr with any name: modules that diffusers imports lazily are no models.
    found = (
        getattr(diffusers, name, None) if isinstance(name, str) and name in dir(diffusers) else None
    )
    if not (isinstance(found, type) and issubclass(found, ModelMixin)):
        raise DmqError(f"{name!r:.80} is no model of this diffusers ({diffusers.__version__}).")
    return found


def skeleton(config: Mapping[str, Any]) -> ModelMixin:
    """The model that a `config.json` describes, with shapes and no values.

    Raises DmqError if it describes none.
    """
    kind = model_class(config.get("_class_name"))
    settings = {name: value for name, value in config.items() if name != "quantization_config"}
    try:
        with quiet(), accelerate.init_empty_weights():
            return kind.from_config(settings)
    except Exception as error:  # whatever a constructor raises for settings that nobody checked
        why = str(error).strip().partition("\n")[0]
        why = f"{type(error).__name__}: {why:.120}"
        raise DmqError(f"config.json: no {kind.__name__} can be made of it ({why}).") from None


def from_folder(folder: Path, config: Mapping[str, Any]) -> ModelMixin:
    """The model in `folder`, by diffusers' own `from_pretrained`.

    Raises DmqError if that cannot read it.
    """
    try:
        with quiet():
            return model_class(config.get("_class_name")).from_pretrained(
                folder, use_safetensors=True
            )
    except UNREADABLE as error:
        why = str(error).strip().partition("\n")[0]
        raise DmqError(
            f"{folder}: diffusers cannot read it ({type(error).__name__}: {why:.120})."
        ) from None


def pipeline_from_folder(folder: Path) -> DiffusionPipeline:
    """The pipeline in `folder`, by diffusers' own `from_pretrained`.

    Raises DmqError if that cannot read it.
    """
    try:
        with quiet():
            return DiffusionPipeline.from_pretrained(folder, use_safetensors=True)
    except UNREADABLE as error:
        why = str(error).strip().partition("\n")[0]
        raise DmqError(
            f"{folder}: diffusers cannot read it ({type(error).__name__}: {why:.120})."
        ) from None


def push_folder(folder: Path, name: str, private: bool) -> str:
    """Upload `folder` to the Hub as `name`, as whoever is logged in; returns its address.

    DmqError if it refuses.
    """
    if huggingface_hub.get_token() is None:
        raise DmqError(
            "nobody is logged in to the Hugging Face Hub: run `hf auth login`, or set HF_TOKEN."
        )
    try:
        with quiet():
            made = huggingface_hub.create_repo(name, private=private, exist_ok=True)
            huggingface_hub.upload_folder(repo_id=made.repo_id, folder_path=folder)
    except (OSError, ValueError, huggingface_hub.errors.HfHubHTTPError) as error:
        why = str(error).strip().partition("\n")[0]
        raise DmqError(
            f"{name}: cannot be pushed ({why:.160}). Check the name, the token and the network."
        ) from None
    return str(made)


def config_data(model: ModelMixin) -> dict[str, Any]:
    """`model.config` as `save_pretrained` writes it, without where it came from and how it was
    quantized.
    """
    config = json.loads(model.to_json_string())
    return {
        name: value
        for name, value in config.items()
        if name not in ("quantization_config", "_name_or_path")
    }
