"""Artifacts: what takes long to compute and is worth keeping. What one needs is data: no file
imports another's work.

An artifact is a question: frozen data that holds all that its answer depends on. Five functions are
registered for its type, and none of them knows the store:

    inputs(question)                      other questions whose answers it is computed from, by argument name
    places(question)                      folders of its answer: first the one that is written, then others, only read
    compute(question, partial, **values)  a generator: yields Progress, returns the answer; resumes from `partial`
    save(question, folder, value)         writes the answer into an empty folder; load(question, folder) reads it

The `Store` finds, computes, resumes and keeps. Nothing else decides whether an answer is there.
"""

import shutil
import threading
from collections import OrderedDict
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import singledispatch
from pathlib import Path
from typing import Any, ClassVar

from ..errors import DmqError
from ..progress import run_to_end


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """A question; two equal ones share one answer."""

    stored: ClassVar[bool] = True  # False: cheap to compute, remembered in memory only
    remembered: ClassVar[int] = 4  # answers of this type that are held in memory at most

    @property
    def title(self) -> str:
        """What is missing if the answer is, for people."""
        return type(self).__name__

    @property
    def remedy(self) -> str:
        """How people get the answer, a sentence behind the title."""
        return "run `dmq prepare` with this recipe."


@singledispatch
def inputs(question: Artifact) -> dict[str, Artifact]:
    """What `compute` is given, by argument name.

    All registered in one file: the dependency graph on one page.
    """
    return {}


@singledispatch
def places(question: Artifact) -> Sequence[Path]:
    """Folders of the answer, the first is written to."""
    raise TypeError(f"nothing says where {type(question).__name__} is kept")


@singledispatch
def compute(question: Artifact, partial: Path, **values: Any) -> Generator[Any, None, Any]:
    """Yield Progress, return the value; what an interrupted call left in `partial` is not
    computed again.
    """
    raise TypeError(f"nothing computes {type(question).__name__}")


@singledispatch
def save(question: Artifact, folder: Path, value: Any) -> None:
    """Write the answer into `folder`, which is there and empty."""
    raise TypeError(f"nothing saves {type(question).__name__}")


@singledispatch
def load(question: Artifact, folder: Path) -> Any:
    """The answer in `folder`. Raises DmqError if it is damaged."""
    raise TypeError(f"nothing loads {type(question).__name__}")


class Store:
    """Answers in folders and, the last few of each type, in memory.

    `written(folder)` is a context manager that gives an empty folder, and makes it `folder` if the
    block ends well."""

    def __init__(self, written: Callable[[Path], AbstractContextManager[Path]]) -> None:
        self._written = written
        self._memory: dict[
            type, OrderedDict[Artifact, tuple[Any, Any]]
        ] = {}  # question: (stamp, value)
        self._lock = threading.Lock()

    def find(self, question: Artifact) -> Path | None:
        """The folder of the answer; None if there is none."""
        return next((place for place in places(question) if place.is_dir()), None)

    def missing(self, question: Artifact) -> list[Artifact]:
        """What is still to be computed for the answer, in order, the question itself last.

        Error texts, buttons, commands and estimates are views of it.
        """
        if question.stored and self.find(question):
            return []
        first = [each for need in inputs(question).values() for each in self.missing(need)]
        return list(dict.fromkeys([*first, *([question] if question.stored else [])]))

    def value(self, question: Artifact) -> Any:
        """The answer, without computing anything that is worth keeping.

        Raises DmqError that says what is missing.
        """
        if missing := self.missing(question):
            raise DmqError(f"{missing[-1].title}: not there yet; {missing[-1].remedy}")
        return run_to_end(self.get(question))

    def get(
        self, question: Artifact, *, again: bool = False, **how: Any
    ) -> Generator[Any, None, Any]:
        """The answer, computed with all that it needs and lacks; `again`: even if it is there.

        `how` goes to `compute` of this question alone: what does not change the answer, such as how
        many processes compute it. Closing the generator keeps what is finished: other answers, and
        what `compute` left in its folder."""
        if not again and question.stored and (folder := self.find(question)):
            return self._remember(question, lambda: load(question, folder))
        values = {}
        for name, need in inputs(question).items():
            values[name] = yield from self.get(need)
        if not question.stored:
            with self._lock:
                held = self._memory.get(type(question), {}).get(question)
            if held is not None and held[0] == self.stamp(question):
                return held[1]
        target = places(question)[0] if question.stored else Path()
        partial = target.with_name(f"{target.name}.partial") if question.stored else Path()
        if again and question.stored:
            shutil.rmtree(partial, ignore_errors=True)
        value = yield from compute(question, partial, **values, **how)
        if question.stored:
            with self._written(target) as folder:
                save(question, folder, value)
            shutil.rmtree(partial, ignore_errors=True)
        return self._remember(question, lambda: value, new=True)

    def stamp(self, question: Artifact) -> Any:
        """Equal if and only if the answer is the same: another process may have computed it
        again.
        """
        if not question.stored:
            return tuple(self.stamp(need) for need in inputs(question).values())
        folder = self.find(question)
        return folder and (str(folder), folder.stat().st_mtime_ns)

    def forget(self) -> None:
        """Hold nothing in memory."""
        with self._lock:
            self._memory.clear()

    def _remember(self, question: Artifact, make: Callable[[], Any], *, new: bool = False) -> Any:
        stamp = self.stamp(question)
        with self._lock:
            held = self._memory.setdefault(type(question), OrderedDict())
            if not new and question in held and held[question][0] == stamp:
                held.move_to_end(question)
                return held[question][1]
        value = make()  # outside of the lock: others need not wait while a file is read
        with self._lock:
            held[question] = (stamp, value)
            held.move_to_end(question)
            while len(held) > question.remembered:
                held.popitem(last=False)
        return value
