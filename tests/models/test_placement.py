"""Where models run: what a wish comes to, and that what runs there is what runs here."""

import dataclasses

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from dmq.errors import DmqError
from dmq.models import loading, memory, placement
from dmq.models.finite import first_not_finite
from dmq.models.memory import OutOfMemory, in_parts
from dmq.models.noise import one_noise
from dmq.models.offload import place_offloaded
from dmq.models.placement import Device, Place, Placement, needs, resolve
from dmq.models.tiny import tiny_ddpm, tiny_sd
from dmq.models.tiny_pipelines import tiny_pipeline
from dmq.models.weights_on_disk import count_weights
from dmq.recipe import Sampling


HALF_FILES = {"unet": {"float16": 800_000_000}, "vae": {"float16": 100_000_000}}
FULL_FILES = {"unet": {"float32": 800_000_000}}


@pytest.fixture
def card(monkeypatch):
    """A machine with cards of 24 and 6 GB beside a CPU of 32 GB: what is free, and what it
    lacks, can be changed.
    """
    free = {"cuda:0": 24e9, "cuda:1": 6e9, "cpu": 32e9}
    lacks = set()

    def found():
        return tuple(Device(name, "Test card", int(size), int(size)) for name, size in free.items())

    monkeypatch.setattr(placement, "devices", found)
    monkeypatch.setattr(placement, "free_memory", lambda name: int(free[name]))
    monkeypatch.setattr(placement, "can_run", lambda device, dtype: (device, dtype) not in lacks)
    return free, lacks


def test_automatic_takes_the_first_card_and_the_dtype_of_the_files(card):
    assert resolve(Placement(), HALF_FILES) == Place("cuda:0", "float16")
    assert resolve(Placement(), {"unet": {"bfloat16": 8, "float32": 1}}) == Place(
        "cuda:0", "bfloat16"
    )
    assert resolve(Placement(), FULL_FILES) == Place("cuda:0", "float32")
    assert resolve(Placement(device="cuda:1"), FULL_FILES).device == "cuda:1"
    assert resolve(Placement(device="cpu"), HALF_FILES) == Place("cpu", "float32")


def test_what_does_not_fit_in_float32_is_lowered_unless_it_was_asked_for(card):
    free, _ = card
    large = {"transformer": {"float32": 7_000_000_000}}
    assert resolve(Placement(), large).dtype == "bfloat16"
    free["cpu"] = 3e9
    assert resolve(Placement(device="cpu"), HALF_FILES).dtype == "float16"
    with pytest.raises(
        DmqError, match=r"needs 32.2 GB on cuda:1 in float32, but only 6\.0 GB are free"
    ):
        resolve(Placement(device="cuda:1", dtype="float32"), large)


def test_bfloat16_files_on_a_card_without_it(card):
    free, lacks = card
    lacks.add(("cuda:0", "bfloat16"))
    files = {"transformer": {"bfloat16": 5_000_000_000}}
    assert resolve(Placement(), files).dtype == "float32"
    free["cuda:0"] = 16e9
    assert resolve(Placement(), files).dtype == "float16"
    with pytest.raises(
        DmqError, match="cuda:0 cannot compute in bfloat16; it can in float32, float16"
    ):
        resolve(Placement(dtype="bfloat16"), files)


def test_a_model_that_does_not_fit_is_told_which_offload_would(card):
    files = {"transformer": {"bfloat16": 12_000_000_000}, "text": {"bfloat16": 5_000_000_000}}
    with pytest.raises(DmqError, match=r"needs 39\.1 GB .* 24\.0 GB are free; --offload seq"):
        resolve(Placement(), files, "flux")
    place = resolve(Placement(offload="group"), files)
    assert place.resident == "cpu" and place.line() == "cuda:0 (Test card), bfloat16, group offload"
    assert (
        needs(place, files)
        < needs(dataclasses.replace(place, offload="model"), files)
        < needs(dataclasses.replace(place, offload="none"), files)
    )


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"device": "tpu"}, "device is 'tpu'; name auto, cuda"),
        ({"device": "cuda:x"}, "device is 'cuda:x'"),
        ({"dtype": "int8"}, "dtype is 'int8', not one of auto, float32"),
        ({"offload": "disk"}, "offload is 'disk', not one of none, model"),
    ],
)
def test_names_that_are_nowhere_are_refused(wish, message):
    with pytest.raises(DmqError, match=message) as caught:
        Placement(**wish)
    assert "\n" not in str(caught.value)


def test_a_device_that_is_not_there_and_an_offload_without_a_card(card, monkeypatch):
    with pytest.raises(DmqError, match=r"no device 'cuda:7' here; there is cuda:0 \(Test card"):
        resolve(Placement(device="cuda:7"), FULL_FILES)
    with pytest.raises(DmqError, match="offload 'group' is for a GPU"):
        resolve(Placement(device="cpu", offload="group"), FULL_FILES)
    with pytest.raises(DmqError, match="no device 'xpu'"):
        placement.use(Placement(device="xpu"))


