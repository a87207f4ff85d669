"""optimum-quanto: int8 linear layers, ranges calibrated; convolutions have int8 weights and
float inputs.
"""

from torch import nn

from dmq.models.borrow import borrow

from .made import Made, float_layers, tensor_bytes
from .subjects import Subject


def make(subject: Subject) -> Made:
    """The denoiser with all layers that quanto knows, calibrated by the subject's recorded
    calls.
    """
    from optimum import quanto

    denoiser = borrow(subject.loaded.denoiser)
    # It makes quantized norms too, and those without a weight cannot be saved.
    bare = [
        name
        for name, m in denoiser.named_modules()
        if isinstance(m, nn.LayerNorm) and m.weight is None
    ]
    quanto.quantize(denoiser, weights=quanto.qint8, activations=quanto.qint8, exclude=bare)
    calls = subject.calls()
    with quanto.Calibration():
        for call in calls:
            denoiser(**call)
    quanto.freeze(denoiser)
    note = float_layers(denoiser, (nn.Linear, nn.Conv2d))
    wide = sum(
        isinstance(m, quanto.nn.QConv2d) and "input" not in m._quantize_hooks
        for m in denoiser.modules()
    )
    wide = f"{wide} Conv2d layers with float inputs" if wide else ""
    note = "; ".join(filter(None, (f"calibrated by {len(calls)} calls", wide, note)))
    return Made(denoiser, tensor_bytes(denoiser.state_dict()), note)
