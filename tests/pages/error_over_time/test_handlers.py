"""The handlers of the four parts of the Error over time tab, called as functions, with a tiny model
that is really generated.
"""

import dataclasses
import math
import re

import gradio as gr
import numpy as np
import pytest

import dmq.evaluation.probe
from dmq import jsonio
from dmq.describe import describe_recipe, short_name
from dmq.errors import DmqError
from dmq.evaluation import error_curves, range_change
from dmq.evaluation.probe import find_probe
from dmq.models.tiny import tiny_ddpm
from dmq.progress import Progress, run_to_end
from dmq.recipe import (
    FLOAT,
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
from dmq.results import ProbeImage
from dmq.store import learned
from dmq.store.prompts import UNPROMPTED
from dmq.workflow.answers import (
    count_finished_calls,
    find_windows,
    get_plan,
    get_ranges,
    get_relaxed_steps,
    get_window_effects,
    has_ranges,
)
from dmq.workflow.learning import capture_statistics
from pages import job_panel, request
from pages.error_over_time import handlers as error_over_time
from pages.error_over_time import probe, relaxing, trajectory_ranges


STEPS = 6
WALK = ["variant", "inner"]
FORM = ["bits", "where", "judge", "fraction", "steps", "windows", "images", "match_reference_code"]


@pytest.fixture(scope="module")
def low(recipe):
    """Five bits with a range per step."""
    return dataclasses.replace(
        recipe,
        name="low",
        activations=Activations(bits=5, range=MinMax()),
        weights=Weights(range=MinMax()),
        grouping=PerStep(),
    )


@pytest.fixture(scope="module")
def unprompted(recipe, tmp_path_factory):
    """The same for a model without prompts."""
    folder = tmp_path_factory.mktemp("unprompted")
    tiny_ddpm().save_pretrained(folder, safe_serialization=True)
    made = dataclasses.replace(
        recipe,
        model=str(folder),
        sampling=dataclasses.replace(recipe.sampling, guidance=0.0),
        calibration=dataclasses.replace(recipe.calibration, prompts=()),
    )
    run_to_end(capture_statistics(made))
    return made


def text_of(recipe):
    return jsonio.dumps(recipe)


def last(answers):
    *_, end = answers
    return end


def settled(answers):
    """What stands on the page after all `answers`, later ones over earlier ones."""
    return {name: value for answer in answers for name, value in answer.items()}


def made_of(answer):
    return jsonio.loads(answer["recipe"])


def relaxed_form(**changes):
    spec = {
        "bits": 10,
        "where": "last",
        "judge": "fidelity",
        "fraction": 0.2,
        "steps": "",
        "windows": 5,
        "images": 8,
        "match_reference_code": False,
    } | changes
    return [spec[path] for path in FORM]


def fails(*given, **more):
    yield Progress("Generate", 0, 1)
    raise DmqError("no luck")


def refused(work):
    """The last answer before the error of a handler whose stage fails."""
    seen = []
    with pytest.raises(DmqError, match="no luck"):
        for answer in work:
            seen.append(answer)
    return seen[-1]


# --- errors along the steps -----------------------------------------------------------------------


def test_curves_grow_and_the_answer_is_there_again_when_the_tab_opens(low, monkeypatch):
    monkeypatch.setattr(error_over_time, "FIGURE_SECONDS", 0.0)
    assert (
        "press **Generate along the steps**"
        in error_over_time.show(text_of(low), [])["empty"]["value"]
    )
    answers = list(error_over_time.generate(text_of(low), "a\nb", "0, 1", ["W8A8, one range"]))
    tables = [answer["table"] for answer in answers if "table" in answer]
    assert len(tables) > STEPS and tables[0][0][0] == "low" and tables[0][0][1] == "…", (
        "not finished yet"
    )
    end = settled(answers)
    assert [row[0] for row in end["table"]] == ["low", "W8A8, one range"]
    comparison = Comparison(prompts=("a", "b"), seeds=(0, 1), sampling=low.sampling)
    other = request.list_recipes(low)["W8A8, one range"]
    found = error_curves.find_error_curves(comparison, (low, other))
    for recipe, row in zip((low, other), end["table"], strict=True):
        assert float(row[1]) == pytest.approx(found.accumulated[recipe.name][-1].mean(), rel=1e-3)
        assert row[3:] == [
            f"{recipe.activations.bits:.2f}",
            f"{get_plan(recipe).bytes / 1e6:.2f}",
        ]
    captions = [caption for _, caption in end["strip"]["value"]]
    assert captions[0] == "float, step 0" and captions[-1] == "W8A8, one range, finished"
    assert len(captions) == 3 * end["strip"]["columns"] == 3 * (STEPS + 1)
    assert end["go"]["visible"] and not end["stop"]["visible"]
    again = error_over_time.show(text_of(dataclasses.replace(low, name="renamed")), [])
    assert again["table"] == [["renamed", *end["table"][0][1:]], end["table"][1]]
    assert (again["prompts"]["value"], again["seeds"]) == ("a\nb", "0, 1")
    assert again["others"]["value"] == ["W8A8, one range"] and again["summary"].startswith(
        "4 images (a, b), seeds 0, 1"
    )
    repeated = list(error_over_time.generate(text_of(low), "a\nb", "0-1", ["W8A8, one range"]))
    assert len(repeated) == 2, "the same question is answered at once"


def test_stop_keeps_what_is_shown_and_leaves_nothing_behind(low):
    work = error_over_time.generate(text_of(low), "c", "5", [])
    assert "table" in next(answer for answer in work if "table" in answer)
    work.close()
    after = error_over_time.JOB.show_stopped()
    assert "was not kept" in after["status"] and after.keys() == {"go", "stop", "status"}
    assert not error_curves.find_error_curves(
        Comparison(prompts=("c",), seeds=(5,), sampling=low.sampling), (low,)
    )


def test_each_part_of_pcr_can_be_left_out(low):
    assert error_over_time.list_variants(low) == {}
    one = dataclasses.replace(low, relaxing=Relaxing())
    assert list(error_over_time.list_variants(one)) == ["low without PCR"], (
        "what is left out alone is all of it"
    )
    both = dataclasses.replace(low, name="both", progressive=Progressive(), relaxing=Relaxing())
    made = error_over_time.list_variants(both)
    assert {(one.progressive is None, one.relaxing is None) for one in made.values()} == {
        (True, True),
        (True, False),
        (False, True),
    }
    _, recipes = error_over_time.parse_form(
        text_of(both), "a", "0", ["W8A8, one range", "both without PCR"]
    )
    assert [recipe.name for recipe in recipes] == ["both", "both without PCR", "W8A8, one range"]
    assert dataclasses.replace(recipes[1], name="low") == low
    assert list(error_over_time.show(text_of(both), [])["others"]["choices"])[:3] == list(made)


@pytest.mark.parametrize(
    ("prompts", "seeds", "why"),
    [
        ("", "0", "a prompt is empty"),
        ("a", "x", "seeds must be whole numbers"),
        ("a\nb", "0-8", "at most 16"),
    ],
)
def test_what_cannot_be_drawn_is_refused_before_anything_is_shown(low, prompts, seeds, why):
    with pytest.raises(DmqError, match=why):
        next(error_over_time.generate(text_of(low), prompts, seeds, []))


def test_recipes_of_other_models_are_taken_for_this_one_and_the_engine_refuses_two(low, unprompted):
    _, recipes = error_over_time.parse_form(text_of(low), "a", "0", ["W8A8, one range"])
    assert {recipe.model for recipe in recipes} == {low.model}
    comparison = Comparison(prompts=("a",), sampling=low.sampling)
    with pytest.raises(DmqError, match="different models"):
        next(
            error_curves.measure_error_curves(
                comparison, (low, dataclasses.replace(unprompted, name="other"))
            )
        )


def test_without_prompts_there_is_nothing_to_ask_but_seeds(unprompted):
    assert error_over_time.show(text_of(unprompted), [])["prompts"]["visible"] is False
    comparison, _ = error_over_time.parse_form(text_of(unprompted), "ignored", "0-2", [])
    assert comparison.prompts == (UNPROMPTED,) and comparison.seeds == (0, 1, 2)
    assert error_over_time.summarize(comparison).startswith("3 images, seeds 0, 1, 2, ")


def test_a_prompt_is_no_html():
    said = error_over_time.summarize(Comparison(prompts=("<img src=x>",)))
    assert "<img" not in said and "&lt;img" in said and said.startswith("1 image (")


# --- ranges along the quantized trajectory --------------------------------------------------------


def test_the_form_makes_progressive_ranges(low):
    made = made_of(trajectory_ranges.change(WALK, text_of(low), True, "strict", 2))
    assert made.progressive == Progressive(variant="strict", inner=2) and made.name.endswith("PCR")
    assert trajectory_ranges.change(WALK, text_of(made), True, "strict", 2) == {}
    assert (
        made_of(trajectory_ranges.change(WALK, text_of(made), False, "strict", 2)).progressive
        is None
    )


def test_ranges_are_set_stopped_gone_on_with_and_shown(low, monkeypatch):
    monkeypatch.setattr(job_panel, "BAR_SECONDS", 0.0)
    recipe = dataclasses.replace(low, name="walk", progressive=Progressive())
    text = text_of(recipe)
    first = settled(trajectory_ranges.show(WALK, text, ""))
    assert "press **Calibrate**" in first["empty"]["value"] and first["go"]["value"] == "Calibrate"
    work = trajectory_ranges.calibrate(text)
    for _ in work:
        if count_finished_calls(recipe) >= 2:
            break
    work.close()
    after = trajectory_ranges.JOB.show_stopped(text)
    assert not has_ranges(recipe) and "2 denoiser calls are finished" in after["empty"]["value"]
    assert (
        after["go"] == gr.update(visible=True, value="Calibrate the other steps")
        and not after["stop"]["visible"]
    )
    end = settled(trajectory_ranges.calibrate(text))
    assert has_ranges(recipe) and end["go"]["visible"] is False and end["body"]["visible"]
    change = range_change.compare_ranges(recipe)
    s, i = np.unravel_index(np.abs(change.wider).argmax(), change.wider.shape)
    assert end["picked"] == f"{change.sites[s].label} {i}" and f", step {i}\n" in end["cell"]
    assert end["ribbons"].data[3].y.tolist() == pytest.approx(change.high[s].tolist())
    assert (
        f"{100 * np.abs(change.wider).max():.1f} % at most" in end["summary"]
        and "⚠" not in end["summary"]
    )
    assert settled(trajectory_ranges.show(WALK, text, ""))["summary"] == end["summary"]
    click = gr.SelectData(None, {"index": [3, 4], "value": 0.0})
    picked = trajectory_ranges.pick(text, click)
    assert picked["picked"] == f"{change.sites[3].label} 4" == f"{picked['layer']['value']} 4"
    other = trajectory_ranges.choose(text, change.sites[1].label, picked["picked"])
    assert other["picked"] == f"{change.sites[1].label} 4"
    direction = "wider" if change.wider[1, 4] > 0 else "narrower"
    assert f"{100 * abs(change.wider[1, 4]):.2f} % {direction}" in other["cell"]
    assert trajectory_ranges.choose(text, None, picked["picked"]) == {}
    for gone in ([len(change.sites), 0], [0, STEPS], None):
        with pytest.raises(DmqError, match="no longer there"):
            trajectory_ranges.pick(text, gr.SelectData(None, {"index": gone, "value": 0.0}))
    assert (
        settled(trajectory_ranges.show(WALK, text, "a layer that is gone 4"))["picked"]
        == end["picked"]
    )


def test_a_range_that_grew_after_its_use_is_said(low):
    recipe = dataclasses.replace(low, progressive=Progressive(), grouping=SharedRange())
    said = settled(trajectory_ranges.calibrate(text_of(recipe)))["summary"]
    change = get_ranges(recipe).widest_change
    assert (
        change > 0
        and f"⚠ Some range serves several calls, and grew by up to {100 * change:.2f} %" in said
    )


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"progressive": None}, "Tick the box"),
        ({"activations": Activations(bits=FLOAT)}, "no ranges to set"),
        ({"relaxing": Relaxing(where="auto", windows=3)}, "press **Measure the windows**"),
        ({"calibration": 3}, "Press **Capture**"),
    ],
    ids=["off", "float", "windows", "capture"],
)
def test_what_hinders_is_said(low, changes, why):
    if changes == {"calibration": 3}:
        changes = {"calibration": dataclasses.replace(low.calibration, samples=3)}
    recipe = dataclasses.replace(low, **{"progressive": Progressive()} | changes)
    answer = settled(trajectory_ranges.show(WALK, text_of(recipe), ""))
    assert (
        why in answer["empty"]["value"]
        and not answer["body"]["visible"]
        and not answer["go"]["visible"]
    )


