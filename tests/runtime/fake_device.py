"""Execution on a GPU, without one: torch's fake tensors know their device and no values.

An operation that mixes devices raises, and so does whatever asks a tensor of the device for its
value: in the forward of a layer that would be a wait at every call. So what runs here has neither.
Whoever gives `Tensor` another `__getitem__` makes it a sequence for Python, even after it is taken
back, and `torch.tensor` reads sequences otherwise; hence `test_devices` runs this file in a process
of its own."""

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from dmq.models.attention import open_attention
from dmq.models.tiny import tiny_sd
from dmq.numerics.affine import fake_quantize
from dmq.quantizers.weights import quantize_weight
from dmq.recipe import LowRank, MinMax, Weights
from dmq.runtime import layers
from dmq.runtime.attention import Chunked
from dmq.runtime.fused_quantize import codes_of
from dmq.runtime.kernels import IntMm
from dmq.runtime.layers import PackedLayer
from dmq.runtime.whole_weights import WholeWeight, whole_parts
from tests.runtime.test_int_mm import BANKS, CASES, LAYERS, bank_for, packed


mode = FakeTensorMode()


@pytest.fixture
def cuda(monkeypatch):
    """`x.to("cuda")` gives a fake tensor, and they can be cut, filled, laid out: torch refuses
    it without CUDA.
    """
    plain, sliced, dense = torch.Tensor.to, torch.Tensor.__getitem__, torch.Tensor.contiguous

    def contiguous(x: Tensor, memory_format=torch.contiguous_format) -> Tensor:
        return (
            x.clone(memory_format=memory_format)
            if x.is_cuda
            else dense(x, memory_format=memory_format)
        )

    def get(x: Tensor, key) -> Tensor:
        if x.device.type != "cuda":
            return sliced(x, key)
        axis = 0
        for at in key if isinstance(key, tuple) else (key,):
            if isinstance(at, int):
                x = torch.ops.aten.select(x, axis, at)
            else:
                x, axis = torch.ops.aten.slice(x, axis, at.start, at.stop, at.step or 1), axis + 1
        return x

    def to(x: Tensor, *given, **named) -> Tensor:
        device, dtype, *_ = torch._C._nn._parse_to(*given, **named)
        if device is None or device.type != "cuda" or x.device.type == "cuda":
            return plain(x, dtype or x.dtype)
        with mode:
            return torch.empty_like(mode.from_tensor(x), device="cuda", dtype=dtype or x.dtype)

    monkeypatch.setattr(torch.Tensor, "to", to)
    monkeypatch.setattr(torch.Tensor, "__getitem__", get)
    monkeypatch.setattr(torch.Tensor, "__setitem__", lambda x, key, value: get(x, key).add(value))
    monkeypatch.setattr(torch.Tensor, "contiguous", contiguous)
    monkeypatch.setattr(layers, "kernel_for", lambda layer, weight, *more: IntMm(layer, weight))


def ones(shape):
    return torch.ones(shape, device="cuda")


@pytest.mark.parametrize(("name", "bank"), CASES)
def test_a_layer_runs_where_it_was_moved_and_waits_for_nothing(cuda, name, bank):
    layer, shape = LAYERS[name]
    made = packed(layer, bank_for(layer, *BANKS[bank]))
    wanted = made(torch.ones(shape))
    with mode:
        made.to("cuda")
        answer = made(ones(shape))
        assert made.kernel == IntMm.name and not made.why
        assert (
            answer.device.type == "cuda"
            and answer.shape == wanted.shape
            and answer.dtype == wanted.dtype
        )
        with pytest.raises(RuntimeError, match="device"):
            made(torch.ones(shape))


@pytest.mark.parametrize(
    "weights",
    [{"bits": 4}, {"symmetric": False}, {"bits": 4, "format": LowRank(rank=4, group=1024)}],
    ids=["4 bits", "asymmetric", "low rank"],
)
def test_every_form_of_weight_moves(cuda, weights):
    layer, shape = LAYERS["linear"]
    made = packed(layer, bank_for(layer), **weights)
    assert made.parts
    with mode:
        made.to("cuda")
        held = [x for part in made.parts for x in (part.weight.values, part.columns, part.totals)]
        assert {x.device.type for x in held} == {"cuda"}
        assert made(ones(shape)).device.type == "cuda"
        assert made.weight.device.type == "cuda"


def test_what_has_no_kernel_runs_in_float_where_it_was_moved(cuda, monkeypatch):
    layer, shape = LAYERS["linear"]
    made = packed(layer, bank_for(layer))
    monkeypatch.setattr(layers, "kernel_for", lambda layer, weight, *more: "it is on cuda")
    with mode:
        made.to("cuda")
        assert made.why == "it is on cuda" and made.kept.device.type == "cuda"
        assert made(ones(shape)).device.type == "cuda"
    never = PackedLayer(layer, made.codes, layer.bias, nn.Identity(), kernels=False)
    assert never.why == "kernels were not asked for"


def test_a_dtype_moves_no_codes(cuda):
    layer, _ = LAYERS["linear"]
    made = packed(layer, bank_for(layer))
    before = made.parts, made.codes
    made.to(torch.bfloat16)
    assert (made.parts, made.codes) == before and made.bias.dtype == torch.bfloat16
    layer.float()


def test_whole_weights_are_made_on_the_device(cuda):
    layer, _ = LAYERS["linear"]
    codes = quantize_weight(layer.weight.detach(), Weights(bits=4, range=MinMax()))
    (whole,) = whole_parts(codes)
    with mode:
        fake = codes.to("cuda")
        assert fake.device.type == "cuda" and fake.dequantize().device.type == "cuda"
        with pytest.raises(DataDependentOutputException):  # it looks once, when it is prepared
            whole_parts(fake)
        moved = whole.to("cuda")
        assert moved.dequantize().device.type == moved.values.device.type == "cuda"
        assert (
            WholeWeight(values=moved.values, scale=moved.scale, offset=moved.scale)
            .dequantize()
            .is_cuda
        )


def test_codes_are_made_on_the_device():
    with mode:
        x = ones((2, 3, 4, 4))
        for ends in (
            (0.1, 3.0),
            (ones(1) * 0.1, ones(1)),
            (ones((2, 1, 1, 1)), ones((2, 1, 1, 1))),
        ):
            codes = codes_of(x, *ends, 8)
            assert codes.is_cuda and codes.dtype == torch.uint8
            assert codes.is_contiguous(memory_format=torch.channels_last)
        assert fake_quantize(x, ones(()), 3.0, 8).is_cuda


def test_attention_in_pieces_is_left_to_the_gpu(monkeypatch):
    unet = tiny_sd().unet
    open_attention(unet, Chunked)
    processor = next(iter(unet.attn_processors.values()))
    monkeypatch.setattr(
        "dmq.runtime.attention._run_chunked",
        lambda *args: pytest.fail("pieces are for a CPU's caches"),
    )
    with mode:
        q = ones((1, 2, 2048, 8))
        assert processor.product(q, q, q).is_cuda
