"""The handlers of the Benchmark tab, called as functions: what is shown, generated, stopped, gone on
with.
"""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from dmq import jsonio
from dmq.errors import DmqError
from dmq.evaluation import benchmark as bench_stage
from dmq.evaluation import engines, rank_inversions
from dmq.progress import run_to_end
from dmq.recipe import Benchmark, Domain, Weights
from dmq.results import FLOOR_NAME, BenchImage, BenchReport, BenchRow, Coverage, Figure
from dmq.store import benchmarks as kept
from pages.benchmark import handlers as benchmark
from pages.benchmark import new_benchmark as benching
from tests.tiny import tiny_clip


@pytest.fixture(scope="module")
def asked(recipe, tmp_path_factory):
    feature_extractor = tiny_clip(tmp_path_factory.mktemp("feature_extractor"))
    domains = (
        Domain(name="in", prompts=tuple("abcdefgh")),
        Domain(name="out", prompts=tuple("stuvwxyz")),
    )
    return Benchmark(
        domains=domains, seeds=(0, 1), sampling=recipe.sampling, features=str(feature_extractor)
    )


@pytest.fixture(scope="module")
def recipes(recipe):
    return tuple(
        dataclasses.replace(recipe, name=f"w{bits}", weights=Weights(bits=bits)) for bits in (8, 3)
    )


@pytest.fixture(scope="module")
def finished(asked, recipes):
    run_to_end(bench_stage.run_benchmark(asked, recipes, name="tiny bench"))
    return "tiny bench"


@pytest.fixture
def text(recipe):
    return jsonio.dumps(recipe)


def last(answers):
    whole = {}
    for answer in answers:
        whole |= answer
    return whole


def test_the_tab_opens_on_the_benchmark_of_the_model(text, finished):
    shown = benchmark.show(text, None, None, None, None)
    assert shown["run"]["value"] == finished and finished in shown["run"]["choices"]
    assert shown["domain"]["choices"] == ["in", "out"] and shown["measure"]["value"] == "psnr"
    report = kept.load_report(finished)
    for name in ("float", FLOOR_NAME, "w8", "w3"):
        assert name in shown["table"]
    for name in ("w8", "w3"):
        assert (
            report.coverage[name].quantized in shown["table"]
            and f"{report.bytes[name] / 1e6:.2f}" in shown["table"]
        )
    assert "seeds 0, 1, noise floor with seeds 2, 3; in (8 prompts)" in shown["context"]
    assert (
        len(shown["gallery"]) == 24
        and "dB" not in shown["gallery"][0][1]
        and "PSNR" in shown["gallery"][0][1]
    )
    psnr = [float(caption.split("PSNR ")[1].split(",")[0]) for _, caption in shown["gallery"]]
    assert psnr == sorted(psnr), "the worst first"
    height, width, _ = shown["gallery"][0][0].shape
    assert width == 2 * height + height // 16
    assert Path(shown["csv"]).read_text("utf-8") == kept.as_csv(report)
    assert finished in Path(shown["page"]).read_text("utf-8")


def test_figures_have_intervals_floors_and_every_recipe(text, finished):
    shown = benchmark.change_view(finished, [], "out", "ssim")
    report = kept.load_report(finished)
    for key, across in (
        ("bytes", lambda row: report.bytes[row.recipe] / 1e6),
        ("seconds", lambda r: r.seconds / 16),
    ):
        traces = {trace.name: trace for trace in shown[key].data}
        assert traces.keys() == {"w8", "w3"}
        for name, trace in traces.items():
            row = report.row(name, "out")
            figure = row.figures["ssim"]
            assert (trace.x[0], trace.y[0]) == (pytest.approx(across(row)), figure.value)
            assert trace.error_y.array[0] == pytest.approx(figure.high - figure.value)
            assert trace.error_y.arrayminus[0] == pytest.approx(figure.value - figure.low)
        (line,) = shown[key].layout.shapes
        assert line.y0 == report.floor("out", "ssim")


