"""Artifacts: what takes long to compute and is worth keeping. What one needs is data: no file
imports another's work.

An artifact is a question: frozen data that holds all that its answer depends on. Five functions are
registered for its type, and none of them knows the store:

    inputs(question)                      other questions whose answers it is computed from, by argument name
    places(question, **values)            folders of its answer: first the one that is written, then others, only read
    compute(question, partial, **values)  a generator: yields Progress, returns the answer; resumes from `partial`
    save(question, folder, value)         writes the answer as a folder that appears when complete
    load(question, folder)                reads it; of `kept_as`, both do without being registered

Where many answers share most of the work, `compute_together` takes the place of `compute`.

The `Store` finds, computes, resumes and keeps. Nothing else decides whether an answer is there.
"""

import contextlib
import os
import shutil
import threading
from collections import OrderedDict
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import singledispatch
from pathlib import Path
from typing import Any, ClassVar

from ..errors import DmqError
from ..progress import relay_each, run_to_end
from . import codec, folders


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """A question; two equal ones share one answer."""

    stored: ClassVar[bool] = True  # False: cheap to compute, remembered in memory only
    remembered: ClassVar[int] = 4  # answers of this type that are held in memory at most
    shared: ClassVar[bool] = False  # does `compute` take `scheduler` and `workers` of `engine.run`?
    named_by: ClassVar[tuple[str, ...]] = ()  # inputs that the names of folders depend on
    loaded_with: ClassVar[tuple[str, ...]] = ()  # inputs without which the answer cannot be read
    parts: ClassVar[str] = ".partial"  # how the folder is called that holds what is finished so far
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


@dataclass(frozen=True)
class Answer:
    """One of the answers of `compute_together`, to be kept at once."""

    question: Artifact
    value: Any


@singledispatch
def inputs(question: Artifact) -> dict[str, Artifact]:
    """What `compute` is given, by argument name.

    All registered in one file: the dependency graph on one page.
    """
    return {}


@singledispatch
def places(question: Artifact, **values: Any) -> Sequence[Path]:
    """Folders of the answer, the first is written to; `values` are of the inputs in `named_by`."""
    raise TypeError(f"nothing says where {type(question).__name__} is kept")


@singledispatch
def compute(question: Artifact, partial: Path, **values: Any) -> Generator[Any, None, Any]:
    """Yield Progress, return what `save` writes; what an interrupted call left in `partial` is
    not computed again.
    """
    raise TypeError(f"nothing computes {type(question).__name__}")


@singledispatch
def compute_together(
    first: Artifact, questions: Sequence[Artifact], already: int, **values: Any
) -> Generator[Any, None, None]:
    """Yield Progress, and an `Answer` for each of `questions`, which have the inputs of the `first`.

    `already` others are there. Not registered for most types: their answers are computed one by one.
    """
    raise TypeError(f"nothing computes several {type(first).__name__} at once")


_ONE_BY_ONE = compute_together.dispatch(Artifact)
_NOTHING = object()