# --- more bits for some steps ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "steps"),
    [("3, 7", (3, 7)), ("4-6 1", (1, 4, 5, 6)), ("2,2", (2,)), ("", ()), (None, ())],
)
def test_steps_are_read_as_they_are_written(text, steps):
    assert relaxing.parse_steps(text) == steps
    assert relaxing.parse_steps(relaxing.steps_text(steps)) == steps


@pytest.mark.parametrize("text", ["x", "1.5", "-1", "3-", "5-2", "0-99999", "1e3", "²"])
def test_malformed_steps_are_refused_in_one_line(low, text):
    with pytest.raises(DmqError, match="steps") as refusal:
        relaxing.change(FORM, text_of(low), True, *relaxed_form(where="list", steps=text))
    assert "\n" not in str(refusal.value)


def test_steps_behind_the_end_are_refused(low):
    with pytest.raises(DmqError, match="names step 6, but 6 steps end with 5"):
        relaxing.change(FORM, text_of(low), True, *relaxed_form(where="list", steps="0, 6"))


def test_the_form_makes_relaxed_steps_and_says_at_once_what_they_cost(low):
    made = relaxing.change(FORM, text_of(low), True, *relaxed_form(fraction=0.5))
    assert made_of(made).relaxing == Relaxing(fraction=0.5) and "A10" in made_of(made).name
    assert "Steps 3-5 have 10 bits: 7.50 bits on average." in made["empty"]["value"]
    listed = relaxing.change(FORM, made["recipe"], True, *relaxed_form(where="list", fraction=0.5))
    assert made_of(listed).relaxing.steps == (3, 4, 5), (
        "a list begins with the steps that are relaxed now"
    )
    assert listed["form steps"]["visible"] and not listed["form fraction"]["visible"]
    off = relaxing.change(FORM, made["recipe"], False, *relaxed_form(fraction=0.5))
    assert made_of(off).relaxing is None and not off["settings"]["visible"]
    assert relaxing.change(FORM, made["recipe"], True, *relaxed_form(fraction=0.5)) == {}