def test_a_model_without_a_benchmark_says_what_to_do(text, recipe):
    other = jsonio.dumps(dataclasses.replace(recipe, model="emoji-none"))
    with pytest.raises(DmqError):
        benchmark.show(other, None, None, None, None)
    assert (
        "open **A new benchmark**"
        in benchmark.open_benchmark(None, [], None, None)["empty"]["value"]
    )


def test_what_differs_is_not_shown_beside_it(finished, asked, recipes):
    other = dataclasses.replace(asked, seeds=(5, 6), measures=("psnr",))
    run_to_end(bench_stage.run_benchmark(other, recipes[:1], name="other seeds"))
    with pytest.raises(DmqError, match="tiny bench has seeds 0, 1, other seeds has seeds 5, 6"):
        benchmark.open_benchmark(finished, ["other seeds"], None, None)


def test_a_benchmark_is_stopped_and_gone_on_with(asked, recipes, text):
    one = dataclasses.replace(
        asked, measures=("psnr", "latent"), domains=asked.domains[:1], seeds=(0,), batch=4
    )
    work = benching.run(one, recipes, "halfway")
    first = next(work)
    assert "32 images" in first["estimate"] and first["stop"]["visible"]
    tables = []
    for answer in work:
        tables += [answer["rows"]] if "rows" in answer else []
        if len(tables) == 2 and "last" in answer:
            break
    work.close()
    after = benching.JOB.show_stopped()
    assert (
        after["unfinished"]["value"] == "halfway"
        and after["resume"]["visible"]
        and not after["stop"]["visible"]
    )
    assert "w8" not in tables[-1] and FLOOR_NAME in tables[-1]
    left = next(benching.resume("halfway"))["estimate"]
    assert "32 images" not in left
    end = last(benching.resume("halfway"))
    assert end["done"] == "halfway" and "w3" in end["rows"] and kept.list_unfinished() == []
    assert (
        end["live"]["visible"] is False and end["start"]["visible"] and not end["resume"]["visible"]
    )
    whole = kept.load_report("halfway")
    straight = run_to_end(bench_stage.run_benchmark(one, recipes, name="straight"))
    assert repr([row.figures for row in whole.rows]) == repr([row.figures for row in straight.rows])
    with pytest.raises(DmqError, match="no interrupted benchmark"):
        next(benching.resume("halfway"))


def test_images_that_are_no_numbers_are_counted_and_named(asked, recipes, monkeypatch):
    def broken(recipe):
        made = real(recipe)
        made.register_forward_hook(
            lambda module, given, answer: (answer[0] * float("nan"), *answer[1:])
        )
        return made

    real = bench_stage.get_model
    few = dataclasses.replace(
        asked, domains=asked.domains[:1], seeds=(0,), measures=("psnr", "latent"), batch=4
    )
    work = benching.run(few, recipes[:1], "broken")
    for answer in work:
        if FLOOR_NAME in answer.get("rows", ""):
            monkeypatch.setattr(bench_stage, "get_model", broken)
    shown = benchmark.open_benchmark("broken", [], None, None)
    assert "<small>8 not finite</small>" in shown["table"]
    assert (
        shown["notes"]["visible"]
        and "w8, in: 8 of 8 images are not finite numbers" in shown["notes"]["value"]
    )
    assert [caption.split(" · ")[-1] for _, caption in shown["gallery"]] == ["not finite"] * 8
    assert shown["bytes"] is shown["seconds"] is None, "there is no measure to generate"
    assert "w8" in Path(shown["page"]).read_text("utf-8")


def test_what_cannot_be_drawn_is_refused_at_the_start_and_leaves_nothing(text, tmp_path):
    before = kept.list_unfinished()
    with pytest.raises(DmqError, match="names: FID needs at least 16 images, got 3"):
        last(benching.start(text, ["names"], None, 3, 1, []))
    (tmp_path / "long.txt").write_text("\n".join(f"p{n}" for n in range(100_000)))
    with pytest.raises(DmqError, match="100,000 lines; at most 10,000"):
        last(benching.start(text, [], str(tmp_path / "long.txt"), 16, 1, []))
    assert kept.list_unfinished() == before


