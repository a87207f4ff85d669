"""ZeroGPU, with a stand-in for `spaces` that does what the real one does: it forks, pickles,
sends answers back.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dmq.recipe import Calibration, Recipe, Sampling
from dmq.workflow import gpu_time


ROOT = Path(__file__).parents[2]

SPACES = '''
import functools, inspect, multiprocessing, pickle

asked, forks = [], multiprocessing.get_context("fork")

def GPU(task, *, duration=None):
    """Run `task` in another process, made from this one; only what can be pickled crosses."""

    def begun(args):
        asked.append((task.__name__, duration(*args)))
        mine, its = forks.Pipe()
        process = forks.Process(target=work, args=(its, pickle.dumps(args)))
        process.start()
        its.close()
        return mine, process

    def work(pipe, args):
        try:
            made = task(*pickle.loads(args))
            for one in made if inspect.isgeneratorfunction(task) else [made]:
                pipe.send(("answer", one))
            pipe.send(("end", None))
        except Exception as error:
            pipe.send(("error", error))

    def generator(*args):
        pipe, process = begun(args)
        try:
            while True:
                kind, value = pipe.recv()
                if kind == "error":
                    raise value
                if kind == "end":
                    return
                yield value
        finally:
            process.kill()
            process.join()

    def function(*args):
        return next(generator(*args))

    return functools.wraps(task)(generator if inspect.isgeneratorfunction(task) else function)
'''

TOLD = """
import json, os, sys
os.environ.setdefault("OMP_NUM_THREADS", "1")
import spaces
from pages import app
from dmq.store import runs
"""


@pytest.fixture
def space(tmp_path):
    """`space(code)` runs Python where `spaces` is installed, and answers with the JSON in its
    last line.
    """
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages" / "spaces.py").write_text(SPACES)

    def run(code, **more):
        env = {name: value for name, value in os.environ.items() if not name.startswith("DMQ_")}
        env |= {
            "PYTHONPATH": f"{tmp_path / 'packages'}{os.pathsep}{ROOT}",
            "DMQ_RUNS": str(tmp_path / "runs"),
        } | more
        made = subprocess.run(
            [sys.executable, "-c", TOLD + code],
            env=env,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert made.returncode == 0, made.stderr
        return json.loads(made.stdout.splitlines()[-1])

    return run


def test_whatever_runs_a_model_borrows_a_gpu_and_nothing_else(space):
    code = """
served = app.build()
fns = [fn for fn in served.fns.values() if fn.fn is not None]
lent = [fn.fn.__name__ for fn in fns if "GPU" in fn.fn.__qualname__ or hasattr(fn.fn, "__wrapped__")
        and "spaces" == fn.fn.__code__.co_filename.rpartition("/")[2].removesuffix(".py")]
wanted = [fn.fn.__name__ for fn in fns if fn.concurrency_id == "model"]
print(json.dumps([lent, wanted]))
"""
    lent, wanted = space(code)
    assert lent == wanted and {
        "generate",
        "start",
        "resume",
        "capture",
        "measure",
        "calibrate",
        "export",
    } <= set(wanted)
    assert len(wanted) < 25


def test_a_comparison_is_made_in_the_other_process(space):
    """Its answers come back, its run is kept for the visitor, its errors are told; seconds
    follow what is asked.
    """
    code = """
from dmq import jsonio, public
from dataclasses import replace
from pages.session import read
served = app.build()
generate = next(fn for fn in served.fns.values() if fn.fn is not None and fn.fn.__name__ == "generate"
            and fn.fn.__module__.endswith("compare.handlers"))
text, token, pid = jsonio.dumps(replace(read(""), unknown_timestep="nearest")), public.new_token(), os.getpid()
answers = list(generate.fn(token, text, "pizza", "0", 2, 4.0, [], None))
try:
    list(generate.fn(token, text, "", "0", 2, 4.0, [], None))
    said = ""
except Exception as error:
    said = f"{type(error).__name__} {error}"
with public.as_visitor(token):
    kept = runs.names()
more = next(iter(generate.fn(token, text, "pizza", "0-31", 50, 4.0, [], None)))
from dmq.models import loading
print(json.dumps([len(answers), kept, runs.names(), said, spaces.asked, len(loading._cache)]))
"""
    answers, kept, others, said, asked, loaded = space(code, DMQ_PUBLIC="1")
    assert answers > 3 and len(kept) == 1 and others == []
    assert said.startswith("Error") and "a prompt is empty" in said
    assert [name for name, _ in asked] == ["generate"] * 3
    few, wrong, many = (seconds for _, seconds in asked)
    assert wrong == 20 <= few < many <= 120
    assert loaded == 0, "what the other process remembers stays there"


def test_the_model_lies_on_the_cpu_here_and_on_the_gpu_there(space):
    code = """
from pages import gpu
app.place_models()
from dmq.models import loading
def seen():
    return os.environ.get("DMQ_DEVICE")
there = gpu.on_gpu(seen)()
print(json.dumps([there, seen(), [str(loaded.place.device) for loaded in loading._cache.values()]]))
"""
    assert space(code, SPACES_ZERO_GPU="true") == ["cuda", "cpu", ["cpu"]]
    assert space(code) == [None, None, []], "`spaces` alone lends nothing"


def test_without_spaces_handlers_are_as_they_were():
    from pages import gpu

    assert gpu.spaces is None

    def handler():
        return 1

    assert gpu.on_gpu(handler, lambda: 5) is handler


def test_seconds_follow_the_work():
    base = gpu_time.estimate_gpu_seconds("emoji-sd", 8, 50)
    assert (
        gpu_time.estimate_gpu_seconds("emoji-sd", 16, 50)
        > base
        < gpu_time.estimate_gpu_seconds("emoji-sd", 8, 100)
    )
    assert gpu_time.estimate_gpu_seconds("emoji-sd", 8, 50, models=3) - 10 == pytest.approx(
        3 * (base - 10)
    )
    recipe = Recipe(sampling=Sampling(steps=2), calibration=Calibration(samples=1))
    assert gpu_time.estimate_gpu_seconds(recipe.model, 1, 2) < 12
