"""The time embedding in plans and quantized models: ranges per step, caches, selection, bytes."""

import copy
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dmq.describe import describe_plan, plan_rows
from dmq.errors import DmqError
from dmq.models.temporal import temporal_features, timestep_rows
from dmq.models.tiny import tiny_call, tiny_denoiser
from dmq.numerics.affine import dequantize, quantize
from dmq.quantizers.apply import quantize_model
from dmq.quantizers.bank import ActivationBank, Clock
from dmq.quantizers.cache import CachedFeature, FeatureTable, install_cache
from dmq.quantizers.temporal import find_dropped, select, time_embedding, time_embedding_only
from dmq.quantizers.weights import quantize_weight
from dmq.recipe import FLOAT, Activations, Cache, MinMax, Override, Temporal, Tiar, Weights
from dmq.results import Projection, TemporalBlock, TimeEmbedding, cache_bytes
from tests.models.test_temporal import adapter_of
from tests.quantizers.conftest import TIMESTEPS
from tests.quantizers.test_apply import call


FLOAT_ALL = {"weights": Weights(bits=FLOAT), "activations": Activations(bits=FLOAT)}


def rows(plan):
    return {row.layer.name: row for row in plan.layers}


def timed(subject, cached=None, slot=None, **changes):
    from dmq.quantizers.plan import make_plan

    recipe = subject.recipe(**changes)
    return make_plan(subject.info, recipe, subject.stats, subject.errors(recipe, slot), cached)


def made(subject, cached=None, slot=None, **changes):
    return quantize_model(subject.model, timed(subject, cached, slot, **changes), subject.adapter)


# --- ranges per step ------------------------------------------------------------------------------


def test_the_banks_of_the_time_embedding_hold_exactly_the_range_of_each_step(subject):
    plan = timed(subject, temporal=Temporal(fsc="tib"))
    for name, row in rows(plan).items():
        if row.bank is None:
            continue
        assert (len(row.bank.bits) == len(TIMESTEPS)) == (name in subject.info.temporal.layers), (
            name
        )
        if len(row.bank.bits) == 1:
            continue
        s = subject.stats.index[row.bank.site.name, "input"]
        low, high = (row.bank.scale * (codes - row.bank.zero) for codes in (0, 255))
        assert np.allclose(
            high - low, subject.stats.maximum[s] - subject.stats.minimum[s], rtol=1e-6
        )


def test_a_single_vector_is_never_clipped():
    """FSC's range is that of the vector itself: no error is larger than half a step of the grid."""
    from dmq.numerics.affine import grid

    for seed, bits in ((0, 2), (1, 4), (2, 8)):
        v = torch.randn(64, generator=torch.Generator().manual_seed(seed)) * 10**seed
        scale, zero = grid(v.min(), v.max(), bits, symmetric=False)
        error = dequantize(quantize(v, scale, zero, bits), scale, zero) - v
        assert error.abs().max() <= scale / 2 * (1 + 1e-4)


def test_layers_that_read_the_same_vector_share_one_bank(subject):
    plan = timed(subject, temporal=Temporal(fsc="tib"))
    block = subject.info.temporal
    sites = {name: rows(plan)[name].bank.site for name in block.layers}
    assert len({sites[p.name] for p in block.projections}) == 1 and len(set(sites.values())) == 3
    quantized_model = quantize_model(subject.model, plan, subject.adapter)
    banks = {id(quantized_model.get_submodule(name).input) for name in block.layers}
    assert len(banks) == 3
    stored = {
        b.data_ptr(): b.numel()
        for n, b in quantized_model.named_buffers()
        if n.endswith((".scale", ".zero"))
    }
    slots = [m for m in quantized_model.modules() if isinstance(m, ActivationBank)]
    assert plan.table_bytes == 4 * sum(stored.values()) + sum(
        len(b.bits) + len(b.slot) for b in slots
    )
    assert sum(row["bytes"] for row in plan_rows(plan)) == plan.weight_bytes + plan.table_bytes
    other = timed(
        subject,
        temporal=Temporal(fsc="tib"),
        overrides=(Override(layers=block.projections[0].name, activation_bits=4),),
    )
    assert len({row.bank.site for name, row in rows(other).items() if name in block.layers}) == 4