def test_a_recipe_of_another_engine_is_another_recipe(asked, recipes, text):
    few = dataclasses.replace(
        asked, domains=asked.domains[:1], seeds=(0,), measures=("psnr", "latent"), batch=4
    )
    both = engines.with_engines(recipes[:1], "both")
    last(benching.run(few, both[:1], "engines"))
    drawn = last(benching.run(few, both, "engines"))
    report = kept.load_report("engines")
    assert list(report.coverage) == ["w8", "w8, executed"] and "oneDNN" in drawn["rows"]
    assert report.row("w8", "in").seconds != report.row("w8, executed", "in").seconds > 0
    with pytest.raises(DmqError):
        last(benching.run(few, (dataclasses.replace(both[1], name="w8"),), "engines"))
    assert benching.parse_form(text, ["names"], None, 16, 1, [], "both")[1][1].engine == "executed"


def test_the_form_is_checked_and_says_how_long_it_takes(text, tmp_path):
    benchmark_, recipes = benching.parse_form(text, ["names", "compositions"], None, 4, 2, [])
    assert [len(domain.prompts) for domain in benchmark_.domains] == [
        2,
        2,
    ] and benchmark_.seeds == (0, 1)
    assert [recipe.name for recipe in recipes] == ["tiny"]
    said = last(benching.estimate(text, ["names"], None, 4, 1, []))["estimate"]
    assert "Cannot be estimated: names: FID needs at least 16 images, got 4" in said
    said = last(benching.estimate(text, ["names"], None, 16, 1, []))["estimate"]
    assert "48 images" in said and "on this machine" in said
    file = tmp_path / "mine.txt"
    file.write_bytes(b"\xff\xfe\xff")
    with pytest.raises(DmqError, match="is no UTF-8 text"):
        benching.parse_form(text, [], str(file), 4, 2, [])
    for wrong in ((0, 1), (4, 0.5), (None, 1), (4, 10**9)):
        with pytest.raises(DmqError, match="must be a whole number from 1"):
            benching.parse_form(text, ["names"], None, *wrong, [])
    with pytest.raises(DmqError, match="choose at least one list"):
        benching.parse_form(text, [], None, 4, 2, [])


def table_with(*rows):
    """A report of (name, FID to float, its half interval, FID to real, PSNR)."""

    def figure(value, half=0.1):
        return Figure(value=value, low=value - half, high=value + half)

    made = [
        BenchRow(
            recipe="float",
            domain="in",
            samples=20,
            failed=0,
            seconds=1.0,
            figures={"real fid": figure(5.0)},
        )
    ]
    for name, fid, half, real, psnr in rows:
        figures = {"fid": figure(fid, half), "real fid": figure(real), "psnr": figure(psnr)}
        made.append(
            BenchRow(recipe=name, domain="in", samples=20, failed=0, seconds=1.0, figures=figures)
        )
    names = [row[0] for row in rows]
    return BenchReport(
        model="m",
        sampler="s",
        features="f",
        reference="20 images",
        machine="x",
        rows=tuple(made),
        images=(),
        benchmark=Benchmark(domains=(Domain(name="in", prompts=("a",)),)),
        bytes=dict.fromkeys(["float", *names], 1),
        coverage=dict.fromkeys(names, Coverage(quantized="")),
    )


