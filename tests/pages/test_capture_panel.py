"""Capture, as the panel under every tab does it."""

from dmq import jsonio
from dmq.store import folders
from dmq.workflow.answers import has_capture
from pages import capture_panel


def test_a_capture_reports_and_can_be_closed_without_a_trace(text, recipe):
    paths, captures = ["sampling.steps", "calibration.samples"], folders.home() / "captures"
    before = sorted(captures.iterdir())
    work = capture_panel.capture(
        paths, text, 20, 64
    )  # long enough for a bar to be shown before it ends
    assert any("progressbar" in shown["status"] for shown in work)
    work.close()
    assert sorted(captures.iterdir()) == before
    *_, last = capture_panel.capture(paths, text, 4, 2)
    assert jsonio.loads(last["recipe"]).sampling.steps == 4
    assert has_capture(jsonio.loads(last["recipe"]))
