"""The app as a whole: it builds without a warning, every component has a label, its endpoints
answer.
"""

from collections import Counter
from dataclasses import fields

import gradio as gr
import pytest
from gradio_client import Client

from dmq import jsonio
from dmq.workflow.answers import get_errors, get_plan
from pages import app
from pages.events import Blocks, connect_turns
from pages.session import Shared
from pages.widgets.partition_strip import check_cuts


NAMELESS = (
    gr.State,
    gr.HTML,
    gr.Markdown,
    gr.Button,
    gr.DownloadButton,
    gr.UploadButton,
    gr.Dataset,
)


def test_it_builds_without_a_warning(recwarn):
    app.build()
    assert not [warning for warning in recwarn.list if warning.category is not ResourceWarning]


def test_every_component_has_a_label():
    blocks = app.build()
    inputs = [
        block for block in blocks.blocks.values() if isinstance(block, gr.components.Component)
    ]
    assert len(inputs) > 50
    assert not [block for block in inputs if not isinstance(block, NAMELESS) and not block.label]


def test_tabs_are_named_once_and_links_know_them():
    assert app.TABS == {
        "start": "Start",
        "activations": "Activations",
        "time-groups": "Time groups",
        "temporal": "Temporal",
        "layers": "Layers",
        "rounding": "Rounding",
        "error-over-time": "Error over time",
        "benchmark": "Benchmark",
        "compare": "Compare",
        "export": "Export",
    }


def test_only_the_open_tab_hears_of_a_recipe(recipe):
    served = app.build()
    listeners = Counter(
        target for fn in served.fns.values() for target in fn.targets if target[1] == "change"
    )
    assert max(listeners.values()) <= 4, "a class that opens the page waits for every one of these"


def test_which_tab_is_drawn_when():
    with gr.Blocks() as blocks:
        shared = Shared(*(gr.State("") for _ in fields(Shared)))
        turns = {key: gr.State("") for key in ("start", "layers")}
        with gr.Tabs():
            tabs = {key: gr.Tab(key) for key in turns}
        connect_turns(shared, tabs, turns)
    start, layers, outside = (fn.fn for fn in blocks.fns.values())

    def said(answer):
        return [value if isinstance(value, str) else None for value in answer]

    assert said(start("", "")) == ["start", None] and said(layers("", "start")) == [
        "layers",
        None,
    ], "still loading"
    assert said(start("", "layers")) == [None, None], "the first tab says late that it was selected"
    assert said(layers("{}", "layers")) == [None, None], "already open"
    assert said(start("{}", "layers"))[0] == "start" and said(start("{}", "layers"))[1]
    assert said(outside("{}", "start"))[0] and said(outside("{}", "start"))[1] is None
    assert said(outside("{}", "")) == said(outside("", "start")) == [None, None]


def test_an_answer_does_not_edit_the_one_before():
    """The browser applies edits at once, and shows the answers later."""
    with Blocks() as blocks:
        shown = gr.Textbox()
        button = gr.Button()
        button.click(lambda: None, None, [shown, shown, shown])
    fn = next(iter(blocks.fns.values()))
    answers = [
        [{"__type__": "update", "visible": True}, "a", [1, 2]],
        [{"__type__": "update"}, "ab", [1, 2]],
        [{"__type__": "update", "value": 3}, "", [1]],
    ]
    assert (
        blocks.handle_streaming_diffs(fn, list(answers[0]), "session", "run", final=False)
        == answers[0]
    )
    value = answers[0]
    for answer in answers[1:]:
        sent = blocks.handle_streaming_diffs(fn, list(answer), "session", "run", final=False)
        assert all(
            action == "replace" and path == [] for edits in sent for action, path, _ in edits
        )
        value = [edits[-1][2] if edits else old for old, edits in zip(value, sent, strict=True)]
        assert value == answer
    assert blocks.handle_streaming_diffs(fn, list(answer), "session", "run", final=True) == answer
    assert not blocks.pending_diff_streams["session"]


def test_the_endpoints_answer(recipe):
    served = app.build()
    _, url, _ = served.launch(prevent_thread_lock=True, quiet=True)
    try:
        client = Client(url, verbose=False)
        text = jsonio.dumps(recipe)
        assert client.predict(recipe=text, api_name="/errors")["total"] == pytest.approx(
            get_errors(recipe).total
        )
        assert client.predict(recipe=text, api_name="/plan")["bytes"] == get_plan(recipe).bytes
        assert "2 equal groups" in client.predict(recipe=text, api_name="/describe")
        with pytest.raises(Exception, match="did you mean 'weights'"):
            client.predict(recipe='{"wieghts": {}}', api_name="/describe")
    finally:
        served.close()


@pytest.mark.parametrize(
    "cuts", [[3, 3], [5, 2], [0], [50], [1.5], [True], ["4"], "12", {"a": 1}, [None]], ids=str
)
def test_boundaries_that_no_strip_can_send_are_refused(cuts):
    with pytest.raises(gr.Error, match="Boundaries must rise"):
        check_cuts(cuts, 50)
