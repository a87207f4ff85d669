"""What `import dmq` offers."""

import subprocess
import sys
from types import FunctionType

import pytest

import dmq
from dmq import Recipe
from dmq.errors import DmqError
from dmq.progress import Progress, run_to_end
from dmq.workflow.load_recipe import load_recipes


FUNCTIONS = sorted(set(dmq.__all__) - {"Recipe"})


def test_importing_dmq_leaves_torch_alone_until_a_model_is_needed():
    check = (
        "import sys, dmq; dmq.load_recipe('W8A8, one range'); assert set(dmq.__all__) <= "
        "set(dir(dmq)); sys.exit(any(name in sys.modules for name in ('torch', 'diffusers', "
        "'gradio')))"
    )
    assert subprocess.run([sys.executable, "-c", check]).returncode == 0


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_has_an_example(name):
    function = getattr(dmq, name)
    assert isinstance(function, FunctionType)
    assert ">>> import dmq" in function.__doc__ and f"dmq.{name}(" in function.__doc__


def test_capture_is_the_function_though_a_room_has_its_name():
    import dmq.capture.activations

    assert isinstance(dmq.capture, FunctionType)
    code = "import dmq.capture.activations, dmq, types; assert isinstance(dmq.capture, types.FunctionType)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_what_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'captured'"):
        _ = dmq.captured


def test_recipes_by_name_and_bad_ones():
    (made,) = load_recipes("W8A8, one range")
    assert isinstance(made, Recipe) and load_recipes((made, made)) == (made, made)
    with pytest.raises(DmqError, match="no recipe called 'W9'"):
        dmq.load_recipe("W9")
    with pytest.raises(DmqError, match="a recipe has no 'bits'"):
        dmq.load_recipe("W8A8, one range", bits=4)
    with pytest.raises(DmqError, match=r"nowhere\.json"):
        dmq.load_recipe("nowhere.json")
    with pytest.raises(DmqError, match="no domain called 'dreams'"):
        dmq.benchmark("W8A8, one range", domains=["dreams"])
    with pytest.raises(DmqError, match="nothing to compare"):
        dmq.compare(())


def test_work_is_closed_where_progress_raises():
    closed = []

    def work():
        try:
            yield Progress("Generate", 0, 1)
        finally:
            closed.append(True)

    def interrupt(progress):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_to_end(held := work(), interrupt)  # held, or its end as garbage would close it
    assert held.gi_frame is None
    assert closed == [True]
