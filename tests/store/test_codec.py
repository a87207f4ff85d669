"""Every kind of result survives being kept, and what is damaged is one line that names it."""

import dataclasses
import json
from dataclasses import dataclass, field

import numpy as np
import pytest

from dmq.artifacts.questions import Windows
from dmq.errors import DmqError
from dmq.recipe import Comparison, LearnedGroups, Recipe, WeightFormat
from dmq.results import (
    BenchImage,
    BenchReport,
    BenchRow,
    Coverage,
    Figure,
    ImageScore,
    Layer,
    ModelInfo,
    OverTime,
    Prediction,
    PredictorResult,
    ProbeImage,
    ProgressiveRanges,
    Projection,
    Report,
    SearchResult,
    SensitivityTable,
    Site,
    SubgraphScores,
    TemporalBlock,
    Trajectory,
    WindowEffects,
)
from dmq.store import artifact, benchmarks, captures, codec, learned, runs
from dmq.store.extremes import EXACT
from tests.helpers import random_stats


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("DMQ_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"


def array(*shape, dtype=np.float32):
    return (np.random.default_rng(sum(shape)).standard_normal(shape) * 9).astype(dtype)


def image():
    return np.random.default_rng(3).integers(0, 256, (8, 8, 3), np.uint8)


def assert_same(a, b, where="value"):
    """Equal all the way down, in types too."""
    assert type(a) is type(b), where
    if isinstance(a, np.ndarray):
        assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes()), where
    elif dataclasses.is_dataclass(a):
        for f in dataclasses.fields(a):
            assert_same(getattr(a, f.name), getattr(b, f.name), f"{where}.{f.name}")
    elif isinstance(a, dict):
        assert list(a) == list(b), where
        for key in a:
            assert_same(a[key], b[key], f"{where}[{key}]")
    elif isinstance(a, (tuple, list)):
        assert len(a) == len(b), where
        for n, pair in enumerate(zip(a, b, strict=True)):
            assert_same(*pair, f"{where}[{n}]")
    else:
        assert a == b or (a != a and b != b), where


