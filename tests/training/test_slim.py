"""Rewriting run folders in the compact form: everything is still there, and what would not be
stops it.
"""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from dmq.models.tiny import tiny_sd
from dmq.progress import run_to_end
from dmq.recipe import (
    Activations,
    Calibration,
    MinMax,
    Progressive,
    Recipe,
    Sampling,
    Temporal,
    Tiar,
    UniformGroups,
    Weights,
)
from dmq.store import captures, extremes
from dmq.store.learned import load_progressive, load_rounding
from dmq.workflow.answers import get_ranges, get_statistics
from dmq.workflow.learning import calibrate_ranges, capture_statistics, learn_time_rounding
from tests.store.old_runs import save_old_progressive, save_old_stats
from tests.tiny import runs_in
from training import slim


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A capture, ranges along the quantized trajectory and a learned rounding as earlier
    versions kept them.
    """
    with runs_in(tmp_path_factory.mktemp("slim")) as folder:
        tiny_sd().save_pretrained(folder / "tiny-sd", safe_serialization=True)
        recipe = Recipe(
            model=str(folder / "tiny-sd"),
            sampling=Sampling(steps=3, guidance=2.0),
            calibration=Calibration(samples=2, batch=2, prompts=("a", "b")),
            weights=Weights(bits=4, range=MinMax()),
            activations=Activations(bits=6, range=MinMax()),
            grouping=UniformGroups(count=2),
            progressive=Progressive(),
            temporal=Temporal(rounding=Tiar(iterations=5)),
        )
        place = folder / "source"
        capture = run_to_end(capture_statistics(recipe))
        save_old_stats(place / capture.name, get_statistics(recipe))
        shutil.copyfile(capture / "model.json", place / capture.name / "model.json")
        walked = run_to_end(calibrate_ranges(recipe))
        save_old_progressive(place / walked.name, get_ranges(recipe))
        learned = run_to_end(learn_time_rounding(recipe))
        arrays, plain = load_rounding(learned)
        (place / learned.name).mkdir()
        save_file(
            arrays,
            place / learned.name / "rounding.safetensors",
            metadata={"rounding": json.dumps(plain)},
        )
        (place / "bench-tiny").mkdir()
        (place / "bench-tiny" / "report.json").write_text("{}")
        yield place


def folder_of(place, kind):
    return next(folder for folder in place.iterdir() if slim.kind_of(folder) == kind)


@pytest.fixture
def target(source, tmp_path):
    slim.slim(source, tmp_path / "target")
    return tmp_path / "target"


def test_every_folder_is_there_and_smaller(source, target):
    assert {folder.name for folder in target.iterdir()} == {
        folder.name for folder in source.iterdir()
    }
    for kind in ("captures", "progressive", "rounding"):
        before, after = (
            sum(f.stat().st_size for f in folder_of(place, kind).rglob("*") if f.is_file())
            for place in (source, target)
        )
        assert after < 0.7 * before, kind
    assert (target / "bench-tiny" / "report.json").read_text() == "{}"


def test_what_is_read_back_is_what_was_there(source, target):
    old, new = (captures.load_stats(folder_of(place, "captures")) for place in (source, target))
    assert all(map(np.array_equal, old.counts, new.counts)) and np.array_equal(
        old.power_sums, new.power_sums
    )
    assert captures.load_info(folder_of(target, "captures")) == captures.load_info(
        folder_of(source, "captures")
    )
    arrays, _ = load_rounding(folder_of(target, "rounding"))
    expected = load_file(folder_of(source, "rounding") / "rounding.safetensors")
    assert list(arrays) and slim.same(dict(sorted(arrays.items())), dict(sorted(expected.items())))
    was = load_progressive(folder_of(source, "progressive"), old)
    now = load_progressive(folder_of(target, "progressive"), new)
    assert slim.same(
        (was.low, was.high, was.calls, was.stats.power_sums),
        (now.low, now.high, now.calls, now.stats.power_sums),
    )


def test_what_is_slim_stays_as_it_is_and_again_gives_the_same(target, tmp_path):
    slim.slim(target, tmp_path / "again")
    for file in sorted(target.rglob("*.safetensors")):
        assert file.read_bytes() == (tmp_path / "again" / file.relative_to(target)).read_bytes(), (
            file.name
        )


def test_interrupted_work_goes_on(source, target):
    shutil.rmtree(folder_of(target, "rounding"))
    kept = {file: file.stat().st_mtime_ns for file in target.rglob("*") if file.is_file()}
    slim.slim(source, target)
    assert folder_of(target, "rounding").is_dir()
    assert all(file.stat().st_mtime_ns == time for file, time in kept.items())


def test_extremes_that_lose_more_than_they_may_stop_it(source, tmp_path, monkeypatch):
    monkeypatch.setattr(extremes, "INPUT_BITS", 6)
    with pytest.raises(ValueError, match=r"extremes of channels differ"):
        slim.slim(source, tmp_path / "target")
    assert not list((tmp_path / "target").glob("*-*"))


def test_arrays_that_change_stop_it(source, tmp_path, monkeypatch):
    true = slim.save_arrays
    monkeypatch.setattr(
        slim,
        "save_arrays",
        lambda file, name, plain, arrays: true(
            file,
            name,
            plain,
            {key: x ^ 1 if key.startswith("codes") else x for key, x in arrays.items()},
        ),
    )
    with pytest.raises(ValueError, match=r"rounding.safetensors differs"):
        slim.slim(source, tmp_path / "target")


def test_ranges_without_their_capture_and_damaged_folders_are_one_line(
    source, tmp_path, monkeypatch, capsys
):
    alone = tmp_path / "alone"
    walked = folder_of(source, "progressive")
    shutil.copytree(walked, alone / walked.name)

    def run(*words):
        monkeypatch.setattr("sys.argv", ["slim", *map(str, words)])
        return slim.main(), capsys.readouterr().err

    code, said = run(alone, tmp_path / "target")
    assert code == 1 and "its capture is not there" in said and said.count("\n") == 1
    learned = folder_of(source, "rounding").name
    (tmp_path / "cut" / learned).mkdir(parents=True)
    (tmp_path / "cut" / learned / "rounding.safetensors").write_bytes(b"no")
    code, said = run(tmp_path / "cut", tmp_path / "target")
    assert code == 1 and said.count("\n") == 1
    assert run(tmp_path / "nowhere", tmp_path / "target")[0] == 1


def test_the_table_counts_the_bytes_of_each_kind(source, target, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["slim", str(source), str(target)])
    assert slim.main() == 0
    said = capsys.readouterr().out
    for place, column in ((source, 1), (target, 2)):
        rows = {
            line.split()[0]: line.replace(",", "").split()[-2:] for line in said.splitlines()[1:]
        }
        total = sum(file.stat().st_size for file in place.rglob("*") if file.is_file())
        assert int(rows["all"][column - 1]) == total
    assert {"captures", "progressive", "rounding", "bench"} <= set(rows)


@pytest.mark.parametrize(
    ("a", "b", "equal"),
    [
        (np.float32([np.nan]), np.float32([np.nan]), True),
        (np.float32([0.0]), np.float32([-0.0]), False),
        (np.int8([1]), np.int16([1]), False),
        ((1, [np.zeros(2)]), (1, [np.zeros(2)]), True),
        ({"a": 1.0}, {"a": 2.0}, False),
        (float("nan"), float("nan"), True),
        (Recipe(), dataclasses.replace(Recipe(), name="x"), False),
    ],
)
def test_same_means_all_bits(a, b, equal):
    assert slim.same(a, b) == equal
