"""The command line: `dmq serve | run | prepare | show | compare | bench | export | check`, and
`doctor`.
"""

import argparse
import io
import os
import sys
from collections.abc import Callable
from typing import Any

from .. import __version__
from ..errors import DmqError, disk_error
from . import bench, check, compare, doctor, export, former, prepare, run, serve, show
from .arguments import choose_place, place_arguments


DESCRIPTION = "See, choose and prove how a diffusion model is quantized."
COMMANDS = (serve, run, prepare, show, compare, bench, export, check, doctor)


def main(arguments: list[str] | None = None) -> int:
    """Carry a command out; returns the exit code: 0, 1 for what the user can fix, 130 after
    Ctrl-C.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(
            stream, io.TextIOWrapper
        ):  # a console or pipe of Windows may lack × and ⚠: they become ? there
            stream.reconfigure(errors="replace")
    chosen = parser().parse_args(arguments)
    try:
        choose_place(chosen)
        chosen.command(chosen)
        if chosen.now:
            print(f"dmq: this command is now {chosen.now}.", file=sys.stderr)
        sys.stdout.flush()
    except (
        BrokenPipeError
    ):  # `… | head`: nobody reads on, and Python would complain when it flushes at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except DmqError as error:
        print(f"dmq: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ndmq: stopped; nothing half-written was left.", file=sys.stderr)
        return 130
    except Exception as error:
        if (told := disk_error(error)) is None:
            raise
        print(f"dmq: {told}", file=sys.stderr)
        return 1
    return 0


def parser() -> argparse.ArgumentParser:
    """The commands with their arguments; `command` of what it parses is the function to call."""
    top = argparse.ArgumentParser(prog="dmq", description=DESCRIPTION)
    top.add_argument("--version", action="version", version=f"dmq {__version__}")
    commands = top.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def add(
        name: str, command: Callable[[argparse.Namespace], None], said: str, now: str = ""
    ) -> argparse.ArgumentParser:
        """A command; one that is called otherwise `now` is not listed."""
        listed: dict[str, Any] = {} if now else {"help": said}
        made = commands.add_parser(name, description=said, **listed)
        made.set_defaults(command=command, now=now)
        place_arguments(made)
        return made

    for module in (*COMMANDS, former):
        module.add_to(add)
    return top