LAYERS = tuple(
    Layer(name=f"l{n}", kind="linear", role="other", block="b", shape=(4, 3), bias=bool(n))
    for n in range(2)
)
CHOICES = (WeightFormat(bits=3), WeightFormat(bits=4))
OF_MODEL = {"model": "m", "fingerprint": "f", "layers": LAYERS, "choices": CHOICES}
STATS = random_stats(sites=3, steps=2)
INFO = ModelInfo(
    name="m",
    pipeline="P",
    denoiser="D",
    adapter="unet",
    scheduler="S",
    prompted=True,
    size=(8, 8),
    parameters=3,
    pipeline_parameters=4,
    layers=LAYERS,
    fingerprint="f",
    vectors=(1, 2),
    temporal=TemporalBlock(
        embeddings=("e",),
        projections=(
            Projection(name="p", block="b", width=2),
            Projection(name="q", block="b", width=2, activation="a"),
        ),
        layers=("p",),
        depends=("t",),
    ),
    splits={"l0": 2},
)
TRAJECTORY = Trajectory(
    timesteps=(901.0, 1.0),
    step=np.array([0, 1], np.int32),
    inputs=(array(2, 3), array(1, 3)),
    outputs=(array(2, 4), array(1, 4)),
    half=(np.array([0, 1], np.int8), np.array([-1], np.int8)),
    conditioning={"0/text": array(2, 4), "z": array(1)},
    arguments=({"text": "0/text"}, {}),
)
WINDOWS = WindowEffects(
    timesteps=(2.0, 1.0),
    starts=(0, 1),
    fidelity=array(2, 3),
    fidelity_all=array(3),
    clip_score=array(2, 3),
    clip_score_all=array(3),
    clip_score_float=array(3),
    scorer="clip",
)
TABLE = SensitivityTable(
    title="t",
    kind="measured",
    unit="u",
    bytes=array(2, 2, dtype=np.int64),
    cost=array(2, 2, dtype=np.float64),
    spread=np.full((2, 2), np.nan),
    timesteps=(3.0, 1.0),
    per_step=array(2, 2, 2, dtype=np.float64),
    **OF_MODEL,
)
SEARCH = SearchResult(
    model="m",
    fingerprint="f",
    sampler="s",
    timesteps=(2.0, 1.0),
    sites=(Site(name="a", point="input"), Site(name="b", point="q", kind="attention")),
    bits=np.array([8, 4], np.uint8),
    slot=np.zeros((2, 2), np.int16),
    importance=array(2, 2, 1, dtype=np.float16),
    visits=np.array([1, 2], np.int32),
    steps=np.array([0, 1, 1], np.int32),
    local={"uniform": array(2, dtype=np.float64), "a/b": array(2, dtype=np.float64)},
    **{name: array(2, 1) for name in ("low", "high")},
    **{name: array(3) for name in ("errors", "penalties")},
    **{name: array(2, dtype=np.float64) for name in ("soft", "hard", "refitted")},
)
PREDICTOR = PredictorResult(
    types=("q", "k"),
    label="noise",
    bytes=array(2, 2, dtype=np.int64),
    mixes=np.ones((3, 2), np.int16),
    fold=np.zeros(3, np.int16),
    predictions=(
        Prediction(name="g", srcc=0.5, spread=0.1, partial_srcc=float("nan"), ndcg=1, tau=0),
    ),
    pieces=tuple(
        SubgraphScores(
            piece=f"p{n}",
            kind="k",
            layers=("l0",),
            mixes=np.ones((2, 1), np.int16),
            scores=array(2),
            spread=array(n + 1),
            complete=n == 0,
        )
        for n in range(2)
    ),
    **{name: array(3, dtype=np.float64) for name in ("labels", "average_bits", "predicted")},
    again=array(0, dtype=np.float64),
    **{
        name: array(2, 2, dtype=np.float64)
        for name in ("local", "op_scores", "op_spread", "ridge", "ridge_spread")
    },
    **OF_MODEL,
)
PROGRESSIVE = ProgressiveRanges(
    stats=STATS, low=array(3, 2), high=array(3, 2), calls=2, widest_change=0.5
)
OVER_TIME = OverTime(
    timesteps=(2.0, 1.0),
    coefficients=array(2),
    accumulated={"A": array(2, 1), "B": array(2, 1)},
    predicted_x0={},
    isolated={"A": array(2), "B": array(2)},
    mean_bits={"A": 8.0, "B": 6.5},
    watched=(0, 1),
    strips={"float": (image(), image()), "A": (image(), image())},
)
PROBE = tuple(
    ProbeImage(
        start=n,
        end=n + 1,
        gain=2.0,
        pixels=image(),
        exact=image(),
        error=0.1,
        psnr=float("inf"),
        match=float("nan"),
        match_float=1.0,
    )
    for n in range(2)
)
REPORT = Report(
    scores=(ImageScore(recipe="W8", prompt="cat", seed=0, psnr=float("inf"), ssim=1.0),),
    seconds={"float": 1.0, "W8": 2.0},
    bytes={"float": 8, "W8": 2},
    coverage={"W8": Coverage(quantized="all")},
    noise_floor={"psnr": 9.0},
    samples=1,
    warnings=("note",),
)
BENCHED = tuple(
    BenchImage(
        recipe="A", domain="d", number=n, prompt="p", seed=n, finite=True, values={"psnr": 3.0}
    )
    for n in range(2)
)
ROW = BenchRow(
    recipe="A",
    domain="d",
    samples=2,
    failed=0,
    figures={"psnr": Figure(value=3.0, low=float("nan"), high=4.0)},
    seconds=1.0,
)
FOUND = benchmarks.Found((ROW,), BENCHED, {"features": array(2, 3)}, ("a note",))
BATCH = benchmarks.Batch([image(), image()], array(2, 3), 1.25)


QUESTION = Windows(recipe=Recipe(), windows=2, images=3)


def save_search(folder):
    learned.save_search(Recipe(), LearnedGroups(), SEARCH).rename(folder)


def save_run(folder):
    images = {who: [image()] for who in REPORT.seconds}
    way = {who: {} for who in REPORT.seconds}
    runs.save_run(folder.name, (Recipe(name="W8"),), Comparison(), REPORT, images, way)


def saved(function, *args):
    return lambda folder: function(folder, *args)


