"""The handlers of the tabs, called as functions, with a tiny model and its real statistics."""

import dataclasses
import json
import os

import gradio as gr
import numpy as np
import pytest

from dmq import jsonio, runs, stages
from dmq.errors import DmqError
from dmq.recipe import Comparison, KMeans, ManualGroups, OptimalGroups, Override, PerStep, SharedRange
from dmq.results import Report
from pages import capture_panel, events, request, session, sidebar, words
from pages.activations import handlers as activations
from pages.compare import handlers as compare
from pages.compare import report as reported
from pages.start import handlers as start
from pages.time_groups import handlers as time_groups


@pytest.fixture
def text(recipe):
    return jsonio.dumps(recipe)


def grouping(answer):
    return jsonio.loads(answer["recipe"]).grouping


# --- time groups ---------------------------------------------------------------------------------------------------


def test_a_drag_answers_with_what_the_library_computes(text, recipe):
    answer = time_groups.drag(text, [1, 4])
    made = dataclasses.replace(recipe, grouping=ManualGroups(boundaries=(1, 4)))
    assert grouping(answer) == made.grouping
    assert f"{100 * stages.errors(made).total:.3g} %" in answer["said"]
    assert "strip" not in answer  # an answer that comes late must not undo the next drag
    assert time_groups.split(text, [2])["strip"].value == [2, 4]


def test_presets_set_the_grouping_they_are_named_for(text):
    assert grouping(time_groups.shared(text)) == SharedRange()
    assert grouping(time_groups.per_step(text)) == PerStep()
    assert grouping(time_groups.optimal(text, 3, True)) == OptimalGroups(count=3, per_layer=True)
    assert grouping(time_groups.recount(text, 3, False)).count == 3


def test_splitting_and_merging_change_the_number_of_groups_by_one(text):
    assert grouping(time_groups.split(text, [2])) == ManualGroups(boundaries=(2, 4))
    assert grouping(time_groups.merge(text, [2, 3])).boundaries in ((2,), (3,))
    with pytest.raises(DmqError, match="nothing to split"):
        time_groups.split(text, [1, 2, 3, 4, 5])
    with pytest.raises(DmqError, match="nothing to merge"):
        time_groups.merge(text, [])


def test_cuts_of_each_layer_lock_the_strip(text):
    answer = time_groups.optimal(text, 2, True)
    assert len({row.tobytes() for row in stages.errors(jsonio.loads(answer["recipe"])).groups.slot}) > 1
    assert answer["strip"].locked
    assert not time_groups.optimal(text, 2, False)["strip"].locked


@pytest.mark.parametrize("tab", [time_groups, activations], ids=["time groups", "activations"])
def test_a_tab_without_statistics_says_what_to_do(tab, recipe):
    other = jsonio.dumps(dataclasses.replace(recipe, sampling=dataclasses.replace(recipe.sampling, steps=5)))
    given = {time_groups: (8,), activations: ("max |x|", "inputs", activations.ALL, "")}[tab]
    answer = tab.show(other, *given)
    answer = answer if isinstance(answer, dict) else next(answer)
    assert "Press **Capture**" in answer["empty"]["value"]
    assert answer["body"]["visible"] is False


def test_float_activations_say_that_there_is_no_error(recipe):
    plain = dataclasses.replace(recipe, activations=dataclasses.replace(recipe.activations, bits=32))
    assert "no error to see" in time_groups.shared(jsonio.dumps(plain))["said"]


# --- activations ---------------------------------------------------------------------------------------------------


def test_a_click_picks_row_and_step(text, recipe):
    stats = stages.statistics(recipe)
    rows = activations.rows_of(stats, "outputs", activations.ALL)
    click = gr.SelectData(None, {"index": [2, 3], "value": 0.0})
    answer = activations.pick(text, "max |x|", "outputs", activations.ALL, click)
    assert json.loads(answer["picked"]) == [stats.sites[rows[2]].name, "output", 3]
    assert stats.sites[rows[2]].label in answer["title"]


@pytest.mark.parametrize("index", [[900, 0], [0, 900], [-1, 0], 3], ids=str)
def test_a_click_on_a_cell_that_is_gone_is_refused(text, index):
    with pytest.raises(DmqError, match="no longer there"):
        activations.pick(text, "max |x|", "inputs", activations.ALL, gr.SelectData(None, {"index": index, "value": 0}))


