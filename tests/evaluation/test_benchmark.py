"""Benchmarks on tiny real pipelines with a tiny real CLIP: interrupted and resumed, floors,
failures, refusals.
"""

import dataclasses
import json
import re

import numpy as np
import pandas as pd
import pytest

from dmq import cli, jsonio
from dmq.capture.activations import PROMPTS
from dmq.errors import DmqError
from dmq.evaluation import benchmark as bench_stage
from dmq.evaluation import benchmark_estimate, joined_benchmarks
from dmq.figures import bench_report, bench_table
from dmq.metrics import paired, pixel, sets
from dmq.metrics import references as reference
from dmq.models.tiny import tiny_ddpm
from dmq.progress import GeneratedImage, Progress, run_to_end
from dmq.recipe import Benchmark, Calibration, Domain, Recipe, Sampling, Weights
from dmq.results import FLOOR_NAME, BenchReport
from dmq.store import benchmarks as kept
from dmq.store import folders
from dmq.store.prompts import UNCONDITIONAL, read_prompts, shipped_domains
from dmq.workflow.answers import get_plan
from tests.tiny import captured_recipe, runs_in, tiny_clip


MODELS = ("float", FLOOR_NAME, "six", "two")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    with runs_in(tmp_path_factory.mktemp("bench")) as made:
        yield made


@pytest.fixture(scope="module")
def recipes(folder):
    """Six bits, and two: the second breaks the model."""
    tiny_clip(folder / "feature_extractor")
    made = captured_recipe(folder, steps=2)
    return (
        dataclasses.replace(made, name="six", weights=Weights(bits=6)),
        dataclasses.replace(made, name="two", weights=Weights(bits=2)),
    )


@pytest.fixture(scope="module")
def wanted(folder, recipes):
    """Two domains of sixteen images, in batches that do not fill up."""
    domains = (
        Domain(name="in", prompts=tuple("abcdefgh")),
        Domain(name="out", prompts=tuple("stuvwxyz")),
    )
    return Benchmark(
        domains=domains,
        seeds=(0, 3),
        sampling=recipes[0].sampling,
        features=str(folder / "feature_extractor"),
        batch=6,
    )


@pytest.fixture(scope="module")
def report(wanted, recipes):
    return run_to_end(bench_stage.run_benchmark(wanted, recipes, name="whole"))


def same(one, other):
    """All that two reports say but the seconds."""

    def plain(report):
        rows = tuple(dataclasses.replace(row, seconds=0.0) for row in report.rows)
        return repr(dataclasses.replace(report, rows=rows))  # nan is not equal to itself

    return plain(one) == plain(other)


def test_an_interrupted_benchmark_ends_like_one_that_was_not(report, wanted, recipes):
    assert kept.list_unfinished() == []
    drawn, interruptions = 0, 0
    while True:
        work, batches = bench_stage.run_benchmark(wanted, recipes, name="stopped"), 0
        try:
            while True:
                seen = next(work)
                if isinstance(seen, GeneratedImage):
                    drawn += 1
                    batches += seen.index % 6 == 5
                if (
                    isinstance(seen, Progress)
                    and seen.stage.startswith("Generate")
                    and batches == 3
                ):
                    break  # in the middle of a batch, which is lost
        except StopIteration as end:
            resumed = end.value
            break
        work.close()
        interruptions += 1
        assert kept.list_unfinished() == ["stopped"]
        with pytest.raises(DmqError, match="interrupted"):
            kept.load_report("stopped")
    assert interruptions > 3 and drawn == len(MODELS) * wanted.images, "no image was kept twice"
    assert same(resumed, report) and kept.list_unfinished() == []
    for who in range(len(MODELS)):
        for number in range(6):
            a, b = (
                kept.load_batch(kept.folder_of(name), who, number) for name in ("whole", "stopped")
            )
            assert np.array_equal(a.latents, b.latents) and np.array_equal(a.images, b.images)
    assert not [
        seen
        for seen in bench_stage.run_benchmark(wanted, recipes, name="stopped")
        if isinstance(seen, GeneratedImage)
    ]