# By kind: how it is kept in a folder, how it is read, what it is, and a file of it.
KINDS = {
    "capture": (
        lambda folder: captures.save_stats(folder, STATS, channels=EXACT),
        lambda folder: dataclasses.replace(captures.load_stats(folder), counts=STATS.counts),
        STATS,
        "capture.json",
    ),
    "model": (
        lambda folder: captures.save_stats(folder, STATS, INFO),
        captures.load_info,
        INFO,
        "model.json",
    ),
    "trajectory": (
        lambda folder: captures.save_stats(folder, STATS, None, TRAJECTORY),
        captures.load_trajectory,
        TRAJECTORY,
        "trajectory.safetensors",
    ),
    "search": (save_search, learned.load_search, SEARCH, "search.safetensors"),
    "windows": (
        lambda folder: artifact.save(QUESTION, folder, WINDOWS),
        lambda folder: artifact.load(QUESTION, folder),
        WINDOWS,
        "windows.safetensors",
    ),
    "table": (saved(learned.save_table, TABLE), learned.load_table, TABLE, "table.safetensors"),
    "predictor": (
        saved(learned.save_predictor, PREDICTOR),
        learned.load_predictor,
        PREDICTOR,
        "predictor.safetensors",
    ),
    "rounding": (
        saved(learned.save_rounding, {"codes/a": array(3)}, {"note": ["n"]}),
        learned.load_rounding,
        ({"codes/a": array(3)}, {"note": ["n"]}),
        "rounding.safetensors",
    ),
    "progressive": (
        lambda folder: learned.save_progressive(folder, PROGRESSIVE, STATS, by_channel=True),
        lambda folder: learned.load_progressive(folder, STATS),
        PROGRESSIVE,
        "ranges.safetensors",
    ),
    "over time": (
        saved(learned.save_over_time, {"recipe": Recipe()}, OVER_TIME),
        learned.load_over_time,
        OVER_TIME,
        "answer.safetensors",
    ),
    "probe": (
        saved(learned.save_probe, {"recipe": Recipe()}, PROBE),
        learned.load_probe,
        PROBE,
        "answer.safetensors",
    ),
    "question": (
        saved(learned.save_probe, {"recipe": Recipe()}, PROBE),
        lambda folder: learned.load_question(folder, recipe=Recipe),
        {"recipe": Recipe()},
        "question.json",
    ),
    "part": (
        lambda folder: learned.save_part(folder.parent, folder.name, {"a": array(2)}),
        lambda folder: learned.load_part(folder.parent, folder.name),
        {"a": array(2)},
        "part.safetensors",
    ),
    "label": (
        lambda folder: learned.save_label(folder, "00000", 0.5),
        lambda folder: learned.load_label(folder, "00000"),
        0.5,
        "00000.json",
    ),
    "run": (save_run, lambda folder: runs.load_report(folder.name), REPORT, "report.json"),
    "images of a run": (
        save_run,
        lambda folder: runs.load_images(folder.name),
        {"float": [image()], "W8": [image()]},
        "pictures/1/000.png",
    ),
    "benchmark rows": (
        lambda folder: benchmarks.save_rows(folder.parent.parent, int(folder.name), FOUND),
        lambda folder: benchmarks.load_rows(folder.parent.parent, int(folder.name)),
        FOUND,
        "rows.json",
    ),
    "benchmark batch": (
        lambda folder: benchmarks.save_batch(folder.parent.parent.parent, 0, 3, 5, BATCH),
        lambda folder: benchmarks.load_batch(folder.parent.parent.parent, 0, 3),
        BATCH,
        "batch.safetensors",
    ),
}
PLACES = {"benchmark rows": "b/rows/1", "benchmark batch": "b/pictures/0/0003"}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_kept_is_read_equal(home, kind):
    save, load, value, _ = KINDS[kind]
    folder = home / PLACES.get(kind, "kept")
    home.mkdir()
    save(folder)
    assert_same(load(folder), value)


