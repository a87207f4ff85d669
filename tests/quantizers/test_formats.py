"""Every format of weights: what is stored, the bytes of it, and files."""

import json
import math

import pytest
import torch
from torch import nn

from dmq.errors import DmqError
from dmq.models.adapter import LAYERS
from dmq.models.published import build_published
from dmq.quantizers.codes import (
    LowRankWeight,
    QuantizedWeight,
    SplitWeight,
    code_arrays,
    codes_from,
)
from dmq.quantizers.weights import low_rank_codes, quantize_weight, weight_bytes, weight_grid
from dmq.recipe import (
    Gptq,
    Hqq,
    KMeans,
    LowRank,
    MinMax,
    PerChannel,
    PerGroup,
    PowerOfTwo,
    Uaq,
    Uniform,
    Weights,
    format_name,
    parse_format,
)


FORMATS = [
    Uniform(),
    Uaq(),
    Uaq(table=32),
    KMeans(),
    KMeans(shared="tensor", table=32),
    Hqq(group=16),
    Gptq(),
    Gptq(group=16),
    PowerOfTwo(),
    LowRank(rank=3, group=16, rounds=2),
    LowRank(rank=2, rounds=2, smooth=False, table=32),
]
SHAPES = {"linear": (12, 40), "conv": (5, 8, 3, 3), "1x1": (9, 7, 1, 1)}


