"""The handlers of the Export tab, called as functions: sizes, kernels, files, code that loads
them, the Hub.
"""

import dataclasses
import json
import os
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dmq import cli, jsonio
from dmq.artifacts.model_info import get_info
from dmq.errors import DmqError
from dmq.evaluation import engines
from dmq.progress import run_to_end
from dmq.recipe import Activations, Calibration
from dmq.store import exports, folders
from dmq.workflow.answers import get_plan
from pages.export import handlers as export
from tests.pages.benchmark.test_handlers import last


FORMS, PARTS = [*export.FORMS], [*export.PARTS]


@pytest.fixture
def text(recipe):
    return jsonio.dumps(recipe)


@pytest.fixture(scope="module")
def exported(recipe):
    """Both kinds of files of both the pipeline and the denoiser, by (form, part): the tab's last
    words on each.
    """
    text = jsonio.dumps(recipe)
    return {(form, part): last(export.export(text, form, part)) for form in FORMS for part in PARTS}


# --- sizes and kernels ----------------------------------------------------------------------------


def test_the_parts_that_are_shown_add_up_to_the_plan(text, recipe):
    plan, shown = get_plan(recipe), export.show(text, FORMS[0], PARTS[0], None)
    rows = dict(zip(*[iter(cells(shown["sizes"]))] * 2, strict=True))
    assert (
        rows.pop("float32") == plan.float_bytes
        and rows.pop("float16 would be") == plan.float_bytes // 2
    )
    assert rows.pop("quantized") == plan.bytes == sum(rows.values())
    assert len(rows) == 3, "nothing is cached, so there is no such row"
    assert f"<b>{plan.float_bytes / plan.bytes:.2f}× smaller</b>" in shown["sizes"]
    assert shown["body"]["visible"] and not shown["empty"]["visible"]


def cells(table):
    """Labels and bytes of a table of sizes, in turn."""
    for row in table.split("<tr")[1:]:
        yield row.split("<th>")[1].split("<")[0]
        yield int(row.split(" bytes")[0].split("<td>")[-1].replace(",", ""))


def test_what_runs_where_counts_every_layer_once_and_says_why(recipe):
    layers = len(get_info(recipe.model).layers)
    table = last(export.show_kernels(jsonio.dumps(recipe)))["kernels"]["value"]
    assert sum(row[1] for row in table) == layers
    assert table[0][:2] == ["oneDNN int8", layers - 2] and table[0][3].endswith(
        f" and {layers - 5} more"
    )
    assert [row[::3] for row in table[1:]] == [
        ["float: first layer", "conv_in"],
        ["float: last layer", "conv_out"],
    ]
    free = dataclasses.replace(recipe, activations=Activations(bits=32))
    (slow, *rest) = last(export.show_kernels(jsonio.dumps(free)))["kernels"]["value"]
    assert slow[:2] == ["⚠ float, because its inputs stay in float", layers - 2] and len(rest) == 2


def test_without_statistics_the_tab_says_what_to_do(recipe):
    other = jsonio.dumps(dataclasses.replace(recipe, calibration=Calibration(seed=77)))
    shown = export.show(other, FORMS[0], PARTS[0], None)
    assert "Press **Capture**" in shown["empty"]["value"] and not shown["body"]["visible"]
    with pytest.raises(DmqError, match="nothing captured yet"):
        last(export.show_kernels(other))


