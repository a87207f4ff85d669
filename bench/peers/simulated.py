"""dmq's W8A8 as it is simulated everywhere: weights and inputs rounded, products in float."""

from dmq.quantizers.apply import quantize_model

from .made import Made
from .subjects import Subject


def make(subject: Subject) -> Made:
    """The static recipe W8A8, simulated."""
    plan, loaded = subject.plan(groups=1), subject.loaded
    return Made(quantize_model(loaded.denoiser, plan, loaded.adapter), plan.bytes)
