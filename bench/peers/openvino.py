"""OpenVINO: the denoiser as one graph, quantized by NNCF after training; what is not int8 in
float32 or bfloat16.
"""

import logging
import os
import sys
from typing import Any

import torch
from torch import Tensor, nn

from dmq.models.adapter import AbstractAdapter

from .made import Made, StandIn, saved_bytes
from .subjects import Subject, nested


def make(subject: Subject, rest: str) -> Made:
    """The graph with int8 layers and the `rest` in "f32" or "bf16", calibrated by the subject's
    recorded calls.
    """
    # Both would report to their makers, over a network that a bench may not have; without this
    # package they do not.
    sys.modules["openvino_telemetry"] = None
    os.environ["NNCF_CI"] = "1"
    import nncf
    import openvino

    nncf.set_log_level(logging.ERROR)
    loaded = subject.loaded
    adapter, sample_name = loaded.adapter, subject.sample_name
    calls = [given(adapter, sample_name, (), call) for call in subject.calls()]
    names = list(calls[0])
    example = tuple(calls[0].values())
    with torch.no_grad():
        graph = openvino.convert_model(
            _ByPosition(loaded.denoiser, names),
            example_input=example,
            input=[tuple(x.shape) for x in example],
        )
    data = nncf.Dataset(calls, lambda call: [x.numpy() for x in call.values()])
    graph = nncf.quantize(
        graph, data, model_type=nncf.ModelType.TRANSFORMER, subset_size=len(calls)
    )
    size = saved_bytes(lambda folder: openvino.save_model(graph, folder / "model.xml"))
    settings = {"INFERENCE_PRECISION_HINT": rest, "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    request = openvino.Core().compile_model(graph, "CPU", settings).create_infer_request()

    def answer(*args: Any, **kwargs: Any) -> Tensor:
        inputs = [x.numpy() for x in given(adapter, sample_name, args, kwargs).values()]
        return torch.from_numpy(request.infer(inputs)[0].copy())

    return Made(StandIn(loaded.denoiser, answer), size, f"calibrated by {len(calls)} calls")


def given(
    adapter: AbstractAdapter, sample_name: str, args: tuple, kwargs: dict[str, Any]
) -> dict[str, Tensor]:
    """The tensors of one denoiser call by name, in the same order whoever calls."""
    x = adapter.sample_of(args, kwargs)
    t = torch.full((len(x),), float(adapter.timestep(args, kwargs)))
    return {sample_name: x, "timestep": t} | dict(
        sorted(adapter.conditioning(args, kwargs).items())
    )


class _ByPosition(nn.Module):
    """A denoiser that takes tensors in the order of `names` and answers with one: what a tracer
    understands.
    """

    def __init__(self, denoiser: nn.Module, names: list[str]) -> None:
        super().__init__()
        self.denoiser, self.names = denoiser, names

    def forward(self, *tensors: Tensor) -> Tensor:
        return self.denoiser(
            **nested(dict(zip(self.names, tensors, strict=True))), return_dict=False
        )[0]
