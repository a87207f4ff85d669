"""Kernels side by side on this machine: what decides which of them the runtime uses.

    python -m bench.kernels [--rounds 20]

Products of M rows, K inputs and N outputs; convolutions of two images; attention of heads, tokens
and width. Weights of few bits without codes of inputs are multiplied as floats: torch's own kernels
for packed int4 and int8 weights are the alternative. `_int_mm` is what a GPU has. Times are the
least of all rounds, in milliseconds; in brackets how many times as fast as the first of a line.

    ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 MKL_ENABLE_INSTRUCTIONS=AVX2 python -m bench.kernels

looks at the same kernels as a processor without VNNI runs them, float's included. The first line
says how they add up; "rounded, float32" is what runs a layer that has no kernel, "codes, W8A8" what
runs one that has."""

import argparse
import time
import warnings
from collections.abc import Callable

import torch
from torch.nn import functional as F
from torch.nn.attention.flex_attention import flex_attention

from dmq.numerics.affine import fake_quantize
from dmq.numerics.processor import multiplies_bfloat16
from dmq.runtime.attention import LANES, _run_chunked
from dmq.runtime.fused_quantize import codes_of
from dmq.runtime.sums import int_mm_sums, onednn_sums


LINEAR = (
    (2, 128, 128),
    (128, 128, 128),
    (2, 1280, 1280),
    (154, 768, 320),
    (512, 1280, 1280),
    (8192, 320, 320),
    (8192, 320, 2560),
)
CONVS = ((128, 128, 16), (256, 256, 8), (320, 320, 64), (1280, 1280, 8))
ATTENTION = ((16, 4096, 40), (16, 1024, 80))  # heads, queries and keys, width
CODED = ((2, 256, 128), (2, 4096, 320), (2, 4096, 1280))
GROUP = 64  # weights that share a scale in torch's int4 format


def least(work: Callable[[], object], rounds: int) -> float:
    """Milliseconds."""
    took = []
    for _ in range(rounds + 2):
        begun = time.perf_counter()
        work()
        took.append(time.perf_counter() - begun)
    return 1000 * min(took[2:])


def show(what: str, rows: dict[str, Callable[[], object]], rounds: int) -> None:
    """One line; the first row is what the others are compared with."""
    times = {name: least(work, rounds) for name, work in rows.items()}
    first = next(iter(times.values()))
    print(
        f"{what:<24}"
        + "".join(f"  {name} {took:.3f} ({first / took:.1f}x)" for name, took in times.items())
    )


