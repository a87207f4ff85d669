"""Figures of the Layers tab hold the numbers of their table, whatever is unknown, zero or
negative in it.
"""

import dataclasses

import numpy as np
import pytest

from dmq.figures import budget, layers
from dmq.recipe import FLOAT, Uniform, WeightFormat, parse_format
from dmq.results import Allocation
from tests.sensitivities import random_table


LABEL = "KMC-3"


def column(table, label=LABEL):
    return table.cost[:, table.labels.index(label)]


def allocation(table, labels):
    columns = [table.labels.index(label) for label in labels]
    rows = np.arange(len(labels))
    size = int(table.bytes[rows, columns].sum())
    return Allocation(
        layers=tuple(table.row),
        choices=tuple(map(parse_format, labels)),
        bytes=size,
        average_bits=8 * size / table.num_weights,
        cost=float(table.cost[rows, columns].sum()),
        reasons=("",) * len(labels),
    )


def test_bars_have_the_dearest_layer_on_top_and_each_role_its_colour():
    table = random_table()
    figure = layers.bars(table, LABEL)
    by_row = {
        row: (y, x, part)
        for part in figure.data
        for row, y, x in zip(part.customdata, part.y, part.x, strict=True)
    }
    order = np.argsort(-column(table))
    assert [row for row, _ in sorted(by_row.items(), key=lambda item: item[1][0])] == order.tolist()
    for row, (_, x, part) in by_row.items():
        assert (
            x == pytest.approx(column(table)[row], rel=1e-6) and part.name == table.layers[row].role
        )
        place = list(part.customdata).index(row)
        assert part.error_x.array[place] == pytest.approx(0.1 * column(table)[row], rel=1e-6)
    assert len({part.marker.color for part in figure.data}) == len(
        {layer.role for layer in table.layers}
    )


def test_without_a_choice_bars_are_how_much_the_choice_matters():
    table = random_table()
    found = {
        row: x
        for part in layers.bars(table).data
        for row, x in zip(part.customdata, part.x, strict=True)
    }
    reach = table.cost.max(1) - table.cost.min(1)
    np.testing.assert_allclose([found[row] for row in range(len(reach))], reach, rtol=1e-6)


def test_only_so_many_bars_are_drawn_and_none_of_unknown_cost():
    table = random_table(layers=100)
    assert sum(len(part.x) for part in layers.bars(table, LABEL).data) == layers.MAX_BARS
    costs = np.full_like(table.cost, np.nan)
    costs[7] = 1.0
    (part,) = layers.bars(dataclasses.replace(table, cost=costs)).data
    assert list(part.customdata) == [7]


def test_a_tree_has_blocks_as_large_and_as_dear_as_their_layers():
    table = random_table()
    (tree,) = layers.tree(table, LABEL, "bytes").data
    size, colour = (
        dict(zip(tree.ids, of, strict=True)) for of in (tree["values"], tree.marker.colors)
    )
    sizes = table.bytes[:, table.labels.index(LABEL)]
    for block in ("block outside blocks", "block down.0", "block down.1", "block down.2"):
        own = [n for n, parent in enumerate(tree.parents[5:]) if parent == block]
        assert size[block] == sizes[own].sum()
        assert colour[block] == pytest.approx(np.log10(column(table)[own].max()), rel=1e-5)
    assert [size[name] for name in table.row] == sizes.tolist()
    assert size["all blocks"] == sizes.sum() and np.isnan(colour["all blocks"])
    by_weights = layers.tree(table, LABEL).data[0]
    assert by_weights["values"][5:] == tuple(layer.num_weights for layer in table.layers)


def test_a_tree_whose_block_is_not_known_has_no_colour_there():
    table = random_table()
    table.cost[4:8] = np.nan
    (tree,) = layers.tree(table).data
    assert np.isnan(tree.marker.colors[list(tree.ids).index("block down.1")])


def test_a_layer_that_is_its_own_block_is_drawn_inside_it():
    table = random_table()
    own = dataclasses.replace(table.layers[5], name="conv_in", block="conv_in")
    (tree,) = layers.tree(
        dataclasses.replace(table, layers=(*table.layers[:5], own, *table.layers[6:]))
    ).data
    assert len(set(tree.ids)) == len(tree.ids)
    assert dict(zip(tree.ids, tree.parents, strict=True))["conv_in"] in tree.ids


def test_maps_show_every_choice_and_step_by_the_logarithm_and_what_is_not_known_not_at_all():
    table = random_table()
    table.cost[3, 2] = np.nan
    (heat,) = layers.choice_map(table).data
    np.testing.assert_allclose(heat.z, np.log10(table.cost), rtol=1e-5)
    assert "not known" in heat.text[3][2] and heat.customdata[3][2] == 3
    (heat,) = layers.step_map(table, LABEL).data
    np.testing.assert_allclose(
        heat.z, np.log10(table.per_step[:, table.labels.index(LABEL)]), rtol=1e-5
    )
    reach = table.per_step.max(1) - table.per_step.min(1)
    np.testing.assert_allclose(layers.step_map(table).data[0].z, np.log10(reach), rtol=1e-5)
    assert layers.step_map(random_table(steps=0)) is None


