"""torch and diffusers, imported when they are first needed, and models loaded with them.

They take most of the app's start: the page is up, and shows what was captured, while they load."""

import importlib
import threading
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from .loading import Loaded

_importing = threading.Lock()


def import_libraries() -> None:
    """Import torch, transformers and diffusers, one caller at a time.

    They import each other's parts lazily: two threads that begin at once find modules half made. So
    whoever needs them first comes through here."""
    with _importing:
        importlib.import_module("dmq.models.loading")


def load(model: str) -> "Loaded":
    """The float pipeline itself, cached and never to be changed, with its adapter and
    description.
    """
    import_libraries()
    from . import loading

    return loading.load(model)
