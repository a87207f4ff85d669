"""What was measured of models, in words: what is quantized in them, what computed it, how fast."""

from collections.abc import Mapping

from ..recipe import SIMULATED
from ..results import Coverage


def describe_coverage(coverage: Coverage) -> str:
    """What is quantized to what, what stays in float and, if it was executed, what ran where."""
    if coverage.engine == SIMULATED:
        return coverage.quantized
    ran = describe_kernels(coverage.kernels, coverage.fell_back)
    return f"{coverage.quantized}; {coverage.engine}: {ran}"


def describe_engine(coverage: Coverage) -> str:
    """What computed it: "simulated", "executed: 41 layers on oneDNN int8; ⚠ fell back: 2 in float
    (…)".
    """
    text, fell = coverage.engine, fallbacks(coverage.fell_back)
    text += f": {', '.join(on_kernels(coverage.kernels))}" if coverage.kernels else ""
    return f"{text}; ⚠ fell back: {', '.join(fell)}" if fell else text


def describe_kernels(kernels: Mapping[str, int], fell_back: Mapping[str, int]) -> str:
    """What ran: "41 layers on oneDNN int8; 2 in float (scales change within a row)"."""
    return "; ".join([*on_kernels(kernels), *fallbacks(fell_back)]) or "no layer has codes"


def on_kernels(kernels: Mapping[str, int]) -> list[str]:
    """Such as ["41 layers on oneDNN int8"]."""
    return [f"{n} layers on {kernel}" for kernel, n in kernels.items()]


def fallbacks(fell_back: Mapping[str, int]) -> list[str]:
    """Such as ["2 in float (it is split and has groups)"]."""
    return [f"{n} in float ({why})" for why, n in fell_back.items()]


def format_speed(seconds: float, float_seconds: float) -> str:
    """How many times as fast as the float model, such as "1.83×"; "–" where no time was taken."""
    return f"{float_seconds / seconds:.2f}×" if seconds > 0 else "–"
