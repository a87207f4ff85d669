"""Relaxed steps against the published cases, and the measured choice against exhaustive search."""

import numpy as np
import pytest

from dmq.errors import DmqError
from dmq.recipe import FLOAT, Relaxing
from dmq.results import GroupErrors, Groups, WindowEffects
from dmq.trajectory.relaxing import (
    best_run,
    choose_relaxed_steps,
    combine_errors,
    mean_bits,
    split_groups,
)
from tests.helpers import site


def effects(starts, steps, seed=0, images=3):
    rng = np.random.default_rng(seed)
    all_, text = 1 + rng.random(images), 20 + rng.random(images)
    return WindowEffects(
        timesteps=tuple(range(steps))[::-1],
        starts=starts,
        fidelity=all_ * rng.random((len(starts), 1)),
        fidelity_all=all_,
        clip_score=text + rng.normal(size=(len(starts), images)),
        clip_score_all=text,
        clip_score_float=text + 1,
        scorer="made up",
    )


@pytest.mark.parametrize(
    ("fraction", "where", "released", "steps", "wanted", "bits"),
    [
        (0.05, "last", False, 100, range(95, 100), 8.1),
        (0.2, "last", False, 50, range(40, 50), 8.4),
        (0.2, "last", True, 51, range(40, 51), 8.4314),  # Stable Diffusion, PNDM: 11 of 51 calls
        (0.2, "first", True, 50, range(11), 8.44),  # SDXL: 11 of 50
        (0.2, "first", False, 50, range(10), 8.4),
        (0.9, "last", True, 50, range(5, 50), 9.8),  # from 0.1, though 1 - 0.9 is a little less
        (0.0, "last", False, 50, range(0), 8.0),
        (1.0, "first", True, 50, range(50), 10.0),  # what lies behind the end does not exist
    ],
)
def test_published_cases(fraction, where, released, steps, wanted, bits):
    spec = Relaxing(fraction=fraction, where=where, match_reference_code=released)
    relaxed = choose_relaxed_steps(spec, steps)
    assert relaxed == tuple(wanted)
    assert mean_bits(8, spec.bits, relaxed, np.ones(steps)) == pytest.approx(bits, abs=5e-5)


def test_the_released_end_is_one_step_more_than_a_fifth_whatever_the_rounding():
    for steps in range(5, 200, 5):
        assert (
            len(choose_relaxed_steps(Relaxing(where="first", match_reference_code=True), steps))
            == steps // 5 + 1
        )
        last = choose_relaxed_steps(Relaxing(where="last", match_reference_code=True), steps)
        assert (last[0], last[-1]) == (steps * 4 // 5, steps - 1), (
            "its last step lies behind the end"
        )


def test_mean_bits_are_over_calls_not_over_steps():
    calls = np.ones(50)
    calls[1] = 2  # PNDM asks twice there: 51 calls of 50 timesteps
    assert mean_bits(8, 10, (1,), calls) == 8 + 2 * 2 / 51
    assert mean_bits(8, 10, (1,), 16 * calls) == 8 + 2 * 2 / 51


def test_listed_steps_must_exist():
    listed = Relaxing(where="list", steps=(0, 7))
    assert choose_relaxed_steps(listed, 8) == (0, 7)
    with pytest.raises(DmqError, match="step 7, but 7 steps end with 6"):
        choose_relaxed_steps(listed, 7)


@pytest.mark.parametrize("judge", ["fidelity", "text"])
@pytest.mark.parametrize("count", [1, 3, 5, 12])
def test_the_measured_run_equals_exhaustive_search(judge, count):
    for seed in range(5):
        seen = effects((0, 3, 5, 9), 12, seed)
        gain = np.zeros(12)
        for (start, end), each in zip(seen.windows, seen.gains(judge), strict=True):
            gain[start:end] = each
        sums = {start: gain[start : start + count].sum() for start in range(12 - count + 1)}
        most = max(sums.values())
        wanted = max(start for start, value in sums.items() if np.isclose(value, most, rtol=1e-9))
        assert best_run(seen, count, judge) == wanted
        spec = Relaxing(where="auto", fraction=count / 12, judge=judge)
        assert choose_relaxed_steps(spec, 12, seen) == tuple(range(wanted, wanted + count))


def test_gains_are_for_each_restored_step():
    seen = effects((0, 3), 12)
    lost = 10 * np.log10(seen.fidelity_all / seen.fidelity).mean(1)
    np.testing.assert_allclose(seen.gains("fidelity"), [lost[0] / 3, lost[1] / 9])
    assert seen.step_gains("fidelity").sum() == pytest.approx(lost.sum())


def test_a_choice_that_was_not_measured_is_a_wrong_call():
    with pytest.raises(ValueError, match="measure the windows first"):
        choose_relaxed_steps(Relaxing(where="auto"), 10)


def test_no_group_has_two_numbers_of_bits():
    slot = np.array([[0, 0, 1, 1, 2, 0], [0] * 6], np.int16)
    made = split_groups(Groups(sites=(site(0), site(1)), slot=slot), (1, 2, 5)).slot
    assert made.tolist() == [[0, 1, 2, 3, 4, 1], [0, 1, 1, 0, 0, 1]]


def test_relaxed_errors_take_each_step_from_its_own_bits():
    groups = Groups(sites=(site(0),), slot=np.zeros((1, 4), np.int16))
    plain, wide = (
        GroupErrors(
            groups=groups,
            bits=np.full((1, 4), bits),
            power=np.ones((1, 4)),
            **{
                name: value + np.arange(4.0)[None]
                for name in ("low", "high", "rounding", "clipping")
            },
        )
        for bits, value in ((8, 0), (FLOAT, 10))
    )
    made = combine_errors(plain, wide, (0, 3))
    assert made.bits.tolist() == [[FLOAT, 8, 8, FLOAT]] and made.rounding.tolist() == [
        [10, 1, 2, 13]
    ]
    assert (
        made.low.tolist() == made.high.tolist() == made.clipping.tolist() == made.rounding.tolist()
    )
