"""The sidebar: model, recipe, size and what stays in float, always in sight; and every way to
change or take them.
"""

import dataclasses
import html
from typing import Any

import gradio as gr

from dmq import jsonio, public
from dmq.artifacts.model_info import for_model, get_info
from dmq.describe import describe_plan, describe_recipe, plan_rows, short_name
from dmq.errors import DmqError
from dmq.recipe import EMBEDDED, Activations, Protection, Recipe, Weights
from dmq.results import Plan
from dmq.store import folders
from dmq.workflow.answers import get_plan

from . import forms, recipe_code, recipe_forms, session
from .events import bind, on
from .session import Shared, read, set_outside


FORMS: dict[str, type[Weights | Activations | Protection]] = {
    "weights": Weights,
    "activations": Activations,
    "protection": Protection,
}
SWITCHES = ("split_shortcuts",)  # fields of the recipe itself
MAIN = {
    "weights.bits": "Weight bits",
    "activations.bits": "Activation bits",
    "activations.attention_bits": "Attention bits",
}
# The columns of the table of layers, and what `plan_rows` calls them.
LAYERS = {
    "Layer": "layer",
    "Weights": "weights",
    "Input": "activations",
    "Groups": "groups",
    "Rounding": "rounding",
    "Why float": "reason",
    "Bytes": "bytes",
}


def list_models(*more: str) -> list[str]:
    """The models to choose from: those that ship, those that the host names in $DMQ_MODELS, and
    `more`.
    """
    return list(dict.fromkeys([*EMBEDDED, *public.offered(), *more]))


def choose_model(text: str, name: str | None) -> dict[str, Any]:
    """Make `name` the model, once it has been loaded; the recipe keeps everything else."""
    name = (name or "").strip()
    if not name:
        more = "" if public.is_public() else ", or write a folder or a Hub id (owner/name)"
        raise DmqError(f"no model named; choose {' or '.join(list_models())}{more}.")
    get_info(name)
    return set_outside(for_model(read(text), name))


def edit(paths: list[str], text: str, *values: Any) -> dict[str, Any]:
    """The recipe after a control of the form has moved."""
    recipe = read(text)
    changed = recipe_forms.replace_parts(recipe, FORMS, paths, values)
    by_path = dict(zip(paths, values, strict=True))
    switches: dict[str, Any] = {name: bool(by_path[name]) for name in SWITCHES if name in by_path}
    changed = dataclasses.replace(changed, **switches)
    if changed == recipe:
        return {}
    return set_outside(dataclasses.replace(changed, name=short_name(changed)))


def apply(written: str) -> dict[str, Any]:
    """The recipe written in the JSON editor."""
    return set_outside(jsonio.loads(written))


def upload(file: str | None) -> dict[str, Any]:
    """The recipe in an uploaded file."""
    return set_outside(jsonio.read(file)) if file else {}


def format_size(plan: Plan) -> str:
    """How much is left of the model, as a bar and in words."""
    now, full = plan.bytes / 1e6, plan.float_bytes / 1e6
    text = f"<b>{now:.1f} MB</b> of {full:.1f} MB (weights {plan.average_bits:.1f} bits on average)"
    meter = f'<div style="width: {min(100, 100 * now / full):.1f}%"></div>'
    shown = (
        f'<div class="dmq-meter" role="img" aria-label="{now:.1f} of {full:.1f} MB">{meter}</div>'
    )
    return f'<div class="dmq-size">{shown}<p>{text}</p></div>'


def list_layers(plan: Plan) -> list[list[Any]]:
    """What every layer, and every quantized attention operand, gets and costs."""
    return [[row[name] for name in LAYERS.values()] for row in plan_rows(plan)]


def refresh(paths: list[str], text: str, tab: str) -> dict[str, Any]:
    """What the sidebar says of the current recipe at once."""
    recipe = read(text)
    shown = recipe_forms.name_outputs(list_form_values(recipe, paths))
    return shown | {
        "model": gr.Dropdown(choices=list_models(recipe.model), value=recipe.model),
        "description": f'<p class="dmq-name">{html.escape(recipe.name)}</p>'
        f"<p>{html.escape(describe_recipe(recipe))}</p>",
        "link": session.write_query(recipe, tab) if tab else gr.skip(),
        "python": recipe_code.write_python(recipe),
        "commands": recipe_code.write_commands(recipe),
        "editor": text,
        "download": write_file(recipe),
    }


def weigh(text: str, looking: bool) -> dict[str, Any]:
    """Size and coverage, which may have to wait for the model and its statistics; all layers if
    one is `looking`.
    """
    try:
        plan = get_plan(read(text))
    except DmqError as error:
        text = f'<div class="dmq-size"><p>Size and coverage: {html.escape(folders.hide_places(error))}</p></div>'
        return {"size": text, "coverage": "", "layers": []}
    shown = {"size": format_size(plan), "coverage": describe_plan(plan)}
    return shown | {"layers": list_layers(plan)} if looking else shown


def open_layers(text: str) -> dict[str, Any]:
    """The table of layers, filled only while it is open: it is long, and would follow every
    change of the recipe.
    """
    return {"is_open": True} | weigh(text, True)


