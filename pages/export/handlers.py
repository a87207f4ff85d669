"""Export: how large the recipe's model is, what of it runs where, and its files to load,
download or push.
"""

import html
import shlex
from collections.abc import Generator, Iterator
from typing import Any

import gradio as gr

from dmq import public
from dmq.artifacts.model_info import get_info
from dmq.errors import DmqError
from dmq.evaluation import engines
from dmq.progress import Progress, relay, run_to_end
from dmq.recipe import EMBEDDED, SIMULATED, Recipe
from dmq.results import Plan
from dmq.store import exports, folders
from dmq.workflow import hub
from dmq.workflow.answers import get_plan
from dmq.workflow.export import ENGINE, write_export

from .. import recipe_code
from ..job_panel import JobPanel, format_note, watch
from ..layout import explain_no_capture, show_body, show_hint
from ..session import read


FORMS = {
    "dmq checkpoint": "dmq",
    "dequantized safetensors for stock diffusers": "dequantized",
    "weights for diffusers with SDNQ": "sdnq",
}
MARKS = {
    "dmq": "",
    "dequantized": " dequantized",
    "sdnq": " for SDNQ",
}  # behind the name of a folder
HEADS = {  # of a program that loads them
    "dmq": "import dmq.checkpoint  # teaches diffusers the format",
    "sdnq": "# diffusers reads this with sdnq (pip install sdnq), which compiles at its first "
    "image",
}
PARTS = {"whole pipeline": "pipeline", "denoiser only": "denoiser"}
NAMED = 3  # layers that a row names before it counts them
JOB = JobPanel(
    start={"go": "Export"},
    stop="Stop exporting",
    progress="Progress of the export",
    stopped="Stopped; nothing half-written was left.",
)


# --- sizes and kernels ----------------------------------------------------------------------------


def show(text: str, form: str, part: str, name: str | None) -> dict[str, Any]:
    """The tab for the current recipe: its sizes, and the exports that are there."""
    recipe = read(text)
    names = exports.exports()
    chosen = name if name in names else None
    top: dict[str, Any] = {
        "name": gr.update(choices=names, value=chosen),
        "kernels": gr.update(value=[], visible=False),
    }
    top |= {
        "push": gr.update(interactive=not hub.push_hindrance()),
        "hub": hub.push_hindrance(),
    }
    top |= show_code(text, form, part, chosen)
    try:
        plan = get_plan(recipe)
    except DmqError as error:
        hint = explain_no_capture(recipe) or html.escape(folders.hide_places(error))
        return top | show_hint(hint) | {"sizes": ""}
    return top | show_body() | {"sizes": format_sizes(plan)}


