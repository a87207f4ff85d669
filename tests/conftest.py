"""One thread for torch: the models are tiny, and two test processes on two cores would only wait
for each other.
"""

import os


os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(items):
    """Browser tests first: they take longest."""
    items.sort(key=lambda item: "browser" not in item.keywords)
