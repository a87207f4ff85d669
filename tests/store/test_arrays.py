"""Files of arrays: compact and plain, bit for bit, and what is damaged or asks for too much."""

import json

import numpy as np
import pyarrow as pa
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from dmq.errors import DmqError
from dmq.store.arrays import ALWAYS, FRAME, LIST, MOST_FOLD, TYPES, save_arrays
from dmq.store.codec import open_arrays


def random_array(kind, shape):
    """All bit patterns that the type has, nan and infinities of every kind among them."""
    dtype = np.dtype(kind)
    size = int(np.prod(shape))
    if kind == "bool":
        return np.random.default_rng(0).integers(0, 2, shape).astype(bool)
    raw = np.random.default_rng(0).integers(0, 256, size * dtype.itemsize, np.uint8)
    return raw.view(dtype).reshape(shape)


def codes(*shape, most=15, seed=0):
    return np.random.default_rng(seed).integers(0, most + 1, shape, np.uint8)


def about(file):
    """The metadata of a file, and what its list says; None for a plain file."""
    with safe_open(file, "numpy") as opened:
        metadata = opened.metadata()
    arrays = load_file(file)
    return metadata, json.loads(arrays[LIST].tobytes()) if LIST in arrays else None


def listed(told):
    return np.frombuffer(json.dumps(told).encode(), np.uint8)


def bits(x):
    return x.dtype, x.shape, x.tobytes()


@pytest.fixture
def file(tmp_path):
    return tmp_path / "made" / "a.safetensors"


@pytest.fixture(autouse=True)
def folder(file):
    file.parent.mkdir()


@pytest.mark.parametrize("shape", [(), (0,), (5,), (3, 0, 2), (7, 3), (4, 2, 5)], ids=str)
@pytest.mark.parametrize("kind", TYPES)
def test_arrays_of_every_type_survive_bit_for_bit(file, kind, shape):
    # The zeros beside it make a frame the smaller form.
    made = {"a/b": random_array(kind, shape), "zeros": np.zeros(4096, np.float32)}
    save_arrays(file, "x", {"said": [1, None]}, made)
    back, plain = open_arrays(file, "x")
    assert about(file)[1] is not None
    assert plain == {"said": [1, None]} and list(back) == list(made)
    assert {key: bits(x) for key, x in back.items()} == {key: bits(x) for key, x in made.items()}
    assert all(x.flags.c_contiguous and x.flags.writeable for x in back.values())


@pytest.mark.parametrize("most", [1, 14, 15, 16, 255])
@pytest.mark.parametrize("size", [999, 1000])
def test_codes_survive_whether_two_fit_a_byte_or_not(file, most, size):
    made = {"codes": codes(size, most=most), "more": np.zeros(4096)}
    made["codes"][-1] = most
    save_arrays(file, "x", {}, made)
    forms = {entry[0]: entry[3] for entry in about(file)[1]["arrays"]}
    assert forms["codes"] == ("nibbles" if most < 16 else "planes")
    assert bits(open_arrays(file, "x")[0]["codes"]) == bits(made["codes"])


def test_codes_of_four_bits_take_half_a_byte_at_most(file):
    save_arrays(file, "x", {}, {"codes": codes(400, 500)})
    assert (
        file.stat().st_size < 0.505 * 400 * 500
    )  # all codes alike often: no compression is beyond packing
    skewed = np.random.default_rng(0).binomial(15, 0.5, (400, 500)).astype(np.uint8)
    save_arrays(file, "x", {}, {"codes": skewed})
    assert file.stat().st_size < 0.42 * skewed.size  # 3.0 bits of entropy


def test_transposed_arrays_are_kept_as_they_look(file):
    made = np.arange(6000, dtype=np.float32).reshape(60, 100).T
    save_arrays(file, "x", {}, {"a": made})
    assert np.array_equal(open_arrays(file, "x")[0]["a"], made)


@pytest.mark.parametrize(
    "made",
    [
        {"noise": random_array("float64", (300,))},
        {"few": np.zeros(2)},
        {"one": np.zeros(5_000_000)},
        {},
    ],
    ids=["noise", "few", "constant", "none"],
)
def test_what_a_frame_makes_no_smaller_or_folds_too_well_is_plain(file, made):
    save_arrays(file, "x", {}, made)
    assert about(file)[1] is None
    assert {key: bits(x) for key, x in load_file(file).items()} == {
        key: bits(x) for key, x in made.items()
    }
    assert {key: bits(x) for key, x in open_arrays(file, "x")[0].items()} == {
        k: bits(x) for k, x in made.items()
    }


def test_plain_files_of_earlier_versions_open(file):
    made = {"codes/a.b": codes(30, 4), "scale/a.b": random_array("float32", (30, 1))}
    save_file(made, file, metadata={"rounding": json.dumps({"note": "n"})})
    back, plain = open_arrays(file, "rounding")
    assert plain == {"note": "n"} and {k: bits(x) for k, x in back.items()} == {
        k: bits(x) for k, x in made.items()
    }


