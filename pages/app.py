"""The app: one workbench with a tab for each thing to do; `dmq serve`, or `python app.py` in a
checkout.
"""

import os
import threading
from dataclasses import fields, replace
from typing import Any


os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read when gradio is imported

import gradio as gr

from dmq import jsonio, public
from dmq.artifacts.model_info import get_info
from dmq.errors import DmqError
from dmq.models import libraries
from dmq.store.folders import ASSETS
from dmq.workflow.answers import get_plan, has_capture

from . import api, capture_panel, session, sidebar
from .activations import view as activations
from .benchmark import view as benchmark
from .compare import view as compare
from .error_over_time import view as error_over_time
from .events import ONE_BY_ONE, Blocks, connect_turns, on, run_after
from .export import view as export
from .gpu import has_zero_gpu
from .layers import view as layers
from .rounding import view as rounding
from .session import Shared, set_outside
from .start import view as start
from .temporal import view as temporal
from .time_groups import view as time_groups


PAGES = {
    "Start": start.build_tab,
    "Activations": activations.build_tab,
    "Time groups": time_groups.build_tab,
    "Temporal": temporal.build_tab,
    "Layers": layers.build_tab,
    "Rounding": rounding.build_tab,
    "Error over time": error_over_time.build_tab,
    "Benchmark": benchmark.build_tab,
    "Compare": compare.build_tab,
    "Export": export.build_tab,
}
TABS = {name.lower().replace(" ", "-"): name for name in PAGES}
THEME = gr.themes.Default(
    primary_hue="indigo",
    neutral_hue="slate",
    radius_size="md",
    spacing_size="md",
    text_size="md",
    font=("system-ui", "sans-serif"),
    font_mono=("ui-monospace", "monospace"),
)
# Gradio confines `css_paths` to its <main>; this is for the page around it.
PAGE_STYLE = (ASSETS / "web" / "page.css").read_text("utf-8")
# events that wait: a page that opens sends about ten, and what finds no place is lost without a
# word
QUEUE = 1000
FOLD = "() => { if (innerWidth < 769) document.querySelector('.sidebar.open .toggle-button')?.click(); }"


def read_link(request: gr.Request) -> dict[str, Any]:
    """The link that was opened, as far as it can be read."""
    recipe, tab, wrong = session.parse_link(request.query_params, list(TABS))
    if wrong:
        gr.Warning(wrong)
    return {"linked": (jsonio.dumps(recipe), tab)}


def greet(known: str, request: gr.Request) -> dict[str, Any]:
    """The same for a public app, and a secret for a browser that has none."""
    return read_link(request) | {"visitor": known if public.is_token(known) else public.new_token()}


def enter_link(linked: tuple[str, str], open_tab: str) -> dict[str, Any]:
    """Model, recipe and tab of the link; a tab that a visitor chose while the page was loading
    stays open.
    """
    text, tab = linked
    first = next(iter(TABS))
    chosen = set_outside(jsonio.loads(text))
    if open_tab not in ("", first) or tab == first:
        return chosen | {"open_tab": open_tab or first}
    return chosen | {"open_tab": tab, "tabs": gr.Tabs(selected=tab)}


def open_wanted_tab(request: str) -> dict[str, Any]:
    """The tab that another one asks to open."""
    return {"tabs": gr.Tabs(selected=request.partition(" ")[0])}


def build() -> gr.Blocks:
    """The whole app; it loads no model."""
    with Blocks(title="dmq", fill_width=True, delete_cache=(3600, 3600)) as app:
        app.ask_for_visitors()
        shared = Shared(*(gr.State("") for _ in fields(Shared)))
        sidebar.build(shared)
        # Not in their tabs: there the browser takes the first answer about a state, even "as it
        # was", for a change.
        turns = {key: gr.State("") for key in TABS}
        tab_components = {}
        with gr.Tabs(overflow_behavior="wrap") as tabs:
            for key, name in TABS.items():
                with gr.Tab(name, id=key) as tab_components[key]:
                    PAGES[name](replace(shared, turn=turns[key]))
        connect_turns(shared, tab_components, turns)
        capture_panel.build(shared)
        api.build()
        linked = gr.State(None)
        state = {
            "recipe": shared.recipe,
            "outside": shared.outside,
            "open_tab": shared.open_tab,
            "tabs": tabs,
        }
        # Two events, since the second one sees which tab was clicked before the first one has
        # answered. Before all others: they come with the secret that it gives.
        first = (
            on(app.load, read_link, [], {"linked": linked})
            if app.visitor is None
            else on(app.load, greet, [app.visitor], {"linked": linked, "visitor": app.visitor})
        )
        run_after(first, enter_link, [linked, shared.open_tab], state, **ONE_BY_ONE)
        on(shared.wanted.change, open_wanted_tab, [shared.wanted], {"tabs": tabs})
        app.load(None, js=FOLD)
    return app


def load_opening() -> None:
    """Load the model that a new visitor sees first, and what its errors stand on."""
    try:
        get_info(session.OPENING.model)
        if has_capture(session.OPENING):
            get_plan(session.OPENING)
    except DmqError as error:
        print(error)


def place_models() -> None:
    """On ZeroGPU, load the model that is seen first before the app is up; handlers with a GPU begin
    with it.

    It lies on the CPU of this process, which has no GPU and whose handlers read weights, too; a
    handler with a GPU works in a copy of this process, and loads it there."""
    if has_zero_gpu():
        os.environ.setdefault("DMQ_DEVICE", "cpu")
        libraries.load(session.OPENING.model)


def launch(**settings: Any) -> None:
    """Serve the app until it is stopped; `settings` go to Gradio, such as `server_port`."""
    place_models()
    for folder in public.not_offered():
        print(
            f"dmq: $DMQ_MODELS: {folder} has no model_index.json, so it is not offered; name a "
            "pipeline's folder."
        )
    threading.Thread(target=load_opening, daemon=True).start()
    build().queue(max_size=QUEUE, default_concurrency_limit=4).launch(
        theme=THEME,
        css_paths=ASSETS / "web" / "app.css",
        head=f"<style>{PAGE_STYLE}</style>",
        enable_monitoring=False,
        run_history=False,
        ssr_mode=False,
        footer_links=["api"],
        state_session_capacity=50,
        max_file_size="1mb",
        **settings,
    )
