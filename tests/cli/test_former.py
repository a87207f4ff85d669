"""`dmq calibrate | windows | overtime | probe`, on a tiny pipeline."""

import csv
import dataclasses
import io
import re

import numpy as np
import pytest
from PIL import Image

from dmq import cli, jsonio
from dmq.artifacts.model_info import for_model
from dmq.evaluation import error_curves, probe, range_change
from dmq.models.tiny import tiny_ddpm
from dmq.progress import run_to_end
from dmq.recipe import (
    Activations,
    Comparison,
    MinMax,
    PerStep,
    Probe,
    Progressive,
    Relaxing,
    SharedRange,
    Weights,
)
from dmq.store import contact_sheets
from dmq.workflow.answers import (
    get_plan,
    get_ranges,
    get_relaxed_steps,
    get_window_effects,
    has_ranges,
)
from dmq.workflow.learning import calibrate_ranges
from tests.tiny import captured_recipe, runs_in


STEPS = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    with runs_in(tmp_path_factory.mktemp("commands")) as made:
        yield made


@pytest.fixture(scope="module")
def recipe(folder):
    made = captured_recipe(folder, steps=STEPS)
    return dataclasses.replace(
        made,
        weights=Weights(range=MinMax()),
        activations=Activations(bits=5, range=MinMax()),
        grouping=PerStep(),
    )


@pytest.fixture
def said(folder, capsys):
    """`said(words, recipe, ...)` is what the command prints, with recipes as files; it must end
    well.
    """

    def run(*words):
        assert cli.main(files(folder, words)) == 0
        return capsys.readouterr().out.splitlines()

    return run


@pytest.fixture
def refused(folder, capsys):
    """The one line of error of a command that must be refused."""

    def run(*words):
        assert cli.main(files(folder, words)) == 1
        seen = capsys.readouterr()
        (line,) = seen.err.replace("\r", "").strip().splitlines()
        assert not seen.out and line.startswith("dmq: ")
        return line

    return run


def files(folder, words):
    """The words with recipes written to files."""
    made = []
    for word in words:
        if not isinstance(word, str):
            file = folder / f"{word.name}.json"
            file.write_text(jsonio.dumps(word), "utf-8")
            word = str(file)
        made.append(word)
    return made


def columns(lines, head):
    """The rows under the table whose head begins with `head`, split at two or more spaces."""
    start = next(n for n, line in enumerate(lines) if line.startswith(head))
    return [re.split(r"\s{2,}", line.strip()) for line in lines[start + 1 :]]


def test_ranges_are_set_and_the_widest_changes_named(recipe, said):
    wanted = dataclasses.replace(recipe, name="walked", progressive=Progressive())
    lines = said("calibrate", wanted)
    assert has_ranges(wanted)
    assert f"2 images, {STEPS} denoiser calls, in " in lines[0] and lines[0].endswith(" s")
    change = range_change.compare_ranges(wanted)
    most = np.abs(change.wider).max(1)
    rows = columns(lines, "moved most")
    assert [row[0] for row in rows] == [
        change.sites[s].label for s in np.argsort(-most, kind="stable")[:8]
    ]
    for site, step, wider, *ends in rows:
        s, i = [one.label for one in change.sites].index(site), int(step)
        assert abs(float(wider.split()[0])) == pytest.approx(100 * most[s], abs=6e-3)
        wanted_ends = (change.float_low, change.float_high, change.low, change.high)
        assert [float(x) for x in ends] == pytest.approx(
            [float(x[s, i]) for x in wanted_ends], rel=1e-3
        )
    assert not any("some range serves" in line for line in lines)
    again = said("calibrate", wanted)
    assert again[0].endswith("in an earlier run") and again[1:] == lines[1:]
    assert said("calibrate", wanted, "--again")[0].endswith(" s")


def test_a_range_that_grew_after_its_use_is_noted(recipe, said):
    shared = dataclasses.replace(
        recipe, name="shared", progressive=Progressive(), grouping=SharedRange()
    )
    change = run_to_end(calibrate_ranges(shared)) and get_ranges(shared).widest_change
    assert change > 0 and f"grew by up to {100 * change:.2f} %" in said("calibrate", shared)[-1]


def test_windows_print_both_curves_and_what_each_judge_would_choose(recipe, said):
    wanted = dataclasses.replace(
        recipe, name="relaxed", relaxing=Relaxing(fraction=0.5, windows=2, images=2)
    )
    lines = said("windows", wanted)
    effects = get_window_effects(wanted)
    table = columns(lines, "unrounded")[:2]
    assert [row[0] for row in table] == ["0 to 1", "2 to 3"]
    for row, less, more in zip(
        table, effects.gains("fidelity"), effects.gains("text"), strict=True
    ):
        assert float(row[2].split()[0]) == pytest.approx(less, rel=1e-3)
        assert float(row[4]) == pytest.approx(more, abs=1e-4)
    ways = columns(lines, "more bits for")
    assert [row[0] for row in ways] == [
        "this recipe",
        "noisy end (first)",
        "clean end (last)",
        "measured (auto), fidelity",
        "measured (auto), text",
    ]
    for judge, row in zip(("fidelity", "text"), ways[3:], strict=True):
        auto = dataclasses.replace(wanted.relaxing, where="auto", judge=judge)
        first, *_, last = get_relaxed_steps(dataclasses.replace(wanted, relaxing=auto))
        assert row[1] == f"{first}-{last}"
    assert {row[2] for row in ways} == {"7.5"}


