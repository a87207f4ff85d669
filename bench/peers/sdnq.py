"""SDNQ: int8 linear and conv layers, inputs ranged as they come; its licence is GPL-3.0, so it
is only called.
"""

from torch import nn

from dmq.models.borrow import borrow

from .made import Made, float_layers, tensor_bytes
from .subjects import Subject


def make(subject: Subject) -> Made:
    """The denoiser by SDNQ's own defaults, with all that it can do in int8 done in int8."""
    from sdnq import sdnq_post_load_quant

    denoiser = sdnq_post_load_quant(
        borrow(subject.loaded.denoiser),
        weights_dtype="int8",
        quant_conv=True,
        use_quantized_matmul=True,
        use_quantized_matmul_conv=True,
    )
    return Made(
        denoiser,
        tensor_bytes(denoiser.state_dict()),
        float_layers(denoiser, (nn.Linear, nn.Conv2d)),
    )
