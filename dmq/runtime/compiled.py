"""Executed models whose float part is compiled: norms, activation functions, residuals and the
rounding of inputs.

The compiler sees how inputs become codes, and puts that into the same loop as what made them; the
product itself is one operator that it does not look into. Scales, zero points and greatest codes of
the step are in a table which is filled before each call: one compiled model serves all steps, and
nothing is compiled anew where a group ends."""

import inspect
import itertools
import weakref
from typing import Any

import torch
from torch import Tensor, nn

from ..quantizers.bank import ActivationBank, Clock, DynamicBank
from ..quantizers.cache import CachedFeature, RequestedFeature
from .layers import PackedLayer, packed_layers


BANKS, FEATURES = (
    (ActivationBank, DynamicBank),
    (CachedFeature, RequestedFeature),
)  # which read the clock
# Has each model graphs of its own? Older torch keeps those of one class together.
APART: dict[str, Any] = (
    {"isolate_recompiles": True}
    if "isolate_recompiles" in inspect.signature(torch.compile).parameters
    else {}
)
_held: "weakref.WeakValueDictionary[int, Any]" = (
    weakref.WeakValueDictionary()
)  # what operators are told by number
_numbers = itertools.count()


def _number_layers(held: Any) -> int:
    number = next(_numbers)
    _held[number] = held
    return number


def compile_model(model: nn.Module, backend: str = "inductor") -> nn.Module:
    """`model`, an executed one, in place: compiled at its first call, for each shape of its inputs.

    It must not be borrowed, since what is compiled belongs to these very modules. `backend` as for
    `torch.compile`. Calls whose activations are let through as they are run as they were written.
    """
    for module in model.modules():
        if isinstance(module, (*BANKS, *FEATURES)):
            vars(module)["forward"] = _Aside(module)
    model.forward = _Compiled(model, backend)
    return model


class _Compiled:
    """The forward of a model; `table` [3, columns] has 1 / scale, zero point and greatest code
    of the step.
    """

    def __init__(self, model: nn.Module, backend: str) -> None:
        self.clock: Clock = vars(model)["clock"]
        self.plain = model.forward
        columns: dict[
            tuple[nn.Module, int], list[tuple[float, float, float]]
        ] = {}  # for each part, at every step
        layers = list(packed_layers(model))
        traced = [_Traced(layer, self, columns) for _, layer in layers]
        device = next(model.parameters()).device
        self.steps: Tensor | None = None
        self.table: Tensor | None = None
        if columns:
            self.steps = (
                torch.tensor([*columns.values()], device=device).permute(1, 2, 0).contiguous()
            )
            self.table = self.steps[0].clone()
        for (_, layer), forward in zip(layers, traced, strict=True):
            layer.traced = forward
        # Which modules a model has does not change: not asking at each call is a tenth of the time
        # of a small one. That is only right for one graph, kept apart: parts of it would serve any
        # module of their class.
        unasked: dict[str, Any] | None = (
            {"guard_filter_fn": torch.compiler.skip_guard_on_all_nn_modules_unsafe}
            if APART
            else None
        )
        self.backend = backend
        self.compiled = torch.compile(
            self.plain, backend=backend, fullgraph=True, dynamic=False, options=unasked, **APART
        )

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.clock.bypassed:
            return self.plain(*args, **kwargs)
        self.set_step()
        try:
            return self.compiled(*args, **kwargs)
        except (
            torch._dynamo.exc.Unsupported,
            torch._dynamo.exc.FailOnRecompileLimitHit,
        ):  # no graph, or too many
            self.clock.notes.append(
                "compiled in pieces or for too many shapes, which may be slower."
            )
            self.compiled = torch.compile(self.plain, backend=self.backend, dynamic=False, **APART)
            return self.compiled(*args, **kwargs)

    def set_step(self) -> None:
        """Fill the table for the clock's step."""
        if self.table is not None and self.steps is not None:
            self.table.copy_(self.steps[self.clock.i])


class _Aside:
    """The forward of a module that does other things at other steps."""

    def __init__(self, module: nn.Module) -> None:
        self.module, self.plain = module, module.forward
        self.number = _number_layers(self)

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return torch.ops.dmq.aside(x, self.number)

    def like(self, x: Tensor) -> Tensor:
        """A tensor without values of the shape of the answer."""
        if isinstance(self.module, BANKS):
            return torch.empty_like(x, memory_format=torch.contiguous_format)
        one: Any = self.module
        table = one.table if isinstance(one, CachedFeature) else one.requests.tables[0][one.k]
        return x.new_empty(x.shape[0], table.codes.shape[1], dtype=table.like.dtype)


