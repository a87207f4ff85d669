import json
import threading

import numpy as np
import pytest
import torch
from diffusers import (
    DDPMScheduler,
    EulerDiscreteScheduler,
    KandinskyV22Pipeline,
    SD3Transformer2DModel,
    VQModel,
)

from dmq.errors import DmqError
from dmq.models import loading
from dmq.models.adapter import single_timestep
from dmq.models.borrow import borrow
from dmq.models.checks import refuse_caches
from dmq.models.generic import GenericAdapter
from dmq.models.loading import decode, describe, load, sample, with_denoiser
from dmq.models.step_progress import yield_steps
from dmq.models.tiny import tiny_ddpm, tiny_sd
from dmq.recipe import Sampling


SAMPLING = Sampling(steps=3, guidance=3.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "tiny-sd"
    tiny_sd().save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def sd():
    return describe("tiny", tiny_sd())


@pytest.fixture(scope="module")
def ddpm():
    return describe("tiny", tiny_ddpm())


def test_a_folder_is_loaded_once_even_by_many_at_a_time(folder, capfd):
    found = []
    threads = [threading.Thread(target=lambda: found.append(load(str(folder)))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3 and found[0] is found[1] is found[2]
    assert "".join(capfd.readouterr()) == ""
    assert not any(p.requires_grad for p in found[0].denoiser.parameters())
    assert not found[0].denoiser.training


def test_the_cache_forgets_what_was_used_longest_ago(folder, monkeypatch):
    monkeypatch.setattr(loading, "_cache", type(loading._cache)())
    monkeypatch.setattr(loading, "_open", lambda name, source, placement: (None, None))
    monkeypatch.setattr(loading, "_source", lambda name: name)
    monkeypatch.setattr(loading, "describe", lambda name, pipe, place: name)
    for name in ("a", "b", "c", "a", "d"):
        load(name)
    assert [name for name, _ in loading._cache] == ["c", "a", "d"]


def test_a_model_is_described(sd, ddpm):
    info = sd.info
    assert (info.pipeline, info.denoiser, info.adapter) == (
        "StableDiffusionPipeline",
        "UNet2DConditionModel",
        "unet",
    )
    assert info.prompted and not ddpm.info.prompted
    assert info.size == (16, 16) and ddpm.info.size == (8, 8)
    assert info.parameters == sum(p.numel() for p in sd.denoiser.parameters())
    inside = sum(layer.num_weights + layer.shape[0] * layer.bias for layer in info.layers)
    assert inside + sum(info.vectors) == info.parameters
    roles = {layer.name: layer.role for layer in info.layers}
    assert roles["conv_in"] == "first" and roles["conv_out"] == "last"
    assert roles["time_embedding.linear_1"] == roles["mid_block.resnets.0.time_emb_proj"] == "time"
    assert sd.adapter.first_last(sd.denoiser) == ("conv_in", "conv_out")


def test_layers_come_in_forward_order_with_their_cost(sd):
    layers = {layer.name: layer for layer in sd.info.layers}
    names = list(layers)
    middle = next(name for name in names if name.startswith("mid_block"))
    assert (
        names.index("conv_in") < names.index("down_blocks.1.resnets.0.conv1") < names.index(middle)
    )
    assert names.index(middle) < names.index(
        "up_blocks.0.resnets.0.conv1"
    )  # registered before the middle block
    assert names[-1] == "conv_out"
    assert layers["conv_in"].macs == 16 * 4 * 9 * 64  # out, in, kernel, positions
    assert layers["down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"].macs == 16 * 16 * 64
    assert all(layer.macs > 0 for layer in layers.values())


def test_the_fingerprint_follows_weights_and_configuration(sd):
    assert describe("other", tiny_sd()).info.fingerprint == sd.info.fingerprint
    assert describe("other", tiny_sd(seed=1)).info.fingerprint != sd.info.fingerprint


def test_what_no_adapter_knows_is_listed_by_the_generic_one():
    model = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=16,
        caption_projection_dim=16,
        pooled_projection_dim=16,
        out_channels=4,
    )
    layers = GenericAdapter().layers(model)
    roles = {layer.name: layer.role for layer in layers}
    assert roles["pos_embed.proj"] == "first" and roles["proj_out"] == "last"
    assert roles["transformer_blocks.0.attn.to_q"] == "attention"
    assert roles["transformer_blocks.0.ff.net.0.proj"] == "feedforward"
    assert {layer.block for layer in layers} >= {"transformer_blocks.0", "transformer_blocks.1"}


def test_a_pipeline_that_needs_more_than_a_prompt_is_refused():
    pipe = KandinskyV22Pipeline(unet=tiny_sd().unet, scheduler=DDPMScheduler(), movq=VQModel())
    with pytest.raises(
        DmqError, match="KandinskyV22Pipeline needs image_embeds, negative_image_embeds; dmq runs"
    ):
        describe("kandinsky", pipe)


@pytest.mark.parametrize("kind", ["sd", "ddpm"])
def test_a_seed_gives_the_same_image_in_any_batch(kind, request):
    model = request.getfixturevalue(kind)
    both = sample(model.pipe, model, prompts=["cat", "dog"], seeds=[1, 2], sampling=SAMPLING)
    alone = sample(model.pipe, model, prompts=["dog"], seeds=[2], sampling=SAMPLING)
    assert both[1].dtype == np.uint8 and both[1].shape == (*model.info.size, 3)
    assert np.abs(both[1].astype(int) - alone[0]).max() <= 1
    assert np.abs(both[1].astype(int) - both[0]).max() > 1


@pytest.mark.parametrize("kind", ["sd", "ddpm"])
def test_steps_are_reported_and_the_last_one_is_the_image(kind, request):
    model = request.getfixturevalue(kind)
    seen = []
    images = sample(
        model.pipe,
        model,
        prompts=["cat"],
        seeds=[1],
        sampling=SAMPLING,
        on_step=lambda *step: seen.append(step),
    )
    assert [(i, t) for i, t, _ in seen] == [(0, 667.0), (1, 334.0), (2, 1.0)]
    assert np.abs(decode(model, seen[-1][2])[0].astype(int) - images[0]).max() <= 1


@pytest.mark.filterwarnings("ignore:__array__")  # diffusers and NumPy 2
def test_steps_of_another_scheduler_are_reported_too(sd):
    pipe = with_denoiser(sd, sd.denoiser)
    pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    run = yield_steps(
        lambda on_step: sample(
            pipe, sd, prompts=["cat"], seeds=[1], sampling=SAMPLING, on_step=on_step
        )
    )
    assert [i for i, _, _ in run] == [0, 1, 2]


def test_raising_in_a_step_ends_the_run(sd):
    def stop(i, t, latents):
        raise KeyboardInterrupt(i)

    with pytest.raises(KeyboardInterrupt, match="0"):
        sample(sd.pipe, sd, prompts=["cat"], seeds=[1], sampling=SAMPLING, on_step=stop)


def test_errors_of_a_stepped_run_come_through():
    def run(on_step):
        on_step(0, 1.0, torch.zeros(1))
        raise DmqError("no")

    steps = yield_steps(run)
    assert next(steps)[0] == 0
    with pytest.raises(DmqError, match="no"):
        next(steps)


def test_closing_a_stepped_run_ends_it_at_its_next_report():
    late, reached = threading.Event(), []

    def run(on_step):
        on_step(0, 1.0, torch.zeros(1))
        late.wait(5)
        on_step(1, 0.0, torch.zeros(1))
        reached.append(1)

    steps = yield_steps(run)
    next(steps)
    threading.Timer(0.2, late.set).start()
    steps.close()
    assert late.is_set() and not reached


def test_two_people_share_networks_and_nothing_that_changes(sd):
    a, b = (with_denoiser(sd, borrow(sd.denoiser)) for _ in range(2))
    assert a.vae is b.vae is sd.pipe.vae
    assert len({id(pipe.scheduler) for pipe in (a, b, sd.pipe)}) == 3
    assert len({id(pipe.tokenizer) for pipe in (a, b, sd.pipe)}) == 3
    draw = {"prompts": ["cat"], "seeds": [1]}
    expected = {n: sample(a, sd, **draw, sampling=Sampling(steps=n)) for n in (2, 5)}
    found = {}

    def work(pipe, steps):
        found[steps] = sample(pipe, sd, **draw, sampling=Sampling(steps=steps))

    threads = [threading.Thread(target=work, args=each) for each in ((a, 2), (a, 5))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(found[n][0], expected[n][0]) for n in (2, 5))
    assert sd.pipe.scheduler.num_inference_steps is None


def broken(folder, tmp_path, change):
    """A copy of the index, changed, in a folder without weights."""
    parts = json.loads((folder / "model_index.json").read_text())
    change(parts)
    (tmp_path / "model_index.json").write_text(json.dumps(parts))
    return str(tmp_path)


@pytest.mark.parametrize(
    "name, message",
    [
        ("emoji-ds", "no model that ships .*Did you mean 'emoji-sd'"),
        ("no such thing", "no Hub id owner/name"),
        ("../up", "no model that ships|cannot be fetched|cannot be read"),
    ],
)
def test_unknown_models_give_one_line(name, message):
    with pytest.raises(DmqError, match=message) as caught:
        load(name)
    assert "\n" not in str(caught.value)


def test_a_hub_id_without_network_gives_one_line(monkeypatch):
    def offline(*args, **kwargs):
        raise OSError("We couldn't connect to 'https://huggingface.co'. Try later.\nMore.")

    monkeypatch.setattr(loading.DiffusionPipeline, "download", offline)
    with pytest.raises(
        DmqError, match=r"owner/name: cannot be fetched .*Check name and network"
    ) as caught:
        load("owner/name")
    assert "\n" not in str(caught.value)


def test_folders_that_are_no_safe_pipeline_are_refused(folder, tmp_path):
    with pytest.raises(DmqError, match="holds no model_index"):
        load(str(tmp_path))
    (tmp_path / "model.ckpt").touch()
    with pytest.raises(DmqError, match=r"only model\.ckpt, a pickle"):
        load(str(tmp_path))
    with pytest.raises(DmqError, match="single file, and a pickle"):
        load(str(tmp_path / "model.ckpt"))
    path = broken(folder, tmp_path, lambda parts: parts.update(unet=["evil", "Net"]))
    with pytest.raises(DmqError, match="unet comes from 'evil'"):
        load(path)
    path = broken(folder, tmp_path, lambda parts: parts.update(_class_name=["evil", "Pipe"]))
    with pytest.raises(DmqError, match="dmq loads"):
        load(path)
    broken(folder, tmp_path, lambda parts: None)
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "diffusion_pytorch_model.bin").touch()
    with pytest.raises(DmqError, match=r"diffusion_pytorch_model\.bin: is a pickle"):
        load(path)
    (tmp_path / "None.py").touch()
    with pytest.raises(DmqError, match=r"carries code \(None.py\)"):
        load(path)
    (tmp_path / "model_index.json").write_text("[")
    (tmp_path / "None.py").unlink()
    with pytest.raises(DmqError, match="is no pipeline index"):
        load(path)


def test_a_folder_with_broken_weights_gives_one_line(folder, tmp_path):
    import shutil

    path = tmp_path / "copy"
    shutil.copytree(folder, path)
    (path / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(DmqError, match="cannot be read") as caught:
        load(str(path))
    assert "\n" not in str(caught.value)


def test_mixed_timesteps_are_refused():
    assert (
        single_timestep(torch.tensor(7))
        == single_timestep(7)
        == single_timestep(torch.tensor([7.0, 7.0]))
        == 7.0
    )
    with pytest.raises(DmqError, match="mixes the timesteps"):
        single_timestep(torch.tensor([7, 8]))


def test_ordinary_hooks_are_no_cache():
    unet = tiny_ddpm().unet
    unet.enable_layerwise_casting(storage_dtype=torch.float32, compute_dtype=torch.float32)
    refuse_caches(unet)


def test_more_steps_than_the_scheduler_has_give_one_line(sd):
    many = Sampling(
        steps=1000, guidance=1.0
    )  # SD's offset of one step leads past the end of its table
    with pytest.raises(DmqError, match="DDIMScheduler cannot make 1000 steps"):
        sample(sd.pipe, sd, prompts=["a"], seeds=[0], sampling=many)
