"""How long a shared GPU is asked for: from what is to be generated, since nothing may be tried before
it is lent.

The rates are assumptions on the safe side, no measurements: who asks for too little is cut off, who
asks for too much waits longer for a place."""

import math

from ..artifacts.model_info import get_info


START = 10.0  # seconds to begin: another process, the model, the first kernels
# of a denoiser call of a small model, which waits for its kernels to be launched; simulated layers
# too
LAUNCH = 0.05
RATE = 5e12  # multiply-adds a second of a large one
AT_A_TIME = 8  # images of a call


def estimate_gpu_seconds(model: str, images: int, steps: int, models: int = 1) -> float:
    """Seconds for `images` of `steps` steps by each of `models` denoisers like that of `model`,
    on a GPU.

    Raises DmqError if the model cannot be described.
    """
    known = get_info(model)
    one = (
        sum(layer.macs for layer in known.layers) * (2 if known.prompted else 1) / RATE
    )  # twice with guidance
    batches = math.ceil(images / AT_A_TIME)
    return START + models * steps * (batches * LAUNCH + images * one)
