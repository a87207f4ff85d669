"""A quantized pipeline as files."""

from pathlib import Path
from typing import TYPE_CHECKING

from .. import stages
from ..recipe import Recipe
from ..runs import FORMS
from .load_recipe import load_recipe
from .run_to_end import OnProgress, run_to_end


if TYPE_CHECKING:
    from ..checkpoint import Exported


def export(
    recipe: Recipe | str | Path,
    folder: str | Path,
    *,
    form: str = FORMS[0],
    denoiser_only: bool = False,
    progress: OnProgress = None,
) -> "Exported":
    """Write the pipeline of `recipe` with its quantized denoiser into `folder`; returns bytes by
    part, and files.

    `form`: "dmq", which diffusers loads once dmq.checkpoint is imported; or the weights alone,
    "dequantized" for plain diffusers, "sdnq" for diffusers with sdnq. The folder is there when it
    is whole. Raises DmqError for another form, or if something that dmq did not write is there.

    >>> import dmq, pathlib, tempfile
    >>> folder = pathlib.Path(tempfile.mkdtemp()) / "w8a8"
    >>> written = dmq.export("W8A8, one range", folder, form="dequantized")
    >>> (folder / "model_index.json").is_file()
    True
    """
    return run_to_end(
        stages.export(load_recipe(recipe), folder, form=form, denoiser_only=denoiser_only), progress
    )
