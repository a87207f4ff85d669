"""Examples in docstrings keep what they write in a folder of the test's own."""

import pytest


@pytest.fixture(autouse=True)
def _runs_of_doctests(request):
    if isinstance(request.node, pytest.DoctestItem):
        folder = request.getfixturevalue("tmp_path_factory").mktemp("doctest")
        request.getfixturevalue("monkeypatch").setenv("DMQ_RUNS", str(folder))