@pytest.mark.parametrize("stopped", [False, True], ids=["finished", "interrupted"])
def test_recipes_are_added_behind_those_that_a_benchmark_has(stopped, report, wanted, recipes):
    """Equal to all at once; what is there is neither generated nor measured again."""
    name = f"grown {stopped}"
    work = bench_stage.run_benchmark(wanted, recipes[:1], name=name)
    for seen in work:
        if (
            stopped
            and isinstance(seen, GeneratedImage)
            and (seen.recipe, seen.index) == ("six", 11)
        ):
            work.close()
    place = kept.folder_of(name)
    there = {
        file: file.stat().st_mtime_ns
        for part in ("pictures", "rows")
        for file in (place / part).rglob("*.*")
    }
    assert kept.list_unfinished() == [name] * stopped
    left = benchmark_estimate.estimate_benchmark(wanted, recipes, name=name)
    drawn = []
    for seen in (work := bench_stage.run_benchmark(wanted, recipes, name=name)):
        drawn += [seen] if isinstance(seen, GeneratedImage) else []
        if len(drawn) == 1:
            assert kept.list_unfinished() == [name]
            assert stopped or kept.load_report(name).recipes == MODELS[:3], (
                "until the new one is done"
            )
    assert {seen.recipe for seen in drawn} == ({"six", "two"} if stopped else {"two"}) and len(
        drawn
    ) == left.images
    assert same(kept.load_report(name), report) and kept.list_unfinished() == []
    assert kept.load_worst(name).keys() == kept.load_worst("whole").keys()
    assert there == {file: file.stat().st_mtime_ns for file in there}


def test_recipes_are_added_to_nothing_that_ships_or_has_other_weights(
    report, wanted, recipes, folder, monkeypatch
):
    third = dataclasses.replace(recipes[0], name="three")
    monkeypatch.setattr(folders, "ASSETS", folder / "assets")
    place = folder / "assets" / "runs" / "bench-whole"
    for pattern in ("*.json", "pictures.parquet"):
        for file in kept.folder_of("whole").glob(pattern):
            place.mkdir(parents=True, exist_ok=True)
            (place / file.name).write_bytes(file.read_bytes())
    with monkeypatch.context() as patch:
        patch.setenv("DMQ_RUNS", str(folder / "elsewhere"))
        assert kept.list_finished() == ["whole"] and same(kept.load_report("whole"), report)
        with pytest.raises(DmqError, match="'whole' ships without most of its images"):
            kept.begin("whole", wanted, (*recipes, third), {})
    with pytest.raises(
        DmqError, match=r"'whole': weights was '[0-9a-f]+', now it is 'other'; give another name"
    ):
        kept.begin("whole", wanted, (*recipes, third), {"weights": "other"})
    assert kept.load_recipes("whole") == recipes and kept.list_unfinished() == []


def test_figures_are_those_of_the_images_in_the_folder(report, wanted):
    """From the files alone: numbered, in the manifest, without a prompt in any name."""
    place = kept.folder_of("whole")
    manifest = json.loads((place / "manifest.json").read_text())["pictures"]
    assert [(job["domain"], job["prompt"], job["seed"]) for job in manifest] == kept.jobs_of(wanted)
    assert len(manifest) == wanted.images == 32
    names = [
        file.name
        for who in range(4)
        for file in sorted((place / "pictures" / str(who)).rglob("*.png"))
    ]
    assert names == [f"{n:05d}.png" for n in range(32)] * 4
    every = [[kept.load_batch(place, who, n) for n in range(6)] for who in range(4)]
    images = [[p for batch in batches for p in batch.images] for batches in every]
    latents = [np.concatenate([batch.latents for batch in batches]) for batches in every]
    feature_extractor = reference.load_feature_extractor(wanted.features)
    features = [feature_extractor.features(own) for own in images]
    for who, name in enumerate(MODELS):
        for d, domain in enumerate(("in", "out")):
            row, own = report.row(name, domain), slice(16 * d, 16 * d + 16)
            assert (row.samples, row.failed) == (16, 0) and row.seconds > 0
            prompts = [job["prompt"] for job in manifest[own]]
            match = np.maximum(feature_extractor.match(images[who][own], prompts), 0)
            assert row.figures["clip"].value == pytest.approx(match.mean(), abs=1e-4)
            if who == 0:
                assert row.figures.keys() == {"clip"}
                continue
            pairs = list(zip(images[who][own], images[0][own], strict=True))
            expected = {
                "psnr": np.mean([pixel.psnr(a, b) for a, b in pairs]),
                "ssim": np.mean([pixel.ssim(a, b) for a, b in pairs]),
                "latent": paired.relative_error(latents[who][own], latents[0][own]).mean(),
                "distance": paired.feature_distance(features[who][own], features[0][own]).mean(),
                "fid": sets.fid(features[who][own], features[0][own]),
                "kid": 1000 * sets.kid(features[who][own], features[0][own]),
                "cmmd": sets.cmmd(features[who][own], features[0][own]),
            }
            for key, value in expected.items():
                figure = row.figures[key]
                assert figure.value == pytest.approx(value, rel=1e-3, abs=1e-6), (name, key)
                assert figure.low <= figure.value <= figure.high
    assert report.floor("in", "psnr") == report.row(FLOOR_NAME, "in").figures["psnr"].value


