"""Tables of sensitivity: kept, found, refused; made by the stage and printed by the command, on
tiny real models.
"""

import csv
import dataclasses
import shutil

import numpy as np
import pytest
import torch

from dmq import cli, jsonio
from dmq.allocation import changes as holding
from dmq.artifacts import cost_changes, cost_part, layer_costs, store
from dmq.artifacts.calls import denoiser_calls
from dmq.artifacts.cost_changes import learn_variants
from dmq.artifacts.model_info import get_info
from dmq.artifacts.of_recipe import ask_costs
from dmq.capture.activations import calibration_images
from dmq.capture.replay import noise_errors, repeat, rows_of
from dmq.errors import DmqError
from dmq.models import libraries
from dmq.models.borrow import borrow
from dmq.models.clip import load_clip
from dmq.models.generation import generate_batch
from dmq.models.sampling_arguments import private
from dmq.models.tiny import tiny_ddpm
from dmq.progress import run_to_end
from dmq.quantizers.weights import quantize_weight
from dmq.recipe import (
    Activations,
    Calibration,
    KMeans,
    PerTensor,
    Sensitivity,
    Uaq,
    Weights,
    parse_format,
)
from dmq.results import Layer, ModelInfo, SensitivityTable
from dmq.store import folders, learned, runs
from dmq.workflow.answers import get_simulated
from dmq.workflow.learning import measure_costs
from dmq.workflow.tables import compare_tables, find_costs, list_tables, load_table
from tests.tiny import captured_recipe, runs_in


pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation:DeprecationWarning"
)  # in diffusers

ASKED = "Ask what layers cost"


def made_up(model="tiny", fingerprint="0", steps=3):
    """A table of two layers, two choices and `steps` steps."""
    rng = np.random.default_rng(0)
    layers = tuple(
        Layer(
            name=f"blocks.{n}.fc",
            kind="linear",
            role="other",
            block=f"blocks.{n}",
            shape=(4, n + 2),
            bias=True,
        )
        for n in range(2)
    )
    return SensitivityTable(
        title="noise error",
        kind="measured",
        unit="part of its power",
        model=model,
        fingerprint=fingerprint,
        layers=layers,
        choices=(parse_format("UAQ-3"), parse_format("KMA-2")),
        bytes=rng.integers(1, 99, (2, 2)),
        cost=rng.random((2, 2)),
        spread=np.array([[0.1, np.nan], [0.2, 0.3]]),
        timesteps=(901.0, 501.0, 1.0)[:steps],
        per_step=rng.random((2, 2, steps)),
        note="blocks.9: never called",
    )


def known(model="tiny", fingerprint="0"):
    return ModelInfo(
        name=model,
        pipeline="",
        denoiser="",
        adapter="",
        scheduler="",
        prompted=True,
        size=(8, 8),
        parameters=0,
        pipeline_parameters=0,
        layers=(),
        fingerprint=fingerprint,
    )


