import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from dmq.errors import DmqError
from dmq.models.borrow import borrow
from dmq.models.tiny import tiny_ddpm
from dmq.quantizers.apply import plan_of, quantize_model
from dmq.quantizers.layers import make_fake_quantized
from dmq.recipe import FLOAT, Activations, MinMax, Override, PerChannel, Protection, Weights


SLOT = [0, 0, 1, 1, 1, 2]
TIMESTEPS = (901.0, 701.0, 501.0, 301.0, 101.0, 1.0)


@torch.no_grad()
def call(model, t, batch=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, model.config.in_channels, 8, 8, generator=generator)
    words = {}
    if "encoder_hid_dim" in model.config:
        words["encoder_hidden_states"] = torch.randn(
            batch, 5, model.config.cross_attention_dim, generator=generator
        )
    return model(x, t, **words).sample


def make(subject, slot=None, **changes):
    return quantize_model(subject.model, subject.plan(slot, **changes), subject.adapter)


def snapshot(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_the_float_model_is_untouched_by_making_and_using_quantized_ones(subject):
    before, answer = snapshot(subject.model), call(subject.model, 501)
    hooks = len(subject.model._forward_pre_hooks)
    everything = {"protection": Protection(first_last=False, norms_and_biases=False)}
    first = make(subject, SLOT)
    second = make(subject, activations=Activations(attention_bits=4), **everything)
    for model in (first, second, first):
        assert not torch.equal(call(model, 501), answer)
    second.to(torch.bfloat16)
    assert subject.model.state_dict().keys() == before.keys()
    assert all(
        torch.equal(value, before[name]) for name, value in subject.model.state_dict().items()
    )
    assert torch.equal(call(subject.model, 501), answer)
    assert len(subject.model._forward_pre_hooks) == hooks and plan_of(subject.model) is None


def test_what_stays_in_float_shares_its_memory(subject):
    quantized_model = make(subject, overrides=(Override(layers="mid_block.*", weight_bits=FLOAT),))
    rounded = {
        f"{row.layer.name}.weight"
        for row in quantized_model.plan.layers
        if row.weights.bits < FLOAT
    }
    ours, theirs = dict(quantized_model.named_parameters()), dict(subject.model.named_parameters())
    assert ours.keys() == theirs.keys()
    shared = {name for name in ours if ours[name].data_ptr() == theirs[name].data_ptr()}
    assert ours.keys() - shared == rounded


def test_a_plan_all_in_float_changes_nothing(subject):
    quantized_model = make(
        subject, weights=Weights(bits=FLOAT), activations=Activations(bits=FLOAT)
    )
    assert torch.equal(call(quantized_model, 501), call(subject.model, 501))
    assert torch.equal(
        call(quantized_model, 77), call(subject.model, 77)
    )  # no table is read: any timestep will do


def test_many_bits_come_close(subject):
    """With ranges wide enough, 16 bits everywhere agree with the float model: every part is
    wired to its place.
    """
    wide = replace(
        subject.stats, minimum=subject.stats.minimum * 20, maximum=subject.stats.maximum * 20
    )
    subject.stats = wide
    kept = Protection(first_last=False, norms_and_biases=False)
    spec = {
        "weights": Weights(bits=16, range=MinMax()),
        "activations": Activations(bits=16, attention_bits=16),
    }
    answer = call(subject.model, 501)
    assert (call(make(subject, protection=kept, **spec), 501) - answer).std() < 0.01 * answer.std()


def test_error_grows_as_bits_fall(subject):
    answer = call(subject.model, 501)
    made = [make(subject, weights=Weights(bits=bits, range=MinMax())) for bits in (8, 4, 2)]
    errors = [(call(model, 501) - answer).square().mean() for model in made]
    assert errors[0] < errors[1] < errors[2]


def test_the_grid_follows_t_whatever_the_order_and_number_of_calls(subject):
    quantized_model = make(subject, SLOT, activations=Activations(bits=4, attention_bits=4))
    once = {t: call(quantized_model, t) for t in TIMESTEPS}
    for t in (1, 701, 701, 901, 101, 501, 1, 301):
        assert torch.equal(call(quantized_model, torch.tensor(t)), once[t])
    again = make(subject, SLOT, activations=Activations(bits=4, attention_bits=4))
    assert torch.equal(call(again, torch.tensor([101, 101])), once[101])


def test_steps_of_a_group_share_a_grid_and_groups_differ(subject):
    """Seen at a layer in the middle, whose input is given: it changes with the group, not with
    the step.
    """
    quantized_model = make(subject, SLOT, activations=Activations(bits=3))
    layer = quantized_model.mid_block.resnets[0].conv1
    x = torch.randn(2, layer.in_channels, 4, 4, generator=torch.Generator().manual_seed(0))
    made = []
    for t in TIMESTEPS:
        call(quantized_model, t)
        made.append(layer(x))
    for i, k in enumerate(SLOT):
        assert [torch.equal(made[i], other) for other in made] == [k == other for other in SLOT]


def test_one_group_equals_the_static_quantizer(subject):
    """Bit for bit a model whose only step has the range of all steps."""
    dynamic = make(subject, [0] * 6, activations=Activations(bits=4))
    stats, widest = subject.stats, {}
    widest["minimum"] = stats.minimum.min(1, keepdims=True).repeat(6, 1)
    widest["maximum"] = stats.maximum.max(1, keepdims=True).repeat(6, 1)
    subject.stats = replace(stats, **widest)
    static = make(subject, [0, 1, 2, 3, 4, 5], activations=Activations(bits=4))
    for t in TIMESTEPS:
        assert torch.equal(call(dynamic, t), call(static, t))


def test_a_guided_batch_equals_two_calls(sd):
    """Up to the sums of a convolution, whose order depends on the batch; 16-bit grids turn these
    into little.
    """
    quantized_model = make(sd, SLOT, activations=Activations(bits=16))
    generator = torch.Generator().manual_seed(0)
    x, words = (
        torch.randn(4, 4, 8, 8, generator=generator),
        torch.randn(4, 5, 16, generator=generator),
    )
    with torch.no_grad():
        both = quantized_model(x, 501, encoder_hidden_states=words).sample
        one, two = (
            quantized_model(x[h], 501, encoder_hidden_states=words[h]).sample
            for h in (slice(2), slice(2, 4))
        )
    assert torch.allclose(both, torch.cat([one, two]), atol=1e-3)


def test_an_unknown_timestep_raises_and_nearest_is_noted(subject):
    with pytest.raises(DmqError, match="timestep 450 was not calibrated"):
        call(make(subject), 450)
    with pytest.raises(DmqError, match="mixes the timesteps"):
        call(make(subject), torch.tensor([501, 301]))
    quantized_model = make(subject, SLOT, unknown_timestep="nearest")
    assert torch.equal(call(quantized_model, 480), call(quantized_model, 480))
    assert quantized_model.clock.i == 2 and quantized_model.clock.notes == [
        "timestep 480 was not calibrated; used 501 instead, 21 away."
    ]


def test_a_copy_has_a_clock_of_its_own(subject):
    quantized_model = make(subject, SLOT)
    call(quantized_model, 901)
    for other in (copy.deepcopy(quantized_model), borrow(quantized_model)):
        call(other, 1)
        assert (quantized_model.clock.i, other.clock.i) == (0, 5)
        assert torch.equal(call(other, 501), call(make(subject, SLOT), 501))


def test_unprotected_vectors_are_rounded_once_and_biases_with_them(subject):
    quantized_model = make(
        subject,
        protection=Protection(norms_and_biases=False),
        weights=Weights(bits=2, range=MinMax()),
    )
    for name, p in quantized_model.named_parameters():
        if p.ndim == 1:
            assert len(p.unique()) <= 4, name


def test_attention_is_simulated_where_the_recipe_says(sd):
    few = make(sd, activations=Activations(bits=FLOAT, attention_bits=4))
    none = make(sd, activations=Activations(bits=FLOAT))
    assert not torch.equal(call(few, 501), call(none, 501))
    seen = {}
    for name, module in few.named_modules():
        if name.endswith("processor.probs"):
            module.register_forward_hook(
                lambda m, a, out, name=name: seen.update({name: out.unique()})
            )
    call(few, 501)
    assert seen and all(
        len(values) <= 16 and values.min() >= 0 and values.max() <= 1 for values in seen.values()
    )


def test_quantizing_twice_is_refused(ddpm):
    quantized_model = make(ddpm)
    assert plan_of(quantized_model) is quantized_model.plan
    with pytest.raises(DmqError, match="quantizing twice"):
        quantize_model(quantized_model, quantized_model.plan, ddpm.adapter)


def test_a_plan_for_another_model_is_refused_with_the_path(sd, ddpm):
    with pytest.raises(
        DmqError,
        match=r"conv_in: weight has shape \(16, 3, 3, 3\), the plan expects \(16, 4, 3, 3\)",
    ):
        quantize_model(ddpm.model, sd.plan(), ddpm.adapter)
    plan = ddpm.plan()
    renamed = replace(
        plan.layers[3], layer=replace(plan.layers[3].layer, name="down_blocks.9.conv1")
    )
    with pytest.raises(DmqError, match=r"down_blocks\.9\.conv1: the model has no such layer"):
        quantize_model(ddpm.model, replace(plan, layers=(*plan.layers[:3], renamed)), ddpm.adapter)
    other = tiny_ddpm(seed=1).unet
    with pytest.raises(DmqError, match="made for other weights of 'tiny'"):
        quantize_model(other, plan, ddpm.adapter)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(6, 5),
        nn.Linear(6, 5, bias=False),
        nn.Conv1d(6, 4, 3, padding=1),
        nn.Conv2d(6, 4, 3, stride=2, padding=1, padding_mode="circular"),
        nn.Conv2d(6, 4, 3, dilation=2, groups=2, bias=False),
        nn.Conv3d(6, 4, (1, 3, 3)),
    ],
    ids=repr,
)
def test_a_layer_around_the_same_parameters_computes_the_same(layer):
    made = make_fake_quantized(layer.eval(), layer.weight, layer.bias, nn.Identity())
    shape = (2, 6, 7, 7, 7)[: layer.weight.ndim] if layer.weight.ndim > 2 else (2, 3, 6)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    assert torch.equal(made(x), layer(x)) and not made.training
    assert set(made.state_dict()) == set(layer.state_dict())


def test_other_layers_are_refused():
    layer = nn.ConvTranspose2d(2, 2, 3)
    with pytest.raises(DmqError, match="ConvTranspose2d cannot be quantized"):
        make_fake_quantized(layer, layer.weight, layer.bias, nn.Identity())


def test_channels_of_activations_run(subject):
    spec = Activations(granularity=PerChannel(), range=MinMax())
    answer = call(subject.model, 501)
    assert call(make(subject, SLOT, activations=spec), 501).shape == answer.shape
