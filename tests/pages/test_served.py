"""The app as a whole: it builds without a warning, every component has a label, its endpoints answer."""

import gradio as gr
import pytest
from gradio_client import Client

import app
from dmq import jsonio, stages
from pages.widgets.partition_strip import checked


NAMELESS = (gr.State, gr.HTML, gr.Markdown, gr.Button, gr.DownloadButton, gr.UploadButton, gr.Dataset)


def test_it_builds_without_a_warning(recwarn):
    app.build()
    assert not [warning for warning in recwarn.list if warning.category is not ResourceWarning]


def test_every_component_has_a_label():
    blocks = app.build()
    inputs = [block for block in blocks.blocks.values() if isinstance(block, gr.components.Component)]
    assert len(inputs) > 50
    assert not [block for block in inputs if not isinstance(block, NAMELESS) and not block.label]


def test_tabs_are_named_once_and_links_know_them():
    assert app.TABS == {
        "start": "Start", "activations": "Activations", "time-groups": "Time groups", "temporal": "Temporal",
        "layers": "Layers", "reconstruct": "Reconstruct", "over-time": "Over time", "benchmark": "Benchmark",
        "compare": "Compare", "take-away": "Take away",
    }  # fmt: skip


def test_the_endpoints_answer(recipe):
    served = app.build()
    _, url, _ = served.launch(prevent_thread_lock=True, quiet=True)
    try:
        client = Client(url, verbose=False)
        text = jsonio.dumps(recipe)
        assert client.predict(recipe=text, api_name="/errors")["total"] == pytest.approx(stages.errors(recipe).total)
        assert client.predict(recipe=text, api_name="/plan")["bytes"] == stages.plan(recipe).bytes
        assert "2 equal groups" in client.predict(recipe=text, api_name="/describe")
        with pytest.raises(Exception, match="did you mean 'weights'"):
            client.predict(recipe='{"wieghts": {}}', api_name="/describe")
    finally:
        served.close()


@pytest.mark.parametrize("cuts", [[3, 3], [5, 2], [0], [50], [1.5], [True], ["4"], "12", {"a": 1}, [None]], ids=str)
def test_boundaries_that_no_strip_can_send_are_refused(cuts):
    with pytest.raises(gr.Error, match="Boundaries must rise"):
        checked(cuts, 50)