@pytest.mark.parametrize("point", activations.POINTS)
def test_every_point_has_rows_and_figures(text, recipe, point):
    answer = activations.refilter(text, "kurtosis", point, activations.ALL, "")
    assert activations.rows_of(stages.statistics(recipe), point, activations.ALL)
    assert all(answer[name].data for name in ("heat", "ridge", "fan", "film", "grid", "channels"))


def test_the_grid_drawn_is_that_of_the_recipe(text, recipe):
    errors, stats = stages.errors(recipe), stages.statistics(recipe)
    s = next(s for s, site in enumerate(stats.sites) if errors.bits[s].max() == 6)
    said = activations.at_step(recipe, stats, s, 5)["title"]
    assert f"grid of 6 bits, {errors.low[s, 5]:.3g} to {errors.high[s, 5]:.3g}" in said


def test_tabs_say_where_ranges_are_taken_as_they_come(text, recipe):
    spec = dataclasses.replace(recipe.activations, dynamic="token")
    own = dataclasses.replace(recipe, activations=spec)
    stats, errors = stages.statistics(own), stages.errors(own)
    s = next(s for s in range(len(stats.sites)) if errors.bits[s].max() == 6)
    said = {time_groups.shared(jsonio.dumps(r))["said"].count("takes ranges as they come") for r in (own, recipe)}
    assert said == {1, 0}
    titles = [activations.at_step(r, stats, s, 5)["title"] for r in (own, recipe)]
    assert titles[0] == f"{titles[1]}. {words.AS_THEY_COME}"


# --- sidebar and start ---------------------------------------------------------------------------------------------


def test_another_model_keeps_the_recipe_and_takes_its_sampling(text, recipe, tmp_path):
    with pytest.raises(DmqError, match="no model named"):
        sidebar.choose_model(text, " ")
    with pytest.raises(DmqError):
        sidebar.choose_model(text, str(tmp_path))
    answer = sidebar.choose_model(jsonio.dumps(dataclasses.replace(recipe, model="gone")), recipe.model)
    assert jsonio.loads(answer["recipe"]) == recipe


def test_a_control_changes_its_field_and_nothing_else(text, recipe):
    paths = ["weights.bits", "activations.bits"]
    made = jsonio.loads(sidebar.edit(paths, text, 4, 6)["recipe"])
    assert made == dataclasses.replace(
        recipe, name="W4A6 2 equal groups", weights=dataclasses.replace(recipe.weights, bits=4)
    )
    assert sidebar.edit(paths, text, recipe.weights.bits, 6) == {}
    split = jsonio.loads(sidebar.edit(["split"], text, True)["recipe"])
    assert split == dataclasses.replace(recipe, name=f"{words.short_name(recipe)}, split", split=True)
    assert sidebar.refresh(["split"], jsonio.dumps(split), "start")["form split"] is True
    assert "Shortcuts have scales of their own." in words.words(split)


def test_formats_and_ranges_as_they_come_are_chosen_in_the_sidebar(text, recipe):
    chosen = {
        "weights.bits": 4, "weights.format.kind": "KMeans", "weights.format.KMeans.shared": "tensor",
        "weights.format.KMeans.iterations": 3, "weights.format.KMeans.table": 16, "activations.dynamic": "sample",
    }  # fmt: skip
    made = jsonio.loads(sidebar.edit([*chosen], text, *chosen.values())["recipe"])
    assert made.weights == dataclasses.replace(recipe.weights, bits=4, format=KMeans(shared="tensor", iterations=3))
    assert (made.name, made.activations.dynamic) == ("KMA-4 A6 per sample", "sample")
    assert sidebar.form_values(made, [*chosen]) == chosen
    table, plan = sidebar.look(jsonio.dumps(made))["layers"], stages.plan(made)
    row = next(row for row, planned in zip(table, plan.layers, strict=False) if planned.format == "KMA-4 A6")
    assert row[1:3] == ["KMA-4", "6 bit per sample"] and row[4] == "k-means"
    with pytest.raises(DmqError, match="format KMeans has at most 8"):
        sidebar.edit([*chosen], text, 16, *[*chosen.values()][1:])