# --- files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("form", FORMS)
def test_an_export_is_a_folder_and_the_same_as_one_file(form, part, exported):
    shown = exported[form, part]
    name = shown["name"]["value"]
    known = exports.describe_export(name)
    assert (known.form, known.pipeline) == (export.FORMS[form], part == PARTS[0])
    assert name in exports.exports() and known.line() in shown["description"]
    assert shown["go"]["visible"] and not shown["stop"]["visible"] and shown["status"] == ""
    with zipfile.ZipFile(shown["file"]["value"]) as packed:
        inside = {entry: packed.read(entry) for entry in packed.namelist()}
    files = {
        f"{name}/{file.relative_to(known.folder)}": file
        for file in known.folder.rglob("*")
        if file.is_file()
    }
    assert inside == {entry: file.read_bytes() for entry, file in files.items()}
    assert not [entry for entry in inside if entry.endswith((".bin", ".pt", ".pkl", ".ckpt"))]
    assert sum(map(len, inside.values())) == known.bytes


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("form", FORMS[:2])
def test_the_code_that_is_shown_draws_the_image(
    form, part, exported, recipe, tmp_path, monkeypatch
):
    code = exported[form, part]["python"]
    assert ("import dmq" in code) == (form == FORMS[0])
    monkeypatch.chdir(tmp_path)
    code = code.replace(
        "guidance_scale=2)", "guidance_scale=2, height=16, width=16, output_type='np')"
    )
    space = {}
    exec(
        code.replace(".images[0].save('image.png')", ".images").replace("pipe(", "made = pipe("),
        space,
    )
    assert space["made"].shape == (1, 16, 16, 3) and np.isfinite(space["made"]).all()
    assert hasattr(space["pipe"].unet, "plan") == (form == FORMS[0])


@pytest.mark.parametrize("part", PARTS)
def test_the_code_for_sdnq_draws_the_image_without_dmq(part, exported, tmp_path):
    code = exported[FORMS[2], part]["python"].replace(
        "guidance_scale=2)", "guidance_scale=2, height=16, width=16)"
    )
    code += "import sys; assert 'sdnq' in sys.modules and 'dmq' not in sys.modules\n"
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=os.environ | {"SDNQ_USE_TORCH_COMPILE": "0"},
    )
    assert run.returncode == 0, run.stderr
    assert Image.open(tmp_path / "image.png").size == (16, 16)


def test_the_commands_that_are_shown_are_understood_and_pass(exported, capsys):
    for (form, _), shown in exported.items():
        lines = [shlex.split(line) for line in shown["commands"].splitlines()]
        given = cli.parser().parse_args(lines[0][1:])
        assert given.form == export.FORMS[form] and Path(given.folder).is_dir()
        assert len(lines) == (2 if form == FORMS[0] else 1)
        if form == FORMS[0]:
            assert cli.main(lines[1][1:]) == 0
    assert "sound" in capsys.readouterr().out


def test_a_recipe_that_is_executed_is_loaded_so(recipe):
    fast = jsonio.dumps(engines.with_engine(recipe, "executed bf16"))
    name = last(export.export(fast, FORMS[0], PARTS[1]))["name"]["value"]
    config = json.loads((exports.export_folder(name) / "config.json").read_text())
    assert config["quantization_config"]["mode"] == "executed bf16"


def test_a_stopped_export_leaves_nothing(text):
    before = sorted(exports.exports())
    work = export.export(text, FORMS[1], PARTS[0])
    shown = [next(work) for _ in range(3)]
    assert shown[0]["stop"]["visible"] and "progressbar" in shown[-1]["status"]
    work.close()
    assert sorted(exports.exports()) == before
    assert not [
        path for path in (folders.home() / "exports").iterdir() if path.name.startswith(".")
    ]
    assert "nothing half-written" in export.JOB.show_stopped()["status"]


def test_a_failed_export_gives_the_buttons_back(recipe, monkeypatch):
    wrong = jsonio.dumps(dataclasses.replace(recipe, model="no-such-model"))
    answers = []
    with pytest.raises(DmqError, match="no-such-model"):
        for answer in export.export(wrong, FORMS[0], PARTS[0]):
            answers.append(answer)
    assert answers[-1]["go"]["visible"] and not answers[-1]["stop"]["visible"]
    with pytest.raises(DmqError, match="choose one of"):
        next(export.export(wrong, "pickle", PARTS[0]))


