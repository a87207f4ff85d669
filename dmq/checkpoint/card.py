"""The README of a checkpoint or of a view: what was quantized to what, how large it is, how it
is loaded.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ..describe import describe_dynamic, describe_plan
from ..recipe import Recipe
from ..results import Plan, Report


TAGS = "tags: [dmq, quantized, diffusion]"  # by which a card of ours is known
ALONE = "A folder of one denoiser is loaded by its class, such as `UNet2DConditionModel.from_pretrained`."
LINE = "{name}: PSNR {psnr:.2f} dB, SSIM {ssim:.4f} against the float images of the same noise ({count} images)"


def card(
    plan: Plan,
    settings: Mapping[str, Any],
    taken: int,
    recipe: Recipe | None,
    report: Report | None,
    source: str,
) -> str:
    """Markdown with the metadata that the Hub reads; `taken` is the bytes of all tensors,
    `source` the float model.
    """
    facts = [
        f"{taken:,} bytes of tensors; the plan counts {plan.bytes:,}, {_of_float(plan, taken)}.",
        f"Weights of the layers: {plan.average_bits:.2f} bits on average, scales and zero points "
        "included.",
        f"Activations: {_steps(plan)}",
        *(_describe_measured(report) if report else []),
    ]
    how = (
        f'It is {settings["mode"]} unless you choose: `with dmq.checkpoint.mode("simulated"):` '
        "around that line, "
        f"or the environment variable `DMQ_MODE`. {ALONE} `dmq check FOLDER` verifies it."
    )
    first = "import dmq.checkpoint  # teaches diffusers the format"
    return _page(source or plan.model, plan, recipe, facts, [first], how)


def view_card(plan: Plan, taken: int, recipe: Recipe | None, needs: str = "") -> str:
    """The same of a view, which has the weights alone; `needs` is the package that diffusers
    reads it with.
    """
    facts = [
        f"The weights alone: activations are not quantized, and {needs or 'diffusers as it is'} "
        "reads them.",
        f"{taken:,} bytes of tensors; {_of_float(plan, taken)}.",
        f"Weights have the values of codes with {plan.average_bits:.2f} bits on average.",
    ]
    return _page(
        plan.model, plan, recipe, facts, [f"# pip install {needs}"] if needs else [], ALONE
    )


def _page(
    model: str,
    plan: Plan,
    recipe: Recipe | None,
    facts: Sequence[str],
    first: Sequence[str],
    how: str,
) -> str:
    lines = [
        "---",
        "library_name: diffusers",
        *([f"base_model: {model}"] if _on_hub(model) else []),
        TAGS,
        "---",
        "",
        f"# {model}, quantized by dmq",
        "",
        f"**{recipe.name if recipe else 'A plan'}**: {describe_plan(plan)}.",
        "",
        *(f"- {fact}" for fact in facts),
        "",
        "## To load it",
        "",
        "```python",
        *first,
        "from diffusers import DiffusionPipeline",
        "",
        'pipe = DiffusionPipeline.from_pretrained("this folder")',
        "```",
        "",
        how,
        "",
        "## Licence",
        "",
        f"The weights are made from those of {model}: its licence holds for them, too. Read it "
        "there.",
        "",
    ]
    return "\n".join(lines)


def _of_float(plan: Plan, taken: int) -> str:
    share = taken / max(1, plan.float_bytes)
    return f"the float denoiser takes {plan.float_bytes:,} ({share:.1%})"


def _steps(plan: Plan) -> str:
    steps = len(plan.timesteps)
    slots = sorted({len(row.bank.bits) for row in plan.layers if row.bank and not row.bank.dynamic})
    if not slots:
        return describe_dynamic(plan) or "float."
    ranges = (
        "one range"
        if slots == [1]
        else f"{slots[0]} ranges"
        if len(slots) == 1
        else f"up to {slots[-1]} ranges"
    )
    return (
        f"{ranges} for {steps} recorded timesteps ({plan.timesteps[0]:g} to "
        f"{plan.timesteps[-1]:g}). Sample with the "
        f"scheduler and the number of steps of the calibration; another timestep is "
        f"{'an error' if plan.unknown_timestep == 'error' else 'taken for the nearest one'}."
    )


def _describe_measured(report: Report) -> list[str]:
    lines = []
    for name in dict.fromkeys(score.recipe for score in report.scores):
        own = [score for score in report.scores if score.recipe == name]
        means = {
            part: sum(getattr(score, part) for score in own) / len(own) for part in ("psnr", "ssim")
        }
        lines.append(LINE.format(name=name, count=len(own), **means))
    return lines


def _on_hub(model: str) -> bool:
    owner, _, name = model.partition("/")
    return bool(owner and name) and "/" not in name and not model.startswith((".", "~"))
