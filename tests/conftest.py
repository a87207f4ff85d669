"""One thread for torch: the models are tiny, and two test processes on two cores would only wait for each other."""

import os

import pytest


os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(items):
    """Browser tests first: they take longest."""
    items.sort(key=lambda item: "browser" not in item.keywords)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """All browser tests to one process, since two browsers are too much for two cores; the others file by file."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            file = nodeid.split("::")[0]
            return "browser" if file.startswith("tests/browser/") else file

    return Scheduling(config, log)