def test_earlier_exports_are_offered_and_those_that_are_gone_are_not(text, exported):
    name = exported[FORMS[0], PARTS[1]]["name"]["value"]
    shown = export.show(text, FORMS[1], PARTS[0], name)
    assert shown["name"]["value"] == name and set(shown["name"]["choices"]) == set(
        exports.exports()
    )
    assert shown["python"] == exported[FORMS[0], PARTS[1]]["python"], (
        "that of the export, whatever the form says"
    )
    assert export.show(text, FORMS[0], PARTS[0], "gone")["name"]["value"] is None
    assert last(export.fetch(name))["file"]["value"].endswith(f"{name}.zip")
    with pytest.raises(DmqError, match="no export called 'gone'"):
        last(export.fetch("gone"))
    with pytest.raises(DmqError, match="cannot name an export"):
        last(export.fetch("../tiny"))


def test_an_export_that_is_damaged_or_too_large_is_one_line(exported, monkeypatch, tmp_path):
    name = exported[FORMS[0], PARTS[1]]["name"]["value"]
    monkeypatch.setattr(exports, "MOST_ZIPPED", 10)
    shown = last(export.fetch(name))
    assert "copy the folder" in shown["status"] and not shown["file"]["visible"]
    monkeypatch.setenv("DMQ_RUNS", str(tmp_path))
    (tmp_path / "exports" / "broken").mkdir(parents=True)
    (tmp_path / "exports" / "broken" / "config.json").write_text("{")
    with pytest.raises(DmqError, match="broken: damaged"):
        last(export.fetch("broken"))
    (tmp_path / "exports" / "broken" / "config.json").write_text('{"_class_name": "UNet2DModel"}')
    (tmp_path / "exports" / "broken" / "secret").symlink_to("/etc/hostname")
    with pytest.raises(DmqError, match="too much for one file"):
        [*exports.zip_export("broken")]
    monkeypatch.setattr(exports, "MOST_ZIPPED", 1000)
    file = run_to_end(exports.zip_export("broken"))
    assert zipfile.ZipFile(file).namelist() == ["broken/config.json"], "a link could lead anywhere"


# --- the Hub --------------------------------------------------------------------------------------


def test_pushing_is_refused_in_one_line(text, exported, monkeypatch):
    name = exported[FORMS[0], PARTS[0]]["name"]["value"]
    monkeypatch.delenv("SPACE_ID", raising=False)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    shown = export.show(text, FORMS[0], PARTS[0], name)
    assert "Nobody is logged in" in shown["hub"] and not shown["push"]["interactive"]
    with pytest.raises(DmqError, match="Nobody is logged in"):
        last(export.push(name, "me/model", True))
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "of somebody")
    assert export.show(text, FORMS[0], PARTS[0], name)["push"]["interactive"]
    for wrong in ("", "model", "a/b/c", "../etc/x"):
        with pytest.raises(DmqError, match="is called owner/name"):
            last(export.push(name, wrong, True))
    with pytest.raises(DmqError, match="no export is chosen"):
        last(export.push(None, "me/model", True))
    monkeypatch.setenv("SPACE_ID", "me/dmq")
    assert "open to others" in export.show("", FORMS[0], PARTS[0], None)["hub"]
    with pytest.raises(DmqError, match="open to others"):
        last(export.push(name, "me/model", True))


def test_what_is_pushed_is_the_folder(exported, monkeypatch):
    name, sent = exported[FORMS[0], PARTS[0]]["name"]["value"], []
    monkeypatch.delenv("SPACE_ID", raising=False)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "of somebody")
    monkeypatch.setattr(
        "dmq.checkpoint.push", lambda *asked, **how: sent.append((asked, how)) or "https://hub/me/m"
    )
    assert "https://hub/me/m" in last(export.push(name, "me/m", False))["hub"]
    assert sent == [((exports.export_folder(name), "me/m"), {"private": False})]