def test_the_noise_floor_has_other_seeds_and_the_same_prompts(wanted, report):
    assert wanted.floor_seeds == (4, 5) and not set(wanted.floor_seeds) & set(wanted.seeds)
    psnr = {name: report.row(name, "in").figures["psnr"].value for name in MODELS[1:]}
    assert psnr["six"] > psnr["two"] and psnr["six"] > psnr[FLOOR_NAME]
    swapped = dataclasses.replace(
        wanted, seeds=(4, 5), measures=("psnr",), domains=wanted.domains[:1]
    )
    work = bench_stage.run_benchmark(
        swapped, (dataclasses.replace(kept.load_recipes("whole")[0], name="x"),), name="swapped"
    )
    floats = [
        seen.pixels for seen in work if isinstance(seen, GeneratedImage) and seen.recipe == "float"
    ]
    own = [kept.load_batch(kept.folder_of("whole"), 1, n).images for n in range(3)]
    assert np.array_equal(np.concatenate(own), floats)


def test_every_report_has_its_context(report, recipes):
    assert (
        report.coverage.keys() == {"six", "two"}
        and report.bytes["two"] < report.bytes["six"] < report.bytes["float"]
    )
    assert report.bytes["six"] == get_plan(recipes[0]).bytes
    assert (
        report.sampler
        and report.machine
        and report.features.endswith("feature_extractor")
        and report.reference == ""
    )
    text = kept.as_csv(report)
    assert text.startswith(
        "measure,value,low,high,noise_floor,model,recipe,domain,images,not_finite,seconds,bytes"
    )
    assert len(text.splitlines()) == 1 + sum(len(row.figures) for row in report.rows)


def test_rows_come_when_a_model_is_done(wanted, recipes):
    few = dataclasses.replace(
        wanted, measures=("psnr", "latent"), domains=wanted.domains[:1], seeds=(1,)
    )
    seen = list(bench_stage.run_benchmark(few, recipes[:1], name="streamed"))
    rows = [(k, item.recipes[-1]) for k, item in enumerate(seen) if isinstance(item, BenchReport)]
    last = {item.recipe: k for k, item in enumerate(seen) if isinstance(item, GeneratedImage)}
    assert [name for _, name in rows] == ["float", FLOOR_NAME, "six"]
    assert all(k > last[name] for k, name in rows) and rows[0][0] < last[FLOOR_NAME]
    assert kept.load_report("streamed").features == "", "nothing needed features"


