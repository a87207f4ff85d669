"""Quantized models as files, and back: `import dmq.checkpoint` lets diffusers' own `from_pretrained` read them.

    import dmq.checkpoint
    from diffusers import DiffusionPipeline

    pipe = DiffusionPipeline.from_pretrained("folder")

`mode("simulated")`, as a block around it, or `$DMQ_MODE` chooses how the model computes; otherwise its file says.
"""

from ..models.quantizer import register
from .loading import Stored, load, mode
from .reading import read
from .writing import Exported, collect, export_denoiser


register(Stored)

__all__ = ["Exported", "collect", "export_denoiser", "load", "mode", "read"]
