"""The bit budget against trying everything, against scipy's integer programming, and against its
own numbers.
"""

import dataclasses
import fnmatch
import itertools
import math
import os
import re

import numpy as np
import pytest
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from dmq.allocation import knapsack
from dmq.allocation.budget import allocate, greedy, limits, pareto, random_allocation, uniform
from dmq.allocation.knapsack import best, fill, price_steps, solve_priced
from dmq.errors import DmqError
from dmq.recipe import Budget, Rule, format_name
from tests.allocation.tables import random_table


FOUR = ("UAQ-4", "KMC-4", "UAQ-3", "KMA-2")


def labels(found):
    return list(map(format_name, found.choices))


def everything(table, rules=()):
    """All combinations that `rules` allow: columns [N, L] (-1 for float), their bytes and costs."""
    names = [layer.name for layer in table.layers]
    allowed = []
    for n, name in enumerate(names):
        mine = [rule for rule in rules if fnmatch.fnmatchcase(name, rule.layers)]
        wanted = {rule.choice for rule in mine if rule.choice}
        columns = [k for k, label in enumerate(table.labels) if not wanted or wanted == {label}]
        columns = [k for k in columns if np.isfinite(table.cost[n, k])]
        columns += [-1] if wanted == {"float"} else []
        least = max((rule.least for rule in mine), default=0)
        allowed.append([k for k in columns if k < 0 or table.choices[k].bits >= least])
    tied = [rule.layers for rule in rules if rule.same]
    ties = [
        [n for n, name in enumerate(names) if fnmatch.fnmatchcase(name, pattern)]
        for pattern in tied
    ]
    every_one = itertools.product(*allowed)
    combinations = np.array(
        [one for one in every_one if all(len({one[n] for n in tie}) == 1 for tie in ties)]
    )
    floats = np.array([4 * layer.num_weights for layer in table.layers])
    taken = np.hstack([table.bytes, floats[:, None]])  # column -1
    cost = np.hstack([table.cost, np.zeros((len(names), 1))])
    every = np.arange(len(names))
    return combinations, taken[every, combinations].sum(1), cost[every, combinations].sum(1)


def by_scipy(taken, cost, budget):
    """The least cost within `budget`, by integer programming: one choice a layer, and one
    inequality.
    """
    count, choices = cost.shape
    one_hot = csr_array(
        (np.ones(cost.size), (np.repeat(np.arange(count), choices), np.arange(cost.size)))
    )
    answer = milp(
        c=cost.ravel() / cost.max(),
        integrality=np.ones(cost.size),
        bounds=Bounds(0, 1),
        constraints=[
            LinearConstraint(one_hot, 1, 1),
            LinearConstraint(taken.reshape(1, -1) / 1e3, -np.inf, budget / 1e3),
        ],
        options={"mip_rel_gap": 1e-9},
    )
    return answer.fun * cost.max()


RULES = {
    "none": (),
    "fixed": (Rule(layers="blocks.0.q", choice="UAQ-3"),),
    "least": (Rule(layers="*.k", least=3),),
    "same": (Rule(layers="blocks.0.*", same=True),),
    "chain": tuple(Rule(layers=f"blocks.0.[{pair}]", same=True) for pair in ("qk", "vo", "ko")),
    "float": (Rule(layers="blocks.1.q", choice="float"), Rule(layers="blocks.0.[qk]", same=True)),
    "all": (
        Rule(layers="blocks.0.*", same=True),
        Rule(layers="blocks.0.o", choice="KMC-4"),
        Rule(layers="*", least=3),
    ),
}