def test_images_that_are_no_numbers_are_counted_named_and_in_no_mean(
    wanted, recipes, report, monkeypatch
):
    """The quantized model answers nan in its second batch of the first domain."""
    calls = []

    def spoil(module, given, answer):
        calls.append(1)
        first = answer[0] * (float("nan") if 2 < len(calls) <= 4 else 1.0)
        return (first, *answer[1:]) if isinstance(answer, tuple) else type(answer)(first)

    def broken(recipe):
        made = real(recipe)
        made.register_forward_hook(spoil)
        return made

    real = bench_stage.get_model
    monkeypatch.setattr(bench_stage, "get_model", broken)
    found = run_to_end(bench_stage.run_benchmark(wanted, recipes[:1], name="broken"))
    row = found.row("six", "in")
    assert (row.samples, row.failed) == (10, 6) and found.row("six", "out").failed == 0
    assert any("six, in: 6 of 16 images are not finite" in line for line in found.warnings)
    assert any("six, in: FID needs at least 16 images, got 10" in line for line in found.warnings)
    assert "fid" not in row.figures and np.isfinite(row.figures["kid"].value)
    good = [
        p for p in report.images if (p.recipe, p.domain) == ("six", "in") and not 6 <= p.number < 12
    ]
    assert row.figures["psnr"].value == pytest.approx(np.mean([p.values["psnr"] for p in good]))
    bad = [p for p in found.images if p.recipe == "six" and not p.finite]
    assert [p.number for p in bad] == list(range(6, 12)) and not any(p.values for p in bad)
    assert [p.number for p in kept.worst(found)[:6]] == list(range(6, 12)), "and shown first"
    assert kept.load_worst("broken").keys() >= {("six", 6), ("float", 6)}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"seeds": (0, 1)}, r"has seeds 0, 3, .* has seeds 0, 1"),
        ({"sampling": Sampling(steps=2, guidance=3.0)}, r"guidance 2.* has .*guidance 3"),
        (
            {
                "domains": (
                    Domain(name="in", prompts=tuple("abcdefgi")),
                    Domain(name="out", prompts=tuple("stuvwxyz")),
                )
            },
            r"prompts in \(8\), out \(8\) of other texts",
        ),
        (
            {"domains": (Domain(name="else", prompts=tuple("abcdefgh")),)},
            r"prompts in \(8\).*prompts else \(8\)",
        ),
    ],
    ids=["seeds", "sampling", "texts", "domains"],
)
def test_what_differs_is_never_put_side_by_side(report, wanted, recipes, changes, says):
    accepting = tuple(dataclasses.replace(r, unknown_timestep="nearest") for r in recipes)
    other = dataclasses.replace(wanted, **changes)
    with pytest.raises(DmqError, match=says):
        run_to_end(bench_stage.run_benchmark(other, accepting, name="whole"))
    with pytest.raises(DmqError, match=says):
        kept.check_alike("one", wanted, "two", other)
    with pytest.raises(DmqError, match="is of six, two, asked now are six with"):
        run_to_end(bench_stage.run_benchmark(wanted, recipes[:1], name="whole"))


def test_benchmarks_of_the_same_images_are_joined(report, wanted, recipes):
    third = dataclasses.replace(recipes[0], name="three", weights=Weights(bits=3))
    run_to_end(bench_stage.run_benchmark(wanted, (third, recipes[0]), name="more"))
    both = joined_benchmarks.join_benchmarks(["whole", "more"])
    assert both.recipes == ("float", FLOOR_NAME, "six", "two", "three", "six · more")
    assert both.row("six", "in").figures == both.row("six · more", "in").figures
    assert both.bytes["three"] == get_plan(
        third
    ).bytes and both.coverage.keys() == both.bytes.keys() - set(MODELS[:2])
    other = dataclasses.replace(wanted, seeds=(7, 8), measures=("psnr",))
    run_to_end(bench_stage.run_benchmark(other, recipes[:1], name="unlike"))
    with pytest.raises(DmqError, match="whole has seeds 0, 3, unlike has seeds 7, 8"):
        joined_benchmarks.join_benchmarks(["whole", "unlike"])


def test_too_few_images_for_a_set_are_refused_before_anything_is_drawn(wanted, recipes):
    few = dataclasses.replace(wanted, seeds=(0,))
    with pytest.raises(DmqError, match="in: FID needs at least 16 images, got 8: the covariance"):
        next(bench_stage.run_benchmark(few, recipes, name="few"))
    assert not kept.folder_of("few").exists()


