"""dmq: see how a diffusion model behaves over its timesteps, choose how to quantize it, and
prove what that did.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any


__version__ = "0.1.0"

if TYPE_CHECKING:
    from .evaluation.benchmark import benchmark
    from .evaluation.compare import compare
    from .recipe import Recipe
    from .workflow.capture import capture
    from .workflow.export import export
    from .workflow.load_recipe import load_recipe
    from .workflow.plan import plan
    from .workflow.prepare import prepare
    from .workflow.quantize import quantize

__all__ = [
    "Recipe",
    "benchmark",
    "capture",
    "compare",
    "export",
    "load_recipe",
    "plan",
    "prepare",
    "quantize",
]


def __getattr__(name: str) -> Any:
    """What `__all__` names, imported when it is first asked for: `import dmq` is quick, and
    leaves torch alone.
    """
    if name not in __all__:
        raise AttributeError(f"module 'dmq' has no attribute {name!r}")
    room = "evaluation" if name in ("benchmark", "compare") else "workflow"
    module = import_module(".recipe" if name == "Recipe" else f".{room}.{name}", __name__)
    globals()[name] = value = getattr(module, name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    """`dmq.capture` is a function and a room: as an attribute it is the function, whatever was
    imported.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in __all__ and isinstance(value, ModuleType)):  # importing a room would set it
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
