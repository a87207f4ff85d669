"""Checkpoints that are damaged, lie, or come from somewhere else: one line each, and never
anything else.
"""

import json
import shutil
import struct
import tracemalloc

import pytest
import torch
from diffusers import UNet2DModel
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import dmq.checkpoint
from dmq.checkpoint.reading import DTYPES, header, read, read_files
from dmq.checkpoint.settings import UNSEALED, metadata_of, sealed
from dmq.errors import DmqError
from tests.checkpoint.conftest import cached_plan, plan_for
from tests.checkpoint.test_checkpoint import WEIGHTS, export


QUICK = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture(scope="module")
def whole(ddpm, tmp_path_factory):
    """A sound checkpoint, with a cache."""
    folder = tmp_path_factory.mktemp("whole") / "it"
    export(ddpm, cached_plan(ddpm, "5 bits by row"), folder)
    return folder


@pytest.fixture
def copy(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "it")
    return tmp_path / "it"


def refused(folder, match="", act=read):
    with pytest.raises(DmqError, match=match) as caught:
        act(folder)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 800


def values(folder):
    """All that a checkpoint holds, read without any check."""
    return {
        name: x
        for file in sorted(folder.glob("*.safetensors"))
        for name, x in load_file(file).items()
    }


def rewritten(folder, change, seal=True):
    """Change the tensors and the settings of a checkpoint, and make its digests true again."""
    config = json.loads((folder / "config.json").read_text())
    tensors = values(folder)
    change(tensors, config["quantization_config"], config)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "plan.json").write_text(json.dumps(config["quantization_config"]["plan"]))
    metadata = metadata_of(
        sealed(config, config["quantization_config"]) if seal else UNSEALED, tensors
    )
    save_file(tensors, folder / WEIGHTS, metadata=metadata)


# --- any bytes ------------------------------------------------------------------------------------


def same_or_refused(folder, whole):
    """It loads to the same values, or is refused in one line."""
    try:
        content, files, _ = read(folder)
    except DmqError as error:
        assert "\n" not in str(error)
        return
    expected = values(whole)
    assert files.places.keys() == expected.keys()
    assert all(torch.equal(files.fetch(name), x) for name, x in expected.items())
    asked = json.loads((whole / "config.json").read_text())
    said = content.settings | {"mode": asked["quantization_config"]["mode"]}
    assert said == asked["quantization_config"]


@QUICK
@given(data=st.data())
@pytest.mark.parametrize("name", [WEIGHTS, "config.json"])
def test_a_changed_byte_is_found(whole, tmp_path, name, data):
    raw = bytearray((whole / name).read_bytes())
    header_length = 8 + struct.unpack("<Q", raw[:8])[0] if name == WEIGHTS else len(raw)
    at = data.draw(
        st.one_of(
            st.integers(0, 30), st.integers(0, header_length - 1), st.integers(0, len(raw) - 1)
        )
    )
    raw[at] = data.draw(st.integers(0, 255))
    place = written_copy(whole, tmp_path, name, bytes(raw))
    same_or_refused(place, whole)


@QUICK
@given(data=st.data())
@pytest.mark.parametrize("name", [WEIGHTS, "config.json"])
def test_a_file_that_was_cut_or_stuffed_is_found(whole, tmp_path, name, data):
    raw = (whole / name).read_bytes()
    a, b = sorted(data.draw(st.tuples(*[st.integers(0, len(raw))] * 2)))
    stuffing = data.draw(st.binary(max_size=40))
    same_or_refused(written_copy(whole, tmp_path, name, raw[:a] + stuffing + raw[b:]), whole)


@QUICK
@given(
    head=st.one_of(
        st.binary(max_size=200),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(["a", "__metadata__", "dtype", "shape", "data_offsets"]),
                    inner,
                    max_size=4,
                )
            ),
            max_leaves=12,
        ).map(lambda data: json.dumps(data).encode()),
    ),
    tail=st.binary(max_size=20),
)
def test_any_header_is_read_or_refused(tmp_path, head, tail):
    file = tmp_path / "it.safetensors"
    file.write_bytes(struct.pack("<Q", len(head)) + head + tail)
    tracemalloc.start()
    try:
        places, _ = header(file)
    except DmqError as error:
        assert "\n" not in str(error)
    else:
        assert sum(place.bytes for place in places.values()) == len(tail)
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 10_000_000