@singledispatch
def save(question: Artifact, folder: Path, value: Any) -> None:
    """Write the answer as `folder`, which appears only when complete (`folders.write_folder`)."""
    name, _ = _kept_as(question, "saves")
    with folders.write_folder(folder) as part:
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
    """Answers in folders and, the last few of each type, in memory.

    As long as an answer stays the same, so does the object: functions of it can be cached by it.
    """

    def __init__(self) -> None:
        # By type and question the stamp and the value.
        self._memory: dict[type, OrderedDict[Artifact, tuple[Any, Any]]] = {}
        self._lock = threading.Lock()

    # --- is it there? -----------------------------------------------------------------------------

    def find(self, question: Artifact) -> Path | None:
        """The folder of the answer; None if there is none."""
        return next((place for place in self._places(question) if place.is_dir()), None)

    def place(self, question: Artifact) -> Path:
        """The folder of the answer, or where it will be.

        Raises DmqError if that depends on what is missing.
        """
        if question.named_by and (missing := self._unnamed(question)):
            raise DmqError(missing[-1].absent)
        return self.find(question) or self._places(question)[0]

    def partial(self, question: Artifact) -> Path:
        """Where `compute` leaves what is finished of an answer that is not."""
        target = self._places(question)[0]
        return target.with_name(f"{target.name}{question.parts}")

    def missing(self, question: Artifact) -> list[Artifact]:
        """What is still to be computed for the answer, in order, the question itself last.

        Error texts, buttons, commands and estimates are views of it.
        """
        if question.stored and self.find(question):
            return []
        first = [each for need in inputs(question).values() for each in self.missing(need)]
        return list(dict.fromkeys([*first, *([question] if question.stored else [])]))

    # --- the answer -------------------------------------------------------------------------------

    def value(self, question: Artifact) -> Any:
        """The answer, without computing anything that is worth keeping.

        Raises DmqError that says what is missing.
        """
        if (value := self._recall(question)) is not _NOTHING:
            return value
        if missing := self.missing(question):
            raise DmqError((missing[-1] if question.stored else missing[0]).absent)
        return run_to_end(self.get(question))

    def get(
        self, question: Artifact, *, again: bool = False, **how: Any
    ) -> Generator[Any, None, Any]:
        """The answer, computed with all that it needs and lacks; `again`: even if it is there.

        `how` goes to `compute` of this question alone: what does not change the answer, such as how
        many processes compute it. Closing the generator keeps what is finished: other answers, and
        what was left in `partial`."""
        if not again and (value := self._recall(question)) is not _NOTHING:
            return value
        needs, values = inputs(question), {}
        for name in question.named_by:
            values[name] = yield from self.get(needs[name])
        if not again and question.stored and (folder := self.find(question)):
            return self._remember(question, self._load(question, folder))
        rest = {name: need for name, need in needs.items() if name not in values}
        values |= yield from self.get_all(rest)
        if not question.stored:
            return self._remember(question, (yield from compute(question, Path(), **values, **how)))
        partial, target = self.partial(question), self._places(question)[0]
        if again and not self._is_newer(partial, self.find(question)):
            shutil.rmtree(partial, ignore_errors=True)
        if _shares_work(question):
            yield from self._compute_together([question], 0, values, **how)
        else:
            value = yield from compute(question, partial, **values, **how)
            save(question, target, value)
        shutil.rmtree(partial, ignore_errors=True)
        # What is kept is the answer, here as in the next process: saving may round.
        return self._remember(question, self._load(question, target))

    def get_all(self, questions: Mapping[Any, Artifact]) -> Generator[Any, None, dict[Any, Any]]:
        """The answers by name; those that share work are computed together."""
        yield from self._make_shared(questions.values())
        answers = {}
        for name, question in questions.items():
            answers[name] = yield from self.get(question)
        return answers

    def make(
        self, questions: Iterable[Artifact], *, again: bool = False, **how: Any
    ) -> Generator[Any, None, None]:
        """Compute the answers that are not there, or all `again`; `how` is of those that take it."""
        questions = tuple(questions)
        yield from self._make_shared(questions, again=again, **how)
        for question in questions:
            if not _shares_work(question) and (again or self.find(question) is None):
                yield from self.get(question, again=again, **(how if question.shared else {}))

    def _make_shared(
        self, questions: Iterable[Artifact], *, again: bool = False, **how: Any
    ) -> Generator[Any, None, None]:
        kinds: dict[type, list[Artifact]] = {}
        for question in dict.fromkeys(questions):
            if _shares_work(question):
                kinds.setdefault(type(question), []).append(question)
        for several in kinds.values():
            lacking = several if again else [each for each in several if not self.find(each)]
            if lacking:
                values = yield from self.get_all(inputs(lacking[0]))
                # Only now can some be named.
                lacking = several if again else [each for each in several if not self.find(each)]
                more = how if lacking and lacking[0].shared else {}
                already = len(several) - len(lacking)
                yield from self._compute_together(lacking, already, values, **more)

    def _compute_together(
        self, questions: Sequence[Artifact], already: int, values: dict[str, Any], **how: Any
    ) -> Generator[Any, None, None]:
        def keep(item: Any) -> Iterable[Any]:
            if not isinstance(item, Answer):
                return (item,)
            save(item.question, self._places(item.question)[0], item.value)
            return ()

        if questions:
            work = compute_together(questions[0], questions, already, **values, **how)
            yield from relay_each(work, keep)

    def stamp(self, question: Artifact) -> Any:
        """Equal if and only if the answer is the same: another process may have computed it again.

        None if it is not there, or if something that it is computed from is not."""
        if question.stored:
            folder = self.find(question)
            return folder and (str(folder), _newest(folder))
        stamps = tuple(self.stamp(need) for need in inputs(question).values())
        return None if None in stamps else stamps

    def forget(self) -> None:
        """Hold nothing in memory."""
        with self._lock:
            self._memory.clear()

    # --- how it does ------------------------------------------------------------------------------

    def _places(self, question: Artifact) -> Sequence[Path]:
        """None as long as their name cannot be told."""
        if not question.named_by:
            return places(question)
        if self._unnamed(question):
            return ()
        needs = inputs(question)
        return places(question, **{name: self.value(needs[name]) for name in question.named_by})

    def _unnamed(self, question: Artifact) -> list[Artifact]:
        """What is missing to tell the name of the answer's folder."""
        needs = inputs(question)
        named = [needs[name] for name in question.named_by]
        return [
            each for need in named if self._recall(need) is _NOTHING for each in self.missing(need)
        ]

    @staticmethod
    def _is_newer(partial: Path, answer: Path | None) -> bool:
        """Was `partial` left by an interrupted call that replaces `answer`?"""
        if answer is None or not partial.is_dir():
            return False
        return partial.stat().st_mtime_ns > answer.stat().st_mtime_ns

    def _load(self, question: Artifact, folder: Path) -> Any:
        needs = inputs(question) if question.loaded_with else {}
        return load(
            question, folder, **{name: self.value(needs[name]) for name in question.loaded_with}
        )

    def _recall(self, question: Artifact) -> Any:
        """The answer that is in memory, if it still is the answer."""
        with self._lock:
            known = self._memory.get(type(question), OrderedDict()).get(question)
        if known is None or known[0] != self.stamp(question):
            return _NOTHING
        with self._lock, contextlib.suppress(KeyError):  # another thread may have made room
            self._memory[type(question)].move_to_end(question)
        return known[1]

    def _remember(self, question: Artifact, value: Any) -> Any:
        stamp = self.stamp(question)
        with self._lock:
            known = self._memory.setdefault(type(question), OrderedDict())
            known[question] = (stamp, value)
            known.move_to_end(question)
            while len(known) > question.remembered:
                known.popitem(last=False)
        return value


def _newest(folder: Path) -> int:
    """When anything in `folder` was written; somebody may exchange a file by hand."""
    with os.scandir(folder) as entries:
        return max([folder.stat().st_mtime_ns, *(entry.stat().st_mtime_ns for entry in entries)])


def _shares_work(question: Artifact) -> bool:
    return compute_together.dispatch(type(question)) is not _ONE_BY_ONE


store = Store()  # the one that dmq works with
