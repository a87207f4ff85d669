"""Figures, tables and the page of a benchmark, from reports made by hand."""

import dataclasses
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from dmq.describe import describe_coverage
from dmq.figures import bench_report, bench_table
from dmq.figures import benchmark as figures
from dmq.recipe import Benchmark, Domain
from dmq.results import (
    BENCH_MEASURES,
    FLOOR_NAME,
    BenchImage,
    BenchReport,
    BenchRow,
    Coverage,
    Figure,
)


NASTY = 'W4 <img src="https://elsewhere.example/x" onerror=alert(1)></script> & "co"'
MODELS = ("float", FLOOR_NAME, "W8A8", "W4|A8", NASTY)
BYTES = dict(zip(MODELS, (4_000_000, 4_000_000, 1_200_000, 700_000, 700_000), strict=True))
VALUES = {  # of the floor, then of the three recipes
    "psnr": (11.0, 34.0, math.inf, 10.0),
    "fid": (16.0, 0.5, 4.0, 79.0),
    "kid": (-8.0, -146.6436, -3.0, 1554.4608),
    "clip": (25.0, 24.0, 26.0, 20.0),
    "real fid": (40.0, 39.0, 42.0, 89.0),
}


def figure(value):
    half = 0.1 * abs(value) if math.isfinite(value) else 0.0
    return Figure(value=value, low=value - half, high=value + half)


def row(name, domain):
    k = MODELS.index(name)
    own = (
        {key: figure(values[k - 1]) for key, values in VALUES.items()}
        if k
        else {"clip": figure(25.5)}
    )
    failed = 3 if name == NASTY else 0
    return BenchRow(
        recipe=name,
        domain=domain,
        samples=20 - failed,
        failed=failed,
        figures=own,
        seconds=10.0 * (k + 1),
    )


def image(number, name, **values):
    return BenchImage(
        recipe=name,
        domain="in",
        number=number,
        prompt=f"<b>{number}</b>",
        seed=7,
        finite=bool(values),
        values=values,
    )


REPORT = BenchReport(
    model="m",
    sampler="DDIMScheduler, {'a': 1}",
    features="emoji-clip",
    reference="9 images",
    machine="x86_64",
    benchmark=Benchmark(
        domains=tuple(Domain(name=name, prompts=tuple("abcde")) for name in ("in", "out")),
        seeds=(0, 1, 2, 3),
    ),
    rows=tuple(row(name, domain) for name in MODELS for domain in ("in", "out")),
    images=(),
    bytes=BYTES,
    coverage={
        name: Coverage(quantized=f"3 of 4 layers of {k}; float: conv_{k}", in_float=f"conv_{k}")
        for k, name in enumerate(MODELS[2:])
    },
    warnings=("one <warning>",),
)


@pytest.mark.parametrize(
    ("draw", "across"),
    [
        (figures.against_bytes, lambda name: BYTES[name] / 1e6),
        (figures.against_seconds, lambda name: row(name, "in").seconds / 20),
    ],
    ids=["bytes", "seconds"],
)
def test_every_recipe_is_a_point_with_its_interval_and_its_context(draw, across):
    made = draw(REPORT, "kid", "in")
    assert [trace.name for trace in made.data] == list(MODELS[2:])
    for trace, value in zip(made.data, VALUES["kid"][1:], strict=True):
        assert trace.x == (pytest.approx(across(trace.name)),) and trace.y == (value,)
        assert trace.error_y.array == trace.error_y.arrayminus == (pytest.approx(0.1 * abs(value)),)
    assert "-146.64 [-161.31, -131.98], n = 20" in made.data[0].hovertemplate
    assert (
        "n = 17<br>" in made.data[2].hovertemplate
        and "3 images not finite" in made.data[2].hovertemplate
    )
    assert "<img" not in made.data[2].hovertemplate
    (line,), (said,) = made.layout.shapes, made.layout.annotations
    assert line.y0 == line.y1 == said.y == -8.0 and "noise floor" in said.text
    assert made.layout.yaxis.type == "linear", "there is no logarithm of what is below 0"
    assert "less is better" in made.layout.yaxis.title.text


