"""Artifacts: what takes long to compute and is worth keeping. What one needs is data: no file
imports another's work.

An artifact is a question: frozen data that holds all that its answer depends on. Five functions are
registered for its type, and none of them knows the store:

    inputs(question)                      other questions whose answers it is computed from, by argument name
    places(question)                      folders of its answer: first the one that is written, then others, only read
    compute(question, partial, **values)  a generator: yields Progress, returns the answer; resumes from `partial`
    save(question, folder, value)         writes the answer as a folder that appears when complete
    load(question, folder)                reads it; of `kept_as`, both do without being registered

The `Store` finds, computes, resumes and keeps. Nothing else decides whether an answer is there.
"""

import functools
import shutil
import threading
from collections import OrderedDict
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import singledispatch
from pathlib import Path
from typing import Any, ClassVar

from ..errors import DmqError
from ..progress import run_to_end
from . import codec, folders


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """A question; two equal ones share one answer."""

    stored: ClassVar[bool] = True  # False: cheap to compute, remembered in memory only
    remembered: ClassVar[int] = 4  # answers of this type that are held in memory at most
    loaded_with: ClassVar[tuple[str, ...]] = ()  # inputs without which the answer cannot be read
    # The name of the file, and the dataclass, of an answer that is one file: the codec keeps it.
    kept_as: ClassVar[tuple[str, type]] = ("", object)

    @property
    def title(self) -> str:
        """What is missing if the answer is, for people."""
        return type(self).__name__

    @property
    def absent(self) -> str:
        """What people are told where the answer is not there: what is missing, how they get it."""
        return f"{self.title}: not there yet; run `dmq prepare` with this recipe."


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
    """Yield Progress, return what `save` writes; what an interrupted call left in `partial` is
    not computed again.
    """
    raise TypeError(f"nothing computes {type(question).__name__}")


@singledispatch
def save(question: Artifact, folder: Path, value: Any) -> None:
    """Write the answer as `folder`, which appears only when complete (`folders.written`)."""
    name, _ = _kept_as(question, "saves")
    with folders.written(folder) as part:
        codec.save(part / f"{name}.safetensors", name, value)


@singledispatch
def load(question: Artifact, folder: Path, **values: Any) -> Any:
    """The answer in `folder`; `values` are of the inputs that `loaded_with` names.

    Raises DmqError if it is damaged.
    """
    name, kind = _kept_as(question, "loads")
    return codec.load(folder / f"{name}.safetensors", name, kind)


def _kept_as(question: Artifact, does: str) -> tuple[str, type]:
    if not question.kept_as[0]:
        raise TypeError(f"nothing {does} {type(question).__name__}")
    return question.kept_as


class Store:
    """Answers in folders and, the last few of each type, in memory."""

    def __init__(self) -> None:
        # By type and question the stamp and the value.
        self._memory: dict[type, OrderedDict[Artifact, tuple[Any, Any]]] = {}
        self._lock = threading.Lock()

    def find(self, question: Artifact) -> Path | None:
        """The folder of the answer; None if there is none."""
        return next((place for place in places(question) if place.is_dir()), None)

    def place(self, question: Artifact) -> Path:
        """The folder of the answer, or where it will be."""
        return self.find(question) or places(question)[0]

    def partial(self, question: Artifact) -> Path:
        """Where `compute` leaves what is finished of an answer that is not."""
        target = places(question)[0]
        return target.with_name(f"{target.name}.partial")

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
            raise DmqError(missing[-1].absent)
        return run_to_end(self.get(question))

    def get(
        self,
        question: Artifact,
        *,
        again: bool = False,
        work: Callable[..., Generator[Any, None, Any]] | None = None,
        **how: Any,
    ) -> Generator[Any, None, Any]:
        """The answer, computed with all that it needs and lacks; `again`: even if it is there.

        `how` goes to `compute` of this question alone: what does not change the answer, such as how
        many processes compute it. `work(partial, **values, **how)` takes the place of `compute`
        where only rooms above know how it is done. Closing the generator keeps what is finished:
        other answers, and what was left in `partial`."""
        if not again and question.stored and (folder := self.find(question)):
            return self._remember(question, lambda: self._load(question, folder))
        values = {}
        for name, need in inputs(question).items():
            values[name] = yield from self.get(need)
        if not question.stored:
            with self._lock:
                held = self._memory.get(type(question), OrderedDict()).get(question)
            if held is not None and held[0] == self.stamp(question):
                return held[1]
        partial = self.partial(question) if question.stored else Path()
        if again and question.stored and not self._is_newer(partial, self.find(question)):
            shutil.rmtree(partial, ignore_errors=True)
        work = work or functools.partial(compute, question)
        value = yield from work(partial, **values, **how)
        if not question.stored:
            return self._remember(question, lambda: value)
        target = places(question)[0]
        save(question, target, value)
        shutil.rmtree(partial, ignore_errors=True)
        # What is kept is the answer, here as in the next process: saving may round.
        return self._remember(question, lambda: self._load(question, target), new=True)

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

    @staticmethod
    def _is_newer(partial: Path, answer: Path | None) -> bool:
        """Was `partial` left by an interrupted call that replaces `answer`?"""
        both = answer is not None and partial.is_dir()
        return both and partial.stat().st_mtime_ns > answer.stat().st_mtime_ns

    def _load(self, question: Artifact, folder: Path) -> Any:
        needed = {name: self.value(inputs(question)[name]) for name in question.loaded_with}
        return load(question, folder, **needed)

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