def written_copy(whole, folder, name, raw):
    """The checkpoint with one file replaced; the others are the same files."""
    place = folder / "it"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    for file in whole.iterdir():
        if file.name != name:
            (place / file.name).symlink_to(file)
    (place / name).write_bytes(raw)
    return place


# --- headers --------------------------------------------------------------------------------------


ONE = {"a": {"dtype": "U8", "shape": [2, 2], "data_offsets": [0, 4]}}
HEADERS = {
    "longer than the file": (struct.pack("<Q", 10**6) + b"{}", "a header of 1000000 bytes"),
    "beyond all measure": (struct.pack("<Q", 2**63) + b"{}", "a header of"),
    "empty": (b"", "a header of 0 bytes"),
    "no JSON": (b"{'a'}", "no JSON"),
    "no object": (b"[]", "JSON that is no object"),
    "deep": (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "no JSON"),
    "twice": (
        b'{"a":' + json.dumps(ONE["a"]).encode() + b',"a":' + json.dumps(ONE["a"]).encode() + b"}",
        "'a' twice",
    ),
    "not a number": (b'{"a": NaN}', "NaN is no number"),
    "many digits": (b'{"a": ' + b"9" * 10_000 + b"}", "no JSON"),
}
LIES = {
    "shape": {"shape": [2, 3]},
    "huge shape": {"shape": [2**40, 2**40]},
    "negative": {"shape": [-2, -2]},
    "a flag": {"shape": [True, 4]},
    "no shape": {"shape": "22"},
    "dims": {"shape": [1] * 9 + [4]},
    "dtype": {"dtype": "F4"},
    "no dtype": {"dtype": 3},
    "backwards": {"data_offsets": [4, 0]},
    "beyond": {"data_offsets": [0, 10**9]},
    "gap": {"data_offsets": [1, 5]},
    "three": {"data_offsets": [0, 2, 4]},
    "more": {"more": 1},
}


@pytest.mark.parametrize("case", HEADERS)
def test_headers_that_are_none_take_no_memory(tmp_path, case):
    raw, why = HEADERS[case]
    whole = raw[:1] in (b"{", b"[")
    (tmp_path / "it.safetensors").write_bytes(
        (struct.pack("<Q", len(raw)) + raw + bytes(4)) if whole else raw
    )
    tracemalloc.start()
    refused(tmp_path / "it.safetensors", why, header)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10_000_000


@pytest.mark.parametrize("case", LIES)
def test_headers_that_lie_about_a_tensor(tmp_path, case):
    raw = json.dumps({"a": ONE["a"] | LIES[case]}).encode()
    (tmp_path / "it.safetensors").write_bytes(struct.pack("<Q", len(raw)) + raw + bytes(4))
    refused(tmp_path / "it.safetensors", "damaged", header)


@pytest.mark.parametrize(
    "second, size, why",
    [
        ([2, 6], 6, "'b' lies about its bytes"),
        ([5, 9], 9, "'b' lies about its bytes"),
        ([4, 8], 7, "7 bytes of tensors"),
        ([4, 8], 9, "9 bytes of tensors"),
    ],
    ids=["overlapping", "with a gap", "too short", "too long"],
)
def test_tensors_that_do_not_fill_the_file(tmp_path, second, size, why):
    raw = json.dumps(ONE | {"b": ONE["a"] | {"data_offsets": second}}).encode()
    (tmp_path / "it.safetensors").write_bytes(struct.pack("<Q", len(raw)) + raw + bytes(size))
    refused(tmp_path / "it.safetensors", why, header)


