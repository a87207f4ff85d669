"""One thread for torch: the models are tiny, and two test processes on two cores would only wait for each other."""

import os

import pytest


os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.hookimpl(tryfirst=True)  # xdist reads the groups in the same hook
def pytest_collection_modifyitems(items):
    """Browser tests first, all of them in one process, since two browsers at a time are too much for two cores.

    The others go to the processes file by file.
    """
    items.sort(key=lambda item: "browser" not in item.keywords)
    for item in items:
        group = "browser" if "browser" in item.keywords else item.location[0]
        item.add_marker(pytest.mark.xdist_group(group))
