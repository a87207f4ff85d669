import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from dmq.describe import describe_coverage
from dmq.errors import DmqError
from dmq.recipe import (
    Activations,
    Calibration,
    Comparison,
    MinMax,
    OptimalGroups,
    Recipe,
    Sampling,
    Weights,
)
from dmq.results import Coverage, ImageScore, Report, Trajectory
from dmq.store import captures, folders, learned, runs
from dmq.store.extremes import EXACT, SIDES, round_up
from tests.helpers import random_stats
from tests.store.old_runs import save_old_stats


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("DMQ_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"


def inside(folder):
    return [path.name for path in folder.iterdir()]


def same(a, b):
    """Equal field by field, arrays bit by bit whatever integer type holds them."""
    for f in dataclasses.fields(a):
        x, y = getattr(a, f.name), getattr(b, f.name)
        if isinstance(x, tuple) and len(x) and isinstance(x[0], np.ndarray):
            assert len(x) == len(y), f.name
            assert all(np.array_equal(p, q) for p, q in zip(x, y, strict=True)), f.name
        elif isinstance(x, np.ndarray):
            assert np.array_equal(x, y), f.name
        else:
            assert x == y, f.name


@pytest.mark.parametrize("shard", [captures.SHARD, 2_000], ids=["one-file", "many-files"])
def test_statistics_survive_saving_exactly(home, monkeypatch, shard):
    monkeypatch.setattr(captures, "SHARD", shard)
    stats = random_stats(sites=6, steps=9)
    captures.save_stats(home / "captures" / "a", stats, channels=EXACT)
    same(captures.load_stats(home / "captures" / "a"), stats)
    assert (len(list((home / "captures" / "a").glob("histograms-*"))) > 1) == (shard == 2_000)


def test_calls_of_an_unfinished_calibration_survive_exactly(home):
    seen = [random_stats(sites=3, steps=1, seed=seed) for seed in (0, 1)]
    for n, stats in enumerate(seen):
        learned.save_call(home / "calls", n, stats, {"0.scale": np.float32([n])})
    for n, (stats, grids) in enumerate(learned.load_calls(home / "calls")):
        same(stats, seen[n])
        assert grids["0.scale"] == n


def test_counts_beyond_sixteen_bits_survive(home):
    stats = random_stats(sites=3, steps=4)
    larger = tuple(c.astype(np.int64) * 10**k for k, c in zip((0, 3, 9), stats.counts, strict=True))
    stats = dataclasses.replace(stats, counts=larger)
    captures.save_stats(home / "big", stats, channels=EXACT)
    same(captures.load_stats(home / "big"), stats)


def test_a_trajectory_survives_saving(home):
    draw = np.random.default_rng(0).standard_normal
    trajectory = Trajectory(
        timesteps=(901.0, 1.0),
        step=np.array([0, 1], np.int32),
        inputs=(draw((2, 3)).astype(np.float32),) * 2,
        outputs=(draw((2, 3)).astype(np.float32),) * 2,
        half=(np.array([0, 1], np.int8),) * 2,
        conditioning={"0/text": draw((2, 4)).astype(np.float32)},
        arguments=({"text": "0/text"}, {"text": "0/text"}),
    )
    captures.save_stats(home / "t", random_stats(sites=2, steps=2), trajectory=trajectory)
    back = captures.load_trajectory(home / "t")
    assert np.array_equal(back.conditioning["0/text"], trajectory.conditioning["0/text"])
    same(
        dataclasses.replace(back, conditioning={}), dataclasses.replace(trajectory, conditioning={})
    )


@pytest.mark.parametrize("split", [0, 3])
def test_extremes_of_channels_are_kept_outward_in_few_bits_and_exactly_where_it_matters(
    home, split
):
    stats = random_stats(sites=6, steps=9)
    outputs = [
        dataclasses.replace(site, point="output" if s % 2 else "input")
        for s, site in enumerate(stats.sites)
    ]
    stats = dataclasses.replace(stats, sites=tuple(outputs))
    captures.save_stats(home / "a", stats, splits={stats.sites[2].name: split})
    back = captures.load_stats(home / "a")
    changed = 0
    for s, site in enumerate(stats.sites):
        part = 2.0 ** -(7 if s % 2 else 10)
        for sign, name in ((-1, "channel_min"), (1, "channel_max")):
            was, now = (sign * getattr(one, name)[s].astype(float) for one in (stats, back))
            assert (now >= was).all() and (now - was <= part * np.abs(was)).all()
            assert np.array_equal(now.max(0), was.max(0)), "what smoothing divides by"
            assert np.array_equal(now.max(1), was.max(1)), "the ends of whole tensors"
            changed += (now > was).sum()
            if s == 2 and split:
                sides = [np.s_[:, :split], np.s_[:, split:]]
                assert all(np.array_equal(now[side].max(1), was[side].max(1)) for side in sides), (
                    site
                )
    assert changed > 100
    exact = {"channel_min": stats.channel_min, "channel_max": stats.channel_max}
    same(dataclasses.replace(back, **exact), stats)


def test_rounding_up_is_the_next_number_of_so_many_bits():
    largest = float(np.finfo(np.float32).max)
    x = np.float32(
        [0, -0.0, 1, 1.0015, -1.0015, largest, -largest, 65_537, np.inf, -np.inf, np.nan]
    )
    step = 2.0**-10
    expected = [
        0,
        0,
        1,
        1 + 2 * step,
        -1 - step,
        np.inf,
        -(2 - step) * 2.0**127,
        65_536 * (1 + step),
    ]
    up = round_up(x, 10)
    np.testing.assert_array_equal(up, np.float32([*expected, np.inf, -np.inf, np.nan]))
    tiny = np.float32([1e-42, -1e-42])  # numbers without a leading one have steps of one size
    assert (0 <= round_up(tiny, 10) - tiny).all() and (round_up(tiny, 10) - tiny < 2.0**-136).all()
    assert not (up[np.isfinite(up)].view(np.int32) & 0x1FFF).any()


def test_sides_alone_give_every_channel_the_range_of_its_side(home):
    stats = random_stats(sites=2, steps=4)
    captures.save_stats(home / "a", stats, channels=SIDES, splits={stats.sites[0].name: 5})
    back = captures.load_stats(home / "a")
    for s, sides in (
        (0, [np.s_[:, :5], np.s_[:, 5:]] if stats.sites[0].point == "input" else [np.s_[:, :]]),
        (1, [np.s_[:, :]]),
    ):
        for side in sides:
            low, high = stats.channel_min[s][side].min(1), stats.channel_max[s][side].max(1)
            assert (back.channel_min[s][side] == low[:, None]).all()
            assert (back.channel_max[s][side] == high[:, None]).all()


@pytest.mark.parametrize("shard", [captures.SHARD, 2_000], ids=["one-file", "many-files"])
def test_captures_of_earlier_versions_open_as_they_were(home, shard):
    stats = random_stats(sites=5, steps=7)
    save_old_stats(home / "old", stats, shard)
    same(captures.load_stats(home / "old"), stats)


def test_a_capture_takes_less_than_it_took(home):
    stats = random_stats(sites=8, steps=20)
    save_old_stats(home / "old", stats)
    captures.save_stats(home / "new", stats)
    old, new = (
        sum(file.stat().st_size for file in (home / name).iterdir()) for name in ("old", "new")
    )
    assert new < 0.7 * old


@pytest.mark.parametrize(
    "change", [lambda rows: rows[:-1], lambda rows: [*rows, rows[0]]], ids=["fewer", "more"]
)
def test_a_table_of_other_steps_is_refused(home, change):
    captures.save_stats(home / "d", random_stats(sites=2, steps=3))
    table = pq.read_table(home / "d" / "steps.parquet")
    pq.write_table(table.take(change(list(range(6)))), home / "d" / "steps.parquet")
    with pytest.raises(DmqError, match=r"damaged \(steps.parquet has [57] rows"):
        captures.load_stats(home / "d")


def test_channels_of_another_capture_are_refused(home):
    for name, steps in (("d", 3), ("other", 4)):
        captures.save_stats(home / name, random_stats(sites=2, steps=steps))
    file = "channels-00000.safetensors"
    (home / "d" / file).write_bytes((home / "other" / file).read_bytes())
    with pytest.raises(DmqError, match=r"damaged .*for 3 steps"):
        captures.load_stats(home / "d")


def test_a_capture_without_a_trajectory_says_how_to_get_one(home):
    captures.save_stats(home / "t", random_stats(sites=2, steps=2))
    with pytest.raises(DmqError, match="--trajectories"):
        captures.load_trajectory(home / "t")


FILES = (
    "capture.json",
    "steps.parquet",
    "histograms-00000.safetensors",
    "channels-00000.safetensors",
)


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_a_damaged_capture_is_one_line(home, file, damage):
    captures.save_stats(home / "d", random_stats(sites=2, steps=3))
    path = home / "d" / file
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DmqError, match="damaged") as caught:
        captures.load_stats(home / "d")
    assert "delete the folder and capture again" in str(caught.value)