class _Traced:
    """What the compiler sees of a layer on codes."""

    def __init__(self, layer: PackedLayer, model: _Compiled, columns: dict) -> None:
        self.model, self.layer = model, _number_layers(layer)
        self.products = [_Product(layer, part) for part in range(len(layer.parts))]
        self.numbers = [_number_layers(product) for product in self.products]
        bank = layer.input
        self.bits = max(bank.bits) if layer.parts else 0
        self.way = "opaque"
        if not layer.parts and isinstance(bank, nn.Identity):
            self.way = "float"
        elif layer.parts and isinstance(bank, ActivationBank) and self.bits <= layer.most_bits:
            self.way, self.columns = "table", []
            for part, rows in enumerate(zip(*map(layer.table_rows, bank.slot), strict=True)):
                columns.setdefault(
                    (bank, part), rows
                )  # layers with one bank share them, and the codes
                self.columns.append([*columns].index((bank, part)))
        elif (
            layer.parts
            and isinstance(bank, DynamicBank)
            and len(bank.bits) == 1
            and self.bits <= layer.most_bits
        ):
            self.way = "ranged"

    def __call__(self, layer: PackedLayer, x: Tensor) -> Tensor:
        if self.way == "float":
            return layer.in_float(x)
        if self.way == "opaque":
            return torch.ops.dmq.on_codes(x, self.layer)
        if self.way == "ranged":
            return layer.ranged(x, self.bits, self.product)
        made, table = None, self.model.table
        assert table is not None
        for side, column, number in zip(layer.sides(x), self.columns, self.numbers, strict=True):
            inverse, zero, top = table[:, column].unbind()
            codes = (
                torch.minimum((side.float() * inverse + zero).round(), top)
                .clamp(min=0)
                .to(torch.uint8)
            )
            out = torch.ops.dmq.product(_dense(codes), None, None, made is None, number, x.dtype)
            made = out if made is None else made + out
        assert made is not None
        return made

    def product(
        self, codes: Tensor, scale: Any, zero: Any, biased: bool, dtype: torch.dtype
    ) -> Tensor:
        """The product of a layer whose ranges are found at run time; numbers, or tensors that
        stand for one.
        """
        scale, zero = (torch.as_tensor(value, dtype=torch.float32) for value in (scale, zero))
        return torch.ops.dmq.product(codes, scale, zero, biased, self.numbers[0], dtype)


class _Product:
    """One kernel of a layer, with all that it needs at hand: what is looked up here is looked up
    at every call.
    """

    def __init__(self, layer: PackedLayer, part: int) -> None:
        self.kernel, self.layout = layer.parts[part], layer.layout
        self.bias = None if layer.bias is None else layer.bias.detach().float()
        self.clock, self.slot = layer.input.clock, layer.input.slot
        self.grids = (
            [grids[part] for grids in layer.grids]
            if isinstance(layer.input, ActivationBank)
            else []
        )

    def __call__(
        self,
        codes: Tensor,
        scale: Tensor | None,
        zero: Tensor | None,
        biased: bool,
        dtype: torch.dtype,
    ) -> Tensor:
        ends: tuple[float | Tensor, int | Tensor]
        if scale is None or zero is None:
            ends = self.grids[self.slot[self.clock.i]]
        elif self.kernel.on_device:
            ends = scale, zero.to(torch.int32)
        else:
            ends = scale.item(), int(zero)
        low, high = ends
        return _dense(self.kernel(codes, low, high, self.bias if biased else None, dtype))


def _aside(x: Tensor, number: int) -> Tensor:
    return _held[number].plain(x).clone(memory_format=torch.contiguous_format)


def _on_codes(x: Tensor, number: int) -> Tensor:
    return _dense(_held[number].untraced(x))


def _product(
    codes: Tensor,
    scale: Tensor | None,
    zero: Tensor | None,
    biased: bool,
    number: int,
    dtype: torch.dtype,
) -> Tensor:
    return _held[number](codes, scale, zero, biased, dtype)


def _dense(x: Tensor) -> Tensor:
    return x.contiguous(
        memory_format=torch.channels_last if x.ndim == 4 else torch.contiguous_format
    )


def _answer(x: Tensor, number: int, dtype: torch.dtype | None = None) -> Tensor:
    """A tensor without values that is laid out as the answer of a layer will be."""
    layout: Any = _held[number].layout
    if isinstance(layout, nn.Linear):
        return x.new_empty(*x.shape[:-1], layout.out_features, dtype=dtype)
    reach = [d * (k - 1) for d, k in zip(layout.dilation, layout.kernel_size, strict=True)]
    sides = [
        (size + 2 * pad - far - 1) // stride + 1
        for size, pad, far, stride in zip(
            x.shape[2:], layout.padding, reach, layout.stride, strict=True
        )
    ]
    made = x.new_empty((x.shape[0], layout.out_channels, *sides), dtype=dtype)
    return made.to(memory_format=torch.channels_last) if made.ndim == 4 else made


_library = torch.library.Library("dmq", "FRAGMENT")
_library.define("aside(Tensor x, int module) -> Tensor")
_library.impl("aside", _aside, "CompositeExplicitAutograd")
_library.impl("aside", lambda x, module: _held[module].like(x), "Meta")
_library.define("on_codes(Tensor x, int layer) -> Tensor")
_library.impl("on_codes", _on_codes, "CompositeExplicitAutograd")
_library.impl("on_codes", _answer, "Meta")
_library.define(
    "product(Tensor codes, Tensor? scale, Tensor? zero, bool biased, int kernel, ScalarType dtype) "
    "-> Tensor"
)
_library.impl("product", _product, "CompositeExplicitAutograd")
_library.impl(
    "product",
    lambda codes, scale, zero, biased, kernel, dtype: _answer(codes, kernel, dtype),
    "Meta",
)