def test_text_cannot_decide_without_prompts(unprompted):
    form = relaxed_form(where="auto", judge="text")
    with pytest.raises(DmqError, match="generates without prompts; set it to fidelity"):
        relaxing.change(FORM, text_of(unprompted), True, *form)


def test_windows_are_measured_and_the_choices_compared_at_equal_bits(low):
    spec = Relaxing(where="auto", fraction=1 / 3, windows=3, images=2)
    text = text_of(dataclasses.replace(low, name="auto", relaxing=spec))
    assert settled(relaxing.show(FORM, text))["go"]["visible"]
    answers = list(relaxing.measure(text))
    assert any(answer.get("summary") == "Windows are measured …" for answer in answers), (
        "figures while it runs"
    )
    end = settled(answers)
    recipe = jsonio.loads(text)
    effects, chosen = get_window_effects(recipe), get_relaxed_steps(recipe)
    assert made_of(end) == recipe and end["outside"], "other tabs look again"
    ((shaded,),) = ([(s.x0, s.x1) for s in end[name].layout.shapes] for name in ("fidelity",))
    assert shaded == (chosen[0] - 0.5, chosen[-1] + 0.5)
    assert (
        f"Steps **{chosen[0]}-{chosen[-1]}** have 10 bits (**fidelity** decided): **6.67 bits**"
        in end["summary"]
    )
    before, gain = effects.typical_error, effects.step_gains("fidelity")[list(chosen)].sum()
    after = before * 10 ** (-gain / 10)
    assert (
        f"latent error {before:.3g} → {after:.3g} ({100 * (after / before - 1):+.0f} %)"
        in end["summary"]
    )
    names = [row[0] for row in end["table"]]
    assert names == [
        "this recipe",
        "noisy end (first)",
        "clean end (last)",
        "measured (auto), fidelity",
        "measured (auto), text",
    ]
    assert {row[2] for row in end["table"]} == {"6.67"} and end["table"][0][1:] == end["table"][3][
        1:
    ]
    moved = relaxing.change(
        FORM,
        text,
        True,
        *relaxed_form(where="auto", judge="text", fraction=0.5, windows=3, images=2),
    )
    assert "**text** decided" in moved["summary"] and "**7.50 bits** on average" in moved["summary"]
    assert settled(relaxing.show(FORM, text))["table"] == end["table"]
    plain = settled(relaxing.show(FORM, text_of(dataclasses.replace(low, relaxing=None))))
    assert plain["go"]["visible"], "with other windows it is another measurement"


