"""`dmq export`: a recipe as a folder for others."""

import argparse
from collections.abc import Callable

from ..recipe import ENGINES
from ..store.exports import FORMS
from .arguments import choose_recipe, recipe_argument
from .terminal import print_table, show_progress


def add_to(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Offer the command; `add` makes a parser from name, function and help."""
    one = add(
        "export",
        export,
        "Write a recipe's pipeline, denoiser in few bits, as a folder that diffusers loads.",
    )
    recipe_argument(one)
    one.add_argument("folder", metavar="FOLDER", help="a new one, or one that was exported before")
    one.add_argument(
        "--form",
        choices=FORMS,
        default=FORMS[0],
        help="who loads it: diffusers with dmq, "
        "or its weights alone: dequantized for diffusers without anything, sdnq for diffusers with "
        "sdnq",
    )
    one.add_argument(
        "--denoiser-only", action="store_true", help="without the other parts of the pipeline"
    )
    one.add_argument(
        "--engine",
        choices=ENGINES,
        default="executed",
        help="how it computes unless its reader chooses",
    )


def export(given: argparse.Namespace) -> None:
    from ..workflow.export import write_export

    recipe = choose_recipe(given.recipe, given.model)
    made = show_progress(
        write_export(
            recipe,
            given.folder,
            engine=given.engine,
            denoiser_only=given.denoiser_only,
            form=given.form,
        ),
        writes_runs=False,
    )
    rows = [[part, f"{size:,}"] for part, size in made.bytes.items() if size]
    print_table(["tensors of the denoiser", "bytes"], [*rows, ["together", f"{made.stored:,}"]])
    if given.form == FORMS[0]:
        print(f"the plan counts {made.planned:,}")
    print(f"{made.folder}: {len(made.files)} files, {sum(made.files.values()):,} bytes")
