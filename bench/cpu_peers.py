"""Peers that are not PyTorch, on its CPU tensors: OpenCV, onnxruntime and JAX.

Each is a function from a case to the call that is timed, (input, its parameters) -> (N * K, C, *out_size). Memory is
shared with NumPy and JAX, not copied, and each peer runs with as many threads as PyTorch has when it is first called.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor

from .cases import Case, Direction, Grads
from .check import Sample

_PADDINGS = {"zeros": "constant", "border": "nearest"}


def _plain(case: Case) -> str | None:
    """Why a case is not for a peer that knows images, one map each, and float32."""
    several = case.k is not None or case.crops is not None
    if case.ndim != 2 or case.antialias or several or case.padding_value:
        return "images only, one map each, one sample an output pixel, zeros outside"
    return f"no {case.dtype_name}" if case.dtype != torch.float32 else None


def opencv_refuses(case: Case, direction: Direction, grads: Grads | None) -> str | None:
    """`warpAffine` interleaves channels, at most 4 of them, and has no gradients."""
    if direction != "fwd":
        return "no gradients"
    if case.transform not in ("affine", "attention") or case.mode != "bilinear":
        return "bilinear affine maps only"
    if case.shape[1] > 4 and case.memory_format == "channels_last":
        return "at most 4 channels beside each other"
    return _plain(case)


def opencv(case: Case) -> Sample:
    """`cv2.warpAffine`, image by image, or plane by plane if channels are not beside each other."""
    import cv2

    cv2.setNumThreads(torch.get_num_threads())
    border = {"zeros": cv2.BORDER_CONSTANT, "border": cv2.BORDER_REPLICATE}
    border["reflection"] = cv2.BORDER_REFLECT_101 if case.align_corners else cv2.BORDER_REFLECT
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    interleaved = case.memory_format == "channels_last" and case.shape[1] > 1
    size = (case.out_size[1], case.out_size[0])

    def call(x: Tensor, matrices: Tensor) -> Tensor:
        channels = x.shape[1]
        if interleaved:
            out = torch.empty(len(x), *case.out_size, channels)
            images, results = x.movedim(1, -1).numpy(), out.numpy()
        else:
            out = torch.empty(len(x), channels, *case.out_size)
            images, results = x.flatten(0, 1).numpy(), out.flatten(0, 1).numpy()
        each = 1 if interleaved else channels
        for number, matrix in enumerate(matrices.numpy()):
            for i in range(number * each, number * each + each):
                cv2.warpAffine(
                    images[i], matrix, size, results[i], flags, border[case.padding_mode]
                )
        return out.movedim(-1, 1) if interleaved else out

    return call


def source_matrices(case: Case, maps: Tensor) -> Tensor:
    """Normalised maps (N, 2, 3) as matrices from output pixels to source pixels, float64."""
    matrix = maps.detach().double()
    shrink = int(case.align_corners)
    ends = matrix.new_tensor([(length - shrink) / 2 for length in case.shape[:1:-1]])
    middle = matrix.new_tensor([(length - 1) / 2 for length in case.shape[:1:-1]])
    steps = matrix.new_tensor([2 / max(length - shrink, 1) for length in case.out_size[::-1]])
    first = matrix.new_tensor([(length - 1) / 2 for length in case.out_size[::-1]])
    linear = ends.unsqueeze(-1) * matrix[:, :, :2] * steps
    shift = ends * matrix[:, :, 2] + middle - linear @ first
    return torch.cat((linear, shift.unsqueeze(-1)), -1)


def onnxruntime_refuses(case: Case, direction: Direction, grads: Grads | None) -> str | None:
    """`GridSample` takes NCHW and a grid that is there."""
    if direction != "fwd":
        return "no gradients"
    if case.memory_format != "contiguous" and case.shape[1] > 1:
        return "contiguous input only"
    return _plain(case)


def onnxruntime(case: Case) -> Sample:
    """One GridSample node."""
    import numpy as np

    modes = {"bilinear": "linear", "nearest": "nearest", "bicubic": "cubic"}
    options = (modes[case.mode], case.padding_mode, case.align_corners)
    session = _grid_sample_session(*options, threads=torch.get_num_threads())

    def call(x: Tensor, grid: Tensor) -> Tensor:
        feed = {"x": np.ascontiguousarray(x.numpy()), "grid": grid.numpy()}
        return torch.from_numpy(session.run(None, feed)[0])

    return call


@lru_cache
def _grid_sample_session(mode: str, padding_mode: str, align_corners: bool, threads: int) -> Any:
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


def jax_refuses(case: Case, direction: Direction, grads: Grads | None) -> str | None:
    """`map_coordinates` interpolates linearly or takes the nearest pixel."""
    if case.transform not in ("affine", "attention") or case.mode != "bilinear":
        return "bilinear affine maps only"
    if case.padding_mode not in _PADDINGS:
        return f"no padding_mode {case.padding_mode!r} with its gradients"
    return _plain(case)


def jax(case: Case) -> Sample:
    """`map_coordinates` of a grid that is computed with it, jitted; its gradients by `jax.vjp`, jitted."""
    return partial(_jax_function().apply, case)


@lru_cache
def _load_jax() -> Any:
    # Both must be there before JAX makes its threads.
    threads = torch.get_num_threads()
    os.environ.setdefault("NPROC", str(threads))
    if threads == 1:
        os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    import jax

    return jax


def _jax_sample(case: Case) -> Callable[[Any, Any], Any]:
    """(images, maps), as (N, C, h, w) or (N, h, w, C), -> the same shape, in JAX."""
    jax = _load_jax()
    jnp = jax.numpy
    channel = 2 if case.memory_format == "channels_last" else 0
    shrink = int(case.align_corners)
    ends = [(length - shrink) / 2 for length in case.shape[:1:-1]]
    middle = [(length - 1) / 2 for length in case.shape[:1:-1]]
    x, y = (
        (2 * jnp.arange(length) - (length - 1)) / max(length - shrink, 1)
        for length in reversed(case.out_size)
    )

    def one(image: Any, matrix: Any) -> Any:
        columns, rows = (
            (r[0] * x[None, :] + (r[1] * y[:, None] + r[2])) * end + at
            for r, end, at in zip(matrix, ends, middle, strict=True)
        )
        plane = partial(
            jax.scipy.ndimage.map_coordinates, order=1, mode=_PADDINGS[case.padding_mode]
        )
        return jax.vmap(plane, (channel, None), channel)(image, [rows, columns])

    sample: Callable[[Any, Any], Any] = jax.vmap(one)
    return sample


@lru_cache(maxsize=2)
def _jitted(case: Case, wanted: tuple[bool, bool]) -> tuple[Any, Any]:
    """The forward pass, and for a gradient what pulls it back: (result, residuals), and their use."""
    jax = _load_jax()
    sample = _jax_sample(case)

    def forward(image: Any, matrix: Any) -> Any:
        if not any(wanted):
            return sample(image, matrix), None
        if all(wanted):
            return jax.vjp(sample, image, matrix)
        if wanted[0]:
            return jax.vjp(lambda image: sample(image, matrix), image)
        return jax.vjp(lambda matrix: sample(image, matrix), matrix)

    return jax.jit(forward), jax.jit(lambda pull, grad: pull(grad))


@lru_cache
def _jax_function() -> Any:
    jax = _load_jax()

    def hand_over(case: Case, tensor: Tensor) -> Any:
        if case.memory_format == "channels_last":
            tensor = tensor.movedim(1, -1)
        return jax.dlpack.from_dlpack(tensor.contiguous())

    def take_back(case: Case, array: Any) -> Tensor:
        tensor = torch.utils.dlpack.from_dlpack(array)
        return tensor.movedim(-1, 1) if case.memory_format == "channels_last" else tensor

    class Function(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, case: Case, x: Tensor, maps: Tensor) -> Tensor:
            wanted = ctx.needs_input_grad[1], ctx.needs_input_grad[2]
            ctx.case, (run, ctx.pull) = case, _jitted(case, wanted)
            matrix = jax.dlpack.from_dlpack(maps.detach().contiguous())
            out, ctx.residuals = run(hand_over(case, x.detach()), matrix)
            return take_back(case, jax.block_until_ready(out))

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
            found = list(jax.block_until_ready(ctx.pull(ctx.residuals, hand_over(ctx.case, grad))))
            of_input = take_back(ctx.case, found.pop(0)) if ctx.needs_input_grad[1] else None
            of_theta = (
                torch.utils.dlpack.from_dlpack(found.pop(0)) if ctx.needs_input_grad[2] else None
            )
            return None, of_input, of_theta

    return Function
