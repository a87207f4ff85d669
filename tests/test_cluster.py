"""Whatever falls into independent tasks is shared by processes or a real Dask cluster, of whose two
workers one dies: the answer is what one process gives, to the last bit.
"""

import dataclasses

import numpy as np
import pytest

from dmq.evaluation.benchmark import run_benchmark
from dmq.evaluation.compare import compare_images
from dmq.progress import GeneratedImage, Progress, relay, run_to_end
from dmq.recipe import Benchmark, Calibration, Comparison, Domain, Gptq, Weights
from dmq.reconstruction.from_inputs import to_arrays
from dmq.store import captures, folders
from dmq.workflow.answers import get_layer_codes, get_statistics
from dmq.workflow.learning import capture_statistics, learn_layer_codes
from dmq.workflow.steps import carry_out
from tests.cluster import Cluster
from tests.tiny import captured_recipe, runs_in


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    with runs_in(tmp_path_factory.mktemp("shared")) as made:
        yield made


@pytest.fixture(scope="module")
def cluster(folder):
    made = Cluster(folder)
    yield made
    made.close()


@pytest.fixture(scope="module")
def recipe(folder):
    made = captured_recipe(folder, 2)
    calibration = Calibration(samples=5, batch=1, prompts=("a", "b"))
    return dataclasses.replace(made, calibration=calibration)


def shared(cluster, work):
    """The value of `work`, whose progress kills one of two workers as soon as a part is done and
    another is not.
    """
    cluster.whole()
    killed = False
    while True:
        try:
            item = next(work)
        except StopIteration as end:
            assert killed
            return end.value
        if not killed and isinstance(item, Progress) and 0 < item.done < item.total:
            cluster.kill_one()
            killed = True


def assert_equal(a, b, *, but=()):
    """Two frozen results have the same fields, arrays to the last bit."""
    for field in dataclasses.fields(a):
        if field.name not in but:
            np.testing.assert_equal(getattr(a, field.name), getattr(b, field.name), field.name)


def test_batches_of_a_capture(cluster, recipe):
    here = captures.load_stats(run_to_end(capture_statistics(recipe)))
    work = capture_statistics(recipe, again=True, scheduler=cluster.address)
    assert_equal(here, captures.load_stats(shared(cluster, work)))
    assert [path.name for path in (folders.home() / "captures").glob("*.partial")] == []


def test_a_capture_that_was_interrupted_watches_only_the_other_batches(cluster, recipe):
    other = dataclasses.replace(recipe, calibration=Calibration(samples=4, batch=1, seed=7))
    here = captures.load_stats(run_to_end(capture_statistics(other)))
    how = {"again": True, "scheduler": cluster.whole().address}
    work = capture_statistics(other, **how)
    next(item for item in work if isinstance(item, Progress) and item.done)
    work.close()
    (partial,) = (folders.home() / "captures").glob("*.partial")
    kept = {path.name: path.stat().st_mtime_ns for path in partial.iterdir()}
    assert kept and not [name for name in kept if name.startswith(".")]
    seen = [item for item in capture_statistics(other, **how) if hasattr(item, "done")]
    assert min(item.done for item in seen if item.done) == 2 * (len(kept) + 1)
    assert_equal(here, get_statistics(other))
    assert not partial.exists()


def compared(recipe, **shared):
    """Report and images of a comparison; without the seconds."""
    images = {}

    def keep(item):
        if isinstance(item, GeneratedImage):
            images[item.recipe, item.index, item.step] = item.pixels
        return item

    asked = Comparison(prompts=("a", "b", "c"), seeds=(0, 1, 2, 3, 4, 5), sampling=recipe.sampling)
    report = yield from relay(compare_images(asked, (recipe,), **shared), keep)
    return dataclasses.replace(report, seconds={}), images


def test_batches_of_a_comparison(cluster, recipe):
    run_to_end(capture_statistics(recipe))
    here, images = run_to_end(compared(recipe))
    there, others = shared(cluster, compared(recipe, scheduler=cluster.address))
    assert here == there and images.keys() == others.keys()
    assert all(np.array_equal(images[key], others[key]) for key in images)
    assert not list((folders.home() / "trajectories").glob("shared-images-*"))


def test_batches_of_a_benchmark(cluster, recipe):
    domain = Domain(name="letters", prompts=("a", "b", "c"))
    asked = Benchmark(
        domains=(domain,), seeds=(0, 1), sampling=recipe.sampling, measures=("psnr",), batch=2
    )
    here = run_to_end(run_benchmark(asked, (recipe,), name="here"))
    work = run_benchmark(asked, (recipe,), name="there", scheduler=cluster.address)
    there = shared(cluster, work)
    assert [row.figures for row in here.rows] == [row.figures for row in there.rows]
    assert here.images == there.images


def test_codes_learned_from_inputs(cluster, recipe):
    asked = dataclasses.replace(
        recipe, weights=Weights(bits=3, format=Gptq()), calibration=Calibration(samples=2, batch=2)
    )
    run_to_end(learn_layer_codes(asked))
    here = get_layer_codes(asked)
    work = carry_out(asked, only="weights", again=True, scheduler=cluster.address)
    shared(cluster, work)
    there = get_layer_codes(asked)
    assert here.keys() == there.keys() and len(here) > 20
    for name, learned in here.items():
        (arrays, plain), (others, other) = to_arrays(learned), to_arrays(there[name])
        assert plain == other
        np.testing.assert_equal(arrays, others)
