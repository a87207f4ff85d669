"""Weights as SDNQ stores them, read by SDNQ: in a process of its own, as it changes what it is
imported into.
"""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file

import dmq.checkpoint
from dmq.checkpoint.sdnq import Forms
from dmq.errors import DmqError
from dmq.models.loading import describe
from dmq.models.tiny import calm, tiny_sd
from dmq.progress import run_to_end
from dmq.quantizers.codes import QuantizedWeight
from dmq.recipe import KMeans, PerGroup
from tests.checkpoint.conftest import (
    EVERYTHING,
    RECIPES,
    cached_plan,
    plan_for,
    subject_of,
    weights,
)
from tests.checkpoint.test_checkpoint import WEIGHTS, export


# What diffusers loads, turned into numbers by SDNQ, layer by layer; and an image, which SDNQ's
# layers generate.
READ = """
import sys
import diffusers
import numpy as np
from pathlib import Path
from safetensors.torch import save_file

for folder in map(Path, sys.argv[1:]):
    if (folder / "sdnq" / "model_index.json").is_file():
        pipe = diffusers.DiffusionPipeline.from_pretrained(folder / "sdnq")
        pipe.set_progress_bar_config(disable=True)
        generated = pipe("ab", num_inference_steps=2, height=16, width=16, output_type="np",
                     generator=__import__("torch").Generator().manual_seed(1))
        np.save(folder / "image.npy", generated.images)
        model = pipe.unet
    else:
        model = getattr(diffusers, (folder / "class").read_text()).from_pretrained(folder / "sdnq")
    found = {}
    for name, module in model.named_modules():
        if hasattr(module, "sdnq_dequantizer"):
            found[name + ".weight"] = module.dequantize().weight.detach().float().contiguous()
    save_file(found, folder / "read.safetensors")
"""
WIDTHS = {f"{bits} bits": {"weights": weights(bits)} for bits in (2, 3, 5, 6, 7, 8, 10)}
SIGNED = {
    f"{bits} bits, symmetric": {"weights": weights(bits, symmetric=True)}
    for bits in (2, 3, 4, 5, 6, 7, 8)
}
OTHERS = {
    "groups of channels": {
        "weights": weights(4, granularity=PerGroup(size=8)),
        "protection": EVERYTHING,
    },
    "codebooks": {"weights": weights(2, KMeans(iterations=2))},
}
ALL = RECIPES | WIDTHS | SIGNED | OTHERS


def sdnq(folders):
    """Have SDNQ read the folders; the numbers that it made of the layers it took, by folder."""
    run = subprocess.run(
        [sys.executable, "-c", READ, *map(str, folders)],
        capture_output=True,
        text=True,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "SDNQ_USE_TORCH_COMPILE": "0"},
    )
    assert run.returncode == 0, run.stderr
    return [load_file(folder / "read.safetensors") for folder in folders]


def written(subject, plan, folder):
    """A checkpoint of dmq in `folder`/dmq, and its view for SDNQ beside it."""
    folder.mkdir(exist_ok=True)
    export(subject, plan, folder / "dmq", mode="simulated")
    made = run_to_end(dmq.checkpoint.for_sdnq(folder / "dmq", folder / "sdnq"))
    (folder / "class").write_text(type(subject.model).__name__)
    return made


@pytest.fixture(scope="module")
def views(sd, tmp_path_factory):
    """By recipe: the folder, what the export said, and what SDNQ read of the layers."""
    root = tmp_path_factory.mktemp("sdnq")
    plans = {name: sd.plan(**recipe) for name, recipe in (WIDTHS | SIGNED | OTHERS).items()}
    plans |= {name: plan_for(sd, name) for name in RECIPES}
    made = {}
    for n, name in enumerate(ALL):
        made[name] = root / str(n), written(sd, plans[name], root / str(n))
    read = sdnq([folder for folder, _ in made.values()])
    return {name: (*made[name], own) for name, own in zip(made, read, strict=True)}


def numbers(folder):
    """What the codes of a checkpoint stand for, by parameter."""
    run_to_end(dmq.checkpoint.write_dequantized(folder / "dmq", folder / "plain"))
    return load_file(folder / "plain" / WEIGHTS)


def check(folder, read):
    """SDNQ's numbers are dmq's but for the rounding of float32; what it did not take is there as
    it is.
    """
    expected, stored = numbers(folder), load_file(folder / "sdnq" / WEIGHTS)
    for name, x in expected.items():
        if name in read:
            assert torch.allclose(read[name], x, rtol=0, atol=2e-6 * x.abs().max().item()), name
            assert stored[name].dtype in (torch.uint8, torch.int8)
        else:
            assert torch.equal(stored[name], x), name
    parts = {
        f"{name.removesuffix('weight')}{part}" for name in read for part in ("scale", "zero_point")
    }
    assert {*read} <= {*expected} and {*stored} <= {*expected} | parts


@pytest.mark.parametrize("recipe", ALL)
def test_sdnq_reads_the_weights_that_dmq_stored(views, recipe):
    folder, made, read = views[recipe]
    check(folder, read)
    assert made.stored == sum(x.nbytes for x in load_file(folder / "sdnq" / WEIGHTS).values())


@pytest.mark.parametrize("recipe", WIDTHS | SIGNED)
def test_every_layer_on_a_grid_of_up_to_8_bits_is_taken(sd, views, recipe):
    _, _, read = views[recipe]
    quantized = {
        f"{row.layer.name}.weight"
        for row in sd.plan(**(WIDTHS | SIGNED)[recipe]).layers
        if row.weights.bits < 32
    }
    assert {*read} == (set() if recipe == "10 bits" else quantized)


