"""How much is worked on at a time: the cache's size on a CPU, what memory allows elsewhere;
results are the same.
"""

import threading

import pytest
import torch

from dmq.numerics import devices, mixture, power_of_two, ranges
from dmq.numerics.codebook import kmeans
from dmq.numerics.devices import CACHED, LARGEST, chunk_size, double, free_memory
from dmq.numerics.hqq import half_quadratic
from dmq.numerics.packing import pack, unpack
from dmq.numerics.threads import LARGE, few_threads, one_thread, process_threads
from dmq.recipe import MseSearch


ELSEWHERE = torch.device("cuda")


@pytest.fixture
def free(monkeypatch):
    """Says how many bytes are free wherever it is asked."""

    def told(much):
        devices._chunk_size.cache_clear()
        monkeypatch.setattr(devices, "free_memory", lambda device: much)

    yield told
    devices._chunk_size.cache_clear()


def test_pieces_on_a_cpu_are_as_large_as_its_cache_and_elsewhere_as_memory_allows(free):
    sizes = []
    for gigabytes in (0, 0.01, 0.1, 1, 8, 80, 800):
        free(int(gigabytes * 10**9))
        assert chunk_size(torch.device("cpu")) == CACHED
        assert chunk_size(torch.device("cpu"), 2**20) == 2**20
        sizes.append(chunk_size(ELSEWHERE))
        assert chunk_size(ELSEWHERE, 2**20) == max(2**20, sizes[-1])
        # All the temporaries of a piece fit beside what else is there.
        assert sizes[-1] == CACHED or 64 * sizes[-1] <= gigabytes * 10**9 / 4
        assert sizes[-1] & (sizes[-1] - 1) == 0
    assert sizes == sorted(sizes) and sizes[0] == CACHED and sizes[-1] == LARGEST
    free(None)
    assert chunk_size(ELSEWHERE) == LARGEST


def test_free_memory_of_the_cpu_is_no_more_than_a_container_may_use(monkeypatch, tmp_path):
    there = free_memory(torch.device("cpu"))
    assert 10**6 < there
    limit, used = tmp_path / "max", tmp_path / "current"
    monkeypatch.setattr(
        devices, "LIMITS", ((str(limit), str(used)), (str(tmp_path / "none"), str(used)))
    )
    limit.write_text("5000000\n"), used.write_text("2000000\n")
    assert free_memory(torch.device("cpu")) == 3_000_000
    limit.write_text("max\n")
    assert free_memory(torch.device("cpu")) > 3_000_000


def test_a_device_that_is_not_there_tells_nothing():
    if not torch.cuda.is_available():
        assert free_memory(ELSEWHERE) is None
    assert free_memory(torch.device("meta")) is None


def both(monkeypatch, module, made):
    """What `made` gives with pieces of a few values, and with pieces that hold everything."""
    found = []
    for size in (64, 2**26):
        monkeypatch.setattr(module, "chunk_size", lambda device, cached=0, size=size: size)
        found.append(made())
    return found


@pytest.mark.parametrize("bits", [3, 8, 11])
def test_what_is_found_does_not_depend_on_the_size_of_pieces(monkeypatch, bits):
    from dmq.numerics import codebook, hqq, packing

    rows = torch.randn(7, 40, generator=torch.Generator().manual_seed(0))
    codes = torch.arange(901) % 2**bits
    cases = [
        (ranges, lambda: ranges.find_range(MseSearch(), rows, min(bits, 8), False)),
        (ranges, lambda: ranges.power_search(rows, min(bits, 8))),
        (power_of_two, lambda: (power_of_two.power_of_two_scale(rows, 4),)),
        (hqq, lambda: half_quadratic(rows, min(bits, 8), 20)),
        (packing, lambda: (pack(codes, bits),)),
        (packing, lambda: (unpack(pack(codes, bits), bits, 901),)),
        (codebook, lambda: kmeans(rows, 8, 10)),
    ]
    for module, made in cases:
        few, all_at_once = both(monkeypatch, module, made)
        assert all(torch.equal(a, b) for a, b in zip(few, all_at_once, strict=True)), (
            module.__name__
        )


def test_a_mixture_in_pieces_is_that_in_one(monkeypatch):
    x = torch.randn(5, 70, generator=torch.Generator().manual_seed(0), requires_grad=True)
    low, high = (
        torch.tensor([-1.0, -2.0], requires_grad=True),
        torch.tensor([1.5, 2.5], requires_grad=True),
    )
    weights = torch.tensor([0.3, 0.7], requires_grad=True)

    def made():
        for leaf in (x, low, high, weights):
            leaf.grad = None
        y = mixture.mixture(x, weights, mixture.grids(low, high, 4, False), 4)
        y.square().sum().backward()
        return y.detach(), *(leaf.grad.clone() for leaf in (x, low, high, weights))

    for a, b in zip(*both(monkeypatch, mixture, made), strict=True):
        torch.testing.assert_close(a, b)


def test_small_work_on_the_cpu_has_one_thread_and_large_work_all():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with few_threads([torch.zeros(8), torch.zeros(9)]):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
        large = torch.zeros(1).expand(LARGE // 2)
        for tensors in ([large, large], [torch.zeros(1), large, large]):
            with few_threads(tensors):
                assert torch.get_num_threads() == 2
        with few_threads([large]):
            assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_who_begins_while_another_has_one_thread_does_not_leave_one_to_everybody():
    before, inside, out = torch.get_num_threads(), threading.Event(), threading.Event()
    torch.set_num_threads(2)
    assert process_threads() == 2

    def first():
        with one_thread(), one_thread():
            inside.set()
            out.wait()
            assert torch.get_num_threads() == 1  # which is this thread's own

    def second():  # is told "one" by its first look at torch
        inside.wait()
        with one_thread():
            out.set()
            worker.join()

    try:
        worker = threading.Thread(target=first)
        other = threading.Thread(target=second)
        worker.start()
        other.start()
        other.join()
        found = []
        late = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
        late.start()
        late.join()
        assert found == [2]
    finally:
        torch.set_num_threads(before)


def test_float64_is_exact():
    assert double(torch.ones(2, dtype=torch.bfloat16)).dtype is torch.float64