def test_both_meanings_of_fsc_differ_in_coverage_and_bytes_and_do_not_fit_each_other(subject):
    """What "all" means for the other layers is a partition with a group for each step, which
    stages chooses.
    """
    tib = timed(subject, temporal=Temporal(fsc="tib"))
    everything = timed(subject, slot=list(range(len(TIMESTEPS))), temporal=Temporal(fsc="all"))
    none = timed(subject, temporal=Temporal())
    assert none.bytes < tib.bytes < everything.bytes
    assert len({describe_plan(plan) for plan in (none, tib, everything)}) == 3
    assert {row["groups"] for row in plan_rows(everything)} == {0, len(TIMESTEPS)}
    one, other = (
        quantize_model(subject.model, plan, subject.adapter) for plan in (tib, everything)
    )
    with pytest.raises(RuntimeError, match="size mismatch"):
        one.load_state_dict(other.state_dict())


def test_a_constant_activation_has_a_finite_scale(subject):
    stats = subject.stats
    subject.stats = replace(
        stats, minimum=np.zeros_like(stats.minimum), maximum=np.zeros_like(stats.maximum)
    )
    plan = timed(subject, temporal=Temporal(fsc="tib"))
    assert all((row.bank.scale >= 1e-8).all() for row in plan.layers if row.bank)
    assert torch.isfinite(call(quantize_model(subject.model, plan, subject.adapter), 501)).all()
    table = FeatureTable(torch.zeros(2, 5), 8)
    assert (table.scale >= 1e-8).all() and (table(0) == 0).all()


# --- the cache ------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [4, 8, 11, 16])
def test_cached_rows_have_the_error_of_their_bits(bits):
    x = (
        torch.randn(5, 40, generator=torch.Generator().manual_seed(0))
        * torch.tensor([1e-3, 1, 30, 5, 0.1])[:, None]
    )
    table = FeatureTable(x, bits)
    step = (x.amax(1) - x.amin(1)) / (2**bits - 1) if bits < 16 else x.abs().amax(1) * 2**-10
    for i in range(5):
        assert (table(i) - x[i]).abs().max() <= step[i] / 2 * (1 + 1e-3)


@pytest.mark.parametrize(("bits", "near"), [(16, 1e-3), (8, 0.05)])
def test_a_model_with_a_cache_answers_as_the_float_model(subject, bits, near):
    """Everything else stays in float."""
    quantized_model = made(subject, temporal=Temporal(cache=Cache(bits=bits)), **FLOAT_ALL)
    for t in TIMESTEPS:
        t, wanted = int(t), call(subject.model, int(t))
        assert (call(quantized_model, t) - wanted).abs().max() < near * wanted.std()
        assert torch.equal(call(quantized_model, t), call(quantized_model, t))


def test_the_model_really_loses_the_time_embedding_and_its_bytes(subject):
    spec = {"temporal": Temporal(cache=Cache(bits=8)), **FLOAT_ALL}
    plan = timed(subject, **spec)
    quantized_model = quantize_model(subject.model, plan, subject.adapter)
    names = dict(quantized_model.named_parameters())
    assert not any(
        name.startswith(f"{layer}.") for layer in subject.info.temporal.layers for name in names
    )
    widths = [p.width for p in subject.info.temporal.projections]
    assert plan.cache_bytes == len(TIMESTEPS) * sum(w + 4 + 1 for w in widths)
    kept = sum(4 * p.numel() for p in quantized_model.parameters())
    tables = [m for m in quantized_model.modules() if isinstance(m, FeatureTable)]
    held = sum(t.codes.numel() + 5 * t.scale.numel() for t in tables)
    assert plan.bytes == kept + held < plan.float_bytes
    assert sum(row["bytes"] for row in plan_rows(plan)) + plan.vector_bytes == plan.bytes
    assert {
        row.format for name, row in rows(plan).items() if name in subject.info.temporal.layers
    } == {"cached"}


def test_bytes_of_published_models_reproduce():
    """tfm, table of caches: codes alone."""
    for total, steps, int8, fp16 in (
        (4992, 100, 0.50, 1.00),
        (20160, 50, 1.01, 2.02),
        (12992, 200, 2.60, 5.20),
    ):
        assert round((cache_bytes(steps, total, 8) - 5 * steps) / 1e6, 2) == int8
        assert round(cache_bytes(steps, total, 16) / 1e6, 2) == fp16
    assert cache_bytes(3, 5, 4) == 8 + 3 * 5 and cache_bytes(3, 5, 9) == 17 + 3 * 6


