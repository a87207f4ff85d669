"""The bench of executed int8 beside its peers, with a tiny U-Net; the peers' own packages need
not be here.
"""

import gc
import json
import weakref
from dataclasses import replace
from itertools import groupby

import numpy as np
import pytest
import torch

from bench import speed
from bench.peers import simulated, subjects
from bench.peers.executed import KEPT, kept_by_sdnq
from bench.peers.made import StandIn, float_bytes, tensor_bytes
from bench.peers.subjects import STEPS, UNET, Subject, nested, opened, prepare, random_sd, recipe_of
from bench.speed import BASE, Row, Worker
from dmq.errors import DmqError
from dmq.models.borrow import borrow
from dmq.models.tiny import tiny_sd
from dmq.recipe import FLOAT, Calibration, Sampling, UniformGroups
from dmq.store import captures
from dmq.workflow.answers import get_plan
from tests.tiny import runs_in


ROUNDS = 3
OURS = "dmq W8A8 8 groups"
ABSENT = "SDNQ int8"


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder that the tiny step was made ready in."""
    folder = tmp_path_factory.mktemp("speed")
    with runs_in(folder):
        prepare(UNET, folder, small=True)
        yield folder


@pytest.fixture
def step(work):
    return opened(UNET, work)


@pytest.fixture(scope="module")
def printed(work):
    """One run with three rows, of which one has no package: the file of results, and what was
    printed.
    """
    file = work / "results.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(speed.ROWS, ABSENT, ("nobody", {}))
        patch.setattr(speed, "prepare", lambda *given: None)  # done already
        asked = [
            "--subjects",
            UNET,
            "--rows",
            OURS,
            ABSENT,
            "--rounds",
            str(ROUNDS),
            "--threads",
            "1",
        ]
        speed.main([*asked, "--small", "--work", str(work), "--out", str(file)])
    return {row["name"]: row for row in json.loads(file.read_text())["subjects"][UNET]}


def test_rows_work_in_the_same_rounds(printed):
    assert list(printed) == [BASE, OURS, ABSENT]
    assert len(printed[OURS]["seconds"]) == ROUNDS
    assert printed[OURS]["base_seconds"] == printed[BASE]["seconds"]
    assert printed[BASE]["ratio"] == 1 and printed[BASE]["distance"] == 0
    assert (
        min(printed[name][key] for name in (BASE, OURS) for key in ("peak", "making_peak", "bytes"))
        > 0
    )


def test_a_peer_that_is_not_there_says_so_and_stops_no_other(printed):
    assert printed[ABSENT] == {
        "name": ABSENT,
        "failed": "ModuleNotFoundError: No module named 'bench.peers.nobody'",
    }


def test_the_executed_row_is_as_far_from_float_as_the_simulated_model(printed, step):
    quantized_model = simulated.quantize_model(
        step.loaded.denoiser, step.plan(groups=8), step.loaded.adapter
    )
    ours, floats = step.work(quantized_model), step.work(step.loaded.denoiser)
    pairs = [(ours(n), floats(n)) for n in range(ROUNDS)]
    far = sum((a - b).square().sum() for a, b in pairs) / sum(b.square().sum() for _, b in pairs)
    assert printed[OURS]["distance"] == pytest.approx(far.item(), rel=0.2)
    assert printed[OURS]["bytes"] == step.plan(groups=8).bytes


@pytest.fixture
def python(tmp_path, monkeypatch):
    """Puts a shell script in the place of the Python that processes are started with."""
    script = tmp_path / "python"

    def put(words):
        script.write_text(f"#!/bin/sh\n{words}\n")
        script.chmod(0o755)

    monkeypatch.setattr(speed.sys, "executable", str(script))
    return put


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("kill -9 $$", "killed, most likely for want of memory"),
        ("echo first >&2; echo no space >&2; exit 3", "ended with 3: no space"),
        ("""echo '{"failed": "ValueError: 5 bits"}'""", "ValueError: 5 bits"),
        (
            """echo '{"made": 1, "bytes": 2, "note": "", "peak": 3}'; read n; kill -9 $$""",
            "killed, most",
        ),
    ],
    ids=["killed", "ended", "failed", "killed at work"],
)
def test_a_worker_that_ends_says_why(script, why, python, tmp_path):
    python(script)
    worker = Worker(BASE, UNET, tmp_path, tmp_path / "out", 1)
    try:
        if not worker.row.failed:
            worker.ask(0)
    finally:
        worker.stop()
    assert worker.row.failed.startswith(why)
    assert worker.row.seconds == [] and why in worker.row.line()


def test_what_cannot_be_made_ready_is_told_in_one_line(python, tmp_path):
    python("echo Traceback >&2; echo nothing captured >&2; exit 1")
    with pytest.raises(DmqError, match=r"^emoji-sd: nothing captured$"):
        speed.prepare("emoji-sd", tmp_path, False, 1)


@pytest.mark.parametrize(
    "asked", [["--rows", "SDNK int8"], ["--subjects", "emoji-sdd"], ["--rounds", "0"]]
)
def test_mistakes_get_one_line(asked):
    with pytest.raises(SystemExit, match=r"^error: [^\n]*(SDNK int8|emoji-sdd|at least 1)[^\n]*$"):
        speed.main(asked)


def test_the_plan_is_that_of_the_stages(step):
    for groups, recipe in (
        (1, step.recipe),
        (8, replace(step.recipe, grouping=UniformGroups(count=8))),
    ):
        ours, theirs = step.plan(groups), get_plan(recipe)
        assert ours.bytes == theirs.bytes
        for a, b in zip(ours.layers, theirs.layers, strict=True):
            assert (a.bank is None) == (b.bank is None)
            assert a.bank is None or (
                a.bank.scale.tolist() == b.bank.scale.tolist() and len(a.bank.bits) == groups
            )


@pytest.mark.parametrize(
    "peer, weights, dynamic", [("quanto", 8, "call"), ("torchao", FLOAT, "token")]
)
def test_convolutions_whose_inputs_peers_leave_in_float(step, peer, weights, dynamic):
    plan = step.plan(1, dynamic, tuple(KEPT[peer](step.loaded.info.layers)))
    inner = [row for row in plan.layers if row.layer.name not in ("conv_in", "conv_out")]
    linear = [row.bank is not None for row in inner]
    assert linear == [len(row.layer.shape) == 2 for row in inner] and {*linear} == {True, False}
    assert {row.weights.bits for row in inner if row.bank is None} == {weights}


def test_peers_calibrate_from_the_calls_that_were_recorded(step):
    recorded = captures.load_trajectory(captures.find_capture(step.recipe))
    calls = step.calls()
    assert len(calls) == STEPS
    for call, answer in zip(calls, recorded.outputs, strict=True):
        torch.testing.assert_close(step.loaded.denoiser(**call)[0], torch.from_numpy(answer))


def image(work):
    """A subject that generates whole images in two steps, made of the same pipeline."""
    step = opened(UNET, work)
    return Subject("images", step.loaded, replace(step.recipe, sampling=Sampling(steps=2)))


def test_whole_images_are_the_same_whoever_answers_for_the_denoiser(work):
    subject = image(work)
    denoiser = subject.loaded.denoiser
    plain = subject.work(denoiser)
    other = subject.work(StandIn(denoiser, lambda *args, **kwargs: denoiser(*args, **kwargs)[0]))
    assert torch.equal(plain(0), other(0)) and not torch.equal(plain(0), plain(1))


@pytest.mark.parametrize("made", [lambda work: opened(UNET, work), image], ids=["step", "images"])
def test_work_holds_no_float_denoiser(made, work):
    subject = made(work)
    quantized_model = borrow(subject.loaded.denoiser)
    run, floats = subject.work(quantized_model), weakref.ref(subject.loaded.denoiser)
    del subject
    gc.collect()
    assert floats() is None and run(0).isfinite().all()


def test_the_large_unet_has_the_size_of_stable_diffusion():
    with torch.device("meta"):
        unet = random_sd().unet
    assert sum(p.numel() for p in unet.parameters()) == 859_520_964  # as published
    assert (unet.config.sample_size, unet.config.cross_attention_dim) == (64, 768)


def test_sizes_are_those_of_files(step):
    denoiser = step.loaded.denoiser
    file = tensor_bytes(denoiser.state_dict())
    assert (
        float_bytes(denoiser, 4)
        < file
        < float_bytes(denoiser, 4) + 200 * len(denoiser.state_dict())
    )


def test_arguments_are_nested_again():
    assert nested({"x": 1, "added.ids": 2, "added.text": 3}) == {
        "x": 1,
        "added": {"ids": 2, "text": 3},
    }


def row(name, seconds, base, distance=0.0):
    wrong = distance if isinstance(distance, list) else [distance] * len(seconds)
    power = [1.0] * len(seconds)
    return Row(
        name, made={"bytes": 1, "note": ""}, seconds=seconds, base=base, wrong=wrong, power=power
    )


def test_ratios_are_of_rounds_so_that_drift_meets_both_sides():
    assert row(OURS, [1.0, 2.0], [4.0, 8.0]).ratios == [4.0, 4.0]


def test_bars():
    base = [4.0, 8.0, 4.0]
    rows = {
        "dmq W8A8 static": row("dmq W8A8 static", [1.0, 2.0, 1.0], base, 0.02),
        OURS: row(OURS, [1.1, 2.2, 1.1], base, 0.01),
        "dmq per call, quanto's float": row("dmq per call, quanto's float", [2.0] * 3, base, 0.02),
        "dmq per call, SDNQ's float": row(
            "dmq per call, SDNQ's float", [2.0] * 3, base, [0.014, 0.9, 0.014]
        ),
        "SDNQ int8": row("SDNQ int8", [2.0] * 3, base, 0.015),
        "OpenVINO int8": Row("OpenVINO int8", failed="ModuleNotFoundError"),
        "optimum-quanto int8": row("optimum-quanto int8", [2.0] * 3, base, 0.019),
    }
    assert [holds for _, holds in speed.bars(UNET, rows)] == [True, False, True, False]
    assert list(speed.bars("emoji-dit", {})) == []


def test_only_rows_that_are_timed_against_each_other_must_fit_into_memory_together():
    names = [*speed.ROWS]
    together = [[*some] for _, some in groupby(names, speed.family)]
    assert [some for some in together if len(some) > 1] == [
        ["dmq W8A8 static", "dmq W8A8 8 groups"],
        ["dmq compiled static", "dmq compiled 8 groups"],
    ]


def test_every_row_that_is_compared_is_one_of_the_rows():
    assert {*speed.EQUAL, *speed.EQUAL.values()} <= {*speed.ROWS}


def test_layers_that_sdnq_leaves_in_float(step):
    kept = {spec.layers: spec for spec in kept_by_sdnq(step.loaded.info.layers)}
    shapes = {layer.name: layer.shape for layer in step.loaded.info.layers}
    assert all(spec.activation_bits == FLOAT for spec in kept.values())
    assert {name for name in shapes if np.prod(shapes[name]) < 16384} <= {*kept}
    plan = step.plan(1, "call", tuple(kept.values()))
    assert all(
        (row.bank is None) == (row.layer.name in kept)
        for row in plan.layers
        if row.reason != "last layer"
    )
    assert {row.bank.dynamic for row in plan.layers if row.bank} <= {"call", "place"}


def test_peers_calibrate_from_every_image_that_dmq_does(tmp_path):
    with runs_in(tmp_path):
        tiny_sd().save_pretrained(tmp_path / "tiny")
        name = str(tmp_path / "tiny")
        recipe = replace(
            recipe_of(name, tmp_path),
            calibration=Calibration(samples=3),
            sampling=Sampling(steps=4),
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(subjects, "recipe_of", lambda *given: recipe)
            prepare(name, tmp_path, small=True)
            calls = opened(name, tmp_path).calls()
    assert [len(call["sample"]) for call in calls] == [2] * 4  # both guidance halves of one image
    assert len({call["encoder_hidden_states"].sum().item() for call in calls}) == 3