def test_what_fails_half_way_leaves_nothing(home):
    with pytest.raises(ZeroDivisionError), folders.write_folder(home / "x") as part:
        (part / "a").write_text("half")
        raise ZeroDivisionError
    assert list(home.iterdir()) == []


def test_rewriting_replaces_the_whole_folder(home):
    for text in ("one", "two"):
        with folders.write_folder(home / "x") as part:
            (part / text).write_text(text)
    assert inside(home / "x") == ["two"]
    assert inside(home) == ["x"]


def test_failing_to_rewrite_keeps_what_was_there(home):
    with folders.write_folder(home / "x") as part:
        (part / "one").write_text("one")
    with pytest.raises(ZeroDivisionError), folders.write_folder(home / "x"):
        raise ZeroDivisionError
    assert inside(home / "x") == ["one"]


def test_recipes_that_see_the_same_share_a_capture():
    a = Recipe(
        weights=Weights(bits=4),
        activations=Activations(bits=6, range=MinMax()),
        grouping=OptimalGroups(),
    )
    assert captures.capture_key(a) == captures.capture_key(Recipe(name="other"))
    different = [
        Recipe(model="x"),
        Recipe(sampling=Sampling(steps=49)),
        Recipe(calibration=Calibration(seed=1)),
    ]
    assert len({captures.capture_key(recipe) for recipe in [a, *different]}) == 4


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "a/b",
        "",
        ".hidden",
        "captures",
        "x" * 81,
        "a\nb",
        "/etc",
        "..",
        "Captures",
        "benchmarks",
        "con",
        "NUL.txt",
        "com1",
        "a:b",
        "ends.",
        "ends ",
    ],
)
def test_a_name_cannot_lead_out_of_the_run_folder(name):
    with pytest.raises(DmqError, match="cannot name a run"):
        runs.folder_of(name)


