"""Blocks whose inside is computed again on the way back: the same gradients, and less that is
kept for them.
"""

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from dmq.models import recompute
from dmq.models.recompute import (
    forget_and_recompute,
    measure_answered,
    pieces,
    pieces_within,
    too_large,
)
from dmq.models.tiny import FAMILIES, tiny_call, tiny_denoiser
from tests.models.test_splits import adapter_of


@pytest.fixture(params=FAMILIES)
def denoiser(request):
    return tiny_denoiser(request.param)


def gradients(denoiser, names, times=2):
    """Of all weights [each pass], how often every piece ran, and the bytes kept outside of
    pieces.
    """
    kept, ran, found = [], dict.fromkeys(names, 0), []

    def pack(x):
        kept.append(x.nbytes)
        return x

    def count(name):
        return lambda *_: ran.update({name: ran[name] + 1})

    denoiser.requires_grad_(True)
    inner = {
        name: next(m for m in denoiser.get_submodule(name).modules() if not list(m.children()))
        for name in names
    }
    hooks = [m.register_forward_pre_hook(count(name)) for name, m in inner.items()]
    with forget_and_recompute(denoiser, names):
        with saved_tensors_hooks(pack, lambda x: x):
            answer = denoiser(**tiny_call(denoiser, 500.0), return_dict=False)[0]
        for n in range(times):
            denoiser.zero_grad()
            answer.square().mean().backward(retain_graph=n + 1 < times)
            found.append([p.grad.clone() for p in denoiser.parameters() if p.grad is not None])
    for hook in hooks:
        hook.remove()
    return found, ran, sum(kept)


def test_gradients_are_the_same_and_less_is_kept(denoiser):
    names = pieces(denoiser, adapter_of(denoiser).blocks(denoiser))
    plain, _, much = gradients(denoiser, ())
    found, ran, little = gradients(denoiser, names)
    assert len(plain[0]) == len(found[0]) > 20 and little < 0.6 * much
    for one, other in zip(plain, found, strict=True):
        for a, b in zip(one, other, strict=True):
            torch.testing.assert_close(a, b)
    assert min(ran.values()) >= 3  # forward, and once more for each way back
    assert not any("forward" in vars(module) for module in denoiser.modules())


def test_pieces_cover_blocks_and_do_not_overlap(denoiser):
    blocks = adapter_of(denoiser).blocks(denoiser)
    names = pieces(denoiser, blocks)
    layers = [n for n, m in denoiser.named_modules() if list(m.parameters(recurse=False))]
    inside = [n for n in layers if n.startswith(tuple(f"{block}." for block in blocks))]
    owners = [[name for name in names if n.startswith(f"{name}.")] for n in inside]
    assert max(map(len, owners)) == 1
    assert sum(map(len, owners)) > 0.8 * len(
        inside
    )  # projections around transformer blocks are in none
    for block in blocks:
        within = pieces_within(denoiser, block)
        assert (
            within and block not in within and all(name.startswith(f"{block}.") for name in within)
        )


def test_without_gradients_nothing_is_different(denoiser):
    call = tiny_call(denoiser, 500.0)
    with torch.no_grad():
        right = denoiser(**call, return_dict=False)[0]
        with forget_and_recompute(
            denoiser, pieces(denoiser, adapter_of(denoiser).blocks(denoiser))
        ):
            assert torch.equal(denoiser(**call, return_dict=False)[0], right)


def test_a_forward_of_somebody_else_is_put_back():
    denoiser = tiny_denoiser("DiT")
    block = denoiser.transformer_blocks[0]
    own = block.forward = block.forward
    with forget_and_recompute(denoiser, ["transformer_blocks.0", "transformer_blocks.1"]):
        assert block.forward is not own
    assert vars(block)["forward"] is own and "forward" not in vars(denoiser.transformer_blocks[1])


def test_whether_memory_is_short_is_told_from_what_leaves_answer(monkeypatch):
    denoiser, sizes = tiny_denoiser("SD"), []
    leaves = [m for m in denoiser.modules() if not list(m.children())]
    hooks = [
        m.register_forward_hook(lambda m, args, out: sizes.append(4 * out.numel())) for m in leaves
    ]
    with torch.no_grad(), measure_answered(denoiser) as count:
        denoiser(**tiny_call(denoiser, 500.0))
    for hook in hooks:
        hook.remove()
    assert count.bytes == sum(sizes) and not any(m._forward_hooks for m in denoiser.modules())
    for free, short in ((None, False), (6 * count.bytes, False), (6 * count.bytes - 2, True)):
        monkeypatch.setattr(recompute, "free_memory", lambda device, free=free: free)
        assert too_large(count.bytes, torch.device("cpu")) is short
