"""Checkpoints of denoisers: out, in by dmq and by plain diffusers, and out again."""

import json

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file

import dmq.checkpoint
from dmq.describe import describe_plan
from dmq.errors import DmqError
from dmq.models.borrow import borrow
from dmq.models.tiny import tiny_call
from dmq.progress import run_to_end
from dmq.quantizers.apply import quantize_model
from dmq.recipe import Relaxing
from dmq.runtime.convert import execute_model
from dmq.runtime.layers import packed_layers
from tests.checkpoint.conftest import (
    CACHES,
    RECIPES,
    SLOT,
    cached_plan,
    plan_for,
    same_plan,
    subject_of,
    weights,
)
from tests.quantizers.conftest import TIMESTEPS


WEIGHTS = "diffusion_pytorch_model.safetensors"


def export(subject, plan, folder, **more):
    return run_to_end(
        dmq.checkpoint.export_denoiser(subject.model, plan, subject.adapter, folder, **more)
    )


@torch.no_grad()
def answers(model, times=TIMESTEPS[1::3]):
    def calls(t):
        call = tiny_call(model, t)
        if type(model).__name__ == "SD3Transformer2DModel":
            g = torch.Generator().manual_seed(0)
            return call | {
                "encoder_hidden_states": torch.randn(2, 5, 32, generator=g),
                "pooled_projections": torch.randn(2, 32, generator=g),
            }
        return call

    return [model(**calls(t))[0] for t in times]


def check_round_trip(subject, plan, folder):
    """Loaded by dmq and by diffusers, the model answers bit for bit as the one that was
    exported.
    """
    made = export(subject, plan, folder)
    quantized_model = quantize_model(subject.model, plan, subject.adapter)
    expected = answers(quantized_model)
    loaded = dmq.checkpoint.load(folder, "simulated")
    assert same_plan(loaded.plan, plan) and type(loaded) is type(subject.model)
    assert all(map(torch.equal, answers(loaded), expected))
    on_disk = load_file(folder / WEIGHTS)
    assert made.stored == sum(x.nbytes for x in on_disk.values())
    with dmq.checkpoint.mode("simulated"):
        plain = type(subject.model).from_pretrained(folder)
    plain.save_pretrained(folder / "again")
    again = load_file(folder / "again" / WEIGHTS)
    assert on_disk.keys() == again.keys() and all(
        torch.equal(again[name], x) for name, x in on_disk.items()
    )
    return made


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_comes_back_bit_for_bit_in_the_planned_bytes(sd, recipe, tmp_path):
    plan = plan_for(sd, recipe)
    made = check_round_trip(sd, plan, tmp_path / "sd")
    assert made.stored == made.planned == plan.bytes


# Buffers that diffusers stores are no parameters, and the plan counts parameters: positions of
# tokens.
BEYOND = {"ddpm": 0, "PixArt": 256 * 24 * 4, "DiT": 0, "SD3": 64 * 24 * 4}


@pytest.mark.parametrize("model", BEYOND)
def test_every_kind_of_model_comes_back(model, tmp_path):
    subject = subject_of(model)
    plan = plan_for(subject, "everything, groups")
    made = check_round_trip(subject, plan, tmp_path / "it")
    buffers = {name for name, _ in subject.model.named_buffers()} & set(subject.model.state_dict())
    beyond = sum(subject.model.get_buffer(name).nbytes for name in buffers)
    assert made.stored - made.planned == made.bytes["beyond the plan"] == beyond


@pytest.mark.parametrize("cache", CACHES)
def test_caches_of_the_time_embedding_come_back(sd, cache, tmp_path):
    plan = cached_plan(sd, cache)
    made = check_round_trip(sd, plan, tmp_path / "sd")
    assert made.stored == plan.bytes and made.bytes["cache"] == plan.cache_bytes > 0


def test_a_cache_that_is_made_for_each_request_is_not_stored(tmp_path):
    subject = subject_of("PixArt")
    plan = cached_plan(subject, "8 bits")
    assert plan.temporal.per_request
    made = check_round_trip(subject, plan, tmp_path / "it")
    assert made.bytes["cache"] == 0 and made.stored - made.bytes["beyond the plan"] == plan.bytes


def test_executed_models_may_compute_the_rest_in_bfloat16(sd, tmp_path):
    plan = plan_for(sd, "W8A8")
    export(sd, plan, tmp_path / "sd", mode="executed bf16")
    expected = answers(execute_model(sd.model, plan, sd.adapter, rest=torch.bfloat16))
    assert all(
        map(torch.equal, answers(UNet2DConditionModel.from_pretrained(tmp_path / "sd")), expected)
    )


