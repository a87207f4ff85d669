"""Everything that a recipe needs before its model can be quantized."""

from pathlib import Path

from ..progress import OnProgress, run_to_end
from ..recipe import Recipe
from ..workflow.steps import carry_out
from .load_recipe import load_recipe


def prepare(recipe: Recipe | str | Path, *, progress: OnProgress = None) -> None:
    """Capture, learn, measure and calibrate what `recipe` needs and has not been done yet; all of
    it is kept.

    `plan`, `quantize`, `compare`, `benchmark` and `export` do this first by themselves. Interrupted
    work is resumed by the next call.

    >>> import dmq
    >>> seen = []
    >>> dmq.prepare("TFMQ-DM W4A8", progress=seen.append)  # it ships: there is nothing left to do
    >>> seen
    []
    """
    run_to_end(carry_out(load_recipe(recipe)), progress)