def same(a, b):
    for f in dataclasses.fields(a):
        x, y = getattr(a, f.name), getattr(b, f.name)
        assert np.array_equal(x, y, equal_nan=True) if isinstance(x, np.ndarray) else x == y, f.name


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("DMQ_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"


# --- kept and found -------------------------------------------------------------------------------


def test_a_table_survives_saving_exactly(home):
    folder = learned.table_folder("a", {"b": 1})
    assert folder.parent == home / "tables"
    learned.save_table(folder, made_up())
    same(learned.load_table(folder, known()), made_up())
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_table_of_another_model_is_refused_by_name(home):
    folder = learned.table_folder("a")
    learned.save_table(folder, made_up())
    with pytest.raises(DmqError, match="a table of 'tiny', not of 'emoji-sd'"):
        learned.load_table(folder, known("emoji-sd", "1"))
    with pytest.raises(DmqError, match="of other weights of 'tiny'"):
        learned.load_table(folder, known(fingerprint="1"))


def test_tables_are_found_by_model_and_weights_newest_first(home, monkeypatch, tmp_path):
    monkeypatch.setattr(folders, "ASSETS", tmp_path / "assets")
    for n, (model, fingerprint) in enumerate([("tiny", "0"), ("tiny", "1"), ("other", "2")]):
        learned.save_table(learned.table_folder(n), made_up(model, fingerprint))
    shipped = tmp_path / "assets" / "runs" / "sensitivity-shipped"
    learned.save_table(shipped, made_up())
    hidden = tmp_path / "assets" / "runs" / learned.table_folder(0).name
    learned.save_table(hidden, made_up())
    assert learned.find_tables("tiny") == [
        learned.table_folder(1),
        learned.table_folder(0),
        shipped,
    ]
    assert learned.find_tables(fingerprint="2") == [learned.table_folder(2)]
    (learned.table_folder(1) / "table.safetensors").write_bytes(b"damaged")
    assert learned.find_tables("tiny") == [learned.table_folder(0), shipped]


def test_what_ships_is_used_unless_there_is_an_own_one(home, monkeypatch, tmp_path):
    monkeypatch.setattr(folders, "ASSETS", tmp_path / "assets")
    own = learned.table_folder("a", own=True)
    shipped = tmp_path / "assets" / "runs" / own.name
    learned.save_table(shipped, made_up())
    assert (learned.table_folder("a"), learned.table_folder("a", own=True)) == (shipped, own)
    learned.save_table(own, made_up())
    assert learned.table_folder("a") == own


def test_a_damaged_table_is_told(home):
    folder = learned.table_folder("a")
    learned.save_table(folder, dataclasses.replace(made_up(), cost=np.zeros((2, 3))))
    with pytest.raises(DmqError, match=r"damaged \(cost has shape \(2, 3\), expected \(2, 2\)\)"):
        learned.load_table(folder)
    learned.save_table(folder, dataclasses.replace(made_up(steps=3), timesteps=(1.0,)))
    with pytest.raises(DmqError, match=r"damaged.*per_step"):
        learned.load_table(folder)
    (folder / "table.safetensors").write_bytes(b"damaged")
    with pytest.raises(DmqError, match=r"damaged.*delete the folder"):
        learned.load_table(folder)
    with pytest.raises(DmqError, match="damaged"):
        learned.load_table(home / "tables" / "nowhere")


def test_parts_are_kept_one_by_one(home):
    folder = home / "tables" / "x-parts"
    assert learned.load_part(folder, "a") is None
    learned.save_part(folder, "a", {"values": np.arange(6.0).reshape(2, 3)})
    assert np.array_equal(learned.load_part(folder, "a")["values"], np.arange(6.0).reshape(2, 3))
    (folder / "a" / "part.safetensors").write_bytes(b"damaged")
    with pytest.raises(DmqError, match="damaged"):
        learned.load_part(folder, "a")


def test_tables_can_be_no_name_of_a_run(home):
    with pytest.raises(DmqError, match="cannot name a run"):
        runs.folder_of("tables")


# --- asked of a tiny pipeline ---------------------------------------------------------------------

CHOICES = tuple(map(parse_format, ("UAQ-4", "KMC-2")))


def question(**changes):
    return Sensitivity(**{"choices": CHOICES, "steps": 2, "images": 2, "probes": 2} | changes)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    with runs_in(tmp_path_factory.mktemp("asked")) as folder:
        yield captured_recipe(folder, 3)


@pytest.fixture
def few(recipe, monkeypatch):
    """Only four layers are called, as far as the stage knows: a table of them takes less time."""
    loaded = libraries.load(recipe.model)
    layers = loaded.info.layers
    asleep = {layer.name for layer in layers} - {
        layers[n].name for n in (0, 5, len(layers) // 2, -1)
    }
    changed = tuple(
        dataclasses.replace(layer, macs=int(layer.name not in asleep)) for layer in layers
    )
    known = dataclasses.replace(loaded.info, layers=changed)
    monkeypatch.setattr(cost_part, "load", lambda name: dataclasses.replace(loaded, info=known))
    return recipe


def folder_of(recipe, ask):
    return store.place(ask_costs(recipe, ask))


def weights_of(recipe):
    model = libraries.load(recipe.model).denoiser
    return {name: x.clone() for name, x in model.state_dict().items()}


def test_a_measured_table_has_every_layer_and_choice_and_is_kept(recipe):
    before = weights_of(recipe)
    assert find_costs(recipe, question()) is None
    table = run_to_end(measure_costs(recipe, question()))
    layers = get_info(recipe.model).layers
    assert [layer.name for layer in table.layers] == [layer.name for layer in layers]
    assert table.labels == ("UAQ-4", "KMC-2") and table.kind == "measured"
    assert (table.cost > 0).all() and (table.spread > 0).all() and np.isfinite(table.cost).all()
    assert np.allclose(table.per_step.mean(-1), table.cost) and len(table.timesteps) == 2
    assert table.cost[:, 1].mean() > 3 * table.cost[:, 0].mean()
    for n, layer in enumerate(layers):
        weight = libraries.load(recipe.model).denoiser.get_submodule(layer.name).weight
        for c, choice in enumerate(CHOICES):
            made = quantize_weight(weight, Weights(bits=choice.bits, format=choice.format))
            assert table.bytes[n, c] == made.bytes
            wrong = (made.dequantize() - weight).square().sum() / weight.square().sum()
            assert np.isclose(table.local[n, c], wrong.item(), rtol=1e-4)
    same(find_costs(recipe, question()), table)
    assert list(measure_costs(recipe, question())) == []  # nothing to be done
    assert all(torch.equal(x, before[name]) for name, x in weights_of(recipe).items())
    assert not list((folders.home() / "tables").glob("*-parts"))


def test_what_does_not_matter_does_not_make_a_new_table(recipe):
    other = dataclasses.replace(
        recipe, name="other", weights=Weights(bits=3), activations=Activations(bits=4)
    )
    own = folder_of(recipe, question())
    assert folder_of(other, question(probes=9, seed=3)) == own
    changed = [
        question(steps=3),
        question(images=1),
        question(mode="all_but"),
        question(how="fisher"),
        question(how="fisher", seed=1),
        question(how="fisher", probes=3),
        question(measure="image"),
        question(measure="image", seed=1),
        question(activations=True),
        question(choices=CHOICES[:1]),
    ]
    assert len({own, *(folder_of(recipe, ask) for ask in changed)}) == len(changed) + 1
    assert folder_of(other, question(activations=True)) != folder_of(
        recipe, question(activations=True)
    )
    grids = question(choices=(parse_format("W-4"),))
    tensor = dataclasses.replace(
        recipe, weights=dataclasses.replace(recipe.weights, granularity=PerTensor())
    )
    assert folder_of(other, grids) == folder_of(recipe, grids) != folder_of(tensor, grids)


@pytest.mark.parametrize(
    "changes", [{}, {"mode": "all_but"}, {"how": "fisher"}], ids=["only", "all_but", "fisher"]
)
def test_an_interrupted_table_goes_on_and_ends_equal(few, changes, monkeypatch):
    monkeypatch.setattr(
        holding, "find_room", lambda *_: 1
    )  # a layer at a time, so that gradients take several sweeps
    recipe, ask = few, question(steps=1, images=1, **changes)
    whole = run_to_end(measure_costs(recipe, ask))
    seen, evaluate = [], layer_costs.evaluate
    monkeypatch.setattr(
        layer_costs, "evaluate", lambda task: seen.append(task.name) or evaluate(task)
    )
    work = measure_costs(recipe, ask, again=True)
    for progress in work:
        if progress.stage.startswith(ASKED) and progress.done == 3:
            break
    work.close()
    assert len(seen) == 3
    again = measure_costs(recipe, ask, again=False)
    same(run_to_end(again), whole)  # the finished one is not lost meanwhile
    (parts,) = (folders.home() / "tables").glob("*-parts")
    assert len(list(parts.iterdir())) == 3
    shutil.rmtree(parts.with_name(parts.name.removesuffix("-parts")))
    work = measure_costs(recipe, ask)
    first = next(progress for progress in work if progress.stage.startswith(ASKED))
    assert first.done == 4
    run_to_end(work)
    table = find_costs(recipe, ask)
    assert len(seen) == len(set(seen)) == first.total
    same(table, whole)
    assert not parts.exists()


def test_gradients_take_a_pass_back_for_each_step_and_probe_whatever_the_memory(
    recipe, monkeypatch
):
    passes, backward = [], torch.Tensor.backward
    monkeypatch.setattr(
        torch.Tensor, "backward", lambda *args, **how: passes.append(1) or backward(*args, **how)
    )
    ask, found, told = question(how="fisher", steps=3, probes=2), [], []
    sizes = [layer.num_weights for layer in get_info(recipe.model).layers]
    half = holding.code_bytes(sum(sizes), [4, 2]) // 2
    for room in (10**9, half + holding.code_bytes(max(sizes), [4, 2])):
        monkeypatch.setattr(holding, "find_room", lambda *_, room=room: room)
        passes.clear()
        *progress, table = walked(measure_costs(recipe, ask, again=True))
        found.append(table)
        told.append((len(passes), next(p.stage for p in progress if p.stage.startswith(ASKED))))
        assert not cost_changes._held  # nothing of it is left in memory
    assert told == [(3 * 2, ASKED), (2 * 3 * 2, f"{ASKED} in 2 sweeps, for want of memory")]
    assert np.allclose(found[0].cost, found[1].cost, rtol=1e-4)


def walked(work):
    """All that a stage yields, and what it returns."""
    told = []
    try:
        while True:
            told.append(next(work))
    except StopIteration as end:
        return [*told, end.value]


def test_parts_that_fit_no_table_any_more_are_thrown_away(few):
    ask = question(how="fisher", steps=2, seed=7)
    parts = (folder := folder_of(few, ask)).with_name(f"{folder.name}-parts")
    learned.save_part(
        parts, "conv_in+3", {"values": np.zeros((4, 2, 2, 2)), "local": np.zeros((4, 2))}
    )
    work = measure_costs(few, ask, again=False)
    next(progress for progress in work if progress.stage == ASKED)
    assert learned.part_names(parts) == [
        f"{libraries.load(few.model).info.layers[0].name}+3--step 0"
    ]
    run_to_end(work)
    assert not parts.exists() and (find_costs(few, ask).cost > 0).all()


def test_all_but_is_what_restoring_a_layer_saves(few):
    recipe, loaded = few, libraries.load(few.model)
    ask = question(mode="all_but", choices=CHOICES[1:])
    table = run_to_end(measure_costs(recipe, ask))
    spec = Weights(bits=CHOICES[1].bits, format=CHOICES[1].format)
    trajectory = run_to_end(denoiser_calls(recipe, 2))
    everything = borrow(loaded.denoiser)
    for layer in table.layers:
        place = everything.get_submodule(layer.name)
        made = quantize_weight(place.weight, spec).dequantize()
        place.weight = torch.nn.Parameter(made, requires_grad=False)
    steps = [trajectory.timesteps.index(t) for t in table.timesteps]
    lost = run_to_end(noise_errors(everything, trajectory, [0, 1]))[steps].mean()
    for n in range(4):
        name = table.layers[n].name
        restored = borrow(everything)
        restored.get_submodule(name).weight = loaded.denoiser.get_submodule(name).weight
        left = run_to_end(noise_errors(restored, trajectory, [0, 1]))[steps].mean()
        assert np.isclose(table.cost[n, 0], lost - left, rtol=0.05, atol=1e-6 * lost), name
    assert table.title.startswith("noise error, saved by restoring this layer")


def test_gradients_and_measurements_agree(recipe):
    ask = question(choices=tuple(map(parse_format, ("UAQ-6", "UAQ-4"))), steps=1, images=1)
    measured = run_to_end(measure_costs(recipe, ask))
    estimated = run_to_end(measure_costs(recipe, dataclasses.replace(ask, how="fisher", probes=32)))
    local = run_to_end(measure_costs(recipe, dataclasses.replace(ask, how="local")))
    assert (measured.kind, estimated.kind, local.kind) == ("measured", "estimated", "local")
    assert compare_tables(measured, estimated).spearman > 0.9
    assert compare_tables(measured, estimated).spearman > compare_tables(measured, local).spearman
    assert np.allclose(measured.local, estimated.local) and (measured.bytes == local.bytes).all()


def test_quantized_activations_are_those_of_the_recipe(few):
    recipe = few
    ask = question(activations=True, choices=CHOICES[:1])
    table = run_to_end(measure_costs(recipe, ask))
    float_table = run_to_end(measure_costs(recipe, dataclasses.replace(ask, activations=False)))
    assert table.title.endswith("quantized activations") and not np.allclose(
        table.cost, float_table.cost, rtol=1e-3
    )
    model = get_simulated(dataclasses.replace(recipe, weights=Weights(bits=32)))
    trajectory, name = run_to_end(denoiser_calls(recipe, 2)), table.layers[2].name
    layer, wrong, power = model.get_submodule(name), 0.0, 0.0
    calls = [
        n for n, i in enumerate(trajectory.step) if trajectory.timesteps[i] == table.timesteps[0]
    ]
    with torch.no_grad():
        right = [repeat(model, trajectory, n, rows_of(trajectory, n, [0, 1])) for n in calls]
        layer.weight = torch.nn.Parameter(
            quantize_weight(layer.weight, Weights(bits=4, format=Uaq())).dequantize()
        )
        for n, answer in zip(calls, right, strict=True):
            wrong += (
                (repeat(model, trajectory, n, rows_of(trajectory, n, [0, 1])) - answer)
                .square()
                .sum()
                .item()
            )
            power += answer.square().sum().item()
    assert np.isclose(table.per_step[2, 0, 0], wrong / power, rtol=1e-3)


@pytest.mark.parametrize("measure", ["image", "text"])
def test_images_are_judged_against_float_ones_of_the_same_noise(few, measure):
    ask = question(measure=measure, choices=CHOICES[1:])
    table = run_to_end(measure_costs(few, ask))
    assert table.timesteps == () and table.per_step is None and np.isfinite(table.cost).all()
    loaded, n = libraries.load(few.model), 1
    jobs = calibration_images(loaded, dataclasses.replace(few.calibration, samples=2))
    model = borrow(loaded.denoiser)
    layer = model.get_submodule(table.layers[n].name)
    right = run_to_end(generate_batch(loaded, model, jobs, few.sampling))
    layer.weight = torch.nn.Parameter(
        quantize_weight(layer.weight, Weights(bits=2, format=KMeans())).dequantize(),
        requires_grad=False,
    )
    wrong = run_to_end(generate_batch(loaded, model, jobs, few.sampling))
    if measure == "image":
        x, y = (drawn.latents.reshape(2, -1).astype(np.float64) for drawn in (right, wrong))
        values = ((y - x) ** 2).sum(1) / (x**2).sum(1)
        assert (table.cost > 0).all()
    else:
        prompts = [prompt for prompt, _ in jobs]
        values = load_clip().match(right.images, prompts) - load_clip().match(wrong.images, prompts)
    assert np.isclose(table.cost[n, 0], values.mean(), rtol=1e-4, atol=1e-5)
    assert np.isclose(table.spread[n, 0], values.std(ddof=1) / np.sqrt(2), rtol=1e-3, atol=1e-5)


def test_weights_learned_from_inputs_are_learned_first(few):
    recipe = few
    ask = question(choices=(parse_format("GPTQ-3"), parse_format("W-3")), how="local")
    table = run_to_end(measure_costs(recipe, ask))
    codes = run_to_end(learn_variants(recipe, ask.choices[:1], [table.layers[1].name]))
    weight = libraries.load(recipe.model).denoiser.get_submodule(table.layers[1].name).weight
    wrong = (
        codes[table.layers[1].name, ask.choices[0]].dequantize() - weight
    ).square().sum() / weight.square().sum()
    assert np.isclose(table.local[1, 0], wrong.item(), rtol=1e-4)


def test_processes_give_the_same_table_as_this_one(recipe):
    ask = question(how="fisher", images=1)
    here = run_to_end(measure_costs(recipe, ask))
    there = run_to_end(measure_costs(recipe, ask, again=True, workers=2))
    assert np.allclose(here.cost, there.cost, rtol=1e-3)


def test_what_cannot_be_asked_is_told(recipe, tmp_path):
    with pytest.raises(DmqError, match="how 'fisher' knows float activations only"):
        run_to_end(measure_costs(recipe, question(how="fisher", activations=True)))
    tiny_ddpm().save_pretrained(tmp_path / "tiny-ddpm", safe_serialization=True)
    silent = dataclasses.replace(
        recipe, model=str(tmp_path / "tiny-ddpm"), calibration=Calibration(samples=2)
    )
    with pytest.raises(DmqError, match="generates without prompts in words"):
        run_to_end(measure_costs(silent, question(measure="text")))


def test_layers_that_are_not_finite_are_named_and_those_never_called_left_out(recipe, monkeypatch):
    loaded = libraries.load(recipe.model)
    first, *others = loaded.info.layers
    asleep = dataclasses.replace(loaded.info, layers=(dataclasses.replace(first, macs=0), *others))
    monkeypatch.setattr(cost_part, "load", lambda name: dataclasses.replace(loaded, info=asleep))
    table = run_to_end(measure_costs(recipe, question(how="local", images=1, steps=1)))
    assert [layer.name for layer in table.layers] == [layer.name for layer in others]
    assert table.note == f"never called, hence left out: {first.name}"
    broken = borrow(loaded.denoiser)
    weight = broken.get_submodule(first.name).weight.detach() * float("nan")
    broken.get_submodule(first.name).weight = torch.nn.Parameter(weight, requires_grad=False)
    pipe = private(loaded.pipe)
    pipe.unet = broken
    monkeypatch.setattr(layer_costs, "load_model", lambda _: dataclasses.replace(loaded, pipe=pipe))
    with pytest.raises(DmqError, match=f"^{first.name}.weight: not all of it are finite numbers"):
        run_to_end(measure_costs(recipe, question(how="local", images=1, steps=1), again=True))


def test_tables_of_a_model_are_listed_with_titles_that_differ(recipe):
    run_to_end(measure_costs(recipe, question(how="local")))
    run_to_end(measure_costs(recipe, question(how="local", choices=CHOICES[:1])))
    found = list_tables(recipe.model)
    titles = [title for title, _ in found]
    assert len(set(titles)) == len(titles)
    assert "error of its own output, only this layer, 2 steps, 2 images: UAQ-4" in titles
    assert all(load_table(folder, recipe.model).model == recipe.model for _, folder in found)
    with pytest.raises(DmqError, match=r"not of 'emoji-sd' as it is now"):
        load_table(found[0][1], "emoji-sd")


def test_the_command_prints_the_costs_and_how_tables_agree(recipe, tmp_path, capsys):
    file = tmp_path / "tiny.json"
    file.write_text(jsonio.dumps(recipe))
    start = [
        "sensitivity",
        str(file),
        "--choices",
        "UAQ-4",
        "KMC-2",
        "--steps",
        "2",
        "--probes",
        "2",
    ]
    assert cli.main(start) == 0
    capsys.readouterr()
    assert cli.main([*start, "--how", "fisher", "--csv", str(tmp_path / "out.csv")]) == 0
    lines = capsys.readouterr().out.splitlines()
    ask = question(how="fisher")
    table = find_costs(recipe, ask)
    assert lines[1].split() == ["layer", "role", "weights", "UAQ-4", "KMC-2"]
    worst = table.cost.max(1)
    assert [line.split()[0] for line in lines[2:14]] == [
        table.layers[n].name for n in np.argsort(-worst)[:12]
    ]
    measured = find_costs(recipe, question())
    ranks = compare_tables(table, measured)
    agreed = next(
        line for line in lines if "(measured)" in line and f"over {ranks.cells} layers" in line
    )
    assert f"Spearman {ranks.spearman:.3f}, Kendall {ranks.kendall:.3f}" in agreed
    rows = list(csv.DictReader((tmp_path / "out.csv").open()))
    assert len(rows) == table.cost.size
    assert float(rows[3]["cost"]) == table.cost[1, 1] and int(rows[3]["bytes"]) == table.bytes[1, 1]
    assert float(rows[3][f"cost at t={table.timesteps[1]:g}"]) == table.per_step[1, 1, 1]


def test_the_command_tells_what_makes_no_sense(recipe, tmp_path, capsys):
    file = tmp_path / "tiny.json"
    file.write_text(jsonio.dumps(recipe))
    for wrong, said in (
        (["--choices", "XYZ-4"], "'XYZ-4' is no choice"),
        (["--how", "local", "--mode", "all_but"], "knows mode"),
        (["--steps", "0"], "steps is 0"),
        (["--scheduler", "nonsense://x"], "none answers"),
        (["--workers", "0"], "workers is 0"),
        (["--csv", "/nowhere/x.csv"], "there is no folder"),
    ):
        assert cli.main(["sensitivity", str(file), *wrong]) == 1
        told = capsys.readouterr().err.strip("\r ")
        assert said in told and told.count("\n") == 1