def test_a_folder_of_real_images_is_a_second_reference(folder, wanted, recipes, report):
    """Of the float model's own images, both references say the same."""
    place = folder / "real"
    place.mkdir()
    for n in range(3):
        for file in (kept.folder_of("whole") / "pictures" / "0" / f"{n:04d}").glob("*.png"):
            (place / file.name).write_bytes(file.read_bytes())
    both = dataclasses.replace(
        wanted, reference=str(place), domains=wanted.domains[:1], measures=("fid", "kid", "cmmd")
    )
    found = run_to_end(bench_stage.run_benchmark(both, recipes[:1], name="real"))
    assert found.reference == "16 images of the folder real"
    assert found.row("float", "in").figures["real fid"].value == pytest.approx(0, abs=1e-6)
    row = found.row("six", "in").figures
    for key in ("fid", "kid", "cmmd"):
        assert row[f"real {key}"].value == pytest.approx(row[key].value, rel=1e-5)
    for text, says in (("nowhere", "is no folder"), (str(folder / "runs"), "has 0 images")):
        with pytest.raises(DmqError, match=says):
            run_to_end(
                bench_stage.run_benchmark(
                    dataclasses.replace(both, reference=text), recipes[:1], name="bad"
                )
            )


def test_the_estimate_counts_what_is_left(wanted, recipes, report):
    whole = benchmark_estimate.estimate_benchmark(wanted, recipes)
    assert (
        (whole.images, whole.calls) == (128, 4 * 6 * 2)
        and whole.seconds > 0
        and whole.learning == ()
    )
    work = bench_stage.run_benchmark(wanted, recipes, name="begun")
    next(seen for seen in work if isinstance(seen, GeneratedImage))
    work.close()
    left = benchmark_estimate.estimate_benchmark(wanted, recipes, name="begun")
    assert (left.images, left.calls) == (128 - 6, 4 * 6 * 2 - 2)
    fresh = dataclasses.replace(recipes[0], calibration=Calibration(samples=1))
    assert benchmark_estimate.estimate_benchmark(wanted, (fresh,)).learning == (
        "six",
    ) and "must learn first" in str(benchmark_estimate.estimate_benchmark(wanted, (fresh,)))


def test_a_model_without_prompts_has_one_domain_and_no_clip_score(folder):
    tiny_ddpm().save_pretrained(folder / "tiny-ddpm", safe_serialization=True)
    recipe = Recipe(
        model=str(folder / "tiny-ddpm"),
        sampling=Sampling(steps=2),
        calibration=Calibration(samples=2),
    )
    features = str(folder / "feature_extractor")
    asked = Benchmark(
        domains=(UNCONDITIONAL,),
        seeds=tuple(range(16)),
        sampling=recipe.sampling,
        features=features,
    )
    found = run_to_end(bench_stage.run_benchmark(asked, (recipe,), name="ddpm"))
    row = found.row("W8A8", "unconditional")
    assert "clip" not in row.figures and row.figures["psnr"].low < row.figures["psnr"].high
    with pytest.raises(DmqError, match="generates without prompts"):
        next(
            bench_stage.run_benchmark(
                dataclasses.replace(asked, measures=("clip",)), (recipe,), name="none"
            )
        )
    with pytest.raises(DmqError, match="only seeds make a difference"):
        next(
            bench_stage.run_benchmark(
                dataclasses.replace(asked, domains=(Domain(name="x", prompts=("a", "b")),)),
                (recipe,),
                name="x",
            )
        )