@pytest.mark.parametrize(
    "wanted",
    ["emoji-sd W8A8, 8 best groups", "../../etc", "", "ä" * 200, "con", "Tables", "a" * 59 + ". b"],
)
def test_free_names_can_name_a_run(home, wanted):
    first = runs.free_name(wanted)
    runs.folder_of(first).mkdir(parents=True)
    assert runs.free_name(wanted) != first


def report() -> Report:
    scores = (
        ImageScore(recipe="W8", prompt="cat", seed=0, psnr=30.0, ssim=0.9),
        ImageScore(recipe="W8", prompt="cat", seed=1, psnr=float("inf"), ssim=1.0),
    )
    return Report(
        scores=scores,
        seconds={"float": 1.0, "W8": 2.0},
        bytes={"float": 8, "W8": 2},
        coverage={"W8": Coverage(quantized="all; float: nothing")},
        noise_floor={"psnr": 9.0, "ssim": 0.1},
        samples=2,
        warnings=("note",),
    )


def save_black(name: str, found: Report) -> None:
    images = {who: [np.zeros((8, 8, 3), np.uint8)] * 2 for who in found.seconds}
    comparison = Comparison(prompts=("cat",))
    runs.save_run(
        name, (Recipe(name="W8"),), comparison, found, images, {who: {} for who in images}
    )