@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
@pytest.mark.parametrize("seed", range(4))
def test_the_answer_is_that_of_trying_everything(rules, seed):
    table = random_table(6, seed, FOUR)
    if seed == 3:  # some costs are not known
        cost = table.cost.copy()
        cost[np.random.default_rng(0).random(cost.shape) < 0.2] = np.nan
        cost[:, 1:3] = table.cost[:, 1:3]
        table = dataclasses.replace(table, cost=cost)
    _, taken, cost = everything(table, rules)
    low, high = limits(table, rules)
    assert (low, high) == (taken.min(), taken.max())
    for budget in np.linspace(low, high, 12).astype(int).tolist():
        found = allocate(table, Budget(bits=None, bytes=budget, rules=rules))
        assert found.cost == pytest.approx(cost[taken <= budget].min(), rel=1e-12)
        assert found.bytes <= budget and found.bound <= found.cost
        assert (found.cost, found.bytes) in [
            pytest.approx(pair) for pair in zip(cost, taken, strict=True)
        ]


def test_of_many_layers_it_agrees_with_integer_programming():
    for seed in range(3):
        table = random_table(60, seed)
        low, high = limits(table)
        for share in (0.1, 0.3, 0.5, 0.7):
            budget = round(low + share * (high - low))
            found = allocate(table, Budget(bits=None, bytes=budget))
            assert found.bytes <= budget
            assert found.cost == pytest.approx(by_scipy(table.bytes, table.cost, budget), rel=1e-7)


def test_the_bound_of_prices_is_the_linear_relaxation_and_the_one_given_is_better():
    table = random_table(30, 0)
    budget = round(np.mean(limits(table)))
    count, choices = table.cost.shape
    one_hot = csr_array(
        (
            np.ones(table.cost.size),
            (np.repeat(np.arange(count), choices), np.arange(table.cost.size)),
        )
    )
    bytes_ = LinearConstraint(table.bytes.reshape(1, -1) / 1e3, -np.inf, budget / 1e3)
    relaxed = milp(
        table.cost.ravel(),
        bounds=Bounds(0, 1),
        constraints=[LinearConstraint(one_hot, 1, 1), bytes_],
    )
    lagrange = solve_priced(
        price_steps(table.bytes, table.cost), table.bytes, table.cost, budget
    ).bound
    found = allocate(table, Budget(bits=None, bytes=budget))
    assert lagrange == pytest.approx(relaxed.fun, rel=1e-9)
    assert (
        lagrange < found.bound == pytest.approx(found.cost, rel=1e-6)
    )  # integer programming proves more


def alike(count, choices, seed):
    """Bytes, costs and a budget of a table whose choices are all worth about the same for their
    bytes.
    """
    rng = np.random.default_rng(seed)
    taken = rng.integers(1, 10_000, (count, choices))
    return (
        taken,
        -taken * rng.uniform(0.99, 1.01, taken.shape),
        int(taken.min(1).sum() + taken.max(1).sum()) // 2,
    )


@pytest.mark.parametrize("most", [1, 5, 30])
def test_a_core_too_small_is_never_worse_than_prices_and_its_bound_holds(most):
    taken, cost, budget = alike(40, 6, 0)
    walked = solve_priced(price_steps(taken, cost), taken, cost, budget)
    known = fill(walked, taken, cost, budget)
    found = best(known, taken, cost, budget, most)
    exact = best(known, taken, cost, budget)
    assert walked.bound <= found.bound <= exact.cost <= found.cost <= known.cost < walked.cost
    assert found.bytes == taken[np.arange(40), found.chosen].sum() <= budget
    assert most < 30 or found.cost < known.cost


def test_what_the_solvers_tolerance_lets_through_is_not_taken(monkeypatch):
    monkeypatch.setattr(
        knapsack, "FINE", 1e-3
    )  # a tolerance of a thousandth of the largest change: about 10 bytes
    taken, cost, budget = alike(12, 4, 1)  # the first answer takes a byte too many
    known = fill(solve_priced(price_steps(taken, cost), taken, cost, budget), taken, cost, budget)
    found = best(known, taken, cost, budget)
    assert found.bytes == taken[np.arange(12), found.chosen].sum() <= budget
    assert found.cost < known.cost  # solved again with less room, not given up


