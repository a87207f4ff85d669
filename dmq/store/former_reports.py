"""Reports of comparisons and benchmarks as they were kept first: with a sentence for the coverage of
a model. This is the one place that takes such a sentence apart; what is kept now has the parts.
"""

import re
from dataclasses import asdict
from typing import Any

from ..recipe import ENGINES, SIMULATED
from ..results import Coverage


KERNEL = re.compile(r"(\d+) layers on (.+)")
FELL_BACK = re.compile(r"(\d+) in float \((.+)\)", re.DOTALL)


def with_coverage(report: dict[str, Any]) -> dict[str, Any]:
    """The plain data of a report with the parts of each sentence in its place."""
    kept = report["coverage"].items()
    return report | {"coverage": {who: _parse(x) if isinstance(x, str) else x for who, x in kept}}


def _parse(sentence: str) -> dict[str, Any]:
    quantized, engine, ran = sentence, SIMULATED, ""
    for name in ENGINES:
        before, found, after = sentence.partition(f"; {name}: ")
        if found:
            quantized, engine, ran = before, name, after
            break
    parts = re.split(r"; (?=\d+ (?:layers on|in float) )", ran)
    kernels, fell_back = (
        {match[2]: int(match[1]) for match in map(pattern.fullmatch, parts) if match}
        for pattern in (KERNEL, FELL_BACK)
    )
    return asdict(
        Coverage(
            quantized=quantized,
            in_float=quantized.partition("float: ")[2].partition("; ")[0] or "nothing",
            engine=engine,
            kernels=kernels,
            fell_back=fell_back,
        )
    )
