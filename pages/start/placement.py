"""Where models run: device, number format and offload, with the memory that the model needs
beside what is free.
"""

import html
from typing import Any

import gradio as gr

from dmq import public
from dmq.errors import DmqError
from dmq.models import work_plan
from dmq.models.placement import AUTO, DTYPES, OFFLOADS, Placement
from dmq.store import folders

from ..events import MODEL, on
from ..job_panel import format_note
from ..session import Shared, make_stamp, read


def parse_form(device: str | None, dtype: str | None, offload: str | None) -> Placement:
    """The placement of the form; the API may leave things out."""
    return Placement(device=device or AUTO, dtype=dtype or AUTO, offload=offload or OFFLOADS[0])


def show_form(text: str) -> dict[str, Any]:
    """The form as it is now, with the devices of this machine."""
    now = work_plan.get_placement()
    devices = [(str(device), device.name) for device in work_plan.list_devices()]
    automatic = (f"automatic ({devices[0][1]})", AUTO)
    names = {name for _, name in devices}
    device = now.device if now.device in (AUTO, *names) else f"{now.device}:0"
    return {
        "device": gr.update(choices=[automatic, *devices], value=device),
        "dtype": now.dtype,
        "offload": now.offload,
        "memory": describe_memory(text, now),
    }


def describe_memory(text: str, placement: Placement) -> str:
    """What the model needs there, or why it cannot run there."""
    try:
        return format_note(work_plan.describe_memory(read(text).model, placement))
    except DmqError as error:
        said = html.escape(folders.hide_places(error))
        return f'<div class="dmq-progress" role="status"><span>⚠ {said}</span></div>'


def weigh(text: str, device: str | None, dtype: str | None, offload: str | None) -> dict[str, Any]:
    """What the model would need there; nothing changes."""
    return {"memory": describe_memory(text, parse_form(device, dtype, offload))}


def choose(text: str, device: str | None, dtype: str | None, offload: str | None) -> dict[str, Any]:
    """Run everything there from now on, for whoever uses this app.

    The model is loaded there at the next work.
    """
    placement = parse_form(device, dtype, offload)
    memory = work_plan.describe_memory(
        read(text).model, placement
    )  # raises what is wrong before anything changes
    work_plan.use_placement(placement)
    return {"memory": format_note(f"Chosen. {memory}"), "captured": make_stamp()}


def build(shared: Shared) -> None:
    """Generate the form and connect it. What it needs torch for is asked when it is opened."""
    with gr.Accordion("Where it runs", open=False, visible=not public.is_public()) as panel:
        gr.Markdown(
            "A recipe means the same everywhere. A GPU is faster; half precision halves the "
            "memory; offload keeps "
            "weights on the CPU until they are needed, for models that are larger than the GPU."
        )
        with gr.Row():
            device = gr.Dropdown([("automatic", AUTO)], value=AUTO, label="Device", min_width=220)
            dtype = gr.Dropdown(list(DTYPES), value=AUTO, label="Number format", min_width=160)
            offload = gr.Dropdown(list(OFFLOADS), value=OFFLOADS[0], label="Offload", min_width=160)
        memory = gr.HTML(label="Memory")
        use = gr.Button("Run models here", size="sm")
    form = [device, dtype, offload]
    out = {"device": device, "dtype": dtype, "offload": offload, "memory": memory}
    on(panel.expand, show_form, [shared.recipe], out)
    on(
        [component.input for component in form],
        weigh,
        [shared.recipe, *form],
        {"memory": memory},
        trigger_mode="always_last",
    )
    on(
        use.click,
        choose,
        [shared.recipe, *form],
        {"memory": memory, "captured": shared.captured},
        **MODEL,
    )