def test_the_environment_holds_the_choice(monkeypatch):
    for variable in placement.VARIABLES.values():
        monkeypatch.delenv(variable, raising=False)
    assert placement.get_chosen() == Placement()
    monkeypatch.setenv("DMQ_DEVICE", "cpu")
    monkeypatch.setenv("DMQ_DTYPE", "bfloat16")
    assert placement.get_chosen() == Placement(device="cpu", dtype="bfloat16")
    placement.use(Placement(device="cpu", dtype="float32"))
    assert placement.get_chosen() == Placement(device="cpu", dtype="float32")
    monkeypatch.setenv("DMQ_DTYPE", "float8")
    with pytest.raises(DmqError, match=r"^\$DMQ_DTYPE: dtype is 'float8'"):
        placement.get_chosen()
    assert placement.get_chosen(dtype="float16") == Placement(device="cpu", dtype="float16")


def test_this_machine_has_its_cpu():
    found = placement.devices()
    assert found[-1].name == "cpu" and 0 < found[-1].free <= found[-1].total
    assert placement.can_run("cpu", "float32") and not placement.can_run("cpu", "int3")


def test_weights_are_counted_from_the_headers(tmp_path):
    pipe = tiny_sd()
    pipe.unet.half()
    pipe.save_pretrained(tmp_path / "m", safe_serialization=True)
    found = count_weights(tmp_path / "m")
    assert found["unet"] == {"float16": sum(p.numel() for p in pipe.unet.parameters())}
    assert set(found["vae"]) == {"float32"}
    save_file(
        {"x": torch.zeros(3, 4)},
        tmp_path / "m" / "unet" / "diffusion_pytorch_model.fp16.safetensors",
    )
    assert (
        count_weights(tmp_path / "m")["unet"] == found["unet"]
    )  # a variant is not loaded beside the plain file
    (tmp_path / "m" / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(b"\xff" * 40)
    assert "vae" not in count_weights(tmp_path / "m")


# --- running elsewhere ----------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    tiny_sd().save_pretrained(tmp_path / "tiny", safe_serialization=True)
    return str(tmp_path / "tiny")


def images(loaded, seeds=(0, 1)):
    return np.stack(
        loading.sample(
            loaded.pipe,
            loaded,
            prompts=["a"] * len(seeds),
            seeds=seeds,
            sampling=Sampling(steps=3, guidance=2.0),
        )
    ).astype(float)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_the_same_image_and_the_same_model(folder, dtype, monkeypatch):
    full = loading.load(folder)
    wanted = images(full)
    monkeypatch.setenv("DMQ_DTYPE", dtype)
    half = loading.load(folder)
    assert {p.dtype for p in half.denoiser.parameters()} == {
        getattr(torch, dtype)
    } and half.place.dtype == dtype
    assert half.info.fingerprint == full.info.fingerprint  # though half of each number is gone
    assert np.abs(images(half) - wanted).mean() < 3 < np.abs(images(full, (5, 6)) - wanted).mean()
    latents = []
    loading.sample(
        half.pipe,
        half,
        prompts=["a"],
        seeds=[0],
        sampling=Sampling(steps=2),
        on_step=lambda i, t, x: latents.append(x),
    )
    (decoded,) = loading.decode(half, latents[-1])
    assert decoded.dtype == np.uint8 and decoded.shape == (16, 16, 3)
    assert [key[1].dtype for key in loading._cache] == [
        dtype
    ]  # the other one is not held beside it


def test_the_noise_of_a_seed_is_one_noise():
    made = {}
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        with one_noise(dtype):
            made[dtype] = torch.randn(
                3, 11, generator=torch.Generator().manual_seed(3), dtype=dtype
            )
    for dtype, noise in made.items():
        assert noise.dtype == dtype and torch.equal(noise, made[torch.float32].to(dtype))
    own = torch.randn(3, 11, generator=torch.Generator().manual_seed(3), dtype=torch.float16)
    assert not torch.equal(
        own, made[torch.float16]
    )  # torch's own is another one: why the mode is there


@pytest.mark.parametrize("offload", ["model", "sequential", "group"])
@pytest.mark.parametrize("family", ["sd", "SD3"])
def test_offload_gives_the_same_images_and_leaves_the_model_as_it_was(
    folder, offload, family, tmp_path
):
    if family != "sd":
        tiny_pipeline(family).save_pretrained(tmp_path / family, safe_serialization=True)
        folder = str(tmp_path / family)
    loaded = loading.load(folder)
    sampling = Sampling(steps=2, size=0 if family == "sd" else 16)

    def draw():
        return loading.sample(loaded.pipe, loaded, prompts=["a"], seeds=[0], sampling=sampling)[0]

    wanted = draw()
    parts = [part for part in loaded.pipe.components.values() if isinstance(part, nn.Module)]
    before = {id(p): (p, p.data_ptr()) for part in parts for p in part.parameters()}
    names = [set(vars(module)) for part in parts for module in part.modules()]
    away = dataclasses.replace(loaded, place=Place("cpu", "float32", offload))
    visited = []
    hook = loaded.denoiser.conv_in if family == "sd" else loaded.denoiser.proj_out
    handle = hook.register_forward_hook(lambda m, args, out: visited.append(m.weight.data_ptr()))
    got = loading.sample(away.pipe, away, prompts=["a"], seeds=[0], sampling=sampling)[0]
    handle.remove()
    assert visited and np.array_equal(got, wanted)
    assert all(
        id(p) in before and before[id(p)][1] == p.data_ptr()
        for part in parts
        for p in part.parameters()
    )
    assert [set(vars(module)) for part in parts for module in part.modules()] == names
    assert np.array_equal(draw(), wanted)


def test_an_error_in_the_middle_takes_the_offload_off_again(folder):
    loaded = loading.load(folder)
    pipe = loading.with_denoiser(loaded, loaded.denoiser)
    names = [set(vars(module)) for module in loaded.denoiser.modules()]
    with (
        pytest.raises(RuntimeError, match="in the middle"),
        place_offloaded(pipe, Place("cpu", "float32", "sequential")),
    ):
        assert [set(vars(module)) for module in loaded.denoiser.modules()] != names
        raise RuntimeError("in the middle")
    assert [set(vars(module)) for module in loaded.denoiser.modules()] == names


# --- too little memory, and numbers that are none -------------------------------------------------


def failing_above(rows):
    """What a device does that holds so many rows at a time."""

    def hook(module, args, kwargs):
        if len(args[0]) > rows:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    return hook


def test_half_the_images_are_tried_once_when_memory_runs_out():
    pipe = tiny_ddpm()
    loaded = loading.describe("tiny", pipe)
    from dmq.models.generation import generate_batch
    from dmq.progress import run_to_end

    jobs = [("", seed) for seed in range(5)]
    sampling = Sampling(steps=2)
    wanted = run_to_end(generate_batch(loaded, loaded.denoiser, jobs, sampling))
    handle = loaded.denoiser.register_forward_pre_hook(failing_above(3), with_kwargs=True)
    seen = []
    work = generate_batch(loaded, loaded.denoiser, jobs, sampling, watched={1})
    try:
        while True:
            seen.append(next(work))
    except StopIteration as end:
        made = end.value
    assert len(made.images) == 5 and np.allclose(made.latents, wanted.latents, atol=1e-5)
    shown = [pixels for i, pixels in seen if pixels]
    assert [[one is not None for one in pixels] for pixels in shown] == [
        [True] * 3,
        [False] * 3 + [True] * 2,
    ]
    handle.remove()
    handle = loaded.denoiser.register_forward_pre_hook(failing_above(2), with_kwargs=True)
    with pytest.raises(
        OutOfMemory, match=r"tiny: cpu ran out of memory with 3 images at a time in float32"
    ):
        run_to_end(generate_batch(loaded, loaded.denoiser, jobs, sampling))
    handle.remove()


def test_a_single_image_that_does_not_fit_is_not_tried_again():
    tries = []

    def work(items):
        tries.append(items)
        raise OutOfMemory.at(Place("cuda:0", "float32"), "m", len(items))
        yield

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "free_memory", lambda device: 10**9)
        with pytest.raises(OutOfMemory, match=r"--offload model, or --dtype bfloat16"):
            list(in_parts(work, ["one"]))
    assert tries == [["one"]]


def test_a_layer_that_overflows_in_half_precision_is_named(folder, monkeypatch):
    monkeypatch.setenv("DMQ_DTYPE", "float16")
    loaded = loading.load(folder)
    from dmq.models.borrow import borrow

    broken = borrow(loaded.denoiser)
    layer = broken.get_submodule("mid_block.resnets.0.conv1")
    layer.weight = nn.Parameter(layer.weight * 0 + 6e4, False)
    pipe = loading.with_denoiser(loaded, broken)
    with pytest.raises(
        DmqError, match=r"^mid_block\.resnets\.0\.conv1: not finite at step 1 \(t = .*\) in float16"
    ):
        loading.sample(pipe, loaded, prompts=["a"], seeds=[0], sampling=Sampling(steps=3))
    assert not broken._forward_pre_hooks
    call = torch.zeros(1, 4, 8, 8).half(), 1, torch.zeros(1, 3, 16).half()
    assert first_not_finite(loaded.denoiser, call, {}) == ""