def test_measuring_that_is_stopped_keeps_nothing(low):
    recipe = dataclasses.replace(low, relaxing=Relaxing(windows=2, images=1))
    work = relaxing.measure(text_of(recipe))
    next(answer for answer in work if answer.get("table") == [])
    work.close()
    after = relaxing.JOB.show_stopped(text_of(recipe))
    assert (
        "nothing was kept" in after["status"]
        and after["go"]["visible"]
        and not after["body"]["visible"]
    )
    assert not find_windows(recipe)


# --- the probe ------------------------------------------------------------------------------------


def test_a_probe_is_drawn_image_by_image_and_there_again(low):
    form = (2, False, None, None, "1, 4", "a", "3")
    assert "press **Probe**" in probe.show(text_of(low))["empty"]["value"]
    answers = list(probe.run(text_of(low), *form))
    assert [len(answer["table"]) for answer in answers if "table" in answer] == [1, 2, 3, 4, 4]
    end = settled(answers)
    probed = find_probe(low, Probe(windows=2, gains=(1.0, 4.0), prompt="a", seed=3))
    assert [(row[0], row[1]) for row in end["table"]] == [
        ("0 to 2", 1),
        ("0 to 2", 4),
        ("3 to 5", 1),
        ("3 to 5", 4),
    ]
    assert [float(row[3]) for row in end["table"]] == pytest.approx(
        [one.error for one in probed], rel=1e-3
    )
    images, captions = zip(*end["grid"]["value"], strict=True)
    assert end["grid"]["columns"] == 3 and len(images) == 6
    assert np.array_equal(images[0], images[3]) and captions[3].startswith(
        "Steps 3 to 5 → float, match "
    )
    assert np.array_equal(images[4], probed[2].pixels) and captions[4].startswith("× 1: ")
    worst = max((one for one in probed if one.gain == 4), key=lambda one: one.error)
    assert (
        f"fidelity suffers most from steps **{worst.start} to {worst.end - 1}**" in end["summary"]
    )
    assert "Published example" in end["summary"]
    again = probe.show(text_of(low))
    assert again["table"] == end["table"] and (again["gains"], again["seed"]) == ("1, 4", "3")
    assert (again["prompt"]["value"], again["windows"]["value"], again["single_window"]) == (
        "a",
        2,
        False,
    )


