"""Endpoints for programs: stateless, a recipe's JSON in, plain data out."""

from typing import Any

import gradio as gr

from dmq import jsonio
from dmq.describe import describe_plan, describe_recipe
from dmq.workflow.answers import get_errors, get_plan

from .events import show_errors


def describe(recipe: str) -> str:
    """The recipe in words."""
    return describe_recipe(jsonio.loads(recipe))


def errors(recipe: str) -> dict[str, Any]:
    """Relative activation error of a recipe: in total, and at every step."""
    result = get_errors(jsonio.loads(recipe))
    return {
        "total": result.total,
        "per_step": result.per_step().tolist(),
        "boundaries": list(result.groups.boundaries()),
    }


def plan(recipe: str) -> dict[str, Any]:
    """What a recipe's quantized denoiser stores, and what stays in float."""
    result = get_plan(jsonio.loads(recipe))
    return {
        "bytes": result.bytes,
        "float_bytes": result.float_bytes,
        "bits": result.average_bits,
        "coverage": describe_plan(result),
    }


def build() -> None:
    """Offer the endpoints."""
    for function in (describe, errors, plan):
        gr.api(show_errors(function), api_name=function.__name__)