def test_what_safetensors_writes_is_read(tmp_path):
    tensors = {name.lower(): torch.zeros(2, 3).to(dtype) for name, dtype in DTYPES.items()}
    tensors |= {"empty": torch.zeros(0, 3), "scalar": torch.tensor(1.5), "one": torch.randn(4)}
    save_file(tensors, tmp_path / "it.safetensors")
    files = read_files([tmp_path / "it.safetensors"], sealed=False)
    assert files.layout == {name: (x.dtype, tuple(x.shape)) for name, x in tensors.items()}
    assert all(torch.equal(files.fetch(name), x) for name, x in tensors.items())


# --- folders --------------------------------------------------------------------------------------


def test_pickles_are_never_opened(copy):
    (copy / WEIGHTS).unlink()
    for name in ("diffusion_pytorch_model.bin", "model.ckpt", "weights.pt"):
        (copy / name).write_bytes(b"cos\nsystem\n")
        refused(
            copy,
            "is a pickle, which dmq never opens. Load it where you trust it, and save it again",
        )
        refused(copy / name, "is a pickle", header)
        (copy / name).unlink()
    refused(copy, "holds no diffusion_pytorch_model.safetensors")


@pytest.mark.parametrize(
    "name", ["../it/x.safetensors", "/etc/passwd", "sub/x.safetensors", "x.bin", 3, ""]
)
def test_an_index_leads_nowhere(copy, name):
    index = copy / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": name}}))
    refused(copy, "no file name that belongs here; nothing was opened")


def test_an_index_that_lies(ddpm, tmp_path, monkeypatch):
    monkeypatch.setattr("dmq.checkpoint.writing.SHARD", 40_000)
    export(ddpm, plan_for(ddpm, "W8A8"), tmp_path / "it")
    file = tmp_path / "it" / "diffusion_pytorch_model.safetensors.index.json"
    index = json.loads(file.read_text())
    first, *_, last = index["weight_map"]
    swapped = index["weight_map"] | {first: index["weight_map"][last]}
    file.write_text(json.dumps({"weight_map": swapped}))
    refused(tmp_path / "it", "does not say what is in its files")
    file.write_text(json.dumps({"weight_map": {}}))
    refused(tmp_path / "it", "names no files")
    file.unlink()
    refused(tmp_path / "it", "no index of them")


def test_another_format_or_mode(copy):
    file = copy / "config.json"
    config = json.loads(file.read_text())
    for name, value, why in (
        ("format", 2, "format 2 is newer than this dmq"),
        ("format", "1", "format '1' is none"),
        ("mode", "fast", "mode is 'fast'"),
        ("quant_method", "sdnq", "no model that dmq"),
    ):
        settings = config["quantization_config"] | {name: value}
        file.write_text(json.dumps(config | {"quantization_config": settings}))
        refused(copy, why)
    file.write_text(json.dumps({}))
    refused(copy, "no model that dmq quantized")


def test_settings_of_the_model_that_were_changed_are_found(copy):
    """They decide how it computes and leave every shape as it is."""
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"norm_eps": 0.1}))
    refused(copy, "describes another model than the tensors are of")
    (copy / "config.json").write_text(json.dumps(config | {"_diffusers_version": "0"}))
    read(copy)


def test_parts_of_two_checkpoints_are_no_checkpoint(copy, ddpm, sd, tmp_path):
    export(ddpm, plan_for(ddpm, "W8A8"), tmp_path / "other")
    export(sd, plan_for(sd, "W8A8"), tmp_path / "sd")
    kept = (copy / WEIGHTS).read_bytes()
    for other in ("other", "sd"):
        shutil.copy(tmp_path / other / WEIGHTS, copy / WEIGHTS)
        refused(copy, "of two different exports")
    ddpm.model.save_pretrained(tmp_path / "float")
    shutil.copy(tmp_path / "float" / WEIGHTS, copy / WEIGHTS)
    refused(copy, "was not written by dmq")
    (copy / WEIGHTS).write_bytes(kept)
    shutil.copy(tmp_path / "other" / "plan.json", copy / "plan.json")
    refused(copy, "is not the plan in config.json")


# --- what lies, with digests that are true --------------------------------------------------------


def weight_name(settings):
    return next(name for name in settings["codes"] if name.endswith("conv1.weight"))


