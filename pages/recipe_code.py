"""A recipe as a Python program and as commands."""

import shlex
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

from dmq.recipe import Recipe


def write_expression(value: Any) -> str:
    """Python that makes `value`, without the fields that have their default."""
    if not is_dataclass(value):
        return (
            f"({''.join(write_expression(item) + ', ' for item in value).strip()})"
            if type(value) is tuple
            else repr(value)
        )
    changed = [
        f for f in fields(value) if f.default is MISSING or getattr(value, f.name) != f.default
    ]
    arguments = (f"{f.name}={write_expression(getattr(value, f.name))}" for f in changed)
    return f"{type(value).__name__}({', '.join(arguments)})"


def list_kinds(value: Any) -> set[str]:
    """The names of the specs that `expression(value)` mentions."""
    if not is_dataclass(value):
        return (
            {kind for item in value for kind in list_kinds(item)} if type(value) is tuple else set()
        )
    changed = [
        f for f in fields(value) if f.default is MISSING or getattr(value, f.name) != f.default
    ]
    return {
        type(value).__name__,
        *(kind for f in changed for kind in list_kinds(getattr(value, f.name))),
    }


def write_python(recipe: Recipe) -> str:
    """A Python program that does what the app does with `recipe`."""
    inner = ",\n".join(
        f"    {f.name}={write_expression(getattr(recipe, f.name))}"
        for f in fields(recipe)
        if f.name in ("name", "model") or getattr(recipe, f.name) != f.default
    )
    return (
        "import dmq\n"
        "from dmq.describe import describe_plan\n"
        f"from dmq.recipe import {', '.join(sorted(list_kinds(recipe) | {'Recipe'}))}\n\n"
        f"recipe = Recipe(\n{inner},\n)\n"
        "print(describe_plan(dmq.plan(recipe)))\n"
        'print(dmq.compare(recipe, prompts=["grinning cat"], seeds=[0]).scores)\n'
    )


def write_commands(recipe: Recipe) -> str:
    """The same on the command line, with the recipe saved as a file."""
    file = shlex.quote(make_file_name(recipe))
    return (
        f"dmq prepare {file}\n"
        f'dmq run {file} --prompt "grinning cat" --seed 0\n'
        "dmq show\n"
        f'dmq compare {file} other.json --prompt "grinning cat"\n'
    )


def make_file_name(recipe: Recipe) -> str:
    """A name for the recipe's file, of letters that every system takes."""
    stem = "".join(c if c.isalnum() and c.isascii() else "-" for c in recipe.name).strip("-")[:60]
    return f"{stem or 'recipe'}.json"
