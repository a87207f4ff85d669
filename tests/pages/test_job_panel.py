"""What every long job shows: at its start, meanwhile, at its end, after an error, and after
Stop.
"""

import ast
import math
from pathlib import Path

import gradio as gr
import pytest

from dmq.errors import DmqError
from dmq.progress import Progress
from pages import job_panel
from pages.job_panel import JobPanel, format_note, watch


ON, OFF = gr.update(visible=True), gr.update(visible=False)
JOB = JobPanel(
    start={"go": "Measure", "resume": "Resume"},
    hidden=("resume",),
    stop="Stop it",
    progress="Progress",
    stopped="Stopped.",
    at_end=lambda: {"extra": "over"},
    after_stop=lambda text: {"seen": text},
)


@JOB.run
def measure(count):
    """Count up to `count`; below zero it fails."""
    if count == 0:
        raise DmqError("nothing to count.")
    yield {"extra": "begun"}
    if count < 0:
        raise DmqError("it broke.")
    running.append(counted(count))  # held here, so that nothing but the panel closes it
    total = yield from watch(running[-1], lambda seen: {"seen": seen})
    return {"status": format_note("Done."), "seen": total, "resume": ON}


running, closed = [], []


def counted(count):
    try:
        for n in range(count):
            yield Progress("Count", n, count)
        yield "an image"
        return count
    finally:
        closed.append(count)


def test_a_job_shows_its_start_its_bars_and_its_end(monkeypatch):
    monkeypatch.setattr(job_panel, "BAR_SECONDS", 0.0)
    first, *bars, image, end = measure(3)
    assert {name: first[name] for name in ("go", "resume", "stop")} == {
        "go": OFF,
        "resume": OFF,
        "stop": ON,
    }
    assert "Waiting for the model" in first["status"] and first["extra"] == "begun"
    assert [f"Count: {n} of 3" in answer["status"] for n, answer in enumerate(bars)] == [True] * 3
    assert image == {"seen": "an image"}
    assert end == {
        "go": ON,
        "stop": OFF,
        "resume": ON,
        "extra": "over",
        "status": format_note("Done."),
        "seen": 3,
    }


def test_what_is_wrong_is_said_before_any_button_changes():
    with pytest.raises(DmqError, match="nothing to count"):
        next(measure(0))


def test_after_an_error_the_job_can_be_started_again():
    work = measure(-1)
    next(work)
    after = next(work)
    assert after == {"go": ON, "resume": ON, "stop": OFF, "status": "", "extra": "over"}
    with pytest.raises(DmqError, match="it broke"):
        next(work)


def test_closing_a_job_closes_its_work():
    closed.clear()
    work = measure(5)
    next(work), next(work)
    assert not closed
    work.close()
    assert closed == [5]


def test_after_stop_the_rest_can_be_shown():
    shown = JOB.show_stopped("the recipe")
    assert shown == {
        "go": ON,
        "stop": OFF,
        "status": format_note("Stopped."),
        "extra": "over",
        "seen": "the recipe",
    }


def test_bars_and_figures_come_now_and_then(monkeypatch):
    def snapshots():
        for n, snapshot in enumerate(("a", "a", None, "b", "b")):
            yield Progress("Count", n, 5, snapshot=snapshot)
        return "all"

    def seen(**options):
        answers, work = [], watch(snapshots(), lambda snapshot: {"figure": snapshot}, **options)
        while True:
            try:
                answers.append(next(work))
            except StopIteration as end:
                assert end.value == "all"
                return [answer.get("figure", "bar") for answer in answers]

    monkeypatch.setattr(job_panel, "BAR_SECONDS", math.inf)
    assert seen() == ["a", "b"], "a snapshot is drawn once, and no bar comes before its time"
    monkeypatch.setattr(job_panel, "BAR_SECONDS", 0.0)
    assert seen() == ["a", "bar", "bar", "b", "bar"]
    assert seen(seconds=math.inf) == ["a", "bar", "bar", "bar", "bar"], (
        "only the first comes at once"
    )


def test_each_stage_begins_with_a_bar(monkeypatch):
    monkeypatch.setattr(job_panel, "BAR_SECONDS", math.inf)
    stages = (Progress(name, n, 2) for name in ("First", "Second") for n in range(2))
    bars = [answer["status"] for answer in watch(stages)]
    assert ["First: 0 of 2" in bars[0], "Second: 0 of 2" in bars[1], len(bars)] == [True, True, 2]


def test_no_other_file_of_pages_has_buttons_or_a_pace_of_its_own():
    for path in Path(job_panel.__file__).parent.rglob("*.py"):
        tree = ast.parse(path.read_text("utf-8"))
        names = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
        assert (
            not names & {"idle", "stopped", "busy", "show_idle", "show_busy", "show_stopped"}
            or path.name == "job_panel.py"
        ), path
        assert not any(isinstance(node, ast.While) for node in ast.walk(tree)), path
        assert "time.monotonic" not in calls or path.name == "job_panel.py", path
