"""Public mode: what a visitor of an app that is open to everybody may name, and whose things are
whose.

It is on with `dmq serve --public`, with `$DMQ_PUBLIC`, and on a Space of the Hugging Face Hub
(`$SPACE_ID`). Whoever works on the command line or in Python is the host, who may do all; a visitor
is whoever `as_visitor` says."""

import contextlib
import hashlib
import os
import re
import secrets
import tempfile
from collections.abc import Collection, Iterator
from contextvars import ContextVar
from pathlib import Path

from .errors import Refused


NO = ("", "0", "false", "no", "off")  # values of $DMQ_PUBLIC that switch it off, on a Space too
TOKEN = re.compile(r"[\w-]{16,64}", re.ASCII)

_visitor: ContextVar[str | None] = ContextVar("visitor", default=None)


def is_public() -> bool:
    """Is this process open to everybody? `$DMQ_PUBLIC` says so, or else that it runs on a Space."""
    said = os.environ.get("DMQ_PUBLIC")
    return said.strip().lower() not in NO if said is not None else bool(os.environ.get("SPACE_ID"))


# --- models ---------------------------------------------------------------------------------------


def offered() -> dict[str, str]:
    """What the host offers besides the models that ship, by name: Hub ids and folders of
    `$DMQ_MODELS`, with commas.

    A folder is called by its last part: nobody is shown where it is.
    """
    return {_called(source): source for source in _sources() if not _is_no_pipeline(source)}


def not_offered() -> list[str]:
    """Folders of `$DMQ_MODELS` in which there is no pipeline."""
    return [source for source in _sources() if _is_no_pipeline(source)]


def _sources() -> list[str]:
    return [
        source.strip() for source in os.environ.get("DMQ_MODELS", "").split(",") if source.strip()
    ]


def _called(source: str) -> str:
    return Path(source).expanduser().name if _is_folder(source) else source


def _is_folder(source: str) -> bool:
    path = Path(source).expanduser()
    return path.is_absolute() or path.is_dir()


def _is_no_pipeline(source: str) -> bool:
    return _is_folder(source) and not (Path(source).expanduser() / "model_index.json").is_file()


def check_model(name: str, shipped: Collection[str]) -> None:
    """Raise Refused unless everybody may use the model `name`: one that is `shipped`, or that the
    host offers.

    The answer is the same for all other names: it does not tell what there is on this machine or on
    the Hub."""
    if is_public() and name not in shipped and name not in (known := offered()):
        more = "".join(f", {name}" for name in known)
        raise Refused(
            f"this app is open to everybody, and opens only the models that ship with it{more}. "
            "For others, run dmq on your own machine."
        )


def check_place(place: Path, *roots: Path) -> None:
    """Raise Refused in public mode unless `place`, links and dots resolved, lies in one of
    `roots`.
    """
    if is_public() and not any(place.resolve().is_relative_to(root.resolve()) for root in roots):
        raise Refused(
            "this app is open to everybody: it reads no files but those that you upload, and "
            "writes none outside its run folder."
        )


def check_host() -> None:
    """Raise Refused for a visitor: what is asked for would change the app for everybody."""
    if visitor():
        raise Refused("this app is open to everybody: only its host may change how it runs.")


def uploads() -> Path:
    """Where Gradio puts what visitors upload."""
    return Path(os.environ.get("GRADIO_TEMP_DIR") or Path(tempfile.gettempdir()) / "gradio")


# --- visitors -------------------------------------------------------------------------------------


def new_token() -> str:
    """A secret that a visitor's browser keeps, and by which what it keeps here is found again."""
    return secrets.token_urlsafe(18)


def is_token(text: object) -> bool:
    """Can that be a visitor's secret?"""
    return isinstance(text, str) and TOKEN.fullmatch(text) is not None


@contextlib.contextmanager
def as_visitor(token: str | None) -> Iterator[None]:
    """While the block lasts, what is kept and listed in public mode is the visitor's with that
    token.

    Without one that can be a token it is somebody's who is never seen again. None is the host.
    """
    before = _visitor.set(token if token is None or is_token(token) else new_token())
    try:
        yield
    finally:
        _visitor.reset(before)


def visitor() -> str:
    """A name for the visitor at hand that does not tell the token; "" for the host, and if the
    app is not public.
    """
    token = _visitor.get()
    return (
        hashlib.sha256(token.encode()).hexdigest()[:24] if token is not None and is_public() else ""
    )