def linear(m: int, k: int, n: int) -> dict[str, Callable[[], object]]:
    x, weight = torch.randn(m, k), torch.randn(n, k)
    half, thin = x.bfloat16(), weight.bfloat16()
    codes = torch.randint(0, 256, (m, k), dtype=torch.uint8)
    values = torch.randint(-127, 128, (n, k), dtype=torch.int8)
    scale, zeros = torch.ones(n), torch.zeros(n, dtype=torch.int32)
    packed = torch.ops.onednn.qlinear_prepack(values, None)
    four = torch._convert_weight_to_int4pack_for_cpu(
        torch.randint(0, 16, (n, k), dtype=torch.int32), 1
    )
    tables = torch.ones(k // GROUP, n, 2, dtype=torch.bfloat16)
    step = torch.tensor(0.1)

    def int8(codes: torch.Tensor) -> torch.Tensor:
        return torch.ops.onednn.qlinear_pointwise.default(
            codes, 0.1, 128, packed, scale, zeros, None, 1.0, 0, torch.float32, "none", [], ""
        )

    rows: dict[str, Callable[[], object]] = {
        "float32": lambda: F.linear(x, weight),
        "bfloat16": lambda: F.linear(half, thin),
        "W8A8 oneDNN": lambda: int8(codes),
        "rounded, float32": lambda: F.linear(fake_quantize(x, step, 128.0, 8), weight),
        "codes, W8A8": lambda: int8(codes_of(x, 0.1, 128.0, 8)),
        "W4A16 torch": lambda: torch._weight_int4pack_mm_for_cpu(half, four, GROUP, tables),
        "W8A16 torch": lambda: torch._weight_int8pack_mm(half, values, scale.bfloat16()),
    }
    if m > 16:
        signed, columns = codes.to(torch.int8), values.t().contiguous()
        rows["W8A8 _int_mm"] = lambda: torch._int_mm(signed, columns)
    return rows


def convolution(inputs: int, outputs: int, side: int) -> dict[str, Callable[[], object]]:
    x = torch.randn(2, inputs, side, side).contiguous(memory_format=torch.channels_last)
    weight, bias = torch.randn(outputs, inputs, 3, 3), torch.zeros(outputs)
    codes = codes_of(x, 0.1, 128.0, 8)
    values = torch.randint(-127, 128, weight.shape, dtype=torch.int8)
    scale, zeros, where = (
        torch.ones(outputs),
        torch.zeros(outputs, dtype=torch.int32),
        ([1, 1], [1, 1], [1, 1], 1),
    )

    step = torch.tensor(0.1)

    def int8(packed_for: list[int] | None, x: torch.Tensor | None = None) -> Callable[[], object]:
        packed = torch.ops.onednn.qconv_prepack(values, scale, 1.0, 128, *where, packed_for)
        return lambda: torch.ops.onednn.qconv_pointwise.default(
            codes if x is None else codes_of(x, 0.1, 128.0, 8),
            0.1,
            128,
            packed,
            scale,
            zeros,
            bias,
            *where,
            1.0,
            0,
            torch.float32,
            "none",
            [],
            "",
        )

    return {
        "float32": lambda: F.conv2d(x, weight, bias, padding=1),
        "W8A8 oneDNN": int8(list(x.shape)),
        "rounded, float32": lambda: F.conv2d(
            fake_quantize(x, step, 128.0, 8), weight, bias, padding=1
        ),
        "codes, W8A8": int8(list(x.shape), x),
        "W8A8, laid out for no shape": int8(None),
    }


def coding(*shape: int) -> dict[str, Callable[[], object]]:
    x = torch.randn(shape)
    return {
        "in steps": lambda: codes_of(x, torch.tensor(0.1), torch.tensor(128.0), 8),
        "one pass": lambda: codes_of(x, 0.1, 128.0, 8),
    }


def attention(heads: int, length: int, width: int) -> dict[str, Callable[[], object]]:
    query, key, value = (torch.randn(1, heads, length, width) for _ in range(3))
    halves = [x.bfloat16() for x in (query, key, value)]
    flexible = torch.compile(flex_attention, dynamic=False)
    return {
        "torch, float32": lambda: F.scaled_dot_product_attention(query, key, value),
        "torch, bfloat16": lambda: F.scaled_dot_product_attention(*halves),
        "flexible, compiled, bfloat16": lambda: flexible(*halves),
        "in pieces": lambda: _run_chunked(query, key, value),
    }


def sums(heads: int, length: int, width: int) -> dict[str, Callable[[], object]]:
    """Sums of the scores of one head and their product with its values, as often as there are
    heads.
    """
    scores, values = torch.rand(length, length).bfloat16(), torch.randn(length, width).bfloat16()
    wide = torch.randn(length, (width // LANES + 1) * LANES).bfloat16()
    return {
        "apart": lambda: [(scores.sum(-1, True), torch.mm(scores, values)) for _ in range(heads)],
        "a column of ones": lambda: [torch.mm(scores, wide) for _ in range(heads)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--only", choices=("linear", "conv", "attention", "codes"))
    asked = parser.parse_args()
    rounds, only = asked.rounds, asked.only
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    print(
        f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, "
        f"{torch.get_num_threads()} threads"
    )
    print(
        f"sums: oneDNN {onednn_sums()}, _int_mm {int_mm_sums()}; multiplies bfloat16: "
        f"{multiplies_bfloat16()}"
    )
    for m, k, n in LINEAR if only in (None, "linear") else ():
        show(f"linear {m} x {k} x {n}", linear(m, k, n), rounds)
    for inputs, outputs, side in CONVS if only in (None, "conv") else ():
        show(
            f"conv {inputs}-{outputs}, {side} x {side}", convolution(inputs, outputs, side), rounds
        )
    for shape in ATTENTION if only in (None, "attention") else ():
        show("attention " + " x ".join(map(str, shape)), attention(*shape), rounds)
        show("sums and values", sums(*shape), rounds)
    for shape in CODED if only in (None, "codes") else ():
        show("codes of " + " x ".join(map(str, shape)), coding(*shape), rounds)


if __name__ == "__main__":
    main()
