"""Controls generated from specs, so that a field is declared once, in the recipe.

A form is a dict of components by path, such as `bits`, `range.kind` and `range.Percentile.percent`;
`values_of` and `spec_of` go from a spec to such values and back."""

from dataclasses import MISSING, fields
from types import UnionType
from typing import Any, get_args, get_type_hints

import gradio as gr

from dmq.describe import SPEC_LABELS
from dmq.errors import DmqError
from dmq.evaluation.engines import ENGINE_CHOICES
from dmq.recipe import ENGINES, FLOAT, SIMULATED


NAMES = {
    "granularity": "Scales",
    "range": "Range",
    "prompts": "Calibration prompts, one per line",
    "rounding": "Rounding",
    "cache": "Cache",
    "format": "Format",
}


def is_choice(hint: Any) -> bool:
    """Is a field annotated as one of several specs?"""
    return isinstance(hint, UnionType) and all(
        hasattr(option, "__dataclass_fields__") for option in get_args(hint)
    )


def build_form(spec: type, what: str, *, leave: tuple[str, ...] = ()) -> dict[str, Any]:
    """The components of `spec`'s fields by path; `what` goes before labels that would be
    ambiguous alone.
    """
    hints, components = get_type_hints(spec), dict[str, Any]()
    for f in fields(spec):
        if f.name in leave:
            continue
        if is_choice(hints[f.name]):
            label = f"{what}: {NAMES[f.name].lower()}"
            choices = build_chooser(get_args(hints[f.name]), type(f.default), label)
            components |= {f"{f.name}.{path}": component for path, component in choices.items()}
        else:
            components[f.name] = build_control(f, hints[f.name])
    return components


def build_control(f: Any, hint: Any, *, label: str = "") -> Any:
    """The component for a plain field; a `label` of one's own says enough without the field's
    help.
    """
    info = None if label else f.metadata.get("help") or None
    label = label or f.metadata.get("label") or NAMES.get(f.name, f.name)
    if "choices" in f.metadata:
        choices = f.metadata["choices"]
        named = [("float" if n == FLOAT else str(n), n) for n in choices]
        return gr.Dropdown(named, value=f.default, label=label, info=info, min_width=80)
    if hint is bool:
        return gr.Checkbox(f.default, label=label, info=info)
    if hint == tuple[str, ...]:
        return gr.Textbox("\n".join(f.default), lines=2, max_lines=6, label=label, info=info)
    low, high = f.metadata["low"], f.metadata["high"]
    if hint is int and high > 10_000:
        return gr.Number(f.default, precision=0, label=label, info=info)
    if hint is float and round(f.default, 1) != f.default:  # finer than a slider is
        return gr.Number(f.default, minimum=low, maximum=high, label=label, info=info)
    return gr.Slider(low, high, f.default, step=1 if hint is int else 0.1, label=label, info=info)


def build_chooser(options: tuple[type, ...], default: type, label: str) -> dict[str, Any]:
    """A dropdown over specs, and the controls of the chosen one under it."""
    kind = gr.Dropdown(
        [(SPEC_LABELS[o], o.__name__) for o in options], value=default.__name__, label=label
    )
    components, groups = {"kind": kind}, {}
    for option in options:
        if fields(option):
            with gr.Column(visible=option is default) as groups[option.__name__]:
                components |= {
                    f"{option.__name__}.{path}": c for path, c in build_form(option, label).items()
                }

    def show_only(chosen: str) -> Any:
        shown = [gr.update(visible=name == chosen) for name in groups]
        return shown if len(shown) != 1 else shown[0]

    if groups:
        kind.change(
            show_only, kind, list(groups.values()), api_visibility="private", show_progress="hidden"
        )
    return components


def list_values(spec: Any, paths: list[str]) -> dict[str, Any]:
    """What the components at `paths` must show for `spec`; those of a kind that was not chosen
    are left out.
    """
    shown = {}
    for path in paths:
        name, _, rest = path.partition(".")
        value = getattr(spec, name)
        if not rest:
            shown[path] = "\n".join(value) if type(value) is tuple else value
        elif rest == "kind":
            shown[path] = type(value).__name__
        elif rest.startswith(type(value).__name__ + "."):
            shown[path] = getattr(value, rest.partition(".")[2])
    return shown


def make_spec(spec: type, values: dict[str, Any], base: Any = None) -> Any:
    """The spec that a form's values describe; fields without a component keep what `base` has, or
    their default.

    Raises DmqError if a value is missing or outside its limits.
    """
    hints, arguments = get_type_hints(spec), {}
    for f in fields(spec):
        if is_choice(hints[f.name]) and f"{f.name}.kind" in values:
            kinds = {option.__name__: option for option in get_args(hints[f.name])}
            kind = values[f"{f.name}.kind"]
            if kind not in kinds:
                raise DmqError(
                    f"{f.name}: unknown name {kind!r:.40}, not one of {', '.join(kinds)}."
                )
            inner = f"{f.name}.{kind}."
            inner_values = {
                path.removeprefix(inner): value
                for path, value in values.items()
                if path.startswith(inner)
            }
            arguments[f.name] = make_spec(kinds[kind], inner_values)
        elif f.name in values:
            arguments[f.name] = convert_value(
                values[f.name], hints[f.name], f.metadata.get("label") or f.name
            )
        elif base is not None:
            arguments[f.name] = getattr(base, f.name)
        elif f.default is MISSING:
            raise DmqError(f"{spec.__name__} needs {f.name}.")
    return spec(**arguments)


def convert_value(value: Any, hint: Any, label: str) -> Any:
    """A component's value in the field's own type: sliders send 4.0 for 4, and an emptied number
    sends nothing.
    """
    if hint == tuple[str, ...]:
        return tuple(line.strip() for line in str(value or "").splitlines() if line.strip())
    if hint in (int, float) and (
        isinstance(value, bool) or not isinstance(value, int | float) or value != value
    ):
        raise DmqError(f"{label}: expected a number, got {value!r:.40}.")
    if hint is int and value != int(value):
        raise DmqError(f"{label}: expected a whole number, got {value}.")
    return hint(value)


def build_engine_choice(**options: Any) -> gr.Dropdown:
    """What generates the images: the simulation, integer kernels, or both beside each other."""
    named = {
        engine: engine.replace("executed ", "executed, ").replace("bf16", "rest in bfloat16")
        for engine in ENGINES
    }
    return gr.Dropdown(
        [(named.get(engine, engine), engine) for engine in ENGINE_CHOICES],
        value=SIMULATED,
        label="Engine",
        info="Simulated: floats, rounded as if they had few bits. Executed: on integer kernels "
        "where there are some.",
        **options,
    )


def list_events(form: dict[str, Any]) -> list[Any]:
    """What a user does to a form: sliders when let go, texts when left, everything else at once."""
    return [
        component.blur if isinstance(component, gr.Textbox | gr.Number) else component.input
        for component in form.values()
    ]
