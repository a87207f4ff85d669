"""Whole pipelines out and in again, shard by shard, as plain safetensors, and to the Hub."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file

import dmq.checkpoint
from dmq.checkpoint.shards import weights_plan
from dmq.describe import describe_plan
from dmq.errors import DmqError
from dmq.models.loading import describe, sample, with_denoiser
from dmq.models.tiny import calm, tiny_sd
from dmq.progress import run_to_end
from dmq.quantizers.apply import quantize_model
from dmq.recipe import FLOAT, Activations, LowRank, Sampling
from tests.checkpoint.conftest import CACHES, EVERYTHING, cached_plan, plan_for, subject_of, weights
from tests.checkpoint.test_checkpoint import WEIGHTS, answers, export


@pytest.fixture(scope="module")
def loaded():
    return describe("tiny", tiny_sd())


@pytest.fixture(scope="module")
def exported(loaded, sd, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipeline") / "sd"
    plan = sd.plan(weights=weights(4), activations=Activations(bits=FLOAT))
    run_to_end(
        dmq.checkpoint.export_pipeline(loaded, plan, folder, recipe=sd.recipe(), mode="simulated")
    )
    return folder, plan


def drawn(pipe, loaded):
    return sample(
        pipe, loaded, prompts=["ab"], seeds=[3], sampling=Sampling(steps=3, guidance=2.0)
    )[0]


def test_plain_diffusers_draws_the_same_image(exported, loaded):
    folder, plan = exported
    quantized_model = quantize_model(loaded.denoiser, plan, loaded.adapter)
    expected = drawn(with_denoiser(loaded, quantized_model), loaded)
    pipe = calm(DiffusionPipeline.from_pretrained(folder))
    assert type(pipe) is type(loaded.pipe) and type(pipe.scheduler) is type(loaded.pipe.scheduler)
    assert np.array_equal(drawn(pipe, loaded), expected)
    assert np.array_equal(
        drawn(calm(dmq.checkpoint.load_pipeline(folder, "simulated")), loaded), expected
    )
    checked = dmq.checkpoint.check(folder)
    assert checked.component == "unet" and describe_plan(plan) in checked.line()


def test_a_pipeline_saves_itself_again(exported, tmp_path):
    folder, _ = exported
    DiffusionPipeline.from_pretrained(folder).save_pretrained(tmp_path / "again")
    a, b = (dmq.checkpoint.check(place) for place in (folder, tmp_path / "again"))
    assert (
        a.files.layout == b.files.layout
        and a.files.metadata["tensors"] == b.files.metadata["tensors"]
    )


def test_no_place_of_this_machine_is_written(exported):
    folder, _ = exported
    told = [
        file for file in folder.rglob("*.json") if "_name_or_path" in json.loads(file.read_text())
    ]
    assert {file.parent.name for file in told} <= {"vae", "text_encoder"}  # which save themselves


def test_another_sampler_is_told(exported, tmp_path):
    folder, _ = exported
    shutil.copytree(folder, tmp_path / "it")
    file = tmp_path / "it" / "scheduler" / "scheduler_config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"beta_start": 0.5}))
    with pytest.raises(DmqError, match="another beta_start"):
        dmq.checkpoint.check(tmp_path / "it")
    file.write_text(json.dumps(config | {"_class_name": "PNDMScheduler"}))
    with pytest.raises(
        DmqError, match="calibrated with DDIMScheduler, the pipeline has PNDMScheduler"
    ):
        dmq.checkpoint.check(tmp_path / "it")


def test_a_timestep_that_was_not_calibrated_is_an_error_of_the_loaded_model(sd, tmp_path):
    export(sd, plan_for(sd, "W8A8"), tmp_path / "sd")
    with pytest.raises(DmqError, match="timestep 77 was not calibrated"):
        answers(dmq.checkpoint.load(tmp_path / "sd"), [77.0])


@pytest.mark.parametrize("name, why", [("../vae", "names no part"), ("a/b", "names no part")])
def test_names_in_the_index_lead_nowhere(exported, tmp_path, name, why):
    folder, _ = exported
    index = json.loads((folder / "model_index.json").read_text())
    (tmp_path / "model_index.json").write_text(
        json.dumps(index | {name: ["diffusers", "AutoencoderKL"]})
    )
    with pytest.raises(DmqError, match=why):
        dmq.checkpoint.check(tmp_path)


def test_folders_that_are_none_are_told(tmp_path, exported):
    folder, _ = exported
    with pytest.raises(DmqError, match="is no folder"):
        dmq.checkpoint.check(tmp_path / "none")
    with pytest.raises(DmqError, match=r"config\.json: is not there"):
        dmq.checkpoint.check(tmp_path)
    with pytest.raises(DmqError, match="is one denoiser"):
        dmq.checkpoint.load_pipeline(folder / "unet")


# --- shard by shard -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "recipe",
    [
        {"weights": weights(4), "activations": Activations(bits=FLOAT)},
        {
            "weights": weights(3, LowRank(rank=2, group=8, rounds=1)),
            "activations": Activations(bits=FLOAT),
            "protection": EVERYTHING,
        },
    ],
    ids=["grid", "low rank, everything"],
)
def test_shard_by_shard_gives_what_the_whole_model_gives(sd, recipe, tmp_path, monkeypatch):
    sd.model.save_pretrained(tmp_path / "float", max_shard_size="100KB")
    assert len(list((tmp_path / "float").glob("*.safetensors"))) > 2
    monkeypatch.setattr("dmq.checkpoint.shards.WAITING", 30_000)
    made = run_to_end(
        dmq.checkpoint.quantize_shards(tmp_path / "float", sd.recipe(**recipe), tmp_path / "it")
    )
    assert len([name for name in made.files if name.endswith(".safetensors")]) > 1
    plan = sd.plan(**recipe)
    assert made.stored == plan.bytes == made.planned
    with torch.no_grad():
        loaded, quantized_model = (
            dmq.checkpoint.load(tmp_path / "it", "simulated"),
            quantize_model(sd.model, plan, sd.adapter),
        )
    assert all(map(torch.equal, answers(loaded), answers(quantized_model)))


def test_a_plan_with_ranges_is_followed_and_checked_against_the_weights(sd, tmp_path):
    plan = plan_for(sd, "everything, groups")
    sd.model.save_pretrained(tmp_path / "float")
    run_to_end(dmq.checkpoint.quantize_shards(tmp_path / "float", plan, tmp_path / "it"))
    quantized_model = quantize_model(sd.model, plan, sd.adapter)
    assert all(
        map(
            torch.equal,
            answers(dmq.checkpoint.load(tmp_path / "it", "simulated")),
            answers(quantized_model),
        )
    )
    tiny_sd(seed=1).unet.save_pretrained(tmp_path / "other")
    with pytest.raises(DmqError, match="made for other weights"):
        run_to_end(dmq.checkpoint.quantize_shards(tmp_path / "other", plan, tmp_path / "more"))
    assert not (tmp_path / "more").exists()


def test_floats_keep_the_precision_of_the_source(sd, tmp_path):
    recipe = sd.recipe(weights=weights(4), activations=Activations(bits=FLOAT))
    sd.model.save_pretrained(tmp_path / "float")
    half = UNet2DConditionModel.from_pretrained(tmp_path / "float", dtype=torch.bfloat16)
    half.save_pretrained(tmp_path / "half")
    made = run_to_end(dmq.checkpoint.quantize_shards(tmp_path / "half", recipe, tmp_path / "it"))
    plan = sd.plan(weights=weights(4), activations=Activations(bits=FLOAT))
    assert made.planned - made.stored == made.bytes["float"] and made.planned == plan.bytes
    assert answers(dmq.checkpoint.load(tmp_path / "it"))[0].isfinite().all()


def test_what_needs_the_running_model_is_refused(sd, tmp_path):
    sd.model.save_pretrained(tmp_path / "float")
    with pytest.raises(DmqError, match="need statistics"):
        run_to_end(dmq.checkpoint.quantize_shards(tmp_path / "float", sd.recipe(), tmp_path / "it"))
    plan = cached_plan(sd, next(iter(CACHES)))
    with pytest.raises(DmqError, match="made of the running model"):
        run_to_end(dmq.checkpoint.quantize_shards(tmp_path / "float", plan, tmp_path / "it"))


@pytest.mark.parametrize("model", ["ddpm", "PixArt", "DiT", "SD3"])
def test_a_plan_of_shapes_alone_is_the_one_with_statistics(model):
    subject = subject_of(model)
    changes = {"weights": weights(4), "activations": Activations(bits=FLOAT)}
    made = weights_plan(subject.model, subject.adapter, subject.recipe(**changes), "it")
    assert (
        made.bytes == subject.plan(**changes).bytes
        and made.float_bytes == subject.plan(**changes).float_bytes
    )


# --- for others -----------------------------------------------------------------------------------


def test_a_new_process_loads_plain_numbers_without_dmq_and_codes_once_it_is_imported(
    exported, tmp_path
):
    folder, plan = exported
    run_to_end(dmq.checkpoint.write_dequantized(folder, tmp_path / "plain"))
    code = (
        "import sys; from diffusers import DiffusionPipeline as P; p = "
        "P.from_pretrained(sys.argv[1]); print(sum(x.double().abs().sum().item() for x in "
        "p.unet.parameters()), 'dmq' in sys.modules); import dmq.checkpoint; "
        "print(P.from_pretrained(sys.argv[2]).unet.plan.bytes)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "plain", folder],
        capture_output=True,
        text=True,
        cwd=Path(dmq.__file__).parents[1],
    )
    model = UNet2DConditionModel.from_pretrained(folder / "unet")
    expected = [
        str(sum(x.double().abs().sum().item() for x in model.parameters())),
        "False",
        str(plan.bytes),
    ]
    assert run.stdout.split() == expected, run.stderr


def test_a_view_has_a_card_and_may_be_pushed_other_folders_may_not(exported, tmp_path, monkeypatch):
    folder, plan = exported
    run_to_end(dmq.checkpoint.write_dequantized(folder, tmp_path / "plain"))
    run_to_end(dmq.checkpoint.for_sdnq(folder, tmp_path / "sdnq"))
    cards = {name: (tmp_path / name / "README.md").read_text() for name in ("plain", "sdnq")}
    run_to_end(
        dmq.checkpoint.for_sdnq(folder, tmp_path / "sdnq")
    )  # what dmq wrote, it may write again
    for name, card in cards.items():
        assert (
            describe_plan(plan) in card
            and "The weights alone" in card
            and "dmq.checkpoint" not in card
        )
        assert ("pip install sdnq" in card) == (name == "sdnq")
        taken = sum(x.nbytes for x in load_file(tmp_path / name / "unet" / WEIGHTS).values())
        assert f"{taken:,} bytes of tensors" in card
    sent = []
    monkeypatch.setattr(
        "dmq.checkpoint.views.push_folder", lambda *given: sent.append(given) or "there"
    )
    for place in (folder, tmp_path / "plain", tmp_path / "sdnq"):
        assert dmq.checkpoint.push(place, "me/model", private=False) == "there"
        assert sent.pop() == (place, "me/model", False)
    shutil.copytree(folder, tmp_path / "damaged")
    (tmp_path / "damaged" / "unet" / WEIGHTS).write_bytes(b"no tensors")
    with pytest.raises(DmqError, match="unet"):
        dmq.checkpoint.push(tmp_path / "damaged", "me/model")
    (tmp_path / "plain" / "README.md").write_text("# Somebody's")
    with pytest.raises(DmqError, match="0 parts of the pipeline are quantized"):
        dmq.checkpoint.push(tmp_path / "plain", "me/model")
    with pytest.raises(DmqError, match="nothing was changed"):
        run_to_end(dmq.checkpoint.for_sdnq(folder, tmp_path / "plain"))
    assert not sent


def test_plain_numbers_of_another_precision_of_one_denoiser(sd, tmp_path):
    export(sd, plan_for(sd, "low rank"), tmp_path / "sd")
    run_to_end(dmq.checkpoint.write_dequantized(tmp_path / "sd", tmp_path / "plain", "bfloat16"))
    plain = UNet2DConditionModel.from_pretrained(tmp_path / "plain", dtype=torch.bfloat16)
    loaded = dmq.checkpoint.load(tmp_path / "sd", "simulated")
    assert {x.dtype for x in load_file(tmp_path / "plain" / WEIGHTS).values()} == {torch.bfloat16}
    name = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    assert torch.equal(
        plain.get_submodule(name).weight, loaded.get_submodule(name).weight.to(torch.bfloat16)
    )
    with pytest.raises(DmqError, match="dtype is 'int3'"):
        run_to_end(dmq.checkpoint.write_dequantized(tmp_path / "sd", tmp_path / "more", "int3"))


def test_a_model_without_its_time_embedding_has_no_plain_form(sd, tmp_path):
    export(sd, cached_plan(sd, "8 bits"), tmp_path / "sd")
    with pytest.raises(DmqError, match="has taken the place of layers"):
        run_to_end(dmq.checkpoint.write_dequantized(tmp_path / "sd", tmp_path / "plain"))


def test_pushing_without_a_login_is_one_line(exported, monkeypatch):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(DmqError, match="nobody is logged in"):
        dmq.checkpoint.push(exported[0], "someone/model")
