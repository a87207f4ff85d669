"""The command line, the page and reports: where a model runs is chosen there, and said."""

import dataclasses
import json

import pytest

from dmq.artifacts import model as quantized_model
from dmq.artifacts import store
from dmq.cli import main
from dmq.errors import DmqError
from dmq.evaluation import compare as images
from dmq.models import libraries, placement, work_plan
from dmq.models.placement import Placement
from dmq.progress import run_to_end
from dmq.recipe import Comparison
from dmq.store import captures, runs
from dmq.workflow.answers import get_model, get_plan, get_simulated, get_statistics
from pages.start import placement as placing
from tests.tiny import captured_recipe, runs_in


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    with runs_in(tmp_path_factory.mktemp("placed")) as folder:
        yield captured_recipe(folder, 3)


@pytest.fixture(autouse=True)
def free_choice(monkeypatch):
    for variable in placement.VARIABLES.values():
        monkeypatch.setenv(variable, "")


@pytest.fixture
def file(recipe, tmp_path):
    from dmq import jsonio

    place = tmp_path / "r.json"
    place.write_text(jsonio.dumps(recipe), "utf-8")
    return str(place)


def test_a_run_in_bfloat16_says_so_and_is_what_float32_is(recipe, file, capsys):
    assert (
        main(
            [
                "run",
                file,
                "--prompt",
                "a",
                "--name",
                "half",
                "--device",
                "cpu",
                "--dtype",
                "bfloat16",
            ]
        )
        == 0
    )
    said = capsys.readouterr()
    assert "ran on cpu, bfloat16" in said.out
    assert "dmq: Compare on cpu, bfloat16: 6 denoiser calls; weights need 0.00 GB" in said.err
    report = runs.load_report("half")
    full = run_to_end(
        images.compare_images(Comparison(prompts=("a",), sampling=recipe.sampling), (recipe,))
    )
    assert (report.place, full.place) == (
        "cpu, bfloat16",
        "cpu, bfloat16",
    )  # of the process, until it is changed
    work_plan.use_placement(Placement(device="cpu", dtype="float32"))
    full = run_to_end(
        images.compare_images(Comparison(prompts=("a",), sampling=recipe.sampling), (recipe,))
    )
    assert full.place == "cpu, float32"
    assert abs(full.scores[0].psnr - report.scores[0].psnr) < 3


def test_a_capture_says_what_it_was_made_on_and_serves_everywhere(recipe, file, capsys):
    assert get_statistics(recipe).made_on == "cpu, float32"
    assert main(["capture", file, "--again", "--device", "cpu", "--dtype", "bfloat16"]) == 0
    assert "Capture on cpu, bfloat16" in capsys.readouterr().err
    stats = get_statistics(recipe)
    assert stats.made_on == "cpu, bfloat16"
    work_plan.use_placement(Placement(device="cpu", dtype="float32"))
    assert (
        get_plan(recipe).fingerprint
        == libraries.load(recipe.model).info.fingerprint
        == stats.fingerprint
    )
    folder = captures.find_capture(recipe)
    plain = json.loads((folder / "capture.json").read_text("utf-8"))
    del plain["made_on"]  # an older capture
    (folder / "capture.json").write_text(json.dumps(plain), "utf-8")
    assert get_statistics(recipe).made_on == ""


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--device", "cuda:9"], "there is no device 'cuda:9' here; there is"),
        (["--device", "gpu"], "device is 'gpu'; name auto"),
        (["--device", "cpu", "--offload", "model"], "offload 'model' is for a GPU"),
    ],
)
def test_a_place_that_is_not_there_is_one_line(file, flags, message, capsys):
    assert main(["capture", file, "--again", *flags]) == 1
    said = capsys.readouterr().err.strip().splitlines()
    assert message in said[-1] and said[-1].startswith("dmq: ")


