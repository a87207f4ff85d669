"""Handing progress on: nothing is lost on the way, and closing the outer generator closes the
inner one.
"""

import pytest

from dmq.progress import Progress, progress_timer, relay, relay_each, run_to_end


def parts(done: list[int], ends: list[str]):
    """Five parts of which those in `done` are finished; each counts once it was worked on to its
    end.
    """
    try:
        for n in range(5):
            if n not in done:
                yield n, 5
                done.append(n)
    finally:
        ends.append("closed")
    return tuple(done)


def collected(work):
    """What a generator yields, and its value."""
    items = []
    value = run_to_end(relay(work, items.append))
    return items, value


def test_items_are_converted_and_the_value_is_handed_on():
    ends = []
    items, value = collected(relay(parts([], ends), lambda done, total: f"{done} of {total}"))
    assert (
        items == [f"{n} of 5" for n in range(5)] and value == (0, 1, 2, 3, 4) and ends == ["closed"]
    )


def test_one_item_becomes_many_or_none():
    items, value = collected(relay_each(parts([], []), lambda done, _: [done] * (done % 3)))
    assert items == [1, 2, 2, 4] and value == (0, 1, 2, 3, 4)


def test_closed_work_goes_on_where_it_was():
    done, ends = [], []

    def outer():
        return (yield from relay(relay(held, progress_timer("Learn")), str))

    held = parts(done, ends)  # else it would be closed as soon as nobody refers to it, by whomever
    work = outer()
    assert [next(work).partition(",")[0] for _ in range(3)] == [
        f"Learn: {n} of 5" for n in range(3)
    ]
    work.close()
    assert done == [0, 1] and ends == ["closed"]  # the third part was not finished
    items, value = collected(relay(parts(done, ends), lambda n, _: n))
    assert items == [2, 3, 4] and value == (0, 1, 2, 3, 4)


def test_an_error_of_the_conversion_comes_out_and_closes_the_work():
    ends = []

    def stops(n, _):
        raise StopIteration("lost")  # must not pass for the end of the work

    held = parts([], ends)  # not closed merely because nobody refers to it
    with pytest.raises(RuntimeError, match="generator raised StopIteration"):
        run_to_end(relay(held, stops))
    assert ends == ["closed"]


def test_a_timer_extends_the_speed_so_far(monkeypatch):
    now = [10.0]
    monkeypatch.setattr("dmq.progress.time.monotonic", lambda: now[0])
    at = progress_timer("Generate", already=4)
    assert at(4, 10) == Progress("Generate", 4, 10)
    now[0] = 16.0
    assert at(6, 10).seconds_left == 12.0  # three seconds for each of the two, four are left