def kept(file):
    save_arrays(file, "x", {}, {"a": np.arange(4000, dtype=np.int32), "codes": codes(2000)})
    metadata, told = about(file)
    return load_file(file)[FRAME], metadata, told


def refuses(file):
    with pytest.raises(
        DmqError, match=r"a\.safetensors: damaged .*; delete the folder and mend it\."
    ) as caught:
        open_arrays(file, "x", "delete the folder and mend it")
    assert "\n" not in str(caught.value)


LISTS = {
    "another version": lambda told: told | {"version": 2},
    "another checksum": lambda told: told | {"crc32": told["crc32"] ^ 1},
    "no checksum": lambda told: {name: x for name, x in told.items() if name != "crc32"},
    "no list": lambda told: told | {"arrays": None},
    "a number for a list": lambda told: told | {"arrays": [[7]]},
    "one array fewer": lambda told: told | {"arrays": told["arrays"][:1]},
    "one name for two": lambda told: (
        told | {"arrays": [["codes", *told["arrays"][0][1:]], told["arrays"][1]]}
    ),
    "an unknown type": lambda told: (
        told | {"arrays": [["a", "object", [4000], "planes"], told["arrays"][1]]}
    ),
    "an unknown form": lambda told: (
        told | {"arrays": [["a", "int32", [4000], "pickle"], told["arrays"][1]]}
    ),
    "nibbles of floats": lambda told: (
        told | {"arrays": [["a", "float32", [4000], "nibbles"], told["arrays"][1]]}
    ),
    "a longer array": lambda told: (
        told | {"arrays": [["a", "int32", [4001], "planes"], told["arrays"][1]]}
    ),
    "a shorter array": lambda told: (
        told | {"arrays": [["a", "int32", [3999], "planes"], told["arrays"][1]]}
    ),
    "a negative length": lambda told: (
        told | {"arrays": [["a", "int32", [-4000], "planes"], told["arrays"][1]]}
    ),
    "a broken length": lambda told: (
        told | {"arrays": [["a", "int32", [4000.0], "planes"], told["arrays"][1]]}
    ),
    "more than any memory": lambda told: (
        told | {"arrays": [["a", "int32", [1 << 60], "planes"], told["arrays"][1]]}
    ),
    "more than fits an integer": lambda told: (
        told | {"arrays": [["a", "int32", [1 << 40, 1 << 40], "planes"]]}
    ),
}


@pytest.mark.parametrize("change", LISTS.values(), ids=LISTS)
def test_a_list_that_does_not_fit_the_frame_is_one_line(file, change):
    frame, metadata, told = kept(file)
    save_file({FRAME: frame, LIST: listed(change(told))}, file, metadata=metadata)
    refuses(file)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"1", b"\xff"])
def test_a_list_that_is_none_is_one_line(file, text):
    frame, metadata, _ = kept(file)
    save_file({FRAME: frame, LIST: np.frombuffer(text, np.uint8)}, file, metadata=metadata)
    refuses(file)


def test_a_file_is_the_same_each_time(file):
    made = {"a": np.arange(4000, dtype=np.int32), "codes": codes(2000)}
    files = []
    for _ in range(8):
        save_arrays(file, "x", {"said": 1}, made)
        files.append(file.read_bytes())
    assert len(set(files)) == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda frame: {FRAME: frame[:-5]},
        lambda frame: {FRAME: frame[:0]},
        lambda frame: {FRAME: frame.astype(np.int16)},
        lambda frame: {FRAME: frame[None]},
        lambda frame: {
            FRAME: np.where(np.arange(frame.size) == frame.size // 2, frame ^ 64, frame)
        },
        lambda frame: {FRAME: np.zeros_like(frame)},
    ],
    ids=["cut", "empty", "type", "axes", "a bit", "zeros"],
)
def test_a_damaged_frame_is_one_line(file, change):
    frame, metadata, told = kept(file)
    save_file(change(frame) | {LIST: listed(told)}, file, metadata=metadata)
    refuses(file)


@pytest.mark.parametrize("size", [0, 4, 100, -1])
def test_a_file_that_is_cut_off_is_one_line(file, size):
    kept(file)
    file.write_bytes(file.read_bytes()[:size])
    refuses(file)


def test_a_frame_that_unfolds_beyond_all_bounds_is_refused_before_memory_is_taken(file):
    """A few kilobytes of Zstandard hold gigabytes of zeros; said or not, they are not unpacked."""
    _, metadata, told = kept(file)
    zeros = 200_000_000
    frame = np.frombuffer(pa.compress(bytes(zeros), "zstd", asbytes=True), np.uint8)
    assert zeros > MOST_FOLD * frame.size + ALWAYS

    def write(length):
        said = told | {"arrays": [["a", "uint8", [length], "planes"]]}
        save_file({FRAME: frame, LIST: listed(said)}, file, metadata=metadata)

    write(1000)
    refuses(file)  # more in it than it says
    write(zeros)
    with pytest.raises(DmqError, match=f"{zeros} bytes cannot be in a frame of {frame.size}"):
        open_arrays(file, "x")
