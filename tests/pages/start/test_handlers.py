"""The handlers of the Start tab, called as functions."""

from dmq import jsonio
from dmq.artifacts.model_info import get_info
from dmq.store import folders, runs
from pages.start import handlers as start


def test_a_starting_recipe_keeps_model_sampling_and_calibration(text, recipe):
    for name in runs.shipped_recipes():
        made = jsonio.loads(start.begin(text, name)["recipe"])
        assert (made.model, made.sampling, made.calibration) == (
            recipe.model,
            recipe.sampling,
            recipe.calibration,
        )
        assert made.weights == runs.shipped_recipes()[name].weights


def test_the_start_tab_shows_every_layer(text, recipe):
    assert len(start.show(text)["table"]) == len(get_info(recipe.model).layers)


def test_no_file_is_shown_for_a_name_that_a_visitor_wrote(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "ASSETS", tmp_path)
    for place in ("models/emoji-sd", "private"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "samples.png").touch()
    assert start.find_image("emoji-sd") == str(tmp_path / "models" / "emoji-sd" / "samples.png")
    assert start.find_image("../private") is None