def close_layers() -> dict[str, Any]:
    """An empty table, so that no outdated one is seen when it is opened again."""
    return {"is_open": False, "layers": []}


def relink(text: str, tab: str) -> dict[str, Any]:
    """The link after another tab was opened."""
    return (
        {"link": session.write_query(read(text), tab)} if text else {}
    )  # a page that loads must keep its address


def list_form_values(recipe: Recipe, paths: list[str]) -> dict[str, Any]:
    """What the form's components show for `recipe`."""
    switches = {name: getattr(recipe, name) for name in SWITCHES if name in paths}
    return switches | recipe_forms.list_part_values(recipe, FORMS, paths)


def write_file(recipe: Recipe) -> str:
    """The path of a file with `recipe`, in a folder of its own, for the download button."""
    file = folders.download_folder() / recipe_code.make_file_name(recipe)
    file.write_text(jsonio.dumps(recipe), "utf-8")
    return str(file)


def build(shared: Shared) -> None:
    """Generate the sidebar and connect it."""
    with gr.Sidebar(width=360):
        gr.HTML(
            '<p class="dmq-logo">dmq</p><p class="dmq-sub">quantize diffusion models, step by '
            "step</p>"
        )
        model = gr.Dropdown(list_models(), label="Model", allow_custom_value=True)
        out: dict[str, Any] = {"model": model}
        out["description"] = gr.HTML(label="Description", elem_classes="dmq-words")
        out["size"] = gr.HTML(label="Size")
        form: dict[str, Any] = {}
        with gr.Row(elem_classes="dmq-bits"):
            for path, label in MAIN.items():
                part, _, name = path.partition(".")
                field = FORMS[part].__dataclass_fields__[name]
                form[path] = forms.build_control(field, int, label=label)
        with gr.Accordion("Scales, ranges, what stays in float", open=False):
            for part, spec in FORMS.items():
                main = tuple(path.partition(".")[2] for path in MAIN if path.startswith(part))
                form |= recipe_forms.build_part(part, spec, main)
            for name in SWITCHES:
                form[name] = forms.build_control(Recipe.__dataclass_fields__[name], bool)
        with gr.Accordion("What every layer gets", open=False) as panel:
            out["coverage"] = gr.Textbox(label="Coverage", lines=2, interactive=False)
            out["layers"] = gr.Dataframe(
                headers=list(LAYERS),
                label="Every layer",
                show_label=False,
                interactive=False,
                max_height=420,
                show_search="search",
                column_widths=[210, 80, 90, 70, 90, 150, 80],
                elem_id="layers",
            )
        with gr.Accordion("Link, Python and CLI", open=False):
            out["link"] = gr.Textbox(label="Link to this view", buttons=["copy"], interactive=False)
            out["python"] = gr.Code(
                language="python", label="Python", interactive=False, wrap_lines=True
            )
            out["commands"] = gr.Code(language="shell", label="Command line", interactive=False)
        with gr.Accordion("Recipe as JSON", open=False):
            editor = gr.Code(
                language="json", label="Recipe", interactive=True, max_lines=24, wrap_lines=True
            )
            button = gr.Button("Apply", variant="primary", size="sm")
            with gr.Row():
                out["download"] = gr.DownloadButton("Download recipe", size="sm")
                file = gr.UploadButton("Upload recipe", file_types=[".json"], size="sm")
    out["editor"] = editor
    connect(shared, form, out, button, file, panel)


def connect(
    shared: Shared,
    form: dict[str, Any],
    out: dict[str, Any],
    button: gr.Button,
    file: gr.UploadButton,
    panel: gr.Accordion,
) -> None:
    """The sidebar's events."""
    chosen = shared.chosen
    paths = list(form)

    on(
        out["model"].input,
        choose_model,
        [shared.recipe, out["model"]],
        chosen,
        show_progress="minimal",
    )
    on(
        forms.list_events(form),
        bind(edit, paths),
        [shared.recipe, *form.values()],
        chosen,
        trigger_mode="always_last",
    )
    on(button.click, apply, [out["editor"]], chosen)
    on(file.upload, upload, [file], chosen)
    shown = out | recipe_forms.name_outputs(form)
    on(shared.recipe.change, bind(refresh, paths), [shared.recipe, shared.open_tab], shown)
    looking = gr.State(False)
    heavy = {name: out[name] for name in ("size", "coverage", "layers")}
    on(
        [shared.recipe.change, shared.captured.change],
        weigh,
        [shared.recipe, looking],
        heavy,
        trigger_mode="always_last",
    )
    on(
        panel.expand,
        open_layers,
        [shared.recipe],
        heavy | {"is_open": looking},
        show_progress="minimal",
        show_progress_on=out["layers"],
    )
    on(panel.collapse, close_layers, [], {"is_open": looking, "layers": out["layers"]})
    on(shared.open_tab.change, relink, [shared.recipe, shared.open_tab], {"link": out["link"]})
    out["link"].change(
        None, out["link"], out["link"], js=session.REMEMBER, api_visibility="private"
    )