@pytest.mark.parametrize(
    "recipe, taken", [("codebooks", True), ("KMC, HQQ and shifts", True), ("low rank", False)]
)
def test_other_forms_are_taken_where_sdnq_has_them_and_they_are_small(views, recipe, taken):
    folder, made, read = views[recipe]
    assert bool(read) == taken and (made.bytes["codes and scales"] > 0) == taken
    settings = json.loads((folder / "sdnq" / "config.json").read_text())["quantization_config"]
    looked_up = [
        name for name, own in settings["modules_quant_config"].items() if own.get("use_codebook")
    ]
    assert bool(looked_up) == taken and {*settings["modules_quant_config"]} == {*read}


def test_every_kind_of_model(tmp_path):
    folders = [tmp_path / model for model in ("ddpm", "PixArt", "DiT", "SD3")]
    for folder in folders:
        subject = subject_of(folder.name)
        written(subject, subject.plan(weights=weights(4)), folder)
    for folder, read in zip(folders, sdnq(folders), strict=True):
        assert read
        check(folder, read)


def test_a_pipeline_draws_without_dmq_what_its_weights_draw(sd, tmp_path):
    loaded = describe("tiny", tiny_sd())
    run_to_end(
        dmq.checkpoint.export_pipeline(loaded, sd.plan(weights=weights(4)), tmp_path / "dmq")
    )
    run_to_end(dmq.checkpoint.for_sdnq(tmp_path / "dmq", tmp_path / "sdnq"))
    run_to_end(dmq.checkpoint.write_dequantized(tmp_path / "dmq", tmp_path / "plain"))
    assert not [
        file for file in (tmp_path / "sdnq").rglob("*") if file.name in ("plan.json", "report.json")
    ]
    sdnq([tmp_path])
    pipe = calm(DiffusionPipeline.from_pretrained(tmp_path / "plain"))
    expected = pipe(
        "ab",
        num_inference_steps=2,
        height=16,
        width=16,
        output_type="np",
        generator=torch.Generator().manual_seed(1),
    ).images
    drawn = np.load(tmp_path / "image.npy")
    assert drawn.std() > 0 and np.abs(drawn - expected).max() < 1e-4


# --- the format, without SDNQ ---------------------------------------------------------------------


def grid(bits, symmetric, size=8):
    codes = (torch.arange(16) % 2**bits).to(torch.uint8).reshape(2, 8)
    scale = torch.tensor([[0.5], [2.0]]).expand(2, 8 // size).contiguous()
    zero = torch.full_like(scale, 2 ** (bits - 1) if symmetric else 1).to(torch.int32)
    return QuantizedWeight(
        bits=bits, shape=(2, 8), codes=codes, scale=scale, zero=zero, size=size, symmetric=symmetric
    )


def test_a_row_is_scale_and_what_zero_stands_for():
    forms = Forms()
    made = forms.stored("x.weight", grid(4, symmetric=False))
    assert made["x.weight"].tolist() == [0x10, 0x32, 0x54, 0x76, 0x98, 0xBA, 0xDC, 0xFE]
    assert made["x.scale"].tolist() == [[0.5], [2.0]] and made["x.zero_point"].tolist() == [
        [-0.5],
        [-2.0],
    ]
    signed = forms.stored("y.weight", grid(8, symmetric=True))
    assert signed["y.weight"].tolist()[0] == [*range(-128, -120)] and signed.keys() == {
        "y.weight",
        "y.scale",
    }
    forms.stored("z.weight", torch.ones(3, 4))
    forms.stored("z.bias", torch.ones(3))
    config = forms.config()
    assert config["modules_to_not_convert"] == ["z.weight"] and config["quant_method"] == "sdnq"
    assert config["modules_quant_config"] == {
        "x.weight": {"weights_dtype": "uint4", "group_size": -1},
        "y.weight": {"weights_dtype": "int8", "group_size": -1},
    }


def test_what_no_packing_or_no_grid_of_sdnq_fits_is_written_as_numbers():
    forms = Forms()
    small = torch.arange(6, dtype=torch.uint8).reshape(2, 3)
    odd = QuantizedWeight(
        bits=4,
        shape=(2, 3),
        codes=small,
        scale=torch.ones(2, 1),
        zero=torch.zeros(2, 1, dtype=torch.int32),
        size=3,
        symmetric=False,
    )
    every = grid(4, symmetric=False, size=1)  # with a scale for each weight, which saves nothing
    every.scale.copy_(torch.arange(1.0, 17).reshape(2, 8))
    pairs = grid(4, symmetric=False, size=2)  # which SDNQ has, in more bytes than float16
    pairs.scale.copy_(torch.arange(1.0, 9).reshape(2, 4))
    for name, codes in (("odd.weight", odd), ("every.weight", every), ("pairs.weight", pairs)):
        assert torch.equal(forms.stored(name, codes)[name], codes.dequantize())
    assert (
        forms.floats == ["odd.weight", "every.weight", "pairs.weight"]
        and forms.config()["weights_dtype"] == "int8"
    )


def test_a_model_without_its_time_embedding_has_no_such_form(sd, tmp_path):
    export(sd, cached_plan(sd, "8 bits"), tmp_path / "sd")
    with pytest.raises(DmqError, match="has taken the place of layers"):
        run_to_end(dmq.checkpoint.for_sdnq(tmp_path / "sd", tmp_path / "sdnq"))
    assert not (tmp_path / "sdnq").exists()