def test_wide_distances_get_a_logarithmic_axis_and_the_floor_stays_where_it_is():
    made = figures.against_bytes(REPORT, "fid", "out")
    assert made.layout.yaxis.type == "log"
    assert made.layout.shapes[0].y0 == 16.0 and made.layout.annotations[0].y == pytest.approx(
        math.log10(16)
    )
    assert figures.against_bytes(REPORT, "clip", "out").layout.yaxis.type == "linear"


def test_real_images_have_no_floor_and_equal_images_a_place_on_top():
    assert not figures.against_bytes(REPORT, "real fid", "in").layout.shapes
    psnr = {trace.name: trace for trace in figures.against_bytes(REPORT, "psnr", "in").data}
    assert math.isfinite(psnr["W4|A8"].y[0]) and psnr["W4|A8"].y[0] > 34 * 1.1
    assert psnr["W4|A8"].hovertemplate.startswith("equal")


def test_a_recipe_has_one_mark_everywhere_and_no_two_the_same():
    with_float = figures.against_bytes(REPORT, "clip", "in").data
    without = figures.against_seconds(REPORT, "fid", "out").data
    marks = {trace.name: (trace.marker.color, trace.marker.symbol) for trace in with_float}
    assert marks.keys() == {"float", *MODELS[2:]} and len(set(marks.values())) == 4
    assert {
        trace.name: (trace.marker.color, trace.marker.symbol) for trace in without
    }.items() < marks.items()
    key = figures.key(REPORT)
    for name, (colour, symbol) in marks.items():
        assert colour in key and figures.SYMBOLS[symbol] in key and (name in key or name == NASTY)
    assert "<img" not in key and FLOOR_NAME not in key


def test_marks_of_many_recipes_differ():
    names = [f"r{k}" for k in range(42)]
    rows = tuple(
        BenchRow(
            recipe=name,
            domain="in",
            samples=1,
            failed=0,
            seconds=1.0,
            figures={"psnr": figure(9.0)},
        )
        for name in names
    )
    many = dataclasses.replace(
        REPORT,
        rows=rows,
        coverage=dict.fromkeys(names, Coverage(quantized="")),
        bytes=dict.fromkeys(names, 1),
    )
    drawn = figures.against_bytes(many, "psnr", "in").data
    assert len({(trace.marker.color, trace.marker.symbol) for trace in drawn}) == 42


def test_what_ran_on_kernels_and_what_fell_back_stands_in_lines_of_its_own():
    ran = {"kernels": {"<int8>": 3}, "fell_back": {"it is split": 1}}
    own = Coverage(quantized="W8A8", engine="executed bf16", **ran)
    covered = REPORT.coverage | {MODELS[2]: own}
    drawn = bench_table.as_html(dataclasses.replace(REPORT, coverage=covered), "in")
    wanted = '<b>executed bf16</b>: 3 layers on &lt;int8&gt;<br><span class="fell">⚠ 1 in float (it is split)</span>'
    assert f"<td>W8A8<br>{wanted}</td>" in drawn
    assert drawn.count("<br>") == 2, "what is simulated has one line"


def test_a_table_never_shows_a_figure_without_its_context():
    head = bench_table.head(REPORT)
    assert head == [
        "Recipe",
        "Images",
        "PSNR (dB) ↑",
        "FID to float ↓",
        "KID to float × 1000 ↓",
        "CLIP score ↑",
        "FID to real ↓",
        "MB",
        "s an image",
        "speed",
    ]
    cells = bench_table.cells(REPORT, REPORT.row(NASTY, "in"))
    assert cells[:4] == [
        (NASTY, ""),
        ("17", "3 not finite"),
        ("10.00", "[9.00, 11.00]"),
        ("79.000", "[71.100, 86.900]"),
    ]
    assert cells[-3:] == [("0.70", ""), ("2.50", ""), ("0.20×", "")]
    assert bench_table.cells(REPORT, REPORT.row("float", "in"))[2] == ("–", "")
    speeds = [bench_table.cells(REPORT, REPORT.row(name, "in"))[-1][0] for name in MODELS[:3]]
    assert speeds == ["1.00×", "0.50×", "0.33×"]
    said = bench_table.context(REPORT)
    assert said == (
        "m; DDIMScheduler; seeds 0, 1, 2, 3, noise floor with seeds 4, 5, 6, 7; in (5 prompts), "
        "out (5 prompts); features and matches by emoji-clip; real images: 9 images; "
        "intervals: 95 %, over prompts; seconds on x86_64."
    )
    text = bench_table.text(REPORT)
    assert (
        said in text
        and "note: one <warning>" in text
        and all(describe_coverage(one) in text for one in REPORT.coverage.values())
    )