def test_errors_along_the_steps_as_table_and_csv(recipe, said, folder):
    high = dataclasses.replace(
        recipe, name="high", activations=Activations(bits=16, range=MinMax())
    )
    low = dataclasses.replace(recipe, name="low")
    out = folder / "steps.csv"
    lines = said("overtime", low, high, "--prompt", "a", "--prompt", "b", "--csv", str(out))
    comparison = Comparison(prompts=("a", "b"), sampling=recipe.sampling)
    found = error_curves.find_error_curves(comparison, (low, high))
    rows = columns(lines, "recipe")
    assert [row[0] for row in rows] == ["low", "high"]
    for name, finished, isolated, bits, size in rows:
        assert float(finished) == pytest.approx(found.accumulated[name][-1].mean(), rel=1e-4)
        assert float(isolated) == pytest.approx(found.isolated[name].mean(), rel=1e-4)
        made = low if name == "low" else high
        assert (float(bits), size) == ({"low": 5, "high": 16}[name], f"{get_plan(made).bytes:,}")
    table = list(csv.DictReader(io.StringIO(out.read_text("utf-8"))))
    assert [(row["recipe"], int(row["step"])) for row in table] == [
        (n, i) for n in ("low", "high") for i in range(4)
    ]
    for row in table:
        own = found.accumulated[row["recipe"]][int(row["step"])]
        assert [float(row[f"accumulated{end}"]) for end in ("", "_least", "_most")] == [
            own.mean(),
            *sorted(own),
        ]
        c, alone = (
            found.coefficients[int(row["step"])],
            found.isolated[row["recipe"]][int(row["step"])],
        )
        assert float(row["isolated_weighed"]) == pytest.approx(c * c * alone)
        assert (row["images"], row["seeds"], row["prompts"]) == ("2", "0", "a | b")


def test_a_probe_is_printed_and_drawn(recipe, said, folder):
    out = folder / "probe.png"
    out.write_bytes(b"old")
    lines = said(
        "probe",
        recipe,
        "--first",
        "1",
        "--last",
        "2",
        "--gains",
        "2",
        "0",
        "--prompt",
        "a",
        "--out",
        str(out),
    )
    images = probe.find_probe(recipe, Probe(first=1, last=2, gains=(2.0, 0.0), prompt="a"))
    rows = columns(lines, "steps")
    assert [row[:2] for row in rows] == [["1 to 2", "2"], ["1 to 2", "0"]] and rows[1][2] == "inf"
    assert float(rows[0][3]) == pytest.approx(images[0].error, rel=1e-3)
    drawn = np.asarray(Image.open(out))
    side = images[0].exact.shape[0]
    times = -(-contact_sheets.MIN_SIDE_PIXELS // side)
    shown = [images[0].exact, *(one.pixels for one in images)]
    for column, pixels in enumerate(shown):
        large = pixels.repeat(times, 0).repeat(times, 1)
        left = drawn.shape[1] - (3 - column) * (side * times + contact_sheets.GAP)
        top = drawn.shape[0] - side * times - contact_sheets.GAP
        assert np.array_equal(drawn[top : top + side * times, left : left + side * times], large)
    assert not list(folder.glob(".part-*"))


def test_windows_of_a_probe(recipe, said):
    rows = columns(said("probe", recipe, "--windows", "2", "--gains", "1"), "steps")
    assert [row[0] for row in rows] == ["0 to 1", "2 to 3"]


def test_a_model_without_prompts_is_asked_as_the_app_asks_it(recipe, said, refused, folder):
    tiny_ddpm().save_pretrained(folder / "tiny-ddpm", safe_serialization=True)
    made = for_model(recipe, str(folder / "tiny-ddpm"))
    plain = dataclasses.replace(
        made, name="none", sampling=dataclasses.replace(made.sampling, steps=2, guidance=0.0)
    )
    said("overtime", plain)
    assert error_curves.find_error_curves(
        Comparison(prompts=("unprompted",), sampling=plain.sampling), (plain,)
    )
    assert columns(said("probe", plain, "--windows", "1", "--gains", "1"), "steps")[0][4:] == [
        "–",
        "–",
    ]
    judged = dataclasses.replace(
        plain, relaxing=Relaxing(where="auto", judge="text", windows=2, images=1)
    )
    assert "this model generates without prompts" in refused("windows", judged)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["calibrate", "PLAIN"], "set the recipe's progressive to Progressive"),
        (["calibrate", "nothing"], "no recipe called 'nothing'"),
        (["windows", "nowhere.json"], "nowhere.json"),
        (["overtime", "PLAIN", "W8A8, one range"], "recipes of different models"),
        (["overtime", "PLAIN", "PLAIN"], "every recipe needs a name of its own"),
        (["overtime", "PLAIN", "--seed", "-1"], "seeds"),
        (["overtime", "PLAIN", "--csv", "no/such/folder.csv"], "cannot be written"),
        (["probe", "PLAIN", "--windows", "5"], "5 windows of 4 steps"),
        (["probe", "PLAIN", "--windows", "0"], "windows is 0"),
        (["probe", "PLAIN", "--first", "2", "--last", "4"], "does not lie within 0 to 3"),
        (["probe", "PLAIN", "--first", "2"], "both its first and its last step"),
        (["probe", "PLAIN", "--windows", "2", "--first", "0", "--last", "1"], "give either"),
        (["probe", "PLAIN", "--gains", "-1"], "gains must be"),
        (["probe", "PLAIN", "--prompt", ""], "prompt"),
        (["probe", "PLAIN", "--out", "grid.jpg"], "ends with .png"),
        (["probe", "PLAIN", "--out", "no/such/grid.png"], "there is no folder"),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, list) else "",
)
def test_bad_input_is_one_line(recipe, refused, words, why, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = {
        "PLAIN": recipe,
        "AUTO": dataclasses.replace(
            recipe,
            name="auto",
            progressive=Progressive(),
            relaxing=Relaxing(where="auto", windows=3),
        ),
    }
    assert why in refused(*(own.get(word, word) for word in words))