def test_the_cache_follows_t_and_misses_as_the_recipe_says(subject):
    quantized_model = made(subject, temporal=Temporal(cache=Cache()), **FLOAT_ALL)
    once = {t: call(quantized_model, int(t)) for t in TIMESTEPS}
    for t in (1, 701, 701, 901, 501):
        assert torch.equal(call(quantized_model, torch.tensor(t)), once[t])
    with pytest.raises(DmqError, match="timestep 450 was not calibrated"):
        call(quantized_model, 450)
    near = made(subject, temporal=Temporal(cache=Cache()), unknown_timestep="nearest", **FLOAT_ALL)
    assert torch.equal(call(near, 480), call(near, 501))
    assert near.clock.notes == ["timestep 480 was not calibrated; used 501 instead, 21 away."]


def test_a_copy_of_a_model_with_a_cache_has_a_clock_of_its_own(subject):
    quantized_model = made(subject, temporal=Temporal(cache=Cache()), **FLOAT_ALL)
    first = call(quantized_model, 901)
    other = copy.deepcopy(quantized_model)
    call(other, 1)
    assert quantized_model.clock.i == 0 and torch.equal(call(quantized_model, 901), first)


def test_a_cast_model_keeps_answering_in_its_own_dtype(ddpm):
    quantized_model = made(ddpm, temporal=Temporal(cache=Cache(bits=16)), **FLOAT_ALL).to(
        torch.bfloat16
    )
    with torch.no_grad():
        assert (
            quantized_model(torch.zeros(1, 3, 8, 8, dtype=torch.bfloat16), 501).sample.dtype
            == torch.bfloat16
        )


def test_pixart_whose_output_reads_the_embedding_can_be_cached():
    model = tiny_denoiser("PixArt-sigma")
    adapter = adapter_of(model)
    block = adapter.temporal(model)
    time = TimeEmbedding(
        block=block, spec=Temporal(cache=Cache(bits=16)), cached=np.ones((2, 2), dtype=bool)
    )
    quantized_model = copy.deepcopy(model)
    clock = Clock((901.0, 101.0), "error", adapter.timestep)
    quantized_model.register_forward_pre_hook(clock.before_call, with_kwargs=True)
    install_cache(quantized_model, model, time, adapter, clock)
    assert not [
        name for name, _ in quantized_model.named_parameters() if name.startswith("adaln_single")
    ]
    with torch.no_grad():
        for t in (101.0, 901.0):
            wanted = model(**tiny_call(model, t)).sample
            assert (
                quantized_model(**tiny_call(model, t)).sample - wanted
            ).abs().max() < 1e-3 * wanted.std()


# --- per request ----------------------------------------------------------------------------------


@pytest.fixture(
    params=["class-conditional UNet", "SDXL", "DiT", "PixArt-alpha", "Hunyuan-DiT", "SD3", "Flux"]
)
def conditioned(request):
    model = tiny_denoiser(request.param)
    adapter = adapter_of(model)
    block = adapter.temporal(model)
    ts = (0.9, 0.1) if request.param == "Flux" else (901, 101)
    return SimpleNamespace(
        model=model, adapter=adapter, block=block, timesteps=tuple(map(float, ts))
    )


def requested(subject, bits=16):
    steps = len(subject.timesteps)
    cached = np.ones((len(subject.block.projections), steps), dtype=bool)
    time = TimeEmbedding(block=subject.block, spec=Temporal(cache=Cache(bits=bits)), cached=cached)
    quantized_model = copy.deepcopy(subject.model)
    ts = tuple(float(np.float32(t)) for t in subject.timesteps)
    clock = Clock(ts, "error", subject.adapter.timestep)
    quantized_model.register_forward_pre_hook(clock.before_call, with_kwargs=True)
    install_cache(quantized_model, subject.model, time, subject.adapter, clock)
    return quantized_model


def ask(subject, i, **how):
    t = subject.timesteps[i] * (1000 if subject.timesteps[0] < 1 else 1)
    return tiny_call(subject.model, t, **how)