def test_markdown_has_as_many_cells_in_every_line():
    blocks = bench_table.markdown(REPORT).split("\n\n")
    assert len(blocks) == 3 and blocks[2] == bench_table.context(REPORT)
    for block, domain in zip(blocks, ("in", "out"), strict=False):
        lines = block.splitlines()
        assert lines[0].startswith(f"| m, {domain} | Images | PSNR") and len(lines) == 2 + len(
            MODELS
        )
        assert {len(re.split(r"(?<!\\)\|", line)) for line in lines} == {13}
        assert lines[-1].endswith("| conv_2 |") and "equal" in lines[-2]


@pytest.mark.parametrize(
    ("name", "faint"),
    [
        ("W8A8", []),
        ("W4|A8", ["kid"]),
        (NASTY, ["psnr", "fid", "kid"]),
        ("float", []),
        (FLOOR_NAME, []),
    ],
    ids=["good", "one", "broken", "float", "floor"],
)
def test_what_is_no_better_than_the_noise_floor_is_faint(name, faint):
    """Never a distance to real images, nor a match with the prompt, which need not be that of
    the float model.
    """
    lines = re.findall(r"<tr[^>]*>.*?</tr>", bench_table.as_html(REPORT, "in"))
    line = lines[1 + MODELS.index(name)]
    marks = re.findall(r'<t[hd] class="([^"]*)">', line)
    assert [key for key, mark in zip(VALUES, marks[2:-3], strict=True) if mark == "faint"] == faint


class Fetched(HTMLParser):
    """What a browser would fetch for a page, what it would run, and the words that it would
    show.
    """

    def __init__(self, text):
        super().__init__()
        self.found, self.images, self.handlers, self.words = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.handlers += [name for name, _ in attributes if name.startswith("on")]
        self.found += [
            value
            for name, value in attributes
            if name in ("src", "href", "srcset", "data", "action")
        ]
        self.images += [dict(attributes)] if tag == "img" else []

    def handle_data(self, data):
        self.words.append(data)


def test_the_page_that_is_mailed_fetches_nothing_and_runs_no_name():
    worst = [image(0, NASTY, psnr=9.0, ssim=0.25), image(1, NASTY)]
    images = {
        (who, n): np.full((8, 8, 3), 40 * n, np.uint8) for who in ("float", NASTY) for n in (0, 1)
    }
    page = bench_report.page("b <1>", REPORT, worst, images, ["a <finding>"], "float")
    before, own = page.split(bench_report.MARK)
    assert page.count("plotly.js v") == 1 and "plotly.js v" in before
    seen = Fetched(own)
    assert seen.found and all(link.startswith("data:image/png;base64,") for link in seen.found)
    assert not seen.handlers and not re.search(r"@import|url\(", own)
    assert [image["alt"] for image in seen.images] == ["float", NASTY] * 2
    words = "".join(seen.words)
    captions = "<b>0</b> · seed 7 · PSNR 9.00, SSIM 0.2500", "<b>1</b> · seed 7 · not finite"
    context = bench_table.context(REPORT)
    for said in (
        "b <1>",
        "a <finding>",
        "Note: one <warning>",
        context,
        *captions,
        *map(describe_coverage, REPORT.coverage.values()),
    ):
        assert said in words, said
    assert own.count('class="plotly-graph-div"') == 2 * 2 * 2, (
        "two measures against two things in two domains"
    )


def test_all_measures_have_a_column():
    full = {name: figure(1.0) for name in BENCH_MEASURES}
    rows = (BenchRow(recipe="float", domain="in", samples=20, failed=0, figures=full, seconds=1.0),)
    assert [m.name for m in bench_table.measures(dataclasses.replace(REPORT, rows=rows))] == [
        *BENCH_MEASURES
    ]