def test_the_sidebar_says_size_and_coverage(text, recipe):
    plan, shown = stages.plan(recipe), sidebar.weigh(text, False)
    assert f"<b>{plan.bytes / 1e6:.1f} MB</b> of {plan.float_bytes / 1e6:.1f} MB" in shown["size"]
    assert shown["coverage"] == plan.coverage_line()
    assert "layers" not in shown  # nothing is sent for a table that nobody sees
    assert jsonio.read(sidebar.refresh([], text, "start")["download"]) == recipe


def test_the_open_table_says_what_every_layer_gets(text, recipe):
    plan, rows = stages.plan(recipe), sidebar.look(text)["layers"]
    assert [row[0] for row in rows] == [row.layer.name for row in plan.layers]
    first = next(row for row in plan.layers if row.reason == "first layer")
    assert ["conv_in", "float", "float", 0, "", "first layer", first.weight_bytes + first.bias_bytes] in rows
    assert {tuple(row[1:4]) for row in rows if row[5] == ""} == {("8 bit", "6 bit", 2)}
    assert sidebar.weigh(text, True)["layers"] == rows
    assert sidebar.look_away() == {"looking": False, "layers": []}


def test_without_statistics_the_table_of_layers_is_empty_and_the_sidebar_says_why(recipe):
    other = dataclasses.replace(recipe, calibration=dataclasses.replace(recipe.calibration, seed=77))
    shown = sidebar.look(jsonio.dumps(other))
    assert shown["layers"] == [] and "nothing captured yet" in shown["size"]


def test_names_cannot_bring_html_into_the_page(recipe):
    nasty = dataclasses.replace(recipe, name="<img src=x onerror=alert(1)>")
    assert "<img" not in sidebar.refresh([], jsonio.dumps(nasty), "start")["words"]


def test_a_starting_recipe_keeps_model_sampling_and_calibration(text, recipe):
    for name in runs.shipped_recipes():
        made = jsonio.loads(start.begin(text, name)["recipe"])
        assert (made.model, made.sampling, made.calibration) == (recipe.model, recipe.sampling, recipe.calibration)
        assert made.weights == runs.shipped_recipes()[name].weights


def test_the_start_tab_shows_every_layer(text, recipe):
    assert len(start.show(text)["table"]) == len(stages.info(recipe.model).layers)


def test_no_file_is_shown_for_a_name_that_a_visitor_wrote(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "ASSETS", tmp_path)
    for place in ("models/emoji-sd", "private"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "samples.png").touch()
    assert start.picture_of("emoji-sd") == str(tmp_path / "models" / "emoji-sd" / "samples.png")
    assert start.picture_of("../private") is None


# --- capture and compare -------------------------------------------------------------------------------------------


def test_a_capture_reports_and_can_be_closed_without_a_trace(text, recipe):
    paths, captures = ["sampling.steps", "calibration.samples"], runs.home() / "captures"
    before = sorted(captures.iterdir())
    work = capture_panel.capture(paths, text, 5, 2)
    shown = [next(work)["status"] for _ in range(3)]
    work.close()
    assert "progressbar" in shown[-1]
    assert sorted(captures.iterdir()) == before
    *_, last = capture_panel.capture(paths, text, 4, 2)
    assert jsonio.loads(last["recipe"]).sampling.steps == 4
    assert stages.captured(jsonio.loads(last["recipe"]))


def test_a_drawing_streams_pictures_and_ends_as_a_saved_run(text):
    answers = list(compare.draw(text, "a", "0, 1", 6, 2.0, []))
    begun, *grown, done = [answer["gallery"] for answer in answers if "gallery" in answer]
    assert (begun["value"], begun["columns"]) == ([], 2)  # a row for each recipe
    assert [len(pictures) for pictures in grown] == [1, 2, 3, 4]
    assert (len(done["value"]), done["columns"]) == (4, 2)
    last = answers[-1]
    assert last["run"]["value"] in runs.names()
    assert len(last["table"]) == 2
    assert "Noise floor" in last["summary"]
    assert compare.pair(last["run"]["value"], 1, "tiny")["slider"][0].shape == (16, 16, 3)
    with pytest.raises(DmqError, match="not part of the run"):
        compare.pair(last["run"]["value"], 7, "tiny")


