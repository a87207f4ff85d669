"""torchao: int8 linear layers, ranges of inputs dynamic; convolutions stay in float."""

import torch
from torch import nn

from dmq.models.borrow import borrow

from .made import Made, saved_bytes
from .subjects import Subject


def make(subject: Subject, compiled: bool) -> Made:
    """The denoiser with its linear layers quantized; `compiled`, as torchao recommends, or
    eager.
    """
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    denoiser = borrow(subject.loaded.denoiser)
    quantize_(denoiser, Int8DynamicActivationInt8WeightConfig())
    # Its tensors go into no safetensors file as they are; the file is written, measured and never
    # read.
    size = saved_bytes(lambda folder: torch.save(denoiser.state_dict(), folder / "weights.pt"))
    left = sum(isinstance(module, nn.Conv2d) for module in denoiser.modules())
    return Made(
        torch.compile(denoiser) if compiled else denoiser, size, f"{left} Conv2d layers in float"
    )