def test_what_the_solver_prints_is_not_seen(capfd):
    rng = np.random.default_rng(28)  # with these numbers HiGHS prints a line, whatever `disp` says
    count, choices, most = (
        int(rng.integers(3, 150)),
        int(rng.integers(2, 10)),
        10 ** int(rng.integers(2, 8)),
    )
    taken = rng.integers(1, most, (count, choices))
    cost = -taken * rng.uniform(0.99, 1.01, taken.shape)
    low, high = taken.min(1).sum(), taken.max(1).sum()
    budget = int(low + (high - low) * rng.uniform(0.05, 0.9))
    known = fill(solve_priced(price_steps(taken, cost), taken, cost, budget), taken, cost, budget)
    assert best(known, taken, cost, budget).cost < known.cost
    assert capfd.readouterr().out == ""
    os.write(1, b"heard")
    assert capfd.readouterr().out == "heard"


def test_the_smallest_budget_gives_the_smallest_and_the_largest_the_cheapest():
    table = random_table(40, 1)
    low, high = limits(table)
    smallest, largest = (allocate(table, Budget(bits=None, bytes=end)) for end in (low, high))
    assert smallest.bytes == low == table.bytes.min(1).sum()
    assert high == table.bytes.max(1).sum()
    assert labels(largest) == [table.labels[k] for k in table.cost.argmin(1)]
    assert set(smallest.reasons) == {"the budget pays for nothing but the smallest choices"}
    for end in (low, high):  # bits that are computed from the ends are within
        assert allocate(table, Budget(bits=8 * end / table.num_weights)).bytes <= end


def test_the_front_never_rises_and_holds_what_single_budgets_give():
    table, rules = random_table(25, 2), (Rule(layers="blocks.1.*", same=True),)
    front = pareto(table, rules, points=9)
    ends = limits(table, rules)
    assert len(front) == 9
    assert all(a.cost >= b.cost for a, b in itertools.pairwise(front))
    for budget, point in zip(np.linspace(*ends, 9), front, strict=True):
        alone = allocate(table, Budget(bits=None, bytes=round(budget), rules=rules))
        assert point.bound <= alone.cost * (1 + 1e-9) and alone.cost <= point.cost * (1 + 1e-9)
        assert (
            point.cost - point.bound <= table.sensitivity.max() * 9
        )  # no price is further off than one change
        assert point.bytes <= round(budget)
    assert len(pareto(table, (Rule(layers="*", choice="UAQ-4"),))) == 1


def test_what_is_said_of_an_allocation_is_true():
    table = random_table(20, 3)
    rules = (
        Rule(layers="blocks.0.*", same=True),
        Rule(layers="blocks.1.q", choice="UAQ-3"),
        Rule(layers="blocks.1.k", choice="float"),
    )
    found = allocate(
        table, Budget(bits=None, bytes=round(np.mean(limits(table, rules))), rules=rules)
    )
    names = [layer.name for layer in table.layers]
    columns = [
        table.labels.index(label) if label in table.labels else None for label in labels(found)
    ]
    floats = 4 * table.layers[5].num_weights
    assert columns.count(None) == 1 and labels(found)[5] == "float" and labels(found)[4] == "UAQ-3"
    assert len(set(columns[:4])) == 1 and found.layers == tuple(names)
    cells = [(n, k) for n, k in enumerate(columns) if k is not None]
    assert found.bytes == sum(table.bytes[n, k] for n, k in cells) + floats
    assert found.cost == pytest.approx(sum(table.cost[n, k] for n, k in cells))
    assert found.average_bits == 8 * found.bytes / table.num_weights
    assert found.fingerprint == table.fingerprint
    assert found.reasons[4] == "fixed by the rule for blocks.1.q"
    assert found.reasons[3] == "same as blocks.0.q, by the rule for blocks.0.*"
    assert found.reasons[0].endswith("(all 4 layers of blocks.0.* together)")


