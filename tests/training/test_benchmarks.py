"""The benchmarks that ship: what they are of, and that what is copied is what a page opens."""

import dataclasses
import json

import pytest

from dmq.errors import DmqError
from dmq.evaluation import joined_benchmarks
from dmq.metrics.sets import check_count
from dmq.recipe import SETS, Benchmark, Domain
from dmq.results import FLOOR_NAME
from dmq.store import benchmarks as kept
from dmq.store import folders, runs
from tests.tiny import captured_recipe, runs_in
from training import benchmarks as training


@pytest.mark.parametrize("model", training.RECIPES)
def test_its_recipes_ship_and_its_pictures_are_enough(model):
    names = training.RECIPES[model]
    assert set(names) <= runs.shipped_recipes().keys() and len(set(names)) == len(names)
    asked, recipes = training.asked(model)
    assert [recipe.name for recipe in recipes] == list(names) and {
        recipe.model for recipe in recipes
    } == {model}
    for measure in SETS:
        for domain in asked.domains:
            check_count(measure, len(domain.prompts) * len(asked.seeds))


@pytest.mark.parametrize("model", training.RECIPES)
def test_what_is_in_the_repository_can_be_opened(model):
    """A benchmark is made after its recipes: it may have fewer than are asked, and not in
    another order.
    """
    for name in [
        name
        for name in kept.list_finished()
        if kept.folder_of(name) == folders.ASSETS / "runs" / f"bench-{model}"
    ]:
        report, asked = kept.load_report(name), training.asked(model)[0]
        assert name == model and report.benchmark == asked
        assert report.recipes[2:] == training.RECIPES[model][: len(report.recipes) - 2]
        assert (
            len(kept.load_worst(name)) > len(report.coverage)
            and joined_benchmarks.join_benchmarks([name]) == report
        )


def test_what_ships_opens_like_what_was_drawn_and_is_measured_anew_from_its_pictures(
    tmp_path, monkeypatch
):
    with runs_in(tmp_path):
        recipe = captured_recipe(tmp_path, steps=2)
        domains = (Domain(name="in", prompts=("a", "b")),)
        asked = Benchmark(domains=domains, sampling=recipe.sampling, measures=("psnr", "latent"))
        monkeypatch.setattr(training, "asked", lambda model: (asked, (recipe,)))
        training.told("drawn")
        before, own = kept.load_report("drawn"), kept.folder_of("drawn")
        training.time_again("drawn")
        report = kept.load_report("drawn")
        a, b = (
            tuple(dataclasses.replace(row, seconds=0.0) for row in one.rows)
            for one in (before, report)
        )
        assert repr(a) == repr(b) and repr(before.images) == repr(report.images)
        seconds = {row.recipe: row.seconds for row in report.rows}
        assert seconds["float"] == seconds[FLOOR_NAME] > 0 and len(set(seconds.values())) == 2
        assert all(
            old.seconds != new.seconds for old, new in zip(before.rows, report.rows, strict=True)
        )
        monkeypatch.setattr(folders, "ASSETS", tmp_path / "assets")
        place = training.ship("drawn")
        assert (
            place == tmp_path / "assets" / "runs" / "bench-drawn"
            and not (place / "pictures").exists()
        )
        assert json.loads((own / "manifest.json").read_text())["known"]["features"] == ""
        training.forget_figures("drawn")
        assert kept.list_unfinished() == ["drawn"] and not (own / "rows").exists()
        training.told("drawn")
        again = kept.load_report("drawn")
        assert repr(again.images) == repr(report.images) and again.recipes == (
            "float",
            FLOOR_NAME,
            "tiny",
        )
        assert json.loads((own / "manifest.json").read_text())["known"]["features"] == "", (
            "it is known again"
        )
        own.rename(own.with_name("aside"))
        shipped = kept.load_report("drawn")
        assert kept.folder_of("drawn") == place and repr(shipped) == repr(
            dataclasses.replace(report)
        )
        assert kept.load_worst("drawn").keys() == {
            (who, n) for who in ("float", "tiny") for n in (0, 1)
        }
        with pytest.raises(DmqError, match="nothing was drawn yet"):
            training.forget_figures("drawn")
