"""Rounding: learn which way the weights of each block are rounded (AdaRound, BRECQ), and see
what that did.
"""

from collections.abc import Generator, Iterator
from typing import Any

import gradio as gr

from dmq.figures import blocks as figures
from dmq.recipe import FLOAT, BlockReconstruction, Recipe
from dmq.workflow.answers import get_blocks_by_now, has_blocks, has_search
from dmq.workflow.learning import learn_blocks

from ..job_panel import JobPanel, format_note, watch
from ..layout import explain_no_capture, show_body, show_hint
from ..recipe_forms import change_part, show_part
from ..session import read


def change(paths: list[str], text: str, enabled: bool, *values: Any) -> dict[str, Any]:
    """The recipe after a control has moved: with blocks learned as the form says, or not."""
    return change_part("reconstruction", BlockReconstruction, paths, text, enabled, *values)


def explain_hindrance(recipe: Recipe) -> str:
    """Why there is nothing to learn, with what to do; empty if there is."""
    if hint := explain_no_capture(recipe):
        return hint
    if not has_search(recipe):
        return "The groups of this recipe are still to be learned: open **Time groups** and press **Search**."
    if recipe.weights.bits == FLOAT and not any(
        o.weight_bits not in (None, FLOAT) for o in recipe.overrides
    ):
        return "This recipe leaves all weights in float: there is nothing to round. Choose weight bits."
    if recipe.reconstruction is None:
        return (
            "Every weight takes its nearest code. Tick the box above to learn them block by block."
        )
    return ""


def show(paths: list[str], text: str) -> Iterator[dict[str, Any]]:
    """The tab for the current recipe: the form at once, then what was learned."""
    recipe = read(text)
    form = show_part(recipe.reconstruction, BlockReconstruction, paths)
    if why := explain_hindrance(recipe):
        yield form | show_hint(why) | {"learn": gr.update(visible=False)}
        return
    yield form | {"empty": gr.update(visible=False)}
    yield show_blocks(recipe)


def show_blocks(recipe: Recipe) -> dict[str, Any]:
    """What there is of `recipe`, finished or not, and the button for the rest."""
    learned, done = get_blocks_by_now(recipe), has_blocks(recipe)
    button = gr.update(
        visible=not done, value="Learn the other blocks" if learned else "Learn the blocks"
    )
    if learned is None:
        why = "The blocks are still to be learned: press **Learn the blocks**."
        return show_hint(why) | {"learn": button}
    return show_overview(learned, done) | {"learn": button}


def show_overview(learned: Any, done: bool) -> dict[str, Any]:
    """The figures and the table of what was learned by now."""
    return show_body() | {
        "summary": summarize(learned, done),
        "errors": figures.block_errors(learned.before, learned.after, learned.stepped),
        "losses": figures.block_losses(learned.losses),
        "table": list_rows(learned),
    }


def count_codes(learned: Any) -> dict[str, tuple[int, int, int]]:
    """Layers, weights, and weights with another code than the nearest one, for every block."""
    counts = {}
    for block in learned.after:
        names = [name for name in learned.codes if name.startswith(f"{block}.")]
        weights = sum(learned.codes[name].codes.numel() for name in names)
        counts[block] = len(names), weights, sum(learned.changed[name] for name in names)
    return counts


def list_rows(learned: Any) -> list[list[Any]]:
    """One row for each block, in forward order."""
    stepped = {block: f"{100 * error:.4g} %" for block, error in learned.stepped.items()}
    return [
        [
            block,
            layers,
            f"{100 * learned.before[block]:.4g} %",
            f"{100 * learned.after[block]:.4g} %",
            stepped.get(block, "–"),
            f"{moved:,}",
            f"{weights:,}",
            f"{100 * moved / max(1, weights):.1f} %",
        ]
        for block, (layers, weights, moved) in count_codes(learned).items()
    ]


def summarize(learned: Any, done: bool) -> str:
    """How many blocks got better and how many codes changed, in two sentences."""
    rows = list(count_codes(learned).values())
    layers, weights, moved = (sum(row[k] for row in rows) for k in range(3))
    better = sum(learned.after[block] < learned.before[block] for block in learned.after)
    text = f"{better} of {len(rows)} block{'s' if len(rows) > 1 else ''} err less than with nearest codes. "
    text += f"**{moved:,}** of {weights:,} weights in {layers} layers have another code than the nearest one "
    text += f"({100 * moved / max(1, weights):.1f} %)."
    if learned.stepped:
        nearer = sum(learned.stepped[block] < learned.after[block] for block in learned.stepped)
        text += f" Learned step sizes of {len(learned.sizes)} activations bring {nearer} of {len(learned.stepped)} "
        text += "blocks nearer still; they hold in all that is generated, other tabs show the ranges before."
    if not done:
        text += "\n\nNot all blocks are learned yet: finished ones are kept, and learning goes on behind them."
    return text + (
        f"\n\n⚠ {learned.note} What comes behind keeps its nearest codes." if learned.note else ""
    )


# --- what runs ------------------------------------------------------------------------------------


def show_rest(text: str) -> dict[str, Any]:
    """What there is when learning was stopped."""
    recipe = read(text)
    return (
        {} if explain_hindrance(recipe) else show_blocks(recipe)
    )  # another recipe may have been chosen meanwhile


JOB = JobPanel(
    start={"learn": "Learn the blocks"},
    hidden=("learn",),
    stop="Stop, keep finished blocks",
    progress="Progress of the blocks",
    stopped="Stopped; finished blocks were kept.",
    after_stop=show_rest,
)


@JOB.run
def learn(text: str) -> Generator[dict[str, Any], None, dict[str, Any]]:
    """Learn block after block, with a bar and what is finished; all that is finished when it is
    stopped is kept.
    """
    recipe = read(text)
    yield {}
    yield from watch(learn_blocks(recipe), lambda learned: show_overview(learned, False))
    return {"status": format_note("Learned.")} | show_blocks(recipe)