def test_a_failed_drawing_gives_the_buttons_back(recipe):
    wrong = dataclasses.replace(recipe, overrides=(Override(layers="no such layer", weight_bits=4),))
    answers = []
    with pytest.raises(DmqError, match="no such layer"):
        for answer in compare.draw(jsonio.dumps(wrong), "a", "0", 6, 2.0, []):
            answers.append(answer)
    assert answers[-1]["go"]["visible"] and not answers[-1]["stop"]["visible"]


def test_other_steps_than_those_captured_are_refused_before_anything_is_drawn(recipe):
    with pytest.raises(DmqError, match="captured for 6"):
        request.comparison_of(recipe, "a", "0", 7, 2.0)
    nearest = dataclasses.replace(recipe, on_miss="nearest")
    assert request.comparison_of(nearest, "a", "0", 7, 2.0).sampling.steps == 7


@pytest.mark.parametrize(
    ("given", "seeds"), [("0", (0,)), ("0, 1 2", (0, 1, 2)), ("3-5,5,1", (3, 4, 5, 1))], ids=["one", "list", "range"]
)
def test_seeds_are_read(given, seeds):
    assert request.seeds_of(given) == seeds


@pytest.mark.parametrize("given", ["-1", "a", "1.5", "1-", "5-1-2", "0-99", "²"])
def test_other_seeds_are_refused(given):
    with pytest.raises(DmqError, match="seeds"):
        request.seeds_of(given)


def test_compared_recipes_have_names_of_their_own(recipe):
    first = next(iter(runs.shipped_recipes()))
    same_name = dataclasses.replace(recipe, name=first)
    made = request.recipes_of(same_name, [first, "no such recipe"])
    assert len({r.name for r in made}) == len(made) == 2
    assert len(request.recipes_of(made[1], [first])) == 1


def test_both_engines_draw_each_recipe_under_a_name_of_its_own(recipe):
    others = list(runs.shipped_recipes())[:2]
    made = request.recipes_of(recipe, others, "both")
    assert [r.name for r in made] == [f"{name}{end}" for name in ("tiny", *others) for end in ("", ", executed")]
    assert [r.engine for r in made] == ["simulated", "executed"] * 3
    assert [dataclasses.replace(r, name=recipe.name, engine="simulated") for r in made[:2]] == [recipe, recipe]
    assert request.recipes_of(made[1], others, "both") == made, "one that is executed already is drawn both ways, too"
    assert [r.name for r in request.recipes_of(recipe, [], "executed bf16")] == ["tiny, executed bf16"]
    assert {r.engine for r in request.recipes_of(made[1], others)} == {"executed"}, "that of the current recipe"
    with pytest.raises(DmqError, match="computed is 'magic'"):
        request.recipes_of(recipe, [], "magic")


def test_an_executed_drawing_is_shown_beside_the_simulated_one_with_its_seconds(text):
    *_, last = compare.draw(text, "a", "0", 6, 2.0, [], "both")
    name = last["run"]["value"]
    report, rows = runs.load_report(name), last["summary"].splitlines()
    cells = {row.split(" | ")[0].strip("| "): row.split(" | ") for row in rows if row.startswith("| ")}
    assert [r.engine for r in runs.load_recipes(name)] == ["simulated", "executed"]
    for who, engine in (("tiny", "simulated"), ("tiny, executed", "executed: ")):
        seconds = report.seconds[who]
        assert cells[who][4:6] == [f"{seconds:.1f}", f"{report.seconds['float'] / seconds:.2f}×"]
        assert cells[who][6].startswith(engine)
    same = [score.psnr for score in report.scores]
    assert abs(same[0] - same[1]) < 1, "they differ in speed, and hardly in pictures"
    taken = jsonio.loads(compare.take(name, "tiny, executed")["recipe"])
    assert (taken.name, taken.engine) == ("tiny, executed", "executed")
    assert compare.show(jsonio.dumps(taken), [], "simulated")["computed"] == "executed"
    assert compare.show(text, [], "both")["computed"] == "both"


