"""The README of a checkpoint: what was quantized to what, how large it is, how it is loaded."""

from collections.abc import Mapping
from typing import Any

from ..recipe import Recipe
from ..results import Plan, Report


LINE = "{name}: PSNR {psnr:.2f} dB, SSIM {ssim:.4f} against the float pictures of the same noise ({count} pictures)"


def card(
    plan: Plan, settings: Mapping[str, Any], taken: int, recipe: Recipe | None, report: Report | None, source: str
) -> str:
    """Markdown with the metadata that the Hub reads; `taken` is the bytes of all tensors, `source` the float model."""
    model = source or plan.model
    lines = [
        "---", "library_name: diffusers", *([f"base_model: {model}"] if _on_hub(model) else []),
        "tags: [dmq, quantized, diffusion]", "---", "", f"# {model}, quantized by dmq", "",
        f"**{recipe.name if recipe else 'A plan'}**: {plan.coverage_line()}.", "",
        f"- {taken:,} bytes of tensors; the plan counts {plan.bytes:,}, the float denoiser takes {plan.float_bytes:,} "
        f"({taken / max(1, plan.float_bytes):.1%}).",
        f"- Weights of the layers: {plan.average_bits:.2f} bits on average, scales and zero points included.",
        f"- Activations: {_steps(plan)}",
        *([f"- {line}" for line in _measured(report)] if report else []), "",
        "## To load it", "", "```python", "import dmq.checkpoint  # teaches diffusers the format",
        "from diffusers import DiffusionPipeline", "",
        'pipe = DiffusionPipeline.from_pretrained("this folder")', "```", "",
        f"It is {settings['mode']} unless you choose: `with dmq.checkpoint.mode(\"simulated\"):` around that line, "
        "or the environment variable `DMQ_MODE`. A folder of one denoiser is loaded by its class, such as "
        "`UNet2DConditionModel.from_pretrained`. `dmq check FOLDER` verifies it.", "",
        "## Licence", "",
        f"The weights are made from those of {model}: its licence holds for them, too. Read it there.", "",
    ]  # fmt: skip
    return "\n".join(lines)


def _steps(plan: Plan) -> str:
    steps = len(plan.timesteps)
    slots = sorted({len(row.bank.bits) for row in plan.layers if row.bank and not row.bank.dynamic})
    if not slots:
        return plan.dynamic_line() or "float."
    ranges = "one range" if slots == [1] else f"{slots[0]} ranges" if len(slots) == 1 else f"up to {slots[-1]} ranges"
    return (
        f"{ranges} for {steps} recorded timesteps ({plan.timesteps[0]:g} to {plan.timesteps[-1]:g}). Sample with the "
        f"scheduler and the number of steps of the calibration; another timestep is "
        f"{'an error' if plan.on_miss == 'error' else 'taken for the nearest one'}."
    )


def _measured(report: Report) -> list[str]:
    lines = []
    for name in dict.fromkeys(score.recipe for score in report.scores):
        own = [score for score in report.scores if score.recipe == name]
        means = {part: sum(getattr(score, part) for score in own) / len(own) for part in ("psnr", "ssim")}
        lines.append(LINE.format(name=name, count=len(own), **means))
    return lines


def _on_hub(model: str) -> bool:
    owner, _, name = model.partition("/")
    return bool(owner and name) and "/" not in name and not model.startswith((".", "~"))