def test_one_window_of_ones_own(low):
    answers = list(probe.run(text_of(low), 4, True, 1, 2, "2", "b", "0"))
    assert [row[0] for row in settled(answers)["table"]] == ["1 to 2"]
    assert settled(answers)["summary"] == probe.PUBLISHED, "one window cannot be the worst"
    again = probe.show(text_of(low))
    assert (again["single_window"], again["first"], again["last"], again["window"]["visible"]) == (
        True,
        1,
        2,
        True,
    )


@pytest.mark.parametrize(
    ("form", "why"),
    [
        ((4, True, 4, 6, "1", "a", "0"), "the window 4 to 6 does not lie within 0 to 5"),
        ((4, True, 3, 3, "1", "a", "0"), "the window 3 to 3"),
        ((4, True, None, 3, "1", "a", "0"), "First step: expected a number"),
        ((7, False, 0, 0, "1", "a", "0"), "7 windows of 6 steps"),
        ((2.5, False, 0, 0, "1", "a", "0"), "expected a whole number"),
        ((4, False, 0, 0, "", "a", "0"), "gains must be one or more numbers"),
        ((4, False, 0, 0, "a lot", "a", "0"), "gains must be numbers such as 1, 2, 4"),
        ((4, False, 0, 0, "nan", "a", "0"), "gains must be"),
        ((4, False, 0, 0, "1", "  ", "0"), "prompt"),
        ((4, False, 0, 0, "1", "a", "0, 1"), "give one seed"),
        ((6, False, 0, 0, "1 2 3 4 5", "a", "0"), "30 images; a probe generates at most 24"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_what_cannot_be_probed_is_refused_in_one_line(low, form, why):
    before = learned.answers("probe")
    with pytest.raises(DmqError, match=why) as refusal:
        list(probe.run(text_of(low), *form))
    assert "\n" not in str(refusal.value) and learned.answers("probe") == before


def test_without_prompts_nothing_judges_the_match(unprompted):
    text = text_of(dataclasses.replace(unprompted, activations=Activations(bits=5)))
    end = settled(probe.run(text, 1, False, None, None, "1", "", "0"))
    assert end["table"][0][4:] == ["–", "–"] and end["match"] == gr.update(
        value=None, visible=False
    )
    assert re.fullmatch(r"Steps 0 to 5 → float", end["grid"]["value"][0][1])
    assert probe.show(text)["prompt"]["visible"] is False


def test_a_model_in_float_has_no_error_to_amplify(low):
    floats = dataclasses.replace(
        low, weights=Weights(bits=FLOAT), activations=Activations(bits=FLOAT)
    )
    assert "no error to amplify" in probe.show(text_of(floats))["empty"]["value"]
    with pytest.raises(DmqError, match="no error to amplify"):
        next(probe.run(text_of(floats), 4, False, None, None, "1", "a", "0"))


def test_which_window_the_match_suffers_from_is_computed():
    def image(start, error, match):
        pixels = np.zeros((2, 2, 3), np.uint8)
        return ProbeImage(
            start=start,
            end=start + 3,
            gain=2.0,
            pixels=pixels,
            exact=pixels,
            error=error,
            psnr=20.0,
            match=match,
            match_float=30.0,
        )

    said = probe.summarize((image(0, 0.1, 20.0), image(3, 0.4, 29.0)))
    assert "fidelity suffers most from steps **3 to 5** (latent error 0.4, 20.0 dB)" in said
    assert "the match with the prompt from steps **0 to 2** (-10.00)" in said
    assert "from none of the windows" in probe.summarize((image(0, 0.1, 31.0), image(3, 0.4, 30.0)))
    assert "the match" not in probe.summarize((image(0, 0.1, math.nan), image(3, 0.4, math.nan)))


# --- all of them ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stage", "run"),
    [
        ("measure_error_curves", lambda text: error_over_time.generate(text, "zz", "9", [])),
        ("calibrate_ranges", trajectory_ranges.calibrate),
        ("measure_windows", relaxing.measure),
        ("run_probe", lambda text: probe.run(text, 2, False, None, None, "1", "zz", "9")),
    ],
    ids=["generate", "calibrate", "measure", "probe"],
)
def test_a_failure_gives_the_button_back(low, monkeypatch, stage, run):
    home = {
        "measure_error_curves": error_curves,
        "run_probe": dmq.evaluation.probe,
        "calibrate_ranges": trajectory_ranges,
        "measure_windows": relaxing,
    }[stage]
    monkeypatch.setattr(home, stage, fails)
    answer = refused(run(text_of(low)))
    assert (
        answer["go"]["visible"] is True
        and answer["stop"]["visible"] is False
        and answer["status"] == ""
    )


def test_words_and_commands_tell_of_it(low):
    recipe = dataclasses.replace(
        low, progressive=Progressive(), relaxing=Relaxing(where="auto", judge="text")
    )
    assert short_name(recipe) == "W8A5 per step, PCR, auto 20 % by text A10"
    assert "10 bits at the best 20 % of the steps (text decides)" in describe_recipe(recipe)
