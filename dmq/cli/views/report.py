"""What a recipe does to its model, and the report of a run, as text."""

from ...describe import describe_engine, describe_plan, format_speed, plan_rows
from ...recipe import Recipe
from ...store import runs


def print_plan(recipe: Recipe, *, layers: bool = False) -> None:
    """What a recipe does to its model: size, coverage, and with `layers` a line for each of
    them.
    """
    from ...workflow.answers import get_plan

    plan = get_plan(recipe)
    print(
        f"{recipe.name}: {recipe.model}, {plan.bytes / 1e6:.2f} of {plan.float_bytes / 1e6:.2f} "
        f"MB, weights {plan.average_bits:.1f} bits on average, {recipe.engine}"
    )
    print(describe_plan(plan))
    if not layers:
        return
    columns = {
        "layer": "<",
        "weights": "<",
        "activations": "<",
        "groups": ">",
        "rounding": "<",
        "bytes": ">",
        "reason": "<",
    }
    rows: list[dict[str, str | int]] = [
        {**{name: name for name in columns}, "reason": "why float"},
        *plan_rows(plan),
    ]
    width = {name: max(len(str(row[name])) for row in rows) for name in columns}
    for row in rows:
        print(
            "  ".join(f"{row[name]:{side}{width[name]}}" for name, side in columns.items()).rstrip()
        )


def print_run(name: str) -> None:
    """The report of a run as plain text: quality with its noise floor, bytes, seconds, coverage."""
    report = runs.load_report(name)
    print(f"{name}: {runs.folder_of(name)}" + (f"; ran on {report.place}" if report.place else ""))
    width = max(len(who) for who in report.seconds)
    print(f"{'':{width}}  PSNR dB    SSIM       MB  seconds   speed")
    for who, seconds in report.seconds.items():
        mine = [score for score in report.scores if score.recipe == who]
        quality = " " * 15
        if mine:
            means = (
                sum(getattr(score, part) for score in mine) / len(mine) for part in ("psnr", "ssim")
            )
            quality = "{:7.2f}  {:6.4f}".format(*means)
        fast = format_speed(
            seconds, next(iter(report.seconds.values()))
        )  # the float model is the first
        print(
            f"{who:{width}}  {quality}  {report.bytes[who] / 1e6:7.2f}  {seconds:7.1f}  {fast:>6}"
        )
    floor = report.noise_floor
    print(
        f"{report.samples} images each; float images with other seeds are at "
        f"{floor['psnr']:.2f} dB, SSIM {floor['ssim']:.4f}."
    )
    for who, coverage in report.coverage.items():
        print(f"{who}: {coverage.quantized}")
        print(f"{' ' * len(who)}  {describe_engine(coverage)}")
    for warning in report.warnings:
        print(f"note: {warning}")
