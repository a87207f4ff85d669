"""Tiny models as `load` would give them."""

from functools import cache

from dmq.models.loading import Loaded, describe
from dmq.models.tiny import tiny_ddpm, tiny_sd


@cache
def loaded(kind: str) -> Loaded:
    return describe(f"tiny-{kind}", {"sd": tiny_sd, "ddpm": tiny_ddpm}[kind]())


def finish(generator):
    """Everything a generator yields, and what it returns."""
    seen = []
    while True:
        try:
            seen.append(next(generator))
        except StopIteration as end:
            return seen, end.value
