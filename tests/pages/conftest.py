"""A tiny model with its statistics, in a run folder of the test session."""

import pytest

from dmq import jsonio
from tests.tiny import captured_recipe, runs_in


@pytest.fixture(scope="session")
def recipe(tmp_path_factory):
    with runs_in(tmp_path_factory.mktemp("pages")) as folder:
        yield captured_recipe(folder, steps=6)


@pytest.fixture
def text(recipe):
    return jsonio.dumps(recipe)
