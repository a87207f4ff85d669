"""Many tasks here, in processes, and on a real Dask cluster of a scheduler and two workers that
may die.
"""

import os
import signal
import sys
import time

import pytest

from dmq import engine
from dmq.errors import DmqError
from tests.cluster import Cluster


# --- what is done with tasks: functions of a module, as workers must find them --------------------


def square(task):
    return task * task


def slow_square(task):
    time.sleep(0.1)
    return task * task


def whose(task):
    time.sleep(0.05)
    return os.getpid()


def refuse(task):
    if task == 2:
        raise DmqError("layer 2: its weight is not finite.")
    return task


def die(task):
    if task == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.3)
    return task


def everything(function, tasks, **how):
    """All results by task, as they were kept, and the last (done, total)."""
    found, last = {}, None
    for done, total, _ in engine.run(function, tasks, kept=found.__setitem__, **how):
        last = (done, total)
    return found, last


# --- here -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2])
def test_every_task_is_done_once(workers):
    assert everything(square, range(7), workers=workers) == ({n: n * n for n in range(7)}, (7, 7))


def test_several_workers_are_other_processes():
    pids = set(everything(whose, range(12), workers=2)[0].values())
    assert len(pids) == 2 and os.getpid() not in pids
    assert set(everything(whose, range(2))[0].values()) == {os.getpid()}


@pytest.mark.parametrize("workers", [1, 2])
def test_what_is_finished_is_kept_before_the_next_is_told_and_closing_keeps_it(workers):
    found = {}
    work = engine.run(slow_square, range(20), kept=found.__setitem__, workers=workers)
    done, total, result = next(work)
    work.close()
    assert (done, total) == (1, 20)
    assert list(found.values()) == [result]


@pytest.mark.parametrize("workers", [1, 2])
def test_what_a_task_cannot_do_is_told_in_its_own_words(workers):
    found = {}
    with pytest.raises(DmqError, match=r"^layer 2: its weight is not finite\.$"):
        list(engine.run(refuse, range(5), kept=found.__setitem__, workers=workers))
    assert 2 not in found


def test_a_process_that_dies_gives_one_line_and_loses_nothing_kept():
    found = {}
    with pytest.raises(
        DmqError, match=r"a worker process died.* of 5 results are kept; run again to go on"
    ) as told:
        list(engine.run(die, range(5), kept=found.__setitem__, workers=2))
    assert "\n" not in str(told.value)
    assert f" {len(found)} of 5 " in str(told.value)
    assert all(found[n] == n for n in found)


def test_no_workers_are_refused():
    with pytest.raises(DmqError, match="workers is 0"):
        next(engine.run(square, [1], kept=print, workers=0))


# --- on a cluster ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    made = Cluster(tmp_path_factory.mktemp("cluster"))
    yield made
    made.close()


def test_a_cluster_does_every_task_once_and_shares_them(cluster):
    cluster.whole()
    assert everything(square, range(9), scheduler=cluster.address) == (
        {n: n * n for n in range(9)},
        (9, 9),
    )
    pids = set(everything(whose, range(12), scheduler=cluster.address)[0].values())
    assert pids == {worker.pid for worker in cluster.workers}


def test_a_cluster_tells_what_a_task_cannot_do(cluster):
    cluster.whole()
    with pytest.raises(DmqError, match=r"^layer 2: its weight is not finite\.$"):
        everything(refuse, range(5), scheduler=cluster.address)


def test_closing_gives_up_what_the_cluster_has_not_begun(cluster):
    cluster.whole()
    found = {}
    work = engine.run(slow_square, range(40), kept=found.__setitem__, scheduler=cluster.address)
    next(work)
    work.close()
    assert len(found) == 1
    with engine._connected(cluster.address) as client:
        held = client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks))
    assert held < 10


def test_the_sweep_goes_on_when_one_of_two_workers_is_killed(cluster):
    cluster.whole()
    found = {}
    for done, _, _ in engine.run(
        slow_square, range(20), kept=found.__setitem__, scheduler=cluster.address
    ):
        if done == 3:
            cluster.kill_one()
    assert found == {n: n * n for n in range(20)}


def test_without_any_worker_left_one_line_says_so_and_a_resumed_sweep_does_only_the_rest(
    cluster, monkeypatch
):
    monkeypatch.setattr(engine, "PATIENCE", 1.0)
    monkeypatch.setattr(engine, "POLL", 0.2)
    cluster.whole()
    found = {}
    with pytest.raises(
        DmqError, match=r"no worker is left.* of 20 results are kept; run again to go on"
    ) as told:
        for done, _, _ in engine.run(
            slow_square, range(20), kept=found.__setitem__, scheduler=cluster.address
        ):
            if done == 3:
                for worker in cluster.workers:
                    worker.kill()
                    worker.wait()
    assert "\n" not in str(told.value)
    assert 3 <= len(found) < 20
    monkeypatch.undo()
    cluster.whole()
    rest = [n for n in range(20) if n not in found]
    again, last = everything(square, rest, scheduler=cluster.address)
    assert last == (len(rest), len(rest))
    assert found | again == {n: n * n for n in range(20)}


def test_a_cluster_without_workers_is_told(cluster, monkeypatch):
    cluster.whole()
    for worker in cluster.workers:
        worker.kill()
        worker.wait()
    monkeypatch.setattr(engine, "PATIENCE", 2.0)
    with pytest.raises(DmqError, match=r"has no workers; start one with `dask worker tcp://"):
        everything(square, range(2), scheduler=cluster.address)


def test_a_scheduler_that_goes_away_gives_one_line_and_loses_nothing_kept(tmp_path, capfd):
    cluster, found = Cluster(tmp_path), {}
    try:
        cluster.whole()
        with pytest.raises(
            DmqError, match=r"the scheduler went away\. \d+ of 40 results are kept"
        ) as told:
            for done, _, _ in engine.run(
                slow_square, range(40), kept=found.__setitem__, scheduler=cluster.address
            ):
                if done == 3:
                    cluster.scheduler.kill()
                    cluster.scheduler.wait()
    finally:
        cluster.close()
    assert "\n" not in str(told.value)
    assert f" {len(found)} of 40 " in str(told.value)
    assert len(found) >= 3 and all(found[n] == n * n for n in found)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "nonsense://x"])
def test_a_scheduler_that_is_not_there_is_told(address, monkeypatch):
    monkeypatch.setattr(engine, "PATIENCE", 1.0)
    with pytest.raises(
        DmqError, match=r"none answers at .*start one with `dask scheduler`"
    ) as told:
        everything(square, [1], scheduler=address)
    assert "\n" not in str(told.value)


def test_without_dask_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(DmqError, match=r"pip install -r requirements-cluster\.txt"):
        everything(square, [1], scheduler="tcp://127.0.0.1:1")