def format_sizes(plan: Plan) -> str:
    """The denoiser in float32, in float16 and quantized, and what the latter consists of, as
    bars with bytes.
    """
    rows = [
        ("float32", plan.float_bytes, "whole"),
        ("float16 would be", plan.float_bytes // 2, "whole"),
        ("quantized", plan.bytes, "whole"),
        ("codes and their scales", plan.weight_bytes, "part"),
        ("tables of activations", plan.table_bytes, "part"),
        ("1-D and other parameters", plan.vector_bytes, "part"),
        ("cache of temporal features", plan.cache_bytes, "part"),
    ]
    lines = "".join(
        _format_bar(label, size, plan.float_bytes, kind)
        for label, size, kind in rows
        if size or kind == "whole"
    )
    ratio = plan.float_bytes / max(1, plan.bytes)
    text = f"<b>{ratio:.2f}× smaller</b> than float32, {ratio / 2:.2f}× than float16: "
    text += f"{plan.bytes / max(1, plan.float_bytes):.1%} and {2 * plan.bytes / max(1, plan.float_bytes):.1%} of it. "
    text += f"Weights of the layers have {plan.average_bits:.2f} bits on average, scales and zero points included."
    return f'<p>{text}</p><table class="dmq-sizes"><tbody>{lines}</tbody></table>'


def _format_bar(label: str, size: int, most: int, kind: str) -> str:
    width = 100 * size / max(1, most)
    meter = f'<div class="dmq-meter"><div style="width: {width:.2f}%"></div></div>'
    return (
        f'<tr class="{kind}"><th>{html.escape(label)}</th><td class="bar" '
        f'aria-hidden="true">{meter}</td>'
        f"<td>{size / 1e6:.3f} MB</td><td>{size:,} bytes</td><td>{width:.2f} %</td></tr>"
    )


def show_kernels(text: str) -> Iterator[dict[str, Any]]:
    """What runs where, once the kernels are prepared."""
    yield {"status": format_note("Waiting for the model …")}
    try:
        rows = run_to_end(engines.assign_kernels(read(text)))
    except Exception:
        yield {"status": ""}
        raise
    table = [
        [
            ("⚠ " if row.fell_back else "") + row.where,
            len(row.layers),
            ", ".join(row.formats),
            list_names(row.layers),
        ]
        for row in rows
    ]
    yield {"status": "", "kernels": gr.update(value=table, visible=True)}


def list_names(layers: tuple[str, ...]) -> str:
    """The first of the layers by name, and how many more there are."""
    more = f" and {len(layers) - NAMED} more" if len(layers) > NAMED else ""
    return ", ".join(layers[:NAMED]) + more


# --- exporting ------------------------------------------------------------------------------------


def export(text: str, form: str, part: str) -> Iterator[dict[str, Any]]:
    """Write the recipe's model into a folder of its own, and pack it for the download."""
    recipe = read(text)
    kind, alone = FORMS[check_choice(form, FORMS)], PARTS[check_choice(part, PARTS)] == "denoiser"
    engine = ENGINE if recipe.engine == SIMULATED else recipe.engine
    name = exports.free_export(
        f"{shorten_model(recipe)} {recipe.name}{MARKS[kind]}{' denoiser' * alone}"
    )

    folder = exports.export_folder(name)

    @JOB.run
    def write() -> Generator[dict[str, Any], None, dict[str, Any]]:
        yield {}
        yield from watch(
            write_export(recipe, folder, engine=engine, denoiser_only=alone, form=kind)
        )
        return {"name": gr.update(choices=exports.exports(), value=name)} | show_code(
            text, form, part, name
        )

    yield from write()
    yield from fetch(name)


def check_choice(value: str, known: dict[str, str]) -> str:
    """`value` if it is one of those `known`. Raises DmqError otherwise."""
    if value not in known:
        raise DmqError(f"choose one of {', '.join(known)}, not {value!r:.40}.")
    return value


def shorten_model(recipe: Recipe) -> str:
    """A word for the model in the name of a folder: the last part of a path or Hub id."""
    return recipe.model.rstrip("/").rpartition("/")[2]


def fetch(name: str | None) -> Iterator[dict[str, Any]]:
    """An export as one file to download, packed now."""
    if not name:
        return
    known = exports.describe_export(name)
    where = "" if public.is_public() else f", in {known.folder.resolve()}"
    yield {
        "description": format_note(f"“{name}”: {known.line()}{where}"),
        "file": gr.update(visible=False),
    }
    if known.bytes > exports.MOST_ZIPPED:
        yield {"status": format_note("Too large for one file; copy the folder.")}
        return
    work = exports.zip_export(name)
    file = yield from watch(
        relay(work, lambda done, total: Progress("Pack, kB", done // 1000, total // 1000))
    )
    label = f"Download {name}.zip ({known.bytes / 1e6:.1f} MB)"
    yield {"file": gr.update(value=str(file), label=label, visible=True), "status": ""}


# --- how it is loaded -----------------------------------------------------------------------------


def show_code(text: str, form: str, part: str, name: str | None) -> dict[str, Any]:
    """Python and commands for the export `name`, or for one that the form would make."""
    recipe = read(text)
    known = exports.describe_export(name) if name else None
    if known is None:
        kind, is_pipeline = FORMS.get(form, "dmq"), PARTS.get(part) == "pipeline"
        folder, denoiser, component = "FOLDER", get_info(recipe.model).denoiser, ""
    else:
        # What a visitor downloads has that folder in it.
        kind, is_pipeline, folder = (
            known.form,
            known.pipeline,
            known.folder.name if public.is_public() else str(known.folder.resolve()),
        )
        denoiser, component, recipe = known.denoiser, known.component, known.recipe or recipe
    component = component or ("unet" if "UNet" in denoiser else "transformer")
    return {
        "python": write_python(recipe, kind, is_pipeline, folder, denoiser, component),
        "commands": write_commands(recipe, kind, is_pipeline, folder),
    }


def write_python(
    recipe: Recipe, kind: str, is_pipeline: bool, folder: str, denoiser: str, component: str
) -> str:
    """A program that loads an export and generates with it."""
    first = [HEADS[kind]] if kind in HEADS else []
    sampling = recipe.sampling
    if is_pipeline:
        lines = ["from diffusers import DiffusionPipeline", ""]
        lines += [f"pipe = DiffusionPipeline.from_pretrained({folder!r})"]
    else:
        lines = [
            f"from diffusers import DiffusionPipeline, {denoiser}",
            "",
            f"{component} = {denoiser}.from_pretrained({folder!r})",
            f"pipe = DiffusionPipeline.from_pretrained({find_pipeline(recipe)!r}, "
            f"{component}={component})",
        ]
    arguments = f"num_inference_steps={sampling.steps}"
    if get_info(recipe.model).prompted:
        arguments = f"'grinning cat', {arguments}, guidance_scale={sampling.guidance:g}"
    return "\n".join([*first, *lines, f"pipe({arguments}).images[0].save('image.png')", ""])


def find_pipeline(recipe: Recipe) -> str:
    """Where diffusers finds the float pipeline."""
    shipped = (folders.ASSETS / "models" / recipe.model).resolve()
    return folders.hide_places(shipped) if recipe.model in EMBEDDED else recipe.model


def write_commands(recipe: Recipe, kind: str, is_pipeline: bool, folder: str) -> str:
    """The same export on the command line, with the recipe saved as a file, and how it is
    verified.
    """
    marks = f" --form {kind}" * (kind != "dmq") + " --denoiser-only" * (not is_pipeline)
    place = shlex.quote(folder)
    check = f"dmq check {place}\n" if kind == "dmq" else ""
    return f"dmq export {shlex.quote(recipe_code.make_file_name(recipe))} {place}{marks}\n{check}"


# --- the Hub --------------------------------------------------------------------------------------


def push(name: str | None, repository: str, private: bool) -> Iterator[dict[str, Any]]:
    """Upload an export to the Hub under the name that was given."""
    if not name:
        raise DmqError("no export is chosen; export, or choose an earlier one.")
    yield {"hub": format_note(f"Pushing “{name}” …")}
    try:
        address = hub.push(exports.export_folder(name), repository, private=private)
    except Exception:
        yield {"hub": format_note("Nothing was pushed.")}
        raise
    yield {"hub": format_note(f"Pushed: {address}")}


def show_form_code(text: str, form: str, part: str) -> dict[str, Any]:
    """Python and commands for what the form would make."""
    return show_code(text, form, part, None)
