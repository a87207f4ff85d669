import pytest
import torch

from dmq.errors import DmqError
from dmq.trajectory.steps import index_of


DDIM = tuple(range(981, 0, -20))
FLOW = tuple(torch.linspace(1000.0, 17.3, 28).tolist())
ALL = tuple(range(999, -1, -1))


@pytest.mark.parametrize("timesteps", [DDIM, FLOW, (3.0,), ALL], ids=["ints", "flow", "one", "all"])
def test_every_recorded_timestep_is_found_whatever_the_order(timesteps):
    for i in reversed(range(len(timesteps))):
        assert index_of(timesteps[i], timesteps) == (i, 0.0)
        assert index_of(torch.tensor(timesteps[i]), timesteps) == (i, 0.0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("timesteps", [DDIM, FLOW], ids=["ints", "flow"])
def test_a_timestep_cast_to_low_precision_is_found(timesteps, dtype):
    for i, t in enumerate(timesteps):
        assert index_of(torch.tensor(t).to(dtype).item() + 0.0, timesteps) == (i, 0.0)


def test_an_integer_must_be_equal_even_where_rounding_could_explain_it():
    assert torch.tensor(981.0).bfloat16().item() == 980
    assert index_of(980.0, DDIM) == (0, 0.0)
    with pytest.raises(DmqError):
        index_of(980, DDIM)


def test_rounding_never_reaches_half_way_to_a_neighbour():
    close = (981.0, 980.5, 500.0)  # bfloat16 makes 980 of both: nobody can tell which one it was
    with pytest.raises(DmqError):
        index_of(980.0, close)


@pytest.mark.parametrize("t", [983.0, 982, 0, float("nan"), float("inf")])
def test_an_unknown_timestep_raises_and_names_what_was_recorded(t):
    with pytest.raises(
        DmqError,
        match=r"timestep .* recorded were 981, 961, 941, 921, …, 61, 41, 21, 1 \(50 steps\)",
    ):
        index_of(t, DDIM)


def test_nearest_says_how_far_it_went():
    assert index_of(970.0, DDIM, "nearest") == (1, 9.0)
    assert index_of(5000, DDIM, "nearest") == (0, 4019.0)
    with pytest.raises(DmqError):
        index_of(float("nan"), DDIM, "nearest")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_what_was_recorded_in_low_precision_is_found_from_the_exact_timestep(dtype):
    exact = (999, 667, 334, 1)
    recorded = tuple(torch.tensor([float(t) for t in exact]).to(dtype).float().tolist())
    for i, t in enumerate(exact):
        assert index_of(t, recorded) == index_of(float(t), recorded) == (i, 0.0)
    assert index_of(667, tuple(map(float, exact))) == (1, 0.0)
    with pytest.raises(DmqError, match="was not calibrated"):
        index_of(668, (999, 667, 1))  # whole numbers were recorded: nothing was rounded
    with pytest.raises(DmqError, match="was not calibrated"):
        index_of(990, (992.0, 988.0))  # half way between two: either could be meant