@pytest.mark.parametrize("damage", ["cut", "other", "deep"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_damaged_is_one_line_that_says_where_and_what_to_do(home, kind, damage):
    save, load, _, name = KINDS[kind]
    folder = home / PLACES.get(kind, "kept")
    home.mkdir()
    save(folder)
    file = folder / name
    text = {"cut": file.read_bytes()[: file.stat().st_size // 2], "other": b"[]"}
    file.write_bytes(text.get(damage, b"[" * 200_000))
    with pytest.raises(DmqError, match=r"damaged \(.*\); delete .*\.$") as caught:
        load(folder)
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)


@dataclass(frozen=True, kw_only=True)
class Inner:
    x: np.ndarray
    n: int


@dataclass(frozen=True, kw_only=True)
class Outer:
    inner: tuple[Inner, ...]
    by_name: dict[str, Inner]
    maybe: np.ndarray | None = None
    pair: tuple[int, str] = (1, "a")
    level: float | None = None
    now: str = field(default="", metadata={"was": "before"})


OUTER = Outer(
    inner=(Inner(x=array(2), n=1), Inner(x=array(3), n=2)),
    by_name={"a.b": Inner(x=array(4), n=3)},
    maybe=array(1),
    now="text",
)


@pytest.mark.parametrize("value", [OUTER, dataclasses.replace(OUTER, maybe=None, level=0.5)])
def test_dataclasses_of_dataclasses_survive_json(value):
    plain, arrays = codec.to_parts(value)
    assert plain["before"] == "text" and "now" not in plain
    assert_same(codec.from_parts(Outer, json.loads(json.dumps(plain)), arrays), value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"before": 3}, "before: expected str, got 3"),
        ({"level": "high"}, "level: expected int or float, got 'high'"),
        ({"inner": [{"n": 1}]}, "inner"),
        ({"inner": [{"n": None}, {"n": 2}]}, "inner.0.n: expected int, got None"),
        ({"pair": [1]}, "shorter"),
        ({"by_name": []}, "by_name: expected dict"),
        ({"more": 1}, "more: Outer has no such field"),
    ],
    ids=["text", "number", "too few", "none", "pair", "list", "unknown"],
)
def test_plain_data_of_another_type_is_refused(change, said):
    plain, arrays = codec.to_parts(OUTER)
    with pytest.raises(codec.UNREADABLE, match=said):
        codec.from_parts(Outer, plain | change, arrays)


def test_a_field_or_an_array_that_is_missing_or_too_many_is_refused():
    plain, arrays = codec.to_parts(OUTER)
    del plain["by_name"]
    with pytest.raises(codec.UNREADABLE, match="by_name"):
        codec.from_parts(Outer, plain, arrays)
    plain, arrays = codec.to_parts(OUTER)
    with pytest.raises(ValueError, match="no array 'z'"):
        codec.from_parts(Outer, plain, arrays | {"z": array(1)})
    with pytest.raises(KeyError, match=r"inner\.1\.x"):
        codec.from_parts(Outer, plain, {k: x for k, x in arrays.items() if k != "inner.1.x"})


def test_what_a_newer_version_wrote_is_not_guessed_at(tmp_path):
    file = tmp_path / "windows.safetensors"
    plain, arrays = codec.to_parts(WINDOWS)
    codec.save_arrays(file, "windows", plain | {"version": 2}, arrays)
    with pytest.raises(DmqError, match=r"windows\.safetensors: of another version of dmq; delete"):
        artifact.load(QUESTION, tmp_path)


def test_a_benchmark_report_survives_with_its_benchmark(home):
    from dmq.recipe import Benchmark, Domain

    asked = Benchmark(domains=(Domain(name="d", prompts=("p",)),), seeds=(0, 1), batch=2)
    folder = benchmarks.begin("b", asked, (Recipe(name="A"),), {})
    for who in (0, 1):
        benchmarks.save_batch(folder, who, 0, 0, BATCH)
    report = BenchReport(
        model="m",
        sampler="s",
        features="none",
        reference="",
        benchmark=asked,
        rows=(ROW,),
        images=BENCHED,
        bytes={"A": 1},
        coverage={"A": Coverage(quantized="all", engine="executed", kernels={"int8": 2})},
        machine="here",
    )
    benchmarks.save_report(folder, report, ("float", "A"))
    assert_same(benchmarks.load_report("b"), report)
    (folder / "report.json").write_text("[]")
    with pytest.raises(DmqError, match=r"b: damaged \(.*; delete the folder"):
        benchmarks.load_report("b")