def test_reasons_are_the_tables_numbers():
    table = random_table(40, 4)
    found = allocate(table, Budget(bits=None, bytes=round(np.mean(limits(table)))))
    below = above = 0
    for n, (label, why) in enumerate(zip(labels(found), found.reasons, strict=True)):
        mine = table.labels.index(label)
        if said := re.match(
            r"costs (\S+) more than (\S+) and saves (.+); a saved kB costs (\S+) here", why
        ):
            other, more = table.labels.index(said[2]), 1
        elif said := re.match(
            r"costs least; (\S+) would cost (\S+) more and save (.+): (\S+) for a saved kB", why
        ):
            said, other, more = (
                [None, said[2], said[1], said[3], said[4]],
                table.labels.index(said[1]),
                -1,
            )
            assert table.cost[n, mine] == table.cost[n].min()
        else:
            assert why in (
                "no other choice costs less or is smaller",
                "all choices cost about the same here, so the smallest",
            )
            continue
        below, above = below + (more > 0), above + (more < 0)
        dearer = more * (table.cost[n, mine] - table.cost[n, other])
        saved = int(more * (table.bytes[n, other] - table.bytes[n, mine]))
        assert dearer > 0 and saved > 0
        assert float(said[1]) == pytest.approx(dearer, rel=0.06)
        assert said[3] == (f"{saved / 1000:.1f} kB" if saved >= 1000 else f"{saved} bytes")
        assert float(said[4].rstrip(",")) == pytest.approx(1000 * dearer / saved, rel=0.06)
    assert below and above
    # The price at the margin is the same everywhere.
    assert (
        len({found for why in found.reasons for found in re.findall(r"(\S+) at the margin", why)})
        == 1
    )


def test_layers_that_do_not_care_get_the_smallest_choice():
    table = random_table(12, 5)
    cost = table.cost.copy()
    cost[2] = 1e-9 * cost[2]
    cost[3] = 0.0
    found = allocate(dataclasses.replace(table, cost=cost), Budget(bits=3.2))
    for n, why in (
        (2, "all choices cost about the same here, so the smallest"),
        (3, "no other choice costs less or is smaller"),
    ):
        assert (
            table.labels.index(labels(found)[n]) == table.bytes[n].argmin()
            and found.reasons[n] == why
        )


