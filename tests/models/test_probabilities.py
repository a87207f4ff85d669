"""Probabilities that are not written to memory, against softmax in double precision and explicit
products.
"""

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from dmq.models import probabilities as module
from dmq.models.attention import POINTS, Products, Watched, watch_products
from dmq.models.borrow import borrow
from dmq.models.probabilities import Probabilities, fuse
from dmq.models.tiny import FAMILIES, tiny_call, tiny_denoiser


HALF = [torch.bfloat16, torch.float16]
MASKS = {
    "no mask": lambda rows, heads: None,
    "boolean": lambda rows, heads: torch.rand(rows, 1, 11, 7) > 0.3,
    "added": lambda rows, heads: torch.randn(11, 7),
    "of keys": lambda rows, heads: torch.rand(rows, heads, 1, 7) > 0.3,
    "causal": lambda rows, heads: torch.ones(11, 7, dtype=torch.bool).tril(),
}


def operands(dtype=torch.float32, rows=2, heads=3, queries=11, keys=7, width=8):
    torch.manual_seed(0)
    return [
        torch.randn(rows, n, heads, width).transpose(1, 2).to(dtype) for n in (queries, keys, keys)
    ]


def oracle(q, k, mask, scale=None):
    """softmax in double precision; 0 for a query that may look nowhere."""
    scores = q.double() @ k.double().mT * (q.shape[-1] ** -0.5 if scale is None else scale)
    if mask is not None:
        scores = (
            scores.masked_fill(~mask, -torch.inf)
            if mask.dtype is torch.bool
            else scores + mask.double()
        )
    return scores.softmax(-1).nan_to_num(0)


@pytest.mark.parametrize("at_once", [10, 50, 2**20], ids=["queries", "heads", "whole"])
@pytest.mark.parametrize("dtype", [torch.float32, *HALF], ids=str)
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("told", [True, False], ids=["lse told", "lse found"])
def test_extremes_and_entries_are_those_of_the_softmax(monkeypatch, at_once, dtype, mask, told):
    monkeypatch.setattr(module, "ON_CPU", at_once)
    q, k, v = operands(dtype)
    mask = mask(2, 3)
    if mask is not None and mask.shape[-2] > 1 and mask.dtype is torch.bool:
        mask[..., 4, :] = False  # it may look nowhere
    answer, lse = fuse(q, k, v, mask)
    assert torch.equal(answer, F.scaled_dot_product_attention(q, k, v, mask))
    found = Probabilities(q, k, mask, None, lse if told else None)
    wanted = oracle(q, k, mask)
    low, high = found.extremes()
    torch.testing.assert_close(low.double(), wanted.amin((0, 2, 3)), atol=1e-6, rtol=0)
    torch.testing.assert_close(high.double(), wanted.amax((0, 2, 3)), atol=1e-6, rtol=0)
    places = torch.arange(wanted.numel()).view(2, -1)
    torch.testing.assert_close(found.at(places).double(), wanted.view(2, -1), atol=1e-6, rtol=0)


OPTIONS = {
    "plain": {},
    "scale": {"scale": 0.3},
    "causal": {"is_causal": True},
    "mask": {"attn_mask": torch.rand(5, 6) > 0.2},
    "bias": {"attn_mask": torch.randn(2, 1, 5, 6)},
    "grouped": {"enable_gqa": True},
    "dropout": {"dropout_p": 0.5},
}


@pytest.mark.parametrize("dtype", [torch.float32, *HALF], ids=str)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_watching_changes_no_answer_and_sees_what_the_explicit_product_sees(dtype, options):
    q, k, v = operands(dtype, heads=4, queries=5, keys=6)
    mask = options.get("attn_mask")
    if mask is not None:
        mask = (mask if mask.dtype is torch.bool else mask.to(dtype)).clone()
        mask[..., 0] = True if mask.dtype is torch.bool else 0
        options = options | {"attn_mask": mask}
    if "enable_gqa" in options:
        k, v = k[:, :2], v[:, :2]
    watched, explicit, seen = Watched(print), Products(print), {}
    for name, products in (("watched", watched), ("explicit", explicit)):
        products.probs.register_forward_hook(
            lambda m, args, out, name=name: seen.setdefault(name, out)
        )
    torch.manual_seed(1)
    answer = watched.product(q, k, v, **options)
    torch.manual_seed(1)
    assert torch.equal(answer, F.scaled_dot_product_attention(q, k, v, **options))
    explicit.product(q, k, v, **options)
    probs, wanted = seen["watched"], seen["explicit"]
    assert probs.shape == wanted.shape and watched.calls == 1
    close = {
        "atol": {torch.float32: 1e-6, torch.float16: 2e-3, torch.bfloat16: 2e-2}[dtype],
        "rtol": 0,
    }
    torch.testing.assert_close(probs.whole(), wanted, **close)
    low, high = probs.extremes()
    torch.testing.assert_close(low, wanted.float().amin((0, 2, 3)), **close)
    torch.testing.assert_close(high, wanted.float().amax((0, 2, 3)), **close)
    torch.testing.assert_close(
        probs.at(torch.arange(wanted.numel())), wanted.float().flatten(), **close
    )


