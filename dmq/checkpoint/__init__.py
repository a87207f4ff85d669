"""Quantized models as files, and back: `import dmq.checkpoint` lets diffusers' own
`from_pretrained` read them.

    import dmq.checkpoint
    from diffusers import DiffusionPipeline

    pipe = DiffusionPipeline.from_pretrained("folder")

`mode("simulated")`, as a block around it, or `$DMQ_MODE` chooses how the model computes; otherwise
its file says. Saved again, a model has the tensors that it was loaded from; only what it computes
in another precision is cast."""

from ..models.quantizer import register
from .loading import Stored, load, mode
from .pipelines import Checked, check, export_pipeline, load_pipeline
from .reading import read
from .shards import quantize_shards
from .views import for_sdnq, push, write_dequantized
from .writing import Exported, check_target, collect, export_denoiser


register(Stored)

__all__ = [
    "Checked",
    "Exported",
    "check",
    "check_target",
    "collect",
    "export_denoiser",
    "export_pipeline",
    "for_sdnq",
    "load",
    "load_pipeline",
    "mode",
    "push",
    "quantize_shards",
    "read",
    "write_dequantized",
]