def test_inversions_are_found_in_any_table_and_only_where_they_are():
    found = rank_inversions.find_inversions(
        table_with(("mild", 1.0, 0.1, 5.5, 30.0), ("pale", 3.0, 0.1, 4.0, 20.0))
    )
    assert [(one.damaged, one.better, one.sure) for one in found] == [
        ("pale", "float", True),
        ("pale", "mild", True),
    ]
    assert "by FID to real images pale is better than float" in str(found[0])
    assert "PSNR 20.0 dB against 30.0 dB" in str(found[1]) and "n = 20" in str(found[1])
    assert (
        rank_inversions.find_inversions(
            table_with(("mild", 1.0, 0.1, 5.5, 30.0), ("bad", 3.0, 0.1, 6.0, 20.0))
        )
        == []
    )
    unsure = table_with(("mild", 1.0, 2.0, 5.5, 30.0), ("pale", 1.5, 2.0, 5.1, 20.0))
    assert rank_inversions.find_inversions(unsure) == [], "the distances to float may be equal"
    better = table_with(("mild", 1.0, 0.1, 5.5, 30.0), ("sharp", 3.0, 0.1, 5.2, 31.0))
    assert rank_inversions.find_inversions(better) == [], "closer by PSNR is not more damaged"
    equal = table_with(("mild", 1.0, 0.1, 5.501, 30.0), ("pale", 3.0, 0.1, 5.499, 20.0))
    assert rank_inversions.find_inversions(equal) == [], "both are 5.5"
    close = rank_inversions.find_inversions(
        table_with(("mild", 1.0, 0.1, 5.9, 30.0), ("pale", 3.0, 0.1, 5.85, 20.0))
    )
    assert [(one.damaged, one.better, one.sure) for one in close] == [("pale", "mild", False)]
    assert "intervals overlap" in str(close[0])


def test_images_of_the_same_noise_decide_where_intervals_overlap():
    """Distances whose intervals overlap, and PSNR by image: surely lower, or now lower and now
    higher.
    """
    table = table_with(("mild", 1.0, 2.0, 5.5, 30.0), ("pale", 1.5, 2.0, 5.1, 28.0))

    def drawn(lost):
        return dataclasses.replace(table, images=images_with(lost))

    (one,) = rank_inversions.find_inversions(drawn(np.linspace(1.5, 2.5, 20)))
    assert (one.damaged, one.better, one.sure, one.apart) == ("pale", "mild", True, False)
    low, high = one.lost
    assert -2.5 < low < -2 < high < -1.5
    assert (
        "it is worse (1.5 against 1, intervals overlap, PSNR 28.0 dB against 30.0 dB, image by"
        in str(one)
    )
    assert rank_inversions.find_inversions(drawn(np.resize([22.0, -18.0], 20))) == []
    assert "may mislead" in benchmark.format_findings(drawn(np.full(20, 2.0)))


def images_with(lost):
    """Twenty images of "mild", and of "pale" with `lost` dB less; the last one is no number."""
    values = {"mild": np.linspace(10, 50, 20), "pale": np.linspace(10, 50, 20) - lost}
    made = [
        BenchImage(
            recipe=name,
            domain="in",
            number=n,
            prompt="a",
            seed=n,
            finite=True,
            values={"psnr": value},
        )
        for name, own in values.items()
        for n, value in enumerate(own)
    ]
    return *made, BenchImage(
        recipe="pale", domain="in", number=20, prompt="a", seed=20, finite=False, values={}
    )


def test_the_float_model_is_never_the_damaged_one():
    """An unbiased distance between images of the same noise is below the float model's own,
    which is set to 0.
    """
    table = table_with(("mild", -3.0, 0.1, 5.5, 30.0))
    rows = [
        dataclasses.replace(
            row, figures={k.replace("fid", "kid"): figure for k, figure in row.figures.items()}
        )
        for row in table.rows
    ]
    assert rank_inversions.find_inversions(dataclasses.replace(table, rows=tuple(rows))) == []


def test_the_finding_is_computed_from_the_table():
    shown = benchmark.format_findings(
        table_with(("mild", 1.0, 0.1, 5.5, 30.0), ("pale<", 3.0, 0.1, 4.0, 20.0))
    )
    assert "would mislead" in shown and "pale&lt;" in shown
    quiet = benchmark.format_findings(
        table_with(("mild", 1.0, 0.1, 5.5, 30.0), ("bad", 3.0, 0.1, 6.0, 20.0))
    )
    assert "no pair of models" in quiet and "mislead" not in quiet
