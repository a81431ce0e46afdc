"""onnxruntime's `GridSample` node."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from bench.cases import Case, Grads
from bench.check import Sample
from bench.grids import parameters, sampling_grid

from .provider import NO_GRADIENTS, Provider, beyond_one_map, finished


class OnnxRuntime(Provider):
    """One node, which takes NCHW and a ready grid; with as many threads as PyTorch."""

    name = "onnxruntime"
    devices = ("cpu",)
    modules = ("onnxruntime", "onnx")
    packages = ("onnxruntime",)

    def refuses(self, case: Case, grads: Grads | None) -> str | None:
        if grads is not None:
            return NO_GRADIENTS
        if case.memory_format != "contiguous" and case.shape[1] > 1:
            return "contiguous input only"
        return beyond_one_map(case)

    def parameters(self, case: Case, theta: Tensor) -> Tensor:
        """The grid."""
        return sampling_grid(case, parameters(case, theta))

    def sample(self, case: Case) -> Sample:
        import numpy as np

        modes = {"bilinear": "linear", "nearest": "nearest", "bicubic": "cubic"}
        options = (modes[case.mode], case.padding_mode, case.align_corners)
        session = _session(*options, threads=torch.get_num_threads())

        def call(x: Tensor, grid: Tensor) -> Tensor:
            feed = {"x": np.ascontiguousarray(x.numpy()), "grid": grid.numpy()}
            return finished(case, torch.from_numpy(session.run(None, feed)[0]))

        return call


@lru_cache
def _session(mode: str, padding_mode: str, align_corners: bool, threads: int) -> Any:
    import onnxruntime as ort
    from onnx import TensorProto, helper

    node = helper.make_node(
        "GridSample", ["x", "grid"], ["y"],
        mode=mode, padding_mode=padding_mode, align_corners=int(align_corners),
    )  # fmt: skip
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * 4)
        for name in ("x", "grid", "y")
    ]
    graph = helper.make_graph([node], "grid_sample", values[:2], values[2:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    return ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