def test_executed_models_come_back_and_are_saved_again(sd, tmp_path):
    plan = plan_for(sd, "W8A8")
    export(sd, plan, tmp_path / "sd", mode="executed")
    loaded = UNet2DConditionModel.from_pretrained(tmp_path / "sd")
    assert len(list(packed_layers(loaded))) == sum(row.weights.bits < 32 for row in plan.layers)
    assert all(
        map(torch.equal, answers(loaded), answers(execute_model(sd.model, plan, sd.adapter)))
    )
    loaded.save_pretrained(tmp_path / "again")
    a, b = (load_file(tmp_path / name / WEIGHTS) for name in ("sd", "again"))
    assert a.keys() == b.keys() and all(torch.equal(a[name], x) for name, x in b.items())


def test_how_a_model_computes_is_chosen_by_block_then_by_variable_then_by_its_file(
    sd, tmp_path, monkeypatch
):
    folder = tmp_path / "sd"
    export(sd, plan_for(sd, "W8A8"), folder, mode="simulated")

    def runs_on_codes():
        return any(True for _ in packed_layers(UNet2DConditionModel.from_pretrained(folder)))

    assert not runs_on_codes()
    monkeypatch.setenv("DMQ_MODE", "executed")
    assert runs_on_codes()
    with dmq.checkpoint.mode("simulated"):
        assert not runs_on_codes()
    monkeypatch.setenv("DMQ_MODE", "fast")
    with pytest.raises(DmqError, match="mode is 'fast'"):
        runs_on_codes()


def test_half_precision_casts_what_stays_in_float_and_no_stored_table(sd, tmp_path):
    export(sd, plan_for(sd, "W8A8"), tmp_path / "sd", mode="simulated")
    loaded = UNet2DConditionModel.from_pretrained(tmp_path / "sd", dtype=torch.bfloat16)
    assert {p.dtype for p in loaded.parameters()} == {torch.bfloat16}
    call = {
        name: x.to(torch.bfloat16) if x.ndim > 1 else x
        for name, x in tiny_call(loaded, 501).items()
    }
    with torch.no_grad():
        close = (
            loaded(**call).sample.float() - answers(dmq.checkpoint.load(tmp_path / "sd"), [501])[0]
        )
    assert close.abs().mean() < 0.05
    loaded.save_pretrained(tmp_path / "again")
    a, b = (load_file(tmp_path / name / WEIGHTS) for name in ("sd", "again"))
    tables = [name for name in a if name.endswith((".codes", ".scale", ".zero"))]
    assert tables and all(torch.equal(a[name], b[name]) for name in tables)


def test_devices_subfolders_and_copies(sd, tmp_path):
    plan = plan_for(sd, "everything, groups")
    export(sd, plan, tmp_path / "sd" / "unet", mode="simulated")
    expected = answers(quantize_model(sd.model, plan, sd.adapter))
    loaded = UNet2DConditionModel.from_pretrained(
        tmp_path / "sd", subfolder="unet", device_map="cpu"
    )
    copied = borrow(loaded)
    copied.save_pretrained(tmp_path / "again")
    for model in (loaded, copied, dmq.checkpoint.load(tmp_path / "again")):
        assert all(map(torch.equal, answers(model), expected))


def test_several_files_and_an_index(sd, tmp_path, monkeypatch):
    monkeypatch.setattr("dmq.checkpoint.writing.SHARD", 40_000)
    plan = plan_for(sd, "W8A8")
    made = export(sd, plan, tmp_path / "sd", mode="simulated")
    shards = [name for name in made.files if name.startswith("diffusion_pytorch_model-")]
    assert len(shards) > 2 and made.files["diffusion_pytorch_model.safetensors.index.json"]
    expected = answers(quantize_model(sd.model, plan, sd.adapter))
    assert all(map(torch.equal, answers(dmq.checkpoint.load(tmp_path / "sd")), expected))


def test_what_is_beside_the_tensors(sd, tmp_path):
    plan, recipe = plan_for(sd, "everything, groups"), sd.recipe()
    export(sd, plan, tmp_path / "sd", recipe=recipe, source="someone/model")
    card = (tmp_path / "sd" / "README.md").read_text()
    assert (
        describe_plan(plan) in card
        and f"{plan.bytes:,} bytes" in card
        and "base_model: someone/model" in card
    )
    assert dmq.jsonio.read(tmp_path / "sd" / "recipe.json") == recipe
    settings = json.loads((tmp_path / "sd" / "config.json").read_text())["quantization_config"]
    assert json.loads((tmp_path / "sd" / "plan.json").read_text()) == settings["plan"]
    found = settings["timestep_partition"]
    assert found["timesteps"] == list(TIMESTEPS) and SLOT in [
        way["slot"] for way in found["partitions"]
    ]
    assert "runtime" not in settings


