"""Public mode in the library: what is refused at its doors, and that all refusals are one."""

import threading

import pytest

from dmq import cli, jsonio, public
from dmq.errors import DmqError, Refused
from dmq.metrics import references as reference
from dmq.models import clip, loading, placement, tiny
from dmq.models.step_progress import yield_steps
from dmq.recipe import Benchmark, Domain, Recipe
from dmq.store import prompts
from pages import app


@pytest.fixture
def opened(monkeypatch):
    monkeypatch.setenv("DMQ_PUBLIC", "1")
    monkeypatch.delenv("DMQ_MODELS", raising=False)


@pytest.mark.parametrize(
    "said, space, is_public",
    [
        (None, None, False),
        (None, "a/b", True),
        ("1", None, True),
        ("yes", None, True),
        ("0", "a/b", False),
        ("off", "a/b", False),
        ("", "a/b", False),
        (None, "", False),
    ],
)
def test_when_it_is_on(monkeypatch, said, space, is_public):
    for name, value in (("DMQ_PUBLIC", said), ("SPACE_ID", space)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    assert public.is_public() == is_public


def test_all_doors_say_the_same(opened, tmp_path):
    tiny.tiny_ddpm().save_pretrained(tmp_path / "there", safe_serialization=True)
    said = set()
    for name in (
        str(tmp_path / "there"),
        str(tmp_path / "not there"),
        "/etc/passwd",
        "~",
        "owner/name",
        "a" * 5000,
    ):
        for door in (
            lambda n: Recipe(model=n),
            loading.load,
            clip.load_clip,
            lambda n: jsonio.from_data(Recipe, {"model": n}),
        ):
            with pytest.raises(Refused) as refused:
                door(name)
            said.add(str(refused.value))
    assert len(said) == 1, said
    assert loading.load("emoji-ddpm").info.name == "emoji-ddpm"


def test_cached_models_are_behind_the_door(tmp_path, monkeypatch):
    tiny.tiny_ddpm().save_pretrained(tmp_path / "mine", safe_serialization=True)
    loading.load(str(tmp_path / "mine"))
    monkeypatch.setenv("DMQ_PUBLIC", "1")
    with pytest.raises(Refused):
        loading.load(str(tmp_path / "mine"))


def test_files_and_folders_are_not_read(opened, tmp_path, monkeypatch):
    (tmp_path / "list.txt").write_text("a\nb\n")
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    said = set()
    for file in (
        tmp_path / "list.txt",
        tmp_path / "none.txt",
        "/etc/passwd",
        tmp_path / "uploads/../list.txt",
    ):
        with pytest.raises(Refused) as refused:
            prompts.read_prompts(file)
        said.add(str(refused.value))
    benchmark = Benchmark(domains=(Domain(name="d", prompts=("a",)),), reference=str(tmp_path))
    with pytest.raises(Refused) as refused:
        reference.load_real_features("emoji-sd", None, folder=benchmark.reference)
    assert said == {str(refused.value)}
    (tmp_path / "uploads").mkdir()
    (tmp_path / "list.txt").rename(tmp_path / "uploads" / "list.txt")
    assert prompts.read_prompts(tmp_path / "uploads" / "list.txt").prompts == ("a", "b")
    assert prompts.shipped_domains()


def test_the_host_offers_folders_by_their_last_part(opened, tmp_path, monkeypatch):
    tiny.tiny_ddpm().save_pretrained(tmp_path / "mine", safe_serialization=True)
    monkeypatch.setenv("DMQ_MODELS", f"owner/name, {tmp_path / 'mine'}")
    assert public.offered() == {"owner/name": "owner/name", "mine": str(tmp_path / "mine")}
    assert loading.load("mine").info.name == "mine"
    with pytest.raises(Refused, match=r"ship with it, owner/name, mine\. For"):
        Recipe(model=str(tmp_path / "mine"))


def test_a_folder_without_a_pipeline_is_not_offered_and_its_host_is_told(
    opened, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("DMQ_MODELS", f"owner/name, {tmp_path / 'gone'}, {tmp_path}")
    assert public.offered() == {"owner/name": "owner/name"}
    monkeypatch.setattr(app, "place_models", lambda: None)
    monkeypatch.setattr(app, "load_opening", lambda: None)
    monkeypatch.setattr(app, "build", lambda: pytest.fail("served"))
    with pytest.raises(pytest.fail.Exception, match="served"):
        app.launch()
    told = capsys.readouterr().out.splitlines()
    assert [line.partition(" has no model_index.json")[0] for line in told] == [
        f"dmq: $DMQ_MODELS: {folder}" for folder in (tmp_path / "gone", tmp_path)
    ]


def test_errors_of_a_refusal_have_nothing_around_them(opened):
    with pytest.raises(DmqError, match=r"^this app is open"):
        jsonio.loads('{"model": "/etc"}')
    with pytest.raises(DmqError, match=r"^recipe: version is 7"):
        jsonio.loads('{"version": 7}')


def test_visitors_have_names_that_do_not_tell_their_tokens(opened):
    token = public.new_token()
    assert public.visitor() == ""
    with public.as_visitor(token):
        name = public.visitor()
        assert name and token not in name
        with public.as_visitor(public.new_token()):
            assert public.visitor() != name
        assert public.visitor() == name
    for bad in ("", "../../etc", "a" * 100, 7):
        with public.as_visitor(bad):
            assert public.visitor() not in ("", name)
    assert public.visitor() == ""


def test_a_visitor_does_not_move_everybodys_models(opened, monkeypatch):
    monkeypatch.setenv("DMQ_DEVICE", "cpu")
    monkeypatch.setenv("DMQ_DTYPE", "auto")
    monkeypatch.setenv("DMQ_OFFLOAD", "none")
    wanted = placement.Placement(device="cpu", dtype="bfloat16")
    with public.as_visitor(public.new_token()), pytest.raises(Refused, match="only its host"):
        placement.use(wanted)
    assert placement.get_chosen().dtype == "auto"
    placement.use(wanted)
    assert placement.get_chosen() == wanted


def test_threads_of_a_run_know_the_visitor(opened):
    with public.as_visitor(public.new_token()):
        work = yield_steps(lambda report: report(public.visitor(), threading.get_ident()))
        ((name, thread),) = list(work)
        assert name == public.visitor() and thread != threading.get_ident()


def test_serve_public_is_public(monkeypatch):
    from pages import app

    monkeypatch.setenv("DMQ_PUBLIC", "0")
    seen = []
    monkeypatch.setattr(app, "launch", lambda **settings: seen.append(public.is_public()))
    assert cli.main(["serve", "--public"]) == 0
    assert seen == [True]
