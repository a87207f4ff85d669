"""Start: which model, what it is made of, and a recipe to begin with."""

import html
from typing import Any

import gradio as gr

from dmq.artifacts.model_info import get_info
from dmq.figures.model import layers as layers_figure
from dmq.recipe import EMBEDDED
from dmq.results import ModelInfo
from dmq.store import folders, runs

from ..session import adopt, read, set_outside


def find_image(model: str) -> str | None:
    """Sample images that ship with an embedded model."""
    folder = folders.ASSETS / "models" / model
    if model not in EMBEDDED:  # other names come from visitors: never a path to show
        return None
    return str(folder / "samples.png") if (folder / "samples.png").is_file() else None


def format_numbers(info: ModelInfo) -> str:
    """The model's numbers as cards."""
    macs = sum(layer.macs for layer in info.layers)
    facts = {
        "Pipeline": info.pipeline,
        "Denoiser": f"{info.denoiser}, {info.parameters / 1e6:.2f} M parameters",
        "Float size": f"{info.parameters * 4 / 1e6:.1f} MB",
        "Whole pipeline": f"{info.pipeline_parameters / 1e6:.2f} M parameters",
        "Layers": str(len(info.layers)),
        "Compute": f"{macs / 1e6:,.0f} M multiply-adds a step" if macs else "not measured",
        "Image": f"{info.size[0]} × {info.size[1]}"
        + (", from a prompt" if info.prompted else ", without a prompt"),
        "Scheduler": info.scheduler,
    }
    cards = "".join(f"<div><dt>{k}</dt><dd>{html.escape(v)}</dd></div>" for k, v in facts.items())
    return f'<dl class="dmq-cards">{cards}</dl>'


def list_rows(info: ModelInfo) -> list[list[Any]]:
    """The table of layers."""
    return [
        [
            r.name,
            r.kind,
            r.role,
            r.block,
            " × ".join(map(str, r.shape)),
            r.num_weights,
            round(r.macs / 1e6, 2),
        ]
        for r in info.layers
    ]


def show(text: str) -> dict[str, Any]:
    """The tab for the current recipe's model."""
    recipe = read(text)
    info = get_info(recipe.model)
    file = find_image(recipe.model)
    shipped = runs.shipped_recipes()
    return {
        "title": f"## {html.escape(recipe.model)}",
        "image": gr.Image(value=file, visible=file is not None),
        "numbers": format_numbers(info),
        "figure": layers_figure(info),
        "table": list_rows(info),
        "recipes": gr.Radio(
            choices=list(shipped), value=recipe.name if recipe.name in shipped else None
        ),
    }


def begin(text: str, name: str | None) -> dict[str, Any]:
    """The starting recipe of that name as the current one."""
    shipped = runs.shipped_recipes()
    if name not in shipped:
        return {}
    return set_outside(adopt(shipped[name], read(text)))