@torch.no_grad()
def test_a_cache_per_request_answers_as_none(conditioned):
    """With other conditioning in every row, and with other rows from call to call."""
    quantized_model = requested(conditioned)
    for seed in (0, 1, 0):
        for i in (0, 1):
            arguments = ask(conditioned, i, rows=3, seed=seed)
            wanted = conditioned.model(**arguments)[0]
            assert (quantized_model(**arguments)[0] - wanted).abs().max() < 3e-3 * wanted.std()


@torch.no_grad()
def test_a_request_is_built_once_and_forgotten_in_the_end(conditioned, monkeypatch):
    from dmq.quantizers import cache

    quantized_model = requested(conditioned)
    feature = quantized_model.get_submodule(conditioned.block.projections[0].name)
    requests, built = feature.requests, []
    build = requests._build
    monkeypatch.setattr(requests, "_build", lambda *a: built.append(1) or build(*a))
    for i in (0, 1, 0):
        quantized_model(**ask(conditioned, i, rows=1, seed=3))
    assert len(built) == 1
    monkeypatch.setattr(cache, "REQUESTS", 1)
    for seed in (4, 5, 6):
        quantized_model(**ask(conditioned, 0, rows=1, seed=seed))
    assert len(requests.known) <= 2


def test_a_plan_with_a_cache_per_request_says_so(sd):
    block = replace(sd.info.temporal, depends=("t", "pooled prompt", "size"), arguments=("a", "b"))
    sd.info = replace(sd.info, temporal=block)
    plan = timed(sd, temporal=Temporal(cache=Cache(bits=8)))
    assert (
        "built per request since pooled prompt, size enters, from the float time embedding"
        in describe_plan(plan)
    )
    assert plan.cache_bytes == 0 and plan.temporal.cache_bytes > 0
    kept = [row for name, row in rows(plan).items() if name in block.layers]
    assert {(row.format, row.reason) for row in kept} == {
        ("float", "builds the cache of a request")
    }
    with pytest.raises(
        DmqError, match="depend on t, pooled prompt, size, so that the cache is built per request"
    ):
        timed(sd, temporal=Temporal(cache=Cache(selection="block")))


# --- selection ------------------------------------------------------------------------------------


def errors_of(seed, projections=7, steps=9):
    rng = np.random.default_rng(seed)
    return rng.exponential(1, (projections, steps)), rng.exponential(1, (projections, steps))


def block_of(*sources, embedding=None):
    made = [Projection(name=f"g{k}", block="b", width=4, source=s) for k, s in enumerate(sources)]
    made += [Projection(name="h", block="b", width=4, source=0)] if embedding is not None else []
    names = tuple(f"g{k}" for k in range(len(sources)))
    return TemporalBlock(
        embeddings=("h",), projections=tuple(made), layers=("h.1", *names), depends=("t",)
    )


@pytest.mark.parametrize("seed", range(5))
def test_selecting_is_never_worse_than_either_strategy(seed):
    computed, stored = errors_of(seed)
    block = block_of(*[0] * 7)
    row = np.where(select(computed, stored, "row", block), stored, computed)
    assert (row <= computed).all() and (row <= stored).all()
    chosen = select(computed, stored, "block", block)
    assert (chosen.all(1) | ~chosen.any(1)).all() and 0 < chosen.all(1).sum() < 7
    whole = np.where(chosen, stored, computed).mean(1)
    assert (whole <= np.minimum(computed.mean(1), stored.mean(1)) + 1e-15).all()


def test_an_embedding_is_cached_only_where_nothing_else_needs_it():
    block = block_of(0, 0, embedding=0)
    computed, stored = np.ones((3, 4)), np.zeros((3, 4))
    stored[0, 1] = 2
    assert select(computed, stored, "row", block)[2].tolist() == [True, False, True, True]


def test_what_is_dropped_is_what_nothing_needs():
    block = block_of(0, 0, 0)
    cached = np.array([[1, 1], [1, 0], [0, 0]], dtype=bool)
    spec = Temporal(cache=Cache(selection="row"))
    assert find_dropped(TimeEmbedding(block=block, spec=spec, cached=cached)) == {"g0"}
    assert find_dropped(TimeEmbedding(block=block, spec=spec, cached=cached | True)) == {
        "h.1",
        "g0",
        "g1",
        "g2",
    }
    assert find_dropped(TimeEmbedding(block=block, spec=spec)) == set()


