"""`dmq serve`: the app in the browser."""

import argparse
import os
import sys
from collections.abc import Callable

from ..errors import DmqError, disk_error
from ..store import folders


def add_to(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Offer the command; `add` makes a parser from name, function and help."""
    one = add("serve", serve, "Start the app in the browser.")
    one.add_argument("--host", default="127.0.0.1")
    one.add_argument("--port", type=int, default=7860)
    one.add_argument(
        "--public",
        action="store_true",
        help="for strangers: models that ship or are named in "
        "$DMQ_MODELS, everybody's own runs, at most $DMQ_RUNS_QUOTA (2GB, …) kept",
    )


def serve(given: argparse.Namespace) -> None:
    if given.public:
        os.environ["DMQ_PUBLIC"] = (
            "1"  # before the app is imported, and for the processes that it starts
        )
    from pages.app import launch

    from ..models import work_plan
    from ..models.placement import Placement

    if work_plan.get_placement() != Placement():  # said now, not at the first click of somebody
        work_plan.use_placement(work_plan.get_placement())
    try:
        folders.check_writable()
    except DmqError as error:
        print(
            f"dmq: {error} Until then the app shows what ships, and keeps nothing.", file=sys.stderr
        )
    try:
        launch(server_name=given.host, server_port=given.port)
    except OSError as error:
        if (told := disk_error(error)) is not None or "port" not in str(error):
            raise told or error from None
        raise DmqError(
            f"port {given.port} of {given.host} cannot be opened, perhaps since another program "
            "has it; choose one with --port."
        ) from None