def test_what_fell_back_is_marked_with_the_reason():
    line = "3 of 4 layers W4A8; float: a (first layer); executed: 1 layers on oneDNN int8; 2 in float (its <b> splits)"
    report = Report(
        scores=(), seconds={"float": 3.0, "x": 1.5, "y": 0.0}, bytes={"float": 4, "x": 1, "y": 1},
        coverage={"x": line, "y": "all; float: nothing"}, noise_floor={"psnr": 1.0, "ssim": 0.1}, samples=20,
    )  # fmt: skip
    _, _, floats, x, y, *_ = reported.summary(report).splitlines()
    assert floats.startswith("| float |") and "| 1.00× | float | nothing |" in floats
    assert "| 1.5 | 2.00× | executed: 1 layers on oneDNN int8; ⚠ fell back: 2 in float (its &lt;b&gt; splits) |" in x
    assert x.endswith("| 3 of 4 layers W4A8; float: a (first layer) |")
    assert "| 0.0 | – | simulated | all; float: nothing |" in y


@pytest.fixture
def kept(recipe, tmp_path, monkeypatch):
    """`kept(name, *recipes)` keeps a run of them in a run folder of the test's own."""
    monkeypatch.setenv("DMQ_RUNS", str(tmp_path))
    dot = np.zeros((4, 4, 3), np.uint8)

    def keep(name, *recipes):
        names = ["float", *(r.name for r in recipes)]
        report = Report(
            scores=(), seconds=dict.fromkeys(names, 1.0), bytes=dict.fromkeys(names, 1), coverage={}, noise_floor={},
            samples=1,
        )  # fmt: skip
        runs.save_run(name, recipes, Comparison(), report, {who: [dot] for who in names}, {who: {} for who in names})
        os.utime(tmp_path / name / "report.json", (len(runs.names()),) * 2)  # in the order of the calls

    return keep


def test_recipes_of_earlier_runs_are_offered_under_the_name_of_their_run(recipe, kept):
    four = dataclasses.replace(recipe, name="mine", weights=dataclasses.replace(recipe.weights, bits=4))
    three = dataclasses.replace(recipe, name="mine", weights=dataclasses.replace(recipe.weights, bits=3))
    shipped = list(runs.shipped_recipes())
    assert list(request.offered(recipe)) == shipped
    kept("first", four, runs.shipped_recipes()[shipped[0]])  # what ships is not offered again
    kept("second", dataclasses.replace(three, model="elsewhere"), dataclasses.replace(four, name="same as in first"))
    assert list(request.offered(recipe)) == [*shipped, "mine · run second", "mine · run first"]
    made = request.recipes_of(recipe, ["mine · run second", "mine · run first", "removed · run gone"])
    assert [(r.name, r.weights.bits, r.model) for r in made] == [
        ("tiny", 8, recipe.model), ("mine", 3, recipe.model), ("mine (2)", 4, recipe.model),
    ]  # fmt: skip


def test_a_damaged_or_removed_run_takes_only_its_own_recipes_away(text, recipe, kept, tmp_path):
    for bits in (4, 3):
        weights = dataclasses.replace(recipe.weights, bits=bits)
        kept(f"run {bits}", dataclasses.replace(recipe, name="x", weights=weights))
    chosen = ["x · run run 4", "x · run run 3"]
    assert compare.show(text, chosen)["others"]["value"] == chosen
    (tmp_path / "run 4" / "recipe.json").write_text("{")
    shown = compare.show(text, chosen)["others"]
    assert shown["value"] == ["x · run run 3"]
    assert shown["choices"][-1] == "x · run run 3"


@pytest.mark.parametrize(("pictures", "row"), [(1, 6), (2, 2), (8, 8), (9, 6)])
def test_recipes_stand_below_each_other_where_they_fit(pictures, row):
    assert compare.across(pictures) == row


# --- the shell -----------------------------------------------------------------------------------------------------


def test_errors_for_people_become_messages_without_html():
    def fail():
        raise DmqError("no model <b>x</b>")

    def later():
        yield 1
        raise DmqError("no model <b>x</b>")

    for call in (events.told(fail), lambda: list(events.told(later)())):
        with pytest.raises(gr.Error) as caught:
            call()
        assert caught.value.message == "no model &lt;b&gt;x&lt;/b&gt;"
        assert not caught.value.print_exception


def test_an_answer_that_nobody_shows_is_a_mistake():
    with pytest.raises(TypeError, match="typo"):
        events.by_name(lambda: {"typo": 1}, ["typed"])()


def test_a_session_that_was_lost_starts_with_the_default():
    assert session.read("") == session.OPENING