@pytest.mark.parametrize(
    "steps, policy",
    [
        ((0, 5), True),
        ((0, 1), True),
        ((4, 5), True),
        ((2,), False),
        ((0, 3, 5), False),
    ],
)
def test_a_step_policy_is_written_where_it_is_one_and_diffusers_reads_it(
    sd, tmp_path, steps, policy
):
    from diffusers.pipelines.cosmos.mixed_precision import Cosmos3MixedPrecisionConfig

    plan = relaxed_plan(sd, 16, steps)
    settings = dmq.checkpoint.settings.settings_of(plan, {}, "unet", "simulated")
    assert ("runtime" in settings) == policy
    if policy:
        asked = settings | {
            "quant_method": "modelopt",
            "quant_type": "FP8",
        }  # whose checkpoints diffusers switches
        read = Cosmos3MixedPrecisionConfig.resolve(quantization_config=asked)
        high = [read.use_high_precision(i, len(TIMESTEPS)) for i in range(len(TIMESTEPS))]
        assert high == [i in steps for i in range(len(TIMESTEPS))]


def test_other_bits_are_no_step_policy(sd):
    for plan in (
        relaxed_plan(sd, 10, (0,)),
        relaxed_plan(sd, 16, (0,), weights=weights(4)),
        plan_for(sd, "W8A8"),
    ):
        assert "runtime" not in dmq.checkpoint.settings.settings_of(plan, {}, "unet", "simulated")


def relaxed_plan(subject, bits, steps, **changes):
    import dataclasses

    from dmq.quantizers.plan import make_plan

    recipe = subject.recipe(relaxing=Relaxing(bits=bits, where="list", steps=steps), **changes)
    errors = subject.errors(recipe, [int(i in steps) for i in range(len(TIMESTEPS))])
    more = errors.bits.copy()
    more[:, list(steps)] = bits
    more[errors.bits == 32] = 32
    return make_plan(subject.info, recipe, subject.stats, dataclasses.replace(errors, bits=more))


def test_diffusers_does_not_quantize_with_dmq_while_loading(sd, tmp_path):
    sd.model.save_pretrained(tmp_path / "float")
    from dmq.models.quantizer import DmqConfig

    with pytest.raises(DmqError, match="does not quantize while loading"):
        UNet2DConditionModel.from_pretrained(tmp_path / "float", quantization_config=DmqConfig())


def test_only_safetensors_are_written(sd, tmp_path):
    export(sd, plan_for(sd, "W8A8"), tmp_path / "sd")
    loaded = dmq.checkpoint.load(tmp_path / "sd")
    with pytest.raises(DmqError, match="safetensors only"):
        loaded.save_pretrained(tmp_path / "again", safe_serialization=False)


# --- all or nothing -------------------------------------------------------------------------------


def test_nothing_is_left_of_an_export_that_ends_early(sd, tmp_path, monkeypatch):
    plan, folder = plan_for(sd, "W8A8"), tmp_path / "sd"
    work = dmq.checkpoint.export_denoiser(sd.model, plan, sd.adapter, folder)
    next(work)
    work.close()
    assert list(tmp_path.iterdir()) == []

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dmq.checkpoint.writing.save_file", full)
    with pytest.raises(DmqError, match="the disk is full"):
        export(sd, plan, folder)
    assert list(tmp_path.iterdir()) == []


def test_an_older_checkpoint_is_replaced_and_nothing_else_is(sd, tmp_path):
    plan, folder = plan_for(sd, "W8A8"), tmp_path / "sd"
    export(sd, plan, folder)
    (folder / "more").write_text("")
    export(sd, plan_for(sd, "UAQ"), folder)
    assert not (folder / "more").exists() and dmq.checkpoint.load(folder).plan.bytes < plan.bytes
    mine = tmp_path / "mine"
    mine.mkdir()
    export(sd, plan, mine)
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("all of it")
    export(sd, plan, other / "model")
    for place in (other, other / "thesis.txt"):
        with pytest.raises(DmqError, match="nothing was changed"):
            export(sd, plan, place)
    assert (other / "thesis.txt").read_text() == "all of it"
