"""Watch activations without touching the model: hooks that come off, even on error."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..models.probabilities import Probabilities
from ..results import Site


@contextmanager
def watch_modules(
    model: nn.Module, sites: Iterable[Site], see: Callable[[Site, Any], None]
) -> Iterator[None]:
    """Call `see(site, tensor)` whenever a tensor flows through one of `sites` of `model`.

    Operands of attention exist only in a model that went through `explicit_products`, or
    `watched_products`, where the softmax output is told of as `Probabilities`. AttributeError for a
    site that the model does not have."""
    with ExitStack() as hooks:
        for site in sites:
            if site.point == "input":
                module, register = model.get_submodule(site.name), "register_forward_pre_hook"
            else:
                path = (
                    site.name if site.point == "output" else f"{site.name}.processor.{site.point}"
                )
                module, register = model.get_submodule(path), "register_forward_hook"
            hooks.callback(getattr(module, register)(_hook(site, see), with_kwargs=True).remove)
        yield


def _hook(site: Site, see: Callable[[Site, Any], None]) -> Callable[..., None]:
    # Layers of an attention run inside the mode that opens its products, which slows each operation
    # of `see` down.
    def before(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        with torch._C.DisableTorchFunction():
            see(site, (args[0] if args else kwargs["input"]).detach())

    def after(
        module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Tensor | Probabilities
    ) -> None:
        with torch._C.DisableTorchFunction():
            see(site, output.detach() if isinstance(output, Tensor) else output)

    return before if site.point == "input" else after