def test_what_there_is_nothing_to_do_for_refuses_a_place_all_the_same(file, capsys):
    assert (
        main(["capture", file, "--device", "cpu", "--offload", "group"]) == 1
    )  # though it is captured already
    assert "offload 'group' is for a GPU" in capsys.readouterr().err


def test_every_command_takes_a_device(capsys):
    from dmq.cli import parser

    commands = next(
        action for action in parser()._actions if hasattr(action, "choices") and action.choices
    )
    assert {"serve", "capture", "run", "bench", "export"} <= set(commands.choices)
    for command in commands.choices.values():
        assert {"--device", "--dtype", "--offload"} <= set(command._option_string_actions)


def test_what_is_made_for_one_place_is_not_used_in_another(recipe):
    work_plan.use_placement(Placement(device="cpu", dtype="bfloat16"))
    half = get_simulated(recipe)
    work_plan.use_placement(Placement(device="cpu", dtype="float32"))
    full = get_simulated(recipe)
    assert str(next(half.parameters()).dtype) == "torch.bfloat16"
    assert str(next(full.parameters()).dtype) == "torch.float32"


# --- the page -------------------------------------------------------------------------------------


def test_the_form_shows_the_devices_and_what_the_model_needs(recipe):
    from dmq import jsonio

    shown = placing.show_form(jsonio.dumps(recipe))
    names = [name for _, name in shown["device"]["choices"]]
    assert names[0] == "auto" and names[-1] == "cpu" and shown["dtype"] == "auto"
    assert "million parameters" in shown["memory"] and "GB are free" in shown["memory"]
    told = placing.weigh(jsonio.dumps(recipe), "cpu", "float32", "group")["memory"]
    assert "offload &#x27;group&#x27; is for a GPU" in told
    assert work_plan.get_placement() == Placement()


def test_a_place_is_taken_only_if_the_model_can_run_there(recipe):
    from dmq import jsonio

    text = jsonio.dumps(recipe)
    with pytest.raises(DmqError, match="no device 'xpu'"):
        placing.choose(text, "xpu", None, None)
    with pytest.raises(DmqError, match="dtype is 'x'"):
        placing.choose(text, None, "x", None)
    assert work_plan.get_placement() == Placement()
    done = placing.choose(text, "cpu", "bfloat16", None)
    assert "Chosen." in done["memory"] and work_plan.get_placement().dtype == "bfloat16"


@pytest.mark.parametrize(
    "device, told",
    [("nonsense", "$DMQ_DEVICE: device is 'nonsense'"), ("cuda:99", "no device 'cuda:99'")],
)
def test_the_app_is_not_served_where_it_could_not_run(device, told, monkeypatch, capsys):
    opened = []
    monkeypatch.setattr("pages.app.launch", lambda **_: opened.append(True))
    monkeypatch.setenv("DMQ_DEVICE", device)
    assert main(["serve"]) == 1 and not opened
    assert told in capsys.readouterr().err
    assert (
        main(["serve", "--device", "cpu"]) == 0 and opened
    )  # what the command line says goes first


@pytest.mark.parametrize("offload", ["sequential", "group"])
def test_packed_weights_that_nothing_would_bring_along_are_refused(recipe, monkeypatch, offload):
    loaded = libraries.load(recipe.model)
    elsewhere = dataclasses.replace(
        loaded, place=placement.Place(device="cuda", dtype="bfloat16", offload=offload)
    )
    for module in (quantized_model, images):
        monkeypatch.setattr(module, "load", lambda model: elsewhere)
    store.forget()
    executed = dataclasses.replace(recipe, engine="executed")
    refusal = (
        f"engine 'executed': with offload '{offload}' .* try --offload model or none, or simulate"
    )
    with pytest.raises(DmqError, match=refusal):
        get_model(executed)
    with pytest.raises(DmqError, match=refusal):
        run_to_end(
            images.compare_images(Comparison(prompts=("a",), sampling=recipe.sampling), (executed,))
        )
    assert get_model(recipe)  # which is simulated: its weights are parameters