def test_the_command_line_draws_resumes_and_prints(folder, recipes, report, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    files = []
    for recipe in recipes:
        file = folder / f"{recipe.name}.json"
        file.write_text(jsonio.dumps(recipe))
        files.append(str(file))
    (folder / "mine.txt").write_text("\n".join("abcdefgh\n\n"), "utf-8")
    asked = ["bench", *files, "--domain", "mine.txt", "--seeds", "2"]
    asked += ["--features", str(folder / "feature_extractor"), "--batch", "6"]
    assert cli.main([*asked, "--name", "cli", "--html", "out.html", "--csv", "out.csv"]) == 0
    said = capsys.readouterr().out
    assert "six" in said and "noise floor" in said and "8 prompts" in said and "seeds 0, 1" in said
    assert (folder / "out.csv").read_text() == kept.as_csv(kept.load_report("cli"))
    page = (folder / "out.html").read_text()
    own = page.partition(bench_report.MARK)[2]
    assert (
        "six" in own
        and own.count("data:image/png;base64,") >= 32
        and page.count("plotly.js v") == 1
    )
    assert not re.search(r"(src|href)=.?(?!.?data:)|@import|url\(", own), "nothing is fetched"
    assert cli.main(["bench", "--name", "cli", "--markdown"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("| ") and "| six |" in said
    assert cli.main(["bench", "--name", "nothing"]) == 1
    assert "no benchmark called 'nothing'" in capsys.readouterr().err
    (folder / "long.txt").write_text("\n".join(f"p{n}" for n in range(100_000)))
    (folder / "bad.txt").write_bytes(b"caf\xe9")
    for name, says in (
        ("long.txt", "100,000 lines; at most 10,000"),
        ("bad.txt", "is no UTF-8 text"),
    ):
        assert cli.main(["bench", *files, "--domain", name]) == 1
        err = capsys.readouterr().err
        assert says in err and err.count("\n") == 1


def test_the_command_line_prints_what_is_kept_and_refuses_what_differs(
    folder, recipes, report, wanted, capsys
):
    other = dataclasses.replace(
        wanted, domains=wanted.domains[1:], measures=("psnr",), seeds=(0, 3)
    )
    run_to_end(bench_stage.run_benchmark(other, recipes[:1], name="other prompts"))
    assert cli.main(["bench", "--name", "whole", "--markdown"]) == 0
    assert capsys.readouterr().out == bench_table.markdown(report) + "\n"
    files = [str(folder / f"whole.{kind}") for kind in ("csv", "html")]
    assert cli.main(["bench", "--name", "whole", "--csv", files[0], "--html", files[1]]) == 0
    assert capsys.readouterr().out.startswith(bench_table.text(report))
    table = pd.read_csv(files[0]).set_index(["recipe", "domain", "measure"])
    for row in report.rows:
        for name, figure in row.figures.items():
            line = table.loc[(row.recipe, row.domain, name)]
            assert (line.value, line.low, line.high) == pytest.approx(
                (figure.value, figure.low, figure.high)
            )
            floor = report.floor(row.domain, name)
            assert (line.images, line.bytes, line.noise_floor) == pytest.approx(
                (16, report.bytes[row.recipe], floor), nan_ok=True
            )
    for asked, says in (
        (["nope"], "no recipe called 'nope'; give a .json file or one of: W8A8"),
        ([], "bench what?"),
        (
            ["--name", "whole", "--beside", "other prompts"],
            "whole has measures psnr, ssim, distance, latent, fid, kid, cmmd, clip, other prompts "
            "has measures psnr",
        ),
        (["--name", "../whole"], "cannot name a benchmark"),
        (["--name", "whole", "--csv", str(folder / "none" / "x.csv")], "cannot be written"),
    ):
        assert cli.main(["bench", *asked]) == 1
        err = capsys.readouterr().err
        assert says in err and err.count("\n") == 1 and err.startswith("dmq: "), err


def test_prompt_files_say_the_line_of_a_mistake(tmp_path):
    file = tmp_path / "prompts.txt"
    for text, says in (
        ("a\n\n" + 301 * "b", "line 3: 301 characters"),
        ("a\nb\n a \n", "line 3: 'a' is there twice"),
        ("\n \n", "has no prompts"),
        ("a\0b", "line 1: this is no text"),
    ):
        file.write_text(text)
        with pytest.raises(DmqError, match=says):
            read_prompts(file)
    file.write_bytes("\ufeffcafé\r\n\r\nthé \r\n".encode())
    assert read_prompts(file) == Domain(name="prompts", prompts=("café", "thé"))
    with pytest.raises(DmqError, match="cannot be read"):
        read_prompts(tmp_path)


def test_shipped_prompts_are_no_calibration_prompts():
    domains = shipped_domains()
    assert list(domains) == ["names", "compositions", "paraphrases"]
    every = [prompt for domain in domains.values() for prompt in domain.prompts]
    assert len(every) == len(set(every)) == 96 and not set(every) & set(
        PROMPTS.read_text("utf-8").splitlines()
    )
