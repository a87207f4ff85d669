"""Several finished benchmarks as one."""

import dataclasses

from ..errors import DmqError
from ..results import BenchReport
from ..store import benchmarks as kept


def join_benchmarks(names: list[str]) -> BenchReport:
    """Several finished benchmarks as one; a recipe whose name is taken is called after its
    benchmark too.

    Raises DmqError, naming both, if they have other prompts, seeds, sampling or models.
    """
    reports = [(name, kept.load_report(name)) for name in dict.fromkeys(names)]
    first_name, first = reports[0]
    for name, report in reports[1:]:
        kept.check_alike(first_name, first.benchmark, name, report.benchmark)
        for part in ("model", "sampler", "features", "reference"):
            if getattr(first, part) != getattr(report, part):
                raise DmqError(
                    f"{first_name} has {part} {getattr(first, part)!r}, {name} has "
                    f"{getattr(report, part)!r}: their figures cannot be compared."
                )
        first = _add(first, report, name)
    return first


def _add(first: BenchReport, other: BenchReport, name: str) -> BenchReport:
    new = {who: who if who not in first.recipes else f"{who} · {name}" for who in other.coverage}

    def renamed(items: tuple) -> tuple:
        mine = [item for item in items if item.recipe in new]
        return tuple(dataclasses.replace(item, recipe=new[item.recipe]) for item in mine)

    return dataclasses.replace(
        first,
        rows=first.rows + renamed(other.rows),
        images=first.images + renamed(other.images),
        bytes=first.bytes | {new[who]: size for who, size in other.bytes.items() if who in new},
        coverage=first.coverage | {new[who]: line for who, line in other.coverage.items()},
        warnings=(*first.warnings, *other.warnings),
    )
