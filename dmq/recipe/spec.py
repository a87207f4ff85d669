"""What every choice of a recipe is: frozen data, whose fields know their labels and limits."""

from dataclasses import dataclass, field, fields
from typing import Any

from ..errors import DmqError


FLOAT = 32  # as a number of bits: leave it in floating point


BITS = (2, 3, 4, 5, 6, 7, 8, 10, 16, FLOAT)


MAX_PROMPT = (
    300  # characters; longer ones are cut by every text encoder anyway, so they are a mistake
)


def option(
    default: Any,
    label: str,
    low: Any = None,
    high: Any = None,
    *,
    choices: tuple = (),
    help: str = "",
    omit_default: bool = False,
    was: str = "",
    was_choices: dict[str, str] | None = None,
) -> Any:
    """A field with its name and limits, read by validation, the forms, and `--help` alike.

    A number has `low` and `high` (both included), a choice has `choices`, a switch or a text has
    neither. With `omit_default` it is left out of JSON where it has its default: what was
    kept before there was such a field is still found. `was` is its first name, and `was_choices`
    has first words by those of now: they are read, and keys go on with them.
    """
    limits = (
        {"low": low, "high": high} if low is not None else {"choices": choices} if choices else {}
    )
    named: dict[str, Any] = {"was": was} if was else {}
    named |= {"was_choices": was_choices} if was_choices else {}
    known = {"label": label, "help": help, "omit_default": omit_default}
    return field(default=default, metadata=known | limits | named)


@dataclass(frozen=True, kw_only=True)
class Spec:
    """Base of every choice a recipe can make.

    Subclasses are final: they add fields and checks, never behaviour.
    """

    def __post_init__(self) -> None:
        for f in fields(self):
            value, limits = getattr(self, f.name), f.metadata
            if "low" in limits and not limits["low"] <= value <= limits["high"]:
                raise DmqError(f"{f.name} is {value}, outside {limits['low']} to {limits['high']}.")
            if "choices" in limits and value not in limits["choices"]:
                raise DmqError(
                    f"{f.name} is {value!r}, not one of {', '.join(map(str, limits['choices']))}."
                )


def check_prompts(prompts: tuple[str, ...]) -> None:
    """Raise DmqError for an empty prompt or one longer than MAX_PROMPT characters."""
    for prompt in prompts:
        if not prompt.strip():
            raise DmqError("a prompt is empty; write what to generate.")
        if len(prompt) > MAX_PROMPT:
            raise DmqError(f"a prompt has {len(prompt)} characters; at most {MAX_PROMPT} are read.")
