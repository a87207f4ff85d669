"""Exported folders on the Hugging Face Hub."""

import re
from pathlib import Path

from ..errors import DmqError
from ..models.libraries import import_libraries
from ..public import is_public


REPOSITORY = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}", re.ASCII)


def push_hindrance() -> str:
    """Why nothing can be pushed from here, in one line; "" if it can.

    In public mode nobody may: the token is the host's, and everybody is a visitor.
    """
    import huggingface_hub

    if is_public():
        return "This app is open to others, and pushes for nobody: download the export, and push it from your machine."
    if huggingface_hub.get_token() is None:
        return "Nobody is logged in to the Hugging Face Hub here: run “hf auth login”, or set HF_TOKEN."
    return ""


def push(folder: str | Path, repository: str, *, private: bool = True) -> str:
    """Upload an exported `folder` with its card as `repository`, "owner/name"; returns its address.

    Raises DmqError if dmq did not export it, if nobody is logged in, or if the Hub refuses.
    """
    if why := push_hindrance():
        raise DmqError(why)
    if not REPOSITORY.fullmatch(repository or ""):
        raise DmqError(f"a repository of the Hub is called owner/name, got {repository!r:.80}.")
    import_libraries()
    from .. import checkpoint

    return checkpoint.push(folder, repository, private=private)
