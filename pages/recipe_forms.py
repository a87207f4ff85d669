"""Forms of parts of the current recipe: of several parts, and of one that a checkbox switches on.

Outputs are named by "form " and the component's path; the checkbox is "enabled", and what it shows
"settings"."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import gradio as gr

from dmq.describe import short_name
from dmq.recipe import Recipe

from . import forms
from .events import bind, connect_show, on
from .session import Shared, read, set_outside


def name_outputs(form: Mapping[str, Any]) -> dict[str, Any]:
    """The values or components of a form by output name."""
    return {f"form {path}": item for path, item in form.items()}


# --- several parts --------------------------------------------------------------------------------


def replace_parts(
    recipe: Recipe, parts: Mapping[str, type], paths: list[str], values: tuple[Any, ...]
) -> Recipe:
    """`recipe` with the `parts` that a form describes; its paths begin with the name of a part."""
    by_path = dict(zip(paths, values, strict=True))
    changes: dict[str, Any] = {}
    for part, spec in parts.items():
        fields = {
            path.removeprefix(f"{part}."): value
            for path, value in by_path.items()
            if path.startswith(f"{part}.")
        }
        changes[part] = forms.make_spec(spec, fields, getattr(recipe, part))
    return dataclasses.replace(recipe, **changes)


def list_part_values(recipe: Recipe, parts: Mapping[str, type], paths: list[str]) -> dict[str, Any]:
    """What the components at `paths` show for `recipe`."""
    return {
        f"{part}.{path}": value
        for part in parts
        for path, value in forms.list_values(
            getattr(recipe, part),
            [path.removeprefix(f"{part}.") for path in paths if path.startswith(f"{part}.")],
        ).items()
    }


def build_part(part: str, spec: type, leave: tuple[str, ...] = ()) -> dict[str, Any]:
    """The form of one part, with paths that begin with its name."""
    components = forms.build_form(spec, part.capitalize(), leave=leave)
    return {f"{part}.{path}": component for path, component in components.items()}


# --- a part that can be off -----------------------------------------------------------------------


def change_part(
    field: str, spec: type, paths: list[str], text: str, enabled: bool, *values: Any
) -> dict[str, Any]:
    """The recipe after a control has moved: its `field` as the form says, or None."""
    recipe = read(text)
    by_path = dict(zip(paths, values, strict=True))
    part: Any = forms.make_spec(spec, by_path, getattr(recipe, field)) if enabled else None
    changed = dataclasses.replace(recipe, **{field: part})
    if changed == recipe:
        return {}
    return set_outside(dataclasses.replace(changed, name=short_name(changed)))


def show_part(part: Any, spec: type, paths: list[str]) -> dict[str, Any]:
    """What the form shows for a part of a recipe, which may be None."""
    return name_outputs(forms.list_values(part or spec(), paths)) | {
        "enabled": part is not None,
        "settings": gr.update(visible=part is not None),
    }


def connect_part(
    shared: Shared,
    out: dict[str, Any],
    form: dict[str, Any],
    change: Callable,
    show: Callable,
    inputs: list[Any],
) -> None:
    """Have `change(paths, recipe text, enabled, *values)` follow the form, and
    `show(paths, recipe text, *inputs)` draw what belongs to it.
    """
    paths, outputs = list(form), name_outputs(form) | out
    on(
        [out["enabled"].input, *forms.list_events(form)],
        bind(change, paths),
        [shared.recipe, out["enabled"], *form.values()],
        shared.chosen | outputs,
        trigger_mode="always_last",
    )
    connect_show(shared, bind(show, paths), inputs, outputs, waiting=out["summary"])
