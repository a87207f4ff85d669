"""PartitionStrip: the steps of a trajectory as one bar, cut into groups by boundaries that can be
dragged.

The value is the list of inner boundaries: `[12, 30]` with 50 steps means the groups 0-11, 12-29 and
30-49. A boundary is dragged with mouse or finger; with the keyboard it is moved by the arrow keys,
Page Up/Down, Home and End, and removed by Delete. A double click between two boundaries adds one.
"""

from itertools import pairwise
from typing import Any

import gradio as gr

from dmq.store.folders import ASSETS


# As in PlotlyView: nothing in the template depends on the value, so Gradio never patches what the
# script drew.
TEMPLATE = '<div class="strip" role="group"></div><div class="strip-scale"><span></span><span></span></div>'
SCRIPT = (ASSETS / "web" / "partition_strip.js").read_text("utf-8")
STYLE = (ASSETS / "web" / "partition_strip.css").read_text("utf-8")


class PartitionStrip(gr.HTML):
    """Cut points on a bar of `steps` steps. `change` follows every new value, `input` only what the
    user moved.

    `timesteps` are the values of t to name beside the steps; a `locked` strip only shows.
    """

    def __init__(
        self,
        value: list[int] | None = None,
        *,
        steps: int = 50,
        timesteps: list[float] | None = None,
        locked: bool = False,
        **kwargs: Any,
    ) -> None:
        # Before super().__init__(), which calls postprocess(), and makes an event of every other
        # name that is quoted in the script.
        self.steps, self.timesteps, self.locked = steps, timesteps or [], locked
        props: dict[str, Any] = {"steps": steps, "timesteps": self.timesteps, "locked": locked}
        super().__init__(
            value, html_template=TEMPLATE, css_template=STYLE, js_on_load=SCRIPT, **props, **kwargs
        )

    def preprocess(self, payload: Any) -> Any:  # Gradio says that HTML holds text
        return check_cuts(payload or [], self.steps)  # whatever a browser sends is untrusted

    def postprocess(self, value: Any) -> Any:
        return check_cuts(list(value or []), self.steps)

    def api_info(self) -> dict[str, Any]:
        return {"type": "array", "items": {"type": "integer"}}


def check_cuts(cuts: list[int], steps: int) -> list[int]:
    """`cuts` if they are whole numbers that rise strictly between 0 and `steps`, else
    `gr.Error`.
    """
    are_integers = isinstance(cuts, list) and all(type(cut) is int for cut in cuts)
    if are_integers and all(low < high for low, high in pairwise([0, *cuts, steps])):
        return cuts
    raise gr.Error(
        f"Boundaries must rise from 1 to {steps - 1}; got {cuts!r:.80}.", print_exception=False
    )