COVERAGES = {
    "simulated": Coverage(quantized="all", in_float="nothing"),
    "executed": Coverage(
        quantized="1 of 3 layers W8A8; float: a (first layer), b; time embedding: 2 layers",
        in_float="a (first layer), b",
        engine="executed bf16 compiled",
        kernels={"oneDNN int8": 41, "int8, but for steps of more than 7 bits": 1},
        fell_back={"it is split; its scales change (a lot)": 2},
    ),
    "no kernel": Coverage(quantized="x; float: y", in_float="y", engine="executed"),
}


@pytest.mark.parametrize("coverage", COVERAGES.values(), ids=COVERAGES)
def test_a_report_that_was_kept_with_a_sentence_is_read(home, coverage):
    now = dataclasses.replace(report(), coverage={"W8": coverage})
    save_black("old", now)
    assert runs.load_report("old") == now
    file = runs.folder_of("old") / "report.json"
    former = json.loads(file.read_text()) | {"coverage": {"W8": describe_coverage(coverage)}}
    file.write_text(json.dumps(former))
    assert runs.load_report("old") == now


@pytest.mark.parametrize("coverage", [{"W8": 3}, {"W8": {"what": "all"}}, ["W8"], None])
def test_a_report_with_a_damaged_coverage_says_so(home, coverage):
    save_black("bad", report())
    file = runs.folder_of("bad") / "report.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"coverage": coverage}))
    with pytest.raises(DmqError, match=r"report.json: damaged"):
        runs.load_report("bad")


def test_a_run_can_be_opened_again(home):
    draw = np.random.default_rng(0)
    images = {
        who: [draw.integers(0, 256, (8, 8, 3), dtype=np.uint8) for _ in range(2)]
        for who in ("float", "W8")
    }
    way = {
        "float": {(0, 3): images["float"][0]},
        "W8": {(0, 3): images["W8"][0], (1, 12): images["W8"][1]},
    }
    recipes = (Recipe(name="W8"),)
    comparison = Comparison(prompts=("cat",), seeds=(0, 1))
    runs.save_run("mine", recipes, comparison, report(), images, way)
    assert runs.names() == ["mine"]
    assert runs.load_report("mine") == report()
    assert runs.load_recipes("mine") == recipes
    assert runs.load_comparison("mine") == comparison
    back, steps = runs.load_images("mine"), runs.load_steps("mine")
    assert {w: [p.tolist() for p in row] for w, row in back.items()} == {
        w: [p.tolist() for p in row] for w, row in images.items()
    }
    assert {w: set(row) for w, row in steps.items()} == {w: set(row) for w, row in way.items()}
    assert np.array_equal(steps["W8"][1, 12], images["W8"][1])
    runs.remove("mine")
    assert runs.names() == []
    with pytest.raises(DmqError, match="no run called 'mine'"):
        runs.load_report("mine")


def test_a_contact_sheet_has_every_image(home):
    red, blue = np.full((8, 8, 3), (255, 0, 0), np.uint8), np.full((8, 8, 3), (0, 0, 255), np.uint8)
    images = {"float": [red, red], "W8": [blue, red]}
    runs.save_run(
        "s", (Recipe(name="W8"),), Comparison(), report(), images, {"float": {}, "W8": {}}
    )
    with Image.open(runs.contact_sheet("s")) as sheet:
        pixels = np.asarray(sheet.convert("RGB")).reshape(-1, 3)
    assert (pixels == (255, 0, 0)).all(1).sum() == 3 * 64
    assert (pixels == (0, 0, 255)).all(1).sum() == 64


def test_what_was_handed_out_goes_when_the_process_ends():
    code = (
        "from dmq.store.folders import download_folder as make; a, b = make(), make(); "
        "(a / 'x').touch(); print(a, b)"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert len(set(said)) == 2 and not any(Path(folder).parent.exists() for folder in said)
