"""A quantized pipeline as files, and folders from others looked at."""

import shutil
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DmqError
from ..models.libraries import import_libraries, load
from ..progress import OnProgress, Progress, progress_timer, relay, run_to_end
from ..recipe import Recipe
from ..results import Report
from ..store.exports import FORMS
from ..workflow.answers import get_codes, get_plan
from ..workflow.steps import carry_out
from .load_recipe import load_recipe


if TYPE_CHECKING:
    from ..checkpoint import Checked, Exported

ENGINE = "executed"  # how a folder is loaded unless it says otherwise, or its reader does


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
        write_export(load_recipe(recipe), folder, form=form, denoiser_only=denoiser_only), progress
    )


def write_export(
    recipe: Recipe,
    folder: str | Path,
    *,
    engine: str = ENGINE,
    denoiser_only: bool = False,
    form: str = FORMS[0],
    report: Report | None = None,
) -> Generator[Progress, None, "Exported"]:
    """Write the pipeline of `recipe` with its quantized denoiser into `folder`; returns bytes by
    part, and files.

    What the recipe needs is captured and learned first. `denoiser_only` leaves the other parts out.
    `form` is one of exports.FORMS: "dmq", which diffusers loads once dmq.checkpoint is imported, or
    the weights alone, "dequantized" for diffusers as it is, "sdnq" for diffusers with sdnq. The
    folder is there when it is whole, and only then. Raises DmqError for another form, or if
    something that dmq did not write is there, before any work."""
    if form not in FORMS:
        raise DmqError(f"form is {form!r:.40}, not one of {', '.join(FORMS)}.")
    import_libraries()
    from .. import checkpoint

    folder = Path(folder).expanduser()
    checkpoint.check_target(folder)
    yield from carry_out(recipe)
    yield Progress("Load the model", 0, 1)
    loaded, made, codes = load(recipe.model), get_plan(recipe), get_codes(recipe).codes
    beside: dict[str, Any] = {"learned": codes, "recipe": recipe, "report": report, "mode": engine}

    def written(place: Path) -> Generator[tuple[int, int], None, "Exported"]:
        if denoiser_only:
            beside["component"] = loaded.component
            return checkpoint.export_denoiser(
                loaded.denoiser, made, loaded.adapter, place, **beside
            )
        return checkpoint.export_pipeline(loaded, made, place, **beside)

    if form == FORMS[0]:
        return (yield from relay(written(folder), progress_timer("Write")))
    folder.parent.mkdir(parents=True, exist_ok=True)
    between = Path(tempfile.mkdtemp(prefix=".part-", dir=folder.parent))
    try:
        yield from relay(written(between / "it"), progress_timer("Quantize"))
        view = {"dequantized": checkpoint.write_dequantized, "sdnq": checkpoint.for_sdnq}[form]
        return (yield from relay(view(between / "it", folder), progress_timer("Write")))
    finally:
        shutil.rmtree(between)


def check(folder: str | Path) -> "Checked":
    """Verify a folder that `export` wrote, whoever it comes from.

    Raises DmqError for whatever is wrong with it.
    """
    import_libraries()
    from .. import checkpoint

    return checkpoint.check(folder)
