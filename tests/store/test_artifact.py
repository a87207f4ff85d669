"""Interrupted work goes on, what ships is found, a plan that needs blocks that need a plan is
plain recursion.
"""

import json
import os
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest

from dmq.errors import DmqError
from dmq.store import artifact
from dmq.store.artifact import Artifact, Store, compute, inputs, load, places, save
from dmq.store.folders import write_folder


LOG: list[str] = []


@dataclass(frozen=True, kw_only=True)
class Settings:
    blocks: bool = False
    search: bool = False


@dataclass(frozen=True, kw_only=True)
class Capture(Artifact):
    model: str = "m"
    remembered: ClassVar[int] = 2


@dataclass(frozen=True, kw_only=True)
class GroupSearch(Artifact):
    settings: Settings
    title: ClassVar[str] = "groups of timesteps"


@dataclass(frozen=True, kw_only=True)
class BlockRounding(Artifact):
    settings: Settings


@dataclass(frozen=True, kw_only=True)
class PlanOf(Artifact):
    stored = False
    settings: Settings


@inputs.register
def _(question: GroupSearch):
    return {"stats": Capture()}


@inputs.register
def _(question: BlockRounding):
    return {"stats": Capture(), "plan": PlanOf(settings=replace(question.settings, blocks=False))}


@inputs.register
def _(question: PlanOf):
    needs = {"stats": Capture()}
    if question.settings.search:
        needs["search"] = GroupSearch(settings=replace(question.settings, blocks=False))
    if question.settings.blocks:
        needs["blocks"] = BlockRounding(settings=question.settings)
    return needs


@compute.register
def _(question: Capture, partial):
    LOG.append("capture")
    yield "c1"
    return 10


@compute.register
def _(question: GroupSearch, partial, stats):
    LOG.append("search")
    yield "s"
    return stats + 1


@compute.register
def _(question: BlockRounding, partial, stats, plan):
    partial.mkdir(parents=True, exist_ok=True)
    for n in range(3):
        if not (partial / str(n)).exists():
            yield f"block {n}"
            LOG.append(f"block {n}")
            (partial / str(n)).write_text("done")
    return stats + plan


@compute.register
def _(question: PlanOf, partial, stats, search=0, blocks=0):
    LOG.append("plan")
    return stats + search + blocks
    yield


def write(question, folder, value):
    with write_folder(folder) as part:
        (part / "value.json").write_text(json.dumps(value))


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """The roots: one's own, and what ships."""
    monkeypatch.setenv("DMQ_RUNS", str(tmp_path / "own"))
    roots = [tmp_path / "own", tmp_path / "shipped"]
    for kind in (Capture, GroupSearch, BlockRounding):
        places.register(kind, lambda q: [root / f"{type(q).__name__}-{hash(q)}" for root in roots])
        save.register(kind, write)
        load.register(kind, lambda q, folder: json.loads((folder / "value.json").read_text()))
    LOG.clear()
    return roots


@pytest.fixture
def store(folders):
    return Store()


def finish(work):
    seen = []
    while True:
        try:
            seen.append(next(work))
        except StopIteration as end:
            return end.value, seen


def names(missing):
    return [type(each).__name__ for each in missing]


PLAN = PlanOf(settings=Settings(blocks=True, search=True))


def test_it_goes_on_where_it_was_interrupted(store, folders):
    assert names(store.missing(PLAN)) == ["Capture", "GroupSearch", "BlockRounding"]
    work = store.get(PLAN)
    while next(work) != "block 1":
        pass
    work.close()  # inside the second block
    assert names(store.missing(PLAN)) == ["BlockRounding"]
    value, seen = finish(store.get(PLAN))
    assert seen == ["block 1", "block 2"] and value == 10 + 11 + (10 + 21)
    assert LOG.count("capture") == LOG.count("block 0") == 1
    assert store.missing(PLAN) == [] and finish(store.get(PLAN)) == (value, [])
    assert not list(folders[0].glob("*.partial")) and not list(folders[0].glob(".*"))


