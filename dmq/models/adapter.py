"""What dmq must know of a model family, and nothing else: families differ only here."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from torch import Tensor, nn

from ..errors import DmqError
from ..results import Layer, TemporalBlock


LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


class AbstractAdapter(ABC):
    """Describes the denoiser of a pipeline and how it is called.

    Stateless: one instance serves all models.
    """

    name: ClassVar[str]
    shared_arguments: ClassVar[frozenset[str]] = (
        frozenset()
    )  # of a denoiser call: without a row for each row of x_t

    @abstractmethod
    def matches(self, pipe: Any) -> bool:
        """Does this adapter know the pipeline's denoiser?"""

    @abstractmethod
    def component(self, pipe: Any) -> str:
        """The pipeline's attribute that holds the denoiser: "unet" or "transformer"."""

    @abstractmethod
    def role(self, name: str, order: tuple[str, ...]) -> str:
        """The `Layer.role` of the layer `name`; `order` names all layers as they run."""

    @abstractmethod
    def blocks(self, denoiser: nn.Module) -> tuple[str, ...]:
        """Module paths of the blocks, in forward order."""

    @abstractmethod
    def timestep(self, args: tuple, kwargs: Mapping[str, Any]) -> float:
        """The scheduler's timestep of one denoiser call; DmqError if its rows disagree."""

    @abstractmethod
    def sample_of(self, args: tuple, kwargs: Mapping[str, Any]) -> Tensor:
        """x_t of one denoiser call, (rows, ...)."""

    @abstractmethod
    def conditioning(self, args: tuple, kwargs: Mapping[str, Any]) -> dict[str, Tensor]:
        """The other tensors of one denoiser call by argument name, nested ones as "outer.inner"."""

    def temporal(self, denoiser: nn.Module) -> TemporalBlock | None:
        """The temporal information block of `denoiser`; None if the adapter knows none."""
        return None

    def splits(self, denoiser: nn.Module) -> dict[str, int]:
        """By layer whose input is [what comes from below, shortcut] along its channels: how many
        come from below.
        """
        return {}

    def embeddings(
        self, denoiser: nn.Module, t: Tensor, given: Mapping[str, Tensor]
    ) -> tuple[Tensor, ...]:
        """What `TemporalBlock.projections` read, each [rows, width]; `Projection.source` counts
        them.

        Computed by the denoiser's own modules, found by their paths, from the timesteps `t` [rows]
        as the denoiser gets them and the `TemporalBlock.arguments` in `given`, named as by
        `conditioning` and with as many rows."""
        raise DmqError(f"{type(denoiser).__name__}: no temporal block known.")

    def layers(
        self, denoiser: nn.Module, macs: Mapping[str, int] | None = None
    ) -> tuple[Layer, ...]:
        """All Linear and Conv layers.

        `macs` (see `survey.macs`) gives the order; without it, as registered.
        """
        found = {name: m for name, m in denoiser.named_modules() if isinstance(m, LAYERS)}
        macs = macs or {}
        order = (*macs, *(name for name in found if name not in macs))
        blocks = self.blocks(denoiser)
        return tuple(
            Layer(
                name=name,
                kind="linear" if isinstance(found[name], nn.Linear) else "conv",
                role=self.role(name, order),
                block=next((b for b in blocks if name.startswith(f"{b}.")), name.partition(".")[0]),
                shape=tuple(found[name].weight.shape),
                bias=found[name].bias is not None,
                macs=macs.get(name, 0),
            )
            for name in order
        )

    def first_last(self, denoiser: nn.Module) -> tuple[str, ...]:
        """Names of the layers that read the image and write the answer."""
        return tuple(
            layer.name for layer in self.layers(denoiser) if layer.role in ("first", "last")
        )

    def halves(self, rows: int, images: int) -> np.ndarray:
        """int8 per row of a call for `images` images: 0 unconditional, 1 conditional, -1 no
        guidance.

        Diffusers stacks guidance as [unconditional..., conditional...]; row r belongs to image r
        % images."""
        return (
            np.repeat([0, 1], images).astype(np.int8)
            if rows == 2 * images
            else np.full(rows, -1, np.int8)
        )


def single_timestep(t: Tensor | float) -> float:
    """The one value of `t`, a number or a tensor whose entries agree; DmqError if they do not.

    >>> single_timestep(__import__("torch").tensor([7, 7]))
    7
    """
    if not isinstance(t, Tensor):
        return t
    values = t.detach().flatten()
    if len(values) == 0 or (values != values[0]).any():
        raise DmqError(
            f"a denoiser call mixes the timesteps {sorted(set(values.tolist()))}; dmq needs the "
            "same one in all rows. "
            "Use a pipeline that moves all images through the same steps."
        )
    return values[
        0
    ].item()  # a whole number stays one: those must match exactly, see trajectory.steps


def argument(args: tuple, kwargs: Mapping[str, Any], position: int, *names: str) -> Any:
    """The argument called one of `names`, or else the one at `position`; DmqError if the call
    has neither.
    """
    for name in names:
        if kwargs.get(name) is not None:
            return kwargs[name]
    if len(args) > position:
        return args[position]
    raise DmqError(f"the denoiser was called without {names[0]}; dmq cannot follow this pipeline.")


def tensors_of(
    args: tuple, kwargs: Mapping[str, Any], names: tuple[str, ...], skip: tuple[str, ...]
) -> dict[str, Tensor]:
    """The tensors among the arguments, positional ones called by `names`, nested ones
    "outer.inner".
    """
    flat: dict[str, Tensor] = {}

    def collect(name: str, value: Any) -> None:
        if isinstance(value, Tensor):
            flat[name] = value
        elif isinstance(value, Mapping):
            for key, inner in value.items():
                collect(f"{name}.{key}", inner)
        elif isinstance(value, (list, tuple)):
            for n, inner in enumerate(value):
                collect(f"{name}.{n}", inner)

    for name, value in (*zip(names, args, strict=False), *kwargs.items()):
        if name not in skip:
            collect(name, value)
    return flat