@pytest.mark.parametrize("dtype", [torch.float32, *HALF], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_a_watched_model_answers_as_ever(family, dtype):
    model = tiny_denoiser(family).to(dtype)
    call = {
        name: value.to(dtype)
        if isinstance(value, torch.Tensor) and value.is_floating_point()
        else value
        for name, value in tiny_call(model, 7.0).items()
    }
    if "added_cond_kwargs" in call:
        given = call["added_cond_kwargs"].items()
        call["added_cond_kwargs"] = {
            name: value if value is None else value.to(dtype) for name, value in given
        }
    quantized_model = borrow(model)
    attentions = watch_products(quantized_model)
    seen = []
    for attention in attentions.values():
        for point in POINTS:
            site = attention.get_submodule(point)
            site.register_forward_hook(lambda m, args, out, point=point: seen.append((point, out)))
    assert torch.equal(quantized_model(**call)[0], model(**call)[0])
    assert attentions and all(attention.calls for attention in attentions.values())
    for (_, q), (_, k), _, (_, probs) in (seen[n : n + 4] for n in range(0, len(seen), 4)):
        assert probs.shape == (*q.shape[:3], k.shape[2])
        wanted = oracle(q, k, probs.mask)
        # In half precision the kernel takes its exponentials, hence lse, with fewer digits.
        torch.testing.assert_close(
            probs.extremes()[1].double(), wanted.amax((0, 2, 3)), atol=1e-6, rtol=1e-4
        )


class Largest(TorchDispatchMode):
    """The elements of the largest tensor that an operation made."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for x in made if isinstance(made, (tuple, list)) else [made]:
            if isinstance(x, torch.Tensor) and not x._is_view():
                self.elements = max(self.elements, x.numel())
        return made


@pytest.mark.parametrize("kind", [Products, Watched])
def test_long_attention_never_holds_all_its_probabilities(kind):
    q, k, v = operands(rows=2, heads=2, queries=1024, keys=1024)  # 4 million probabilities
    attention = kind(print)
    told = []
    attention.probs.register_forward_hook(
        lambda m, args, out: told.append(
            out.extremes()[1] if kind is Watched else out.amax((0, 2, 3))
        )
    )
    with Largest() as largest:
        answer = attention.product(q, k, v)
    torch.testing.assert_close(
        answer, F.scaled_dot_product_attention(q, k, v), atol=1e-5, rtol=1e-5
    )
    assert largest.elements <= module.ON_CPU
    wanted = oracle(q, k, None).amax((0, 2, 3)).float()
    torch.testing.assert_close(torch.stack(told).amax(0), wanted, atol=1e-6, rtol=0)


def test_a_mask_is_cut_with_the_queries_it_is_for(monkeypatch):
    """Explicit products in pieces of queries, of each kind of mask."""
    import dmq.models.attention as attention

    monkeypatch.setattr(attention, "QUERIES", 2)
    monkeypatch.setattr(attention, "PIECE", 40)
    q, k, v = operands()
    for mask in (torch.rand(2, 1, 11, 7) > 0.5, torch.randn(11, 7), torch.rand(2, 3, 1, 7) > 0.3):
        if mask.dtype is torch.bool:
            mask[..., 0] = True
        pieces = []
        products = Products(print)
        products.probs.register_forward_hook(lambda m, args, out, pieces=pieces: pieces.append(out))
        wanted = F.scaled_dot_product_attention(q, k, v, mask)
        torch.testing.assert_close(products.product(q, k, v, mask), wanted, atol=1e-5, rtol=1e-5)
        assert [tuple(piece.shape) for piece in pieces] == [
            (1, 3, n, 7) for n in (2, 2, 2, 2, 2, 1)
        ] * 2
