"""Endpoints for programs: stateless, a recipe's JSON in, plain data out."""

from typing import Any

import gradio as gr

from dmq import jsonio
from dmq.describe import describe_plan, describe_recipe
from dmq.workflow.answers import get_errors, get_plan

from .events import told


def describe(recipe: str) -> str:
    """The recipe in words."""
    return describe_recipe(jsonio.loads(recipe))


def errors(recipe: str) -> dict[str, Any]:
    """Relative activation error of a recipe: in total, and at every step."""
    made = get_errors(jsonio.loads(recipe))
    return {
        "total": made.total,
        "per_step": made.per_step().tolist(),
        "boundaries": list(made.groups.boundaries()),
    }


def plan(recipe: str) -> dict[str, Any]:
    """What a recipe's quantized denoiser stores, and what stays in float."""
    made = get_plan(jsonio.loads(recipe))
    return {
        "bytes": made.bytes,
        "float_bytes": made.float_bytes,
        "bits": made.average_bits,
        "coverage": describe_plan(made),
    }


def build() -> None:
    """Offer the endpoints."""
    for function in (describe, errors, plan):
        gr.api(told(function), api_name=function.__name__)