def weight(kind="linear"):
    return torch.randn(SHAPES[kind], generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("form", FORMATS, ids=repr)
@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("split", [0, 3], ids=["whole", "split"])
def test_a_format_is_read_counted_and_kept(form, kind, split):
    x = weight(kind)
    errors = []
    for bits in (2, 4, 8):
        spec = Weights(bits=bits, format=form)
        made = quantize_weight(x, spec, split)
        values = made.dequantize()
        assert values.shape == made.shape == x.shape and values.dtype == torch.float32
        assert made.bits == bits and made.bytes == weight_bytes(x.shape, spec, split)
        assert made.bytes == math.ceil(bits * x.numel() / 8) + made.overhead
        arrays, plain = code_arrays({"a.layer": made, "b": made})
        assert all("/" in key for key in arrays)
        again = codes_from(arrays, json.loads(json.dumps(plain)))["a.layer"]
        assert (
            type(again) is type(made)
            and again.bytes == made.bytes
            and torch.equal(again.dequantize(), values)
        )
        errors.append(float((values - x).square().sum() / x.square().sum()))
    assert errors[0] >= errors[1] >= errors[2] and errors[1] < (
        0.06 if isinstance(form, PowerOfTwo) else 0.02
    )


@pytest.mark.parametrize("form", FORMATS, ids=repr)
def test_tables_are_what_their_bits_hold(form):
    """Numbers beside the codes survive being stored, so that files may hold as little as is
    counted.
    """
    made = quantize_weight(weight(), Weights(bits=4, format=form))
    grids = made.rest if isinstance(made, LowRankWeight) else made
    if getattr(grids, "table", 32) == 16:
        tables = [
            x for name in ("scale", "centroids") if (x := getattr(grids, name, None)) is not None
        ]
        assert tables and all(torch.equal(x, x.half().float()) for x in tables)
    if isinstance(form, Hqq):
        assert torch.equal(made.zero, made.zero.half().float()) and (made.zero % 1 != 0).any()


@pytest.mark.parametrize(
    "form", [form for form in FORMATS if not isinstance(form, LowRank)], ids=repr
)
def test_sides_of_a_split_weight_are_quantized_as_if_they_were_alone(form):
    x, spec = weight("conv"), Weights(bits=4, format=form)
    alone = [quantize_weight(side.contiguous(), spec).dequantize() for side in (x[:, :3], x[:, 3:])]
    made = quantize_weight(x, spec, 3)
    assert torch.equal(made.dequantize(), torch.cat(alone, 1))
    assert isinstance(made, (QuantizedWeight, SplitWeight))


@pytest.mark.parametrize("group", [0, 16])
def test_codes_without_learning_are_the_nearest_ones_of_gptqs_grid(group):
    x, spec = weight(), Weights(bits=3, format=Gptq(group=group))
    scale, zero, size = weight_grid(x, spec)
    made = quantize_weight(x, spec)
    assert torch.equal(made.scale, scale) and torch.equal(made.zero.float(), zero)
    assert made.size == size == (group or 40) and scale.shape == (12, 3 if group else 1)
    step = scale.repeat_interleave(size, 1)[:, :40]
    inside = (made.codes > 0) & (made.codes < 7)
    assert ((made.dequantize() - x).abs() <= step / 2 * 1.001)[inside].all()


# --- factors and a rest ---------------------------------------------------------------------------


def test_the_parts_of_a_low_rank_weight_are_for_smoothed_inputs():
    generator = torch.Generator().manual_seed(1)
    smoothing = torch.rand(8, generator=generator) * 4 + 0.5
    layer = nn.Conv2d(8, 5, 3, bias=False)
    spec = Weights(bits=8, format=LowRank(rank=2, group=16))
    codes = low_rank_codes(layer.weight, spec, smoothing)
    x = torch.randn(2, 8, 6, 6, generator=generator)
    wide = codes.smoothing.float()[:, None, None]
    with torch.no_grad():
        parts = sum(
            nn.functional.conv2d(x / wide, part)
            for part in (codes.low_rank_weight(), codes.rest_weight())
        )
        assert torch.allclose(nn.functional.conv2d(x, codes.dequantize()), parts, atol=1e-5)
        assert torch.allclose(parts, layer(x), atol=0.02)
    assert (
        codes.bytes == weight_bytes(tuple(layer.weight.shape), spec)
        and codes.smoothing.nbytes == 16
    )


def test_more_rank_errs_less_and_of_given_inputs_the_output_is_what_counts():
    x = weight()
    ranks = [
        quantize_weight(x, Weights(bits=3, format=LowRank(rank=rank, group=16)))
        for rank in (1, 3, 6, 99)
    ]
    errors = [float((made.dequantize() - x).square().sum()) for made in ranks]
    assert errors == sorted(errors, reverse=True)
    assert ranks[2].left.shape == ranks[3].left.shape == (12, 6)  # half of the smaller side
    inputs = torch.randn(500, 40, generator=torch.Generator().manual_seed(3)) * torch.linspace(
        0.1, 3, 40
    )
    moment, spec = (
        inputs.T @ inputs / 500,
        Weights(bits=2, format=LowRank(rank=2, group=16, rounds=12)),
    )

    def output(codes):
        wrong = codes.dequantize() - x
        return float(((wrong @ moment) * wrong).sum())

    assert output(low_rank_codes(x, spec, moment=moment)) <= output(low_rank_codes(x, spec))


def test_smoothing_is_refused_where_the_format_has_none():
    with pytest.raises(ValueError, match="does not smooth"):
        low_rank_codes(weight(), Weights(bits=4, format=LowRank(smooth=False)), torch.ones(40))


# --- what cannot be -------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMATS, ids=repr)
@pytest.mark.parametrize(("value", "what"), [(math.nan, "NaN"), (math.inf, "infinite values")])
def test_a_weight_that_is_not_finite_is_refused(form, value, what):
    x = weight()
    x[2, 3] = value
    spec = Weights(bits=4, format=form)
    with pytest.raises(
        DmqError, match=f"the weight has {what}, which {format_name(spec)} cannot hold"
    ):
        quantize_weight(x, spec)


@pytest.mark.parametrize("form", FORMATS, ids=repr)
def test_constant_and_zero_weights_are_met(form):
    for x in (torch.zeros(4, 20), torch.full((4, 20), 0.5), torch.full((4, 20), 1e-30)):
        values = quantize_weight(x, Weights(bits=4, format=form)).dequantize()
        assert values.isfinite().all() and (values - x).abs().max() < 0.02


def test_codes_of_a_newer_dmq_are_refused():
    with pytest.raises(DmqError, match="form 'Lattice' were kept by a newer dmq"):
        codes_from({}, {"layer": {"kind": "Lattice"}})


def test_codes_that_were_kept_before_there_were_formats_are_read():
    made = quantize_weight(weight(), Weights(bits=4, granularity=PerGroup(size=16), range=MinMax()))
    arrays, plain = code_arrays({"layer": made})
    assert plain == {"layer": {"bits": 4, "shape": (12, 40), "size": 16, "symmetric": False}}
    assert set(arrays) == {"codes/layer", "scale/layer", "zero/layer"}


# --- bytes, exact (qua2sedimo, "Byte accounting") -------------------------------------------------


LABELS = ["UAQ-4", "UAQ-3", "KMC-4", "KMC-3", "KMA-4", "KMA-3"]


def spec_of(label):
    choice = parse_format(label)
    return Weights(bits=choice.bits, format=choice.format, granularity=PerChannel())


@pytest.mark.parametrize(
    ("shape", "wanted"),
    [
        ((1152, 1152), (668_160, 502_272, 700_416, 516_096, 663_584, 497_680)),
        ((1152, 4, 2, 2), (13_824, 11_520, 46_080, 25_344, 9_248, 6_928)),
        ((32, 1152), (18_560, 13_952, 19_456, 14_336, 18_464, 13_840)),
    ],
    ids=["linear", "patchify", "output"],
)
def test_bytes_of_layers_are_those_of_the_release(shape, wanted):
    assert tuple(weight_bytes(shape, spec_of(label)) for label in LABELS) == wanted


def test_average_bits_of_a_linear_layer_are_those_of_the_release():
    average = [8 * weight_bytes((1152, 1152), spec_of(label)) / 1152**2 for label in LABELS]
    assert [round(bits, 5) for bits in average] == [
        4.02778,
        3.02778,
        4.22222,
        3.11111,
        4.00019,
        3.0001,
    ]


def test_bytes_of_pixart_are_those_of_the_release():
    shapes = [
        tuple(m.weight.shape)
        for m in build_published("pixart-xl-2-512").modules()
        if isinstance(m, LAYERS)
    ]
    count = sum(map(math.prod, shapes))
    total = [sum(weight_bytes(shape, spec_of(label)) for shape in shapes) for label in LABELS]
    assert (len(shapes), count) == (287, 610_228_224)
    assert total == [306_842_240, 230_563_712, 318_939_136, 235_748_096, 305_123_296, 228_840_176]
    assert [round(8 * n / count, 5) for n in total] == [
        4.02266,
        3.02266,
        4.18124,
        3.09062,
        4.00012,
        3.00006,
    ]


@pytest.mark.parametrize("label", LABELS)
def test_halves_of_a_split_layer_both_have_tables(label):
    spec = spec_of(label)
    codes = 64 * 128 * spec.bits // 8
    assert weight_bytes((64, 128), spec, 64) - codes == 2 * (weight_bytes((64, 128), spec) - codes)
