import threading

import pytest

from dmq.errors import DmqError
from dmq.models.stepping import stepping


def test_yields_what_is_reported_and_returns_the_value():
    def work(report):
        for n in range(3):
            report(n)
        return "done"

    stream = stepping(work)
    seen = []
    try:
        while True:
            seen.append(next(stream))
    except StopIteration as end:
        assert end.value == "done"
    assert seen == [(0,), (1,), (2,)]


def test_closing_a_stream_ends_the_work_and_its_thread():
    started, over = threading.Event(), threading.Event()

    def work(report):
        try:
            for n in range(10_000_000):
                started.set()
                report(n)
        finally:
            over.set()

    before = threading.active_count()
    stream = stepping(work)
    next(stream)
    assert started.is_set()
    stream.close()
    assert over.is_set()
    assert threading.active_count() == before


def test_an_error_in_the_work_is_raised_where_it_is_read():
    def work(report):
        report(1)
        raise DmqError("broken")

    stream = stepping(work)
    assert next(stream) == (1,)
    with pytest.raises(DmqError, match="broken"):
        next(stream)