@torch.no_grad()
def test_a_mixture_takes_every_feature_from_where_the_selection_says(ddpm):
    steps, k = len(TIMESTEPS), len(ddpm.info.temporal.projections)
    cached = np.random.default_rng(0).random((k, steps)) < 0.5
    cached[0], cached[1] = True, False
    spec = Temporal(cache=Cache(bits=4, selection="row"))
    w2 = {"weights": Weights(bits=2, range=MinMax()), "activations": Activations(bits=FLOAT)}
    quantized_model = made(ddpm, cached, temporal=spec, **w2)
    plain = quantize_model(
        ddpm.model, time_embedding_only(timed(ddpm, temporal=Temporal(), **w2)), ddpm.adapter
    )
    block, t = ddpm.info.temporal, timestep_rows(TIMESTEPS)
    computed = temporal_features(plain, ddpm.adapter, block, t, {})
    floats = temporal_features(ddpm.model, ddpm.adapter, block, t, {})
    for i, value in enumerate(TIMESTEPS):
        quantized_model.clock.set(value)
        ours = temporal_features(quantized_model, ddpm.adapter, block, t[i : i + 1], {})
        for j, feature in enumerate(ours):
            wanted = FeatureTable(floats[j], 4)(i) if cached[j, i] else computed[j][i]
            assert torch.allclose(feature[0], wanted, atol=1e-6), (i, j)
    names = [p.name for p in block.projections]
    assert isinstance(quantized_model.get_submodule(names[0]), CachedFeature)
    assert (
        rows(quantized_model.plan)[names[0]].dropped
        and not rows(quantized_model.plan)[names[1]].dropped
    )
    assert not any(n.startswith(f"{names[0]}.") for n, _ in quantized_model.named_parameters())


def test_a_selection_needs_errors_and_a_model_a_block(ddpm):
    with pytest.raises(ValueError, match="select"):
        timed(ddpm, temporal=Temporal(cache=Cache(selection="row")))
    with pytest.raises(DmqError, match="no temporal block is known in a UNet2DModel"):
        time_embedding(replace(ddpm.info, temporal=None), Temporal(), 6)


# --- the whole ------------------------------------------------------------------------------------


def test_learned_codes_are_used_as_they_are(ddpm):
    plan = timed(ddpm, temporal=Temporal(rounding=Tiar()), weights=Weights(bits=4, range=MinMax()))
    name = ddpm.info.temporal.layers[1]
    nearest = quantize_weight(ddpm.model.get_submodule(name).weight, rows(plan)[name].weights)
    codes = replace(nearest, codes=15 - nearest.codes)
    quantized_model = quantize_model(ddpm.model, plan, ddpm.adapter, {name: codes})
    assert torch.equal(quantized_model.get_submodule(name).weight, codes.dequantize())
    plain = quantize_model(ddpm.model, plan, ddpm.adapter)
    assert torch.equal(plain.get_submodule(name).weight, nearest.dequantize())


def test_the_time_embedding_alone(subject):
    plan = timed(
        subject,
        temporal=Temporal(fsc="tib", cache=Cache()),
        activations=Activations(attention_bits=6),
    )
    whole = timed(subject, temporal=Temporal(fsc="tib"))
    alone = time_embedding_only(plan)
    quantised = {
        row.layer.name for row in time_embedding_only(whole).layers if row.format != "float"
    }
    assert quantised == set(subject.info.temporal.layers)
    assert alone.attention == () and alone.temporal.cached is None


def test_the_coverage_line_tells_of_the_time_embedding(ddpm):
    n = len(ddpm.info.temporal.layers)
    assert "time embedding" not in describe_plan(timed(ddpm))
    spec = Temporal(rounding=Tiar(iterations=7), fsc="all")
    line = describe_plan(timed(ddpm, temporal=spec))
    wanted = (
        f"; time embedding: {n} layers, rounding learned (TIAR, 7 iterations), "
        "ranges per step for all activations"
    )
    assert line.endswith(wanted)
    plan = timed(ddpm, temporal=Temporal(cache=Cache(bits=16)))
    count = len(ddpm.info.temporal.projections) * len(TIMESTEPS)
    wanted = f"half-precision cache of {count} of {count} features ({plan.cache_bytes} bytes)"
    assert describe_plan(plan).endswith(wanted)