def test_controls_keep_the_budget_and_the_rules():
    table, rules = (
        random_table(30, 6),
        (Rule(layers="blocks.2.*", same=True), Rule(layers="*.q", least=3)),
    )
    low, high = limits(table, rules)
    asked = Budget(bits=None, bytes=(low + high) // 2, rules=rules)
    best_one = allocate(table, asked)
    smallest_change = np.diff(np.sort(table.bytes, 1), axis=1).max()
    for control in (
        greedy(table, asked),
        *(random_allocation(table, asked, seed) for seed in range(5)),
    ):
        assert control.bytes <= asked.bytes and control.cost >= best_one.cost - 1e-12
        assert len(set(labels(control)[8:12])) == 1
        assert all(choice.bits >= 3 for choice in control.choices[::4])
        assert math.isnan(control.bound)
    for seed in range(5):
        assert asked.bytes - random_allocation(table, asked, seed).bytes < smallest_change
    assert random_allocation(table, asked, 0) != random_allocation(table, asked, 1)
    once, again = (random_allocation(table, asked, 7) for _ in range(2))
    assert labels(once) == labels(again)
    assert greedy(table, asked).cost < np.mean(
        [random_allocation(table, asked, seed).cost for seed in range(5)]
    )
    same = uniform(table, "kmc-3")
    assert set(labels(same)) == {"KMC-3"} and same.bytes == table.bytes[:, 4].sum()


REFUSED = {
    "below": (
        [],
        {"bits": 1.0},
        r"budget: [\d,]+ bytes \(1\.000 bits a weight\) is below the smallest possible",
    ),
    "above": (
        [],
        {"bits": 32.0},
        r"above the largest possible; the layers take [\d,]+ to [\d,]+ bytes \(2\.\d+ to",
    ),
    "rules": ([Rule(layers="*", least=4)], {"bits": 3.0}, r"bits\) under these rules\.$"),
    "nan": ([], {"bits": float("nan")}, r"budget\.bits is nan"),
    "no layer": (
        [Rule(layers="blocks.0.qq", choice="UAQ-4")],
        {},
        r"matches no layer; did you mean 'blocks\.0\.q'",
    ),
    "no choice": (
        [Rule(layers="*", choice="HQQ-4")],
        {},
        r"'\*' asks for HQQ-4, which the table has not: UAQ-4, KMC",
    ),
    "two choices": (
        [Rule(layers="*.q", choice="UAQ-4"), Rule(layers="blocks.0.*", choice="KMC-4")],
        {},
        r"blocks\.0\.q is UAQ-4 by '\*\.q' and KMC-4 by 'blocks\.0\.\*'",
    ),
    "below least": (
        [Rule(layers="*.q", choice="UAQ-3"), Rule(layers="blocks.1.*", least=4)],
        {},
        r"blocks\.1\.q needs 4 bits by 'blocks\.1\.\*', but it is UAQ-3 by '\*\.q'",
    ),
    "too many bits": (
        [Rule(layers="*.o", least=8)],
        {},
        r"needs 8 bits by '\*\.o', but the most .* is UAQ-4",
    ),
    "not the same": (
        [
            Rule(layers="blocks.0.*", same=True),
            Rule(layers="*.k", choice="UAQ-4"),
            Rule(layers="*.o", choice="KMA-2"),
        ],
        {},
        r"'blocks\.0\.\*' wants the same .* only be UAQ-4 by '\*\.k' and .* only be KMA-2 by '\*\.o'",
    ),
    "least of the same": (
        [
            Rule(layers="blocks.0.*", same=True),
            Rule(layers="*.k", choice="KMA-2"),
            Rule(layers="*.o", least=3),
        ],
        {},
        r"'blocks\.0\.\*' wants the same .* KMA-2 by '\*\.k'",
    ),
}


@pytest.mark.parametrize(("rules", "size", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_is_named(rules, size, message):
    with pytest.raises(DmqError, match=message):
        allocate(random_table(8, 0, FOUR), Budget(**{"bits": 3.5} | size, rules=tuple(rules)))


def test_said_ends_can_be_given():
    table = random_table(9, 7)
    with pytest.raises(DmqError) as caught:
        allocate(table, Budget(bits=0.1))
    low, high = map(float, re.search(r"\((\S+) to (\S+) bits\)", str(caught.value)).groups())
    assert allocate(table, Budget(bits=low)).bytes >= limits(table)[0]
    assert allocate(table, Budget(bits=high)).bytes <= limits(table)[1]


def test_unknown_costs_are_no_choice_and_a_layer_without_any_is_named():
    table = random_table(5, 8, FOUR)
    cost = table.cost.copy()
    cost[1, :3] = np.nan
    partly = dataclasses.replace(table, cost=cost)
    for bits in (3.0, 3.9):
        found = allocate(partly, Budget(bits=bits))
        assert (
            labels(found)[1] == "KMA-2"
            and found.reasons[1] == "KMA-2 is the only choice that is known and allowed"
        )
    with pytest.raises(DmqError, match=r"blocks\.0\.k: the cost of UAQ-4 is not known"):
        uniform(partly, "UAQ-4")
    with pytest.raises(
        DmqError, match=r"blocks\.0\.k is UAQ-4 by '\*\.k', but its cost there is not known"
    ):
        allocate(partly, Budget(rules=(Rule(layers="*.k", choice="UAQ-4"),)))
    cost[1] = np.nan
    with pytest.raises(DmqError, match=r"blocks\.0\.k: no cost is known .* blocks\.0\.k=float"):
        allocate(dataclasses.replace(table, cost=cost), Budget())
    left = Rule(layers="*.k", choice="float")
    freed = allocate(dataclasses.replace(table, cost=cost), Budget(bits=10.0, rules=(left,)))
    assert labels(freed)[1] == "float"
    with pytest.raises(DmqError, match="no layers or no choices"):
        limits(dataclasses.replace(table, layers=(), cost=cost[:0], bytes=table.bytes[:0]))