def test_scales_are_linear_where_a_cost_is_negative_and_zero_is_below_all_others():
    table = random_table()
    table.cost[0, 0] = -1.0
    (heat,) = layers.choice_map(table).data
    np.testing.assert_allclose(heat.z, table.cost, rtol=1e-5)
    assert layers.boxes(table, "choice").layout.yaxis.type == "linear"
    table.cost[0, 0] = 0.0
    (heat,) = layers.choice_map(table).data
    assert np.isfinite(heat.z).all() and np.argmin(heat.z) == 0
    assert layers.boxes(table, "choice").layout.yaxis.type == "log"


@pytest.mark.parametrize(
    "costs", [np.zeros((12, 6)), np.full((12, 6), np.nan)], ids=["all zero", "unknown"]
)
def test_tables_that_tell_nothing_are_drawn(costs):
    table = random_table(cost=costs)
    for label in ("", LABEL):
        made = [layers.bars(table, label), layers.tree(table, label), layers.choice_map(table)]
        made += [layers.boxes(table, by, label) for by in ("role", "block", "choice")]
        assert all(figure.data is not None for figure in made)


def test_boxes_hold_each_layer_once_in_forward_order():
    table = random_table()
    for by, of in (("role", lambda layer: layer.role), ("block", layers.block_of)):
        figure = layers.boxes(table, by, LABEL)
        rows = [row for box in figure.data for row in box.customdata]
        assert sorted(rows) == list(range(12))
        for box in figure.data:
            assert {of(table.layers[row]) for row in box.customdata} == {
                box.name.rpartition(" (")[0]
            }
            np.testing.assert_allclose(box.y, column(table)[list(box.customdata)], rtol=1e-6)
    boxes = layers.boxes(table, "choice").data
    assert [box.name for box in boxes] == [f"{label} (12)" for label in table.labels]
    np.testing.assert_allclose(boxes[1].y, table.cost[:, 1], rtol=1e-6)


def test_agreement_pairs_layers_and_choices_by_their_names():
    one, other = random_table(), random_table(seed=1)
    keep = [5, 2, 9]
    fewer = dataclasses.replace(
        other,
        layers=tuple(other.layers[n] for n in keep),
        cost=other.cost[keep][:, ::-1],
        choices=other.choices[::-1],
    )
    figure = layers.agreement(one, fewer, (0.5, 0.25))
    assert figure.layout.title.text == "Spearman 0.50, Kendall 0.25, n = 18"
    assert figure.layout.xaxis.type == figure.layout.yaxis.type == "log"
    found = {
        text: (x, y)
        for part in figure.data
        for text, x, y in zip(part.text, part.x, part.y, strict=True)
    }
    for n in keep:
        for c, label in enumerate(one.labels):
            point = one.cost[n, c], other.cost[n, c]
            assert found[f"{one.layers[n].name}, {label}"] == pytest.approx(point, rel=1e-5)
    assert (
        layers.agreement(one, dataclasses.replace(fewer, cost=fewer.cost * np.nan), (0, 0)) is None
    )


def test_the_strip_is_as_high_as_the_bits_and_marks_what_was_set_by_hand():
    table = random_table()
    labels = ["KMC-4", "UAQ-2", "float"] + ["UAQ-3"] * 9
    floats = dataclasses.replace(
        table,
        choices=(*table.choices, WeightFormat(bits=FLOAT, format=Uniform())),
        bytes=np.append(table.bytes, table.bytes[:, :1], 1),
        cost=np.append(table.cost, 0 * table.cost[:, :1], 1),
    )
    figure = budget.strip(floats, allocation(floats, labels), frozenset([table.layers[1].name]))
    *bars, stars = figure.data
    height = {int(n): y for bar in bars for n, y in zip(bar.customdata, bar.y, strict=True)}
    assert [figure.layout.yaxis.ticktext[height[n] - 1] for n in range(4)] == [
        "4",
        "2",
        "float",
        "3",
    ]
    assert {bar.name: list(bar.x) for bar in bars} == {
        "KMC": [0],
        "UAQ": [1, *range(3, 12)],
        "float": [2],
    }
    assert (stars.name, list(stars.x)) == ("set by hand", [1])
    assert list(figure.layout.xaxis.ticktext) == ["outside blocks", "down.0", "down.1", "down.2"]
    assert len(figure.layout.shapes) == 3


def test_the_front_has_every_budget_the_present_one_and_uniform_choices_at_their_bytes():
    table = random_table()
    table.cost[4, 5] = np.nan
    best = [allocation(table, [label] * 12) for label in ("UAQ-2", "UAQ-3", "UAQ-4")]
    figure = budget.front(table, best, best[1])
    line, uaq, kmc, now = figure.data
    assert list(line.x) == [one.average_bits for one in best] and list(line.y) == [
        one.cost for one in best
    ]
    assert (uaq.text, kmc.text) == (("UAQ-4", "UAQ-3", "UAQ-2"), ("KMC-4", "KMC-3")), (
        "KMC-2 is not all known"
    )
    assert kmc.x[0] == pytest.approx(8 * table.bytes[:, 1].sum() / table.num_weights)
    assert kmc.y[0] == pytest.approx(table.cost[:, 1].sum())
    assert (now.x[0], now.y[0]) == (best[1].average_bits, best[1].cost)