def test_again_goes_on_where_again_was_interrupted(store, folders):
    finish(store.get(PLAN))
    blocks = BlockRounding(settings=PLAN.settings)
    old = store.partial(blocks) / "0"
    old.mkdir(parents=True)
    os.utime(old.parent, ns=(1, 1))  # left from before the answer: not of this question's redoing
    work = store.get(blocks, again=True)
    assert [next(work), next(work)] == ["block 0", "block 1"]
    work.close()
    assert finish(store.get(blocks, again=True))[1] == ["block 1", "block 2"]


def test_what_ships_is_found_and_never_written(store, folders):
    finish(store.get(PLAN))
    folders[0].rename(folders[1])
    before = {file: file.stat().st_mtime_ns for file in folders[1].rglob("*")}
    assert store.missing(PLAN) == [] and store.value(PLAN) == 52
    finish(store.get(GroupSearch(settings=Settings(search=True)), again=True))
    assert {file: file.stat().st_mtime_ns for file in folders[1].rglob("*")} == before
    assert len(list(folders[0].iterdir())) == 1


def test_what_is_missing_is_told_and_nothing_is_computed(store):
    with pytest.raises(
        DmqError,
        match=r"^groups of timesteps: not there yet; run `dmq prepare` with this recipe\.$",
    ):
        store.value(GroupSearch(settings=Settings(search=True)))
    with pytest.raises(DmqError, match=r"^Capture: not there yet"):  # what is to be done first
        store.value(PlanOf(settings=Settings(search=True)))
    assert LOG == []


def test_an_answer_is_computed_once_and_again_after_one_of_its_inputs_changed(store):
    search = GroupSearch(settings=Settings(search=True))
    plan = PlanOf(settings=Settings(search=True))
    assert finish(store.get(plan))[0] == store.value(plan) == 21
    assert LOG.count("plan") == 1
    folder = store.find(search)
    (folder / "value.json").write_text("90")  # as another process would, in one rename
    stamp = folder.stat().st_mtime_ns + 10**9
    os.utime(folder, ns=(stamp, stamp))
    assert store.value(plan) == 100 and LOG.count("plan") == 2
    assert finish(store.get(search, again=True)) == (11, ["s"]) and store.value(plan) == 21
    assert LOG.count("search") == 2 and LOG.count("capture") == 1


def test_memory_holds_the_last_few(store, monkeypatch):
    loaded = []
    load.register(Capture, lambda q, folder: loaded.append(q.model) or q.model)
    for model in ("a", "b", "c", "a", "c", "a", "b"):
        finish(store.get(Capture(model=model)))
    assert loaded == ["a", "b", "c", "a", "b"]  # what is kept is the answer, so it is read back
    store.forget()
    finish(store.get(Capture(model="b")))
    assert loaded[5:] == ["b"]


def test_an_answer_that_cannot_be_saved_leaves_its_parts(store, folders, monkeypatch):
    def fail(question, folder, value):
        raise DmqError("no room")

    save.register(BlockRounding, fail)
    with pytest.raises(DmqError, match="no room"):
        finish(store.get(PLAN))
    assert (
        names(store.missing(PLAN)) == ["BlockRounding"]
        and len(list(folders[0].glob("*.partial/*"))) == 3
    )


def test_a_question_without_functions_is_a_mistake_of_whoever_wrote_it(store):
    @dataclass(frozen=True, kw_only=True)
    class Unknown(Artifact):
        pass

    for function in (
        places,
        lambda q: save(q, None, None),
        lambda q: load(q, None),
        lambda q: compute(q, None),
    ):
        with pytest.raises(TypeError, match="Unknown"):
            function(Unknown())
    with pytest.raises(TypeError, match="Unknown"):
        store.missing(Unknown())


def test_it_is_the_same_question_if_its_data_are(store):
    assert Capture() == Capture(model="m") and hash(Capture()) == hash(Capture(model="m"))
    assert artifact.inputs(Capture()) == {}


def test_how_it_is_computed_is_told_to_the_question_alone(store):
    told = []

    def search(question, partial, stats, workers=1):
        told.append(workers)
        return stats
        yield

    compute.register(GroupSearch, search)
    assert finish(store.get(GroupSearch(settings=Settings()), workers=3)) == (
        10,
        ["c1"],
    ) and told == [3]