CRAFTED = {
    "a tensor more": (
        lambda t, s, c: t.update(more=torch.zeros(2)),
        "has no more; these are the tensors of another",
    ),
    "a tensor less": (lambda t, s, c: t.pop("conv_in.bias"), "conv_in.bias is missing"),
    "codes less": (lambda t, s, c: t.pop(f"{weight_name(s)}.codes"), "codes is missing"),
    "another shape": (
        lambda t, s, c: t.update({"conv_in.bias": torch.zeros(3)}),
        r"conv_in.bias is float32 \[3\]",
    ),
    "another dtype": (
        lambda t, s, c: t.update({"conv_in.bias": t["conv_in.bias"].int()}),
        "conv_in.bias is int32",
    ),
    "other bits": (
        lambda t, s, c: s["codes"][weight_name(s)].update(bits=7),
        "bytes, but the plan counts",
    ),
    "another model": (
        lambda t, s, c: c.update(block_out_channels=[16, 32]),
        "do not fit|has no such layer",
    ),
    "no class": (
        lambda t, s, c: c.update(_class_name="Popen"),
        "'Popen' is no model of this diffusers",
    ),
    "a class that is no model": (
        lambda t, s, c: c.update(_class_name="DDIMScheduler"),
        "is no model",
    ),
    "no sense": (
        lambda t, s, c: c.update(down_block_types=["DownBlock2D", 7]),
        "no UNet2DModel can be made of it",
    ),
    "a layer twice": (
        lambda t, s, c: s["plan"]["layers"][1].update(name="conv_in"),
        "conv_in.weight: the plan quant",
    ),
    "a cache of fewer rows": (lambda t, s, c: s["cache"]["0"].update(rows=3), "dmq.cache.0"),
    "a cache of another plan": (
        lambda t, s, c: t["dmq.cache.chosen"].zero_(),
        "not the one of its plan",
    ),
    "no codes": (
        lambda t, s, c: s.update(codes=[]),
        "quantization_config.codes is missing or damaged",
    ),
    "a parameter that is none": (
        lambda t, s, c: s["codes"].update({"x.y": s["codes"][weight_name(s)]}),
        "x.y",
    ),
    "a way out": (
        lambda t, s, c: s["codes"].update({"../x": s["codes"][weight_name(s)]}),
        r"\.\./x",
    ),
    "a scale": (
        lambda t, s, c: t[f"{weight_name(s)}.scale"].fill_(float("nan")),
        "scale has values that are no",
    ),
    "a bank": (lambda t, s, c: t["dmq.banks.0.scale"].fill_(-1), "nothing can be computed with"),
    "an adapter": (lambda t, s, c: s.update(adapter="newer"), "adapter 'newer' is of a newer dmq"),
}


@pytest.mark.parametrize("case", CRAFTED)
def test_what_lies_is_refused_by_dmq_and_by_diffusers(copy, case):
    change, why = CRAFTED[case]
    rewritten(copy, change)
    refused(copy, why, dmq.checkpoint.load)


def test_files_of_others_through_diffusers_are_checked_as_well(copy):
    raw = bytearray((copy / WEIGHTS).read_bytes())
    raw[-100] ^= 1
    (copy / WEIGHTS).write_bytes(bytes(raw))
    refused(copy, "was damaged on the way", UNet2DModel.from_pretrained)
    (copy / WEIGHTS).write_bytes(bytes(raw[:-1]))
    refused(copy, "diffusers cannot read it|damaged", dmq.checkpoint.load)


def test_unreadable_files_are_one_line(copy):
    (copy / "config.json").unlink()
    refused(copy, "is not there")
    (copy / "config.json").write_bytes(b"\xff\xfe")
    refused(copy, "no JSON")


def test_a_checkpoint_that_was_sealed_again_is_whole(copy):
    """The helper of these tests changes nothing by itself."""
    before = values(copy)
    rewritten(copy, lambda t, s, c: None)
    read(copy)
    assert all(torch.equal(before[name], x) for name, x in values(copy).items())
    rewritten(copy, lambda t, s, c: None, seal=False)
    refused(copy, "of two different exports")
