"""Plans as plain data and arrays and back."""

import dataclasses
import json

import numpy as np
import pytest

from dmq.checkpoint.plans import plan_data, plan_from, plan_layout, plan_tensors
from dmq.errors import DmqError
from dmq.recipe import Temporal
from tests.checkpoint.conftest import (
    CACHES,
    MODELS,
    RECIPES,
    cached_plan,
    plan_for,
    same_plan,
    subject_of,
    weights,
)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_plan_comes_back(sd, recipe):
    check(plan_for(sd, recipe))


@pytest.mark.parametrize("model", [name for name in MODELS if name != "sd"])
def test_a_plan_of_another_model_comes_back(model):
    check(plan_for(subject_of(model), "everything, groups"))


@pytest.mark.parametrize("cache", CACHES)
def test_a_plan_with_a_cache_comes_back(sd, cache):
    check(cached_plan(sd, cache))


def check(plan):
    data, tensors = json.loads(json.dumps(plan_data(plan))), plan_tensors(plan)
    assert same_plan(plan_from(data, tensors), plan)
    assert {name: (x.dtype, tuple(x.shape)) for name, x in tensors.items()} == plan_layout(data)
    chosen = tensors["dmq.cache.chosen"].nbytes if "dmq.cache.chosen" in tensors else 0
    assert sum(x.nbytes for x in tensors.values()) == plan.table_bytes + chosen


def test_banks_that_layers_share_are_stored_once(sd):
    plan = sd.plan(temporal=Temporal(fsc="tib"), weights=weights(8))
    shared = [row for row in plan.layers if row.layer.name in sd.info.temporal.layers]
    sites = {row.bank.site for row in shared}
    assert len(sites) < len(shared)
    stored = [name for name in plan_tensors(plan) if name.endswith(".bits")]
    assert len(stored) == len({row.bank.site for row in plan.layers if row.bank})


def test_more_slots_than_a_byte_counts_take_two_bytes_each(sd):
    """The plan counts one byte: a recipe with a range for each of more than 256 steps stores
    more than it says.
    """
    plan = sd.plan(weights=weights(8))
    rows = tuple(dataclasses.replace(row, bank=row.bank and long(row.bank)) for row in plan.layers)
    plan = dataclasses.replace(plan, timesteps=tuple(map(float, range(300))), layers=rows)
    tensors = plan_tensors(plan)
    assert same_plan(plan_from(plan_data(plan), tensors), plan)
    banks = len({row.bank.site for row in rows if row.bank})
    assert sum(x.nbytes for x in tensors.values()) == plan.table_bytes + 300 * banks


def long(bank):
    return dataclasses.replace(
        bank,
        bits=bank.bits.repeat(300),
        scale=bank.scale.repeat(300),
        zero=bank.zero.repeat(300),
        slot=np.arange(300, dtype=np.int16),
    )


LIES = {
    "a layer's name": lambda d: d["layers"][1].update(name=3),
    "a bank that is not there": lambda d: d["layers"][1].update(bank=10**6),
    "a bank from behind": lambda d: d["layers"][1].update(bank=-1),
    "slots": lambda d: d["banks"][0].update(slots=10**9),
    "shape": lambda d: d["banks"][0].update(shape=[3, 10**30]),
    "timesteps": lambda d: d.update(timesteps="901"),
    "fewer timesteps": lambda d: d["timesteps"].pop(),
    "an unknown field": lambda d: d["banks"][0]["site"].update(more=1),
    "a spec": lambda d: d["weights"][0].update(bits=99),
    "axis": lambda d: d["banks"][0].update(axis=1),
    "a bank more": lambda d: d["banks"].append(d["banks"][0]),
    "nothing": lambda d: d.clear(),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_plan_that_lies_is_refused_in_one_line(sd, lie):
    plan = plan_for(sd, "W8A8")
    data = json.loads(json.dumps(plan_data(plan)))
    LIES[lie](data)
    with pytest.raises(DmqError) as caught:
        plan_from(data, plan_tensors(plan))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "part, value, why",
    [
        ("scale", np.nan, "has scales or bits that"),
        ("scale", 0, "has scales or bits that"),
        ("zero", -1, "outside of"),
        ("zero", 256, "outside of"),
        ("slot", 3, "slots that are not there"),
        ("bits", 0, "has scales or bits that"),
    ],
)
def test_banks_that_nothing_can_be_computed_with_are_refused(sd, part, value, why):
    plan = plan_for(sd, "W8A8")
    tensors = plan_tensors(plan)
    tensors[f"dmq.banks.2.{part}"][0] = value
    with pytest.raises(DmqError, match=why):
        plan_from(plan_data(plan), tensors)


def test_two_banks_of_one_site_are_refused(sd):
    plan = plan_for(sd, "W8A8")
    data, tensors = plan_data(plan), plan_tensors(plan)
    k = len(data["banks"])
    data["banks"].append(data["banks"][0])
    own = {name: x for name, x in tensors.items() if name.startswith("dmq.banks.0.")}
    tensors |= {name.replace(".0.", f".{k}."): x for name, x in own.items()}
    with pytest.raises(DmqError, match="two banks of one site"):
        plan_from(data, tensors)
