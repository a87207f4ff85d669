"""PlotlyView: a Plotly figure that keeps its zoom when it is updated, and whose points can be
clicked.

`gr.Plot` sends no clicks and is rebuilt on every update. This component draws with the plotly.js of
the installed plotly wheel, so Python and the browser always agree on the version, and nothing is
fetched from a CDN. The script gives the figure the colours of the page's light or dark theme."""

from pathlib import Path
from typing import Any
from urllib.parse import quote

import gradio as gr
import plotly
import plotly.graph_objects as go
import plotly.io
from plotly.io.json import to_json_plotly

from dmq.store.folders import ASSETS


PLOTLY_JS = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
PLOTLY_URL = quote(PLOTLY_JS.as_posix(), safe="/:")
plotly.io.templates.default = (
    "none"  # the script sets the colours; a template costs more than the figure
)
gr.set_static_paths(PLOTLY_JS)  # this one file becomes readable by every visitor; nothing else does

# No placeholder in the template, on purpose: Gradio patches the DOM whenever the rendered template
# changes, which would throw away what Plotly drew. All drawing happens in the script, from `props`.
TEMPLATE = '<p class="dmq-caption"></p><div class="dmq-plot" role="figure"></div>'
SCRIPT = (ASSETS / "web" / "plotly_view.js").read_text("utf-8")


class PlotlyView(gr.HTML):
    """A Plotly figure with a `select` event (`gr.SelectData`) for clicks and a `relayout` event for
    zoom and pan.

    A click's data holds `index` (an int, or [row, column] in a heatmap), `value`, `x`, `y`, `trace`
    and `custom`. Zoom, pan and hidden traces outlive an update unless the figure sets another
    `layout.uirevision`."""

    def __init__(self, value: go.Figure | None = None, **kwargs: Any) -> None:
        super().__init__(
            value,
            html_template=TEMPLATE,
            css_template=".dmq-plot { min-height: 300px; width: 100%; }",
            js_on_load=SCRIPT,
            # relative: right under a mount path too
            head=f'<script src="gradio_api/file={PLOTLY_URL}"></script>',
            **kwargs,
        )

    def postprocess(self, value: go.Figure | None) -> str | None:
        if value is None:
            return None
        figure = value.to_plotly_json()  # a copy by go.Figure() would cost as much as drawing
        figure["layout"] = {"uirevision": "keep"} | figure["layout"] | {"autosize": True}
        return to_json_plotly(figure)
