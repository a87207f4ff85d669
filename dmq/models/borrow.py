"""Small surgery on module trees: everything dmq changes, it changes in a borrowed copy."""

import copy

from torch import nn


def borrow(model: nn.Module) -> nn.Module:
    """A copy of `model` made of new modules that read the same memory.

    Swapping, casting or moving layers in the copy leaves the original as it was, so a cached float
    model may serve many quantized ones. Writing into a borrowed weight would show through: what is
    learned belongs in a new parameter."""
    # New Parameter objects, since Module.to() assigns to `param.data` and would reach the original.
    lent = {id(p): nn.Parameter(p.detach(), p.requires_grad) for p in model.parameters()}
    return copy.deepcopy(model, lent | {id(b): b.detach() for b in model.buffers()})


def parameters_of(layer: nn.Module) -> tuple[nn.Parameter, nn.Parameter | None]:
    """The weight of a linear or convolution layer, and its bias if it has one."""
    return layer.get_parameter("weight"), layer._parameters.get("bias")


def replace(model: nn.Module, name: str, layer: nn.Module) -> None:
    """Put `layer` where `name` points, as in `model.get_submodule(name)`; AttributeError if
    there is no such place.
    """
    parent, _, leaf = name.rpartition(".")
    model.get_submodule(name)
    setattr(model.get_submodule(parent), leaf, layer)
