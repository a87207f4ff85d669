"""A public app as visitors see it, over HTTP: what they may name, whose things they see, what
they are told.
"""

import dataclasses
import inspect
import json
import re
import shutil
from pathlib import Path

import gradio as gr
import pytest
from gradio_client import Client

from dmq import jsonio, public
from dmq.errors import Refused
from dmq.progress import run_to_end
from dmq.recipe import Recipe
from dmq.store import exports, folders, runs
from dmq.workflow.learning import capture_statistics
from pages import app, session
from tests.tiny import captured_recipe, runs_in
from tests.visitor import Visitor


PAGES = Path(__file__).parents[2] / "pages"
HOSTILE = (
    "/etc",
    "/nosuch",
    "~",
    "~root",
    "../..",
    ".",
    "owner/name",
    "emoji-sd/../emoji-sd",
    "C:\\Windows",
    "a\0b",
)
# Gradio's own, whenever an event has ended.
pytestmark = pytest.mark.filterwarnings("ignore:'future.no_silent_downcasting'")


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    """A public app whose host offers a tiny model besides those that ship, with its statistics."""
    with (
        runs_in(tmp_path_factory.mktemp("public")) as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        made = captured_recipe(folder, steps=6)
        patch.setenv("DMQ_MODELS", made.model)
        patch.setenv("DMQ_PUBLIC", "1")
        offered = dataclasses.replace(made, model="tiny-sd")
        run_to_end(capture_statistics(offered))
        served = app.build()
        _, url, _ = served.queue().launch(prevent_thread_lock=True, quiet=True, max_file_size="1mb")
        yield folder, served, url, offered
        served.close()


@pytest.fixture
def visitor(host):
    """A page that was opened, with the tiny model's recipe in it."""

    def opened():
        made = Visitor(*host[1:3])
        made.open()
        assert "error" not in made.fire("sidebar.apply", jsonio.dumps(host[3]))
        return made

    return opened


def refusal():
    with pytest.raises(Refused) as told:
        Recipe(model="/anywhere")
    return str(told.value)


def test_no_visitor_moves_the_models_of_all(host):
    assert not [
        fn
        for fn in host[1].fns.values()
        if getattr(fn.fn, "__module__", "") == "pages.start.placement"
    ]


# --- what may be named ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", HOSTILE, ids=repr)
def test_every_door_refuses_in_the_same_words(host, visitor, name):
    text = jsonio.dumps(host[3]).replace('"tiny-sd"', json.dumps(name))
    me, client = visitor(), Client(host[2], verbose=False)
    said = refusal()
    assert me.fire("sidebar.choose_model", None, name, which=0) == {"error": said}, "the sidebar"
    assert me.fire("sidebar.choose_model", None, name, which=1) == {"error": said}, (
        "the box of the Start tab"
    )
    assert me.fire("sidebar.apply", text) == {"error": said}, "the editor"
    assert session.parse_link({"recipe": text}, ["start"])[2] == said, "a link"
    for endpoint in ("/describe", "/errors", "/plan"):
        with pytest.raises(Exception, match=re.escape(said)):
            client.predict(recipe=text, api_name=endpoint)
    assert "error" not in me.fire("sidebar.weigh", None, False), (
        "what was chosen before is still there"
    )


def test_what_the_host_offers_is_opened_by_its_last_part(host, visitor):
    me = visitor()
    assert me.fire("sidebar.choose_model", None, "tiny-sd").keys() == {"State"}
    shown = me.fire("sidebar.refresh", None)
    assert [name for name, _ in shown["Model"]["choices"]] == [
        "emoji-sd",
        "emoji-dit",
        "emoji-ddpm",
        "tiny-sd",
    ]
    assert str(host[0]) not in repr(shown)


@pytest.mark.parametrize(
    "handler, before", [("sidebar.upload", 0), ("new_benchmark.estimate", 2)], ids=str
)
def test_a_file_is_one_that_was_uploaded(host, visitor, handler, before):
    me = visitor()
    kept = host[0] / "runs" / "secret.json"
    kept.write_text(jsonio.dumps(dataclasses.replace(host[3], name="SECRET")), "utf-8")
    answers = []
    for path in (kept, "/etc/passwd", "/nosuch"):
        sent = {"path": str(path), "meta": {"_type": "gradio.FileData"}, "orig_name": "x.json"}
        answers.append(me.fire(handler, *[None, []][:before], sent))
    assert all(answer.keys() == {"error"} for answer in answers) and answers[1] == answers[2]
    assert "SECRET" not in repr(answers)


# --- whose things ---------------------------------------------------------------------------------


def test_two_visitors_do_not_see_each_other(host, visitor):
    one, other = visitor(), visitor()
    made = one.fire("compare.generate", None, "a cat of mine", "0", 6, 2.0, [], None)
    name = made["Open an earlier run"]["value"]
    assert name and made["Progress of the generating"].count(name) == 1
    listed = {who: who.fire("compare.show", None, []) for who in (one, other)}
    assert [n for n, _ in listed[one]["Open an earlier run"]["choices"]] == [name]
    assert listed[other]["Open an earlier run"]["choices"] == []
    assert f"run {name}" not in repr(listed[other]["Compare with recipes"])
    stolen = other.fire("compare.show_run", name)
    assert stolen.keys() == {"error"} and "not in the list" in stolen["error"]
    stranger = Visitor(*host[1:3])  # who never opened the page, and has no secret
    stranger.fire("sidebar.apply", jsonio.dumps(host[3]))
    assert stranger.fire("compare.show", None, [])["Open an earlier run"]["choices"] == []
    assert name not in runs.names(), "the host's are elsewhere"
    with public.as_visitor(one.token):
        assert runs.names() == [name] and runs.load_comparison(name).prompts == ("a cat of mine",)
        shutil.rmtree(folders.own_home())


def test_names_of_others_are_free(host):
    for token in (public.new_token(), public.new_token()):
        with public.as_visitor(token):
            assert exports.free_export("mine") == "mine"
            with folders.write_folder(exports.export_folder("mine")):
                pass
            assert exports.exports() == ["mine"] and exports.free_export("mine") == "mine 2"
    with public.as_visitor("short"):  # no token: nobody's
        assert exports.exports() == []
    assert exports.exports() == []


def test_what_is_written_under_way_is_the_visitors(host, visitor):
    """Handlers run step by step in threads that change: each step knows whose it is."""
    me = visitor()
    exported = me.fire(
        "export.export", None, "dequantized safetensors for stock diffusers", "denoiser only"
    )
    name = exported["Exports"]["value"]
    assert str(host[0]) not in re.sub(
        r'"path": "[^"]+"|\'path\': \'[^\']+\'', "", repr(exported)
    ), "no path is shown"
    assert repr(name) in exported["Code to load it"]
    with public.as_visitor(me.token):
        assert exports.exports() == [name]
        shutil.rmtree(folders.own_home())
    assert exports.exports() == []


def test_every_event_comes_with_the_visitor(host):
    """No page can forget: whatever is connected while the app is public has the secret as its
    first input.
    """
    for fn in host[1].fns.values():
        if (
            fn.fn is None
            or fn.fn.__module__.startswith("gradio")
            or fn.api_name in ("describe", "errors", "plan")
        ):
            continue
        if fn.fn.__name__ != "show_only":  # which only shows and hides
            assert isinstance(fn.inputs[0], gr.BrowserState), fn.fn.__name__
            assert next(iter(inspect.signature(fn.fn).parameters)) == "token"


def test_without_it_the_app_is_as_it_was(monkeypatch):
    monkeypatch.delenv("DMQ_PUBLIC", raising=False)
    assert not [
        block for block in app.build().blocks.values() if isinstance(block, gr.BrowserState)
    ]


# --- what is told ---------------------------------------------------------------------------------


def test_pages_show_errors_without_places():
    """Every error that a page writes by itself goes through `folders.hide_places`."""
    for file in sorted(PAGES.rglob("*.py")):
        bare = re.findall(r"(?<!shown\()\bstr\(error\)|\{error\}", file.read_text("utf-8"))
        assert not bare or file.name == "budget.py", file  # there it is raised once more


@pytest.mark.parametrize(
    "said, shown",
    [
        ("{runs}/captures/x-1/capture.json: damaged", "captures/x-1/capture.json: damaged"),
        ("{own}/a b/report.json: damaged", "a b/report.json: damaged"),
        ("/etc/ssl/cert.pem: cannot be read", "cert.pem: cannot be read"),
        (
            "see https://huggingface.co/a/b, owner/name or 1/2",
            "see https://huggingface.co/a/b, owner/name or 1/2",
        ),
        ("(~/models/mine) is gone", "(mine) is gone"),
    ],
    ids=lambda text: text[:20],
)
def test_places_are_not_told(host, said, shown):
    with public.as_visitor(public.new_token()):
        assert (
            folders.hide_places(said.format(runs=folders.home(), own=folders.own_home())) == shown
        )


def test_at_home_places_are_told(monkeypatch):
    monkeypatch.setenv("DMQ_PUBLIC", "0")
    assert folders.hide_places("/etc/ssl/cert.pem: x") == "/etc/ssl/cert.pem: x"
