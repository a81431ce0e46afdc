"""The fused op as PyTorch sees it: an `autograd.Function` in eager mode, registered operators for whoever records.

The Function is the leaner call, and has every derivative. The operators are what `torch.compile`, `torch.export`,
`make_fx`, fake tensors and tensor subclasses need; forward mode would get zeros from them without a word, so that under
`torch.func` transforms inside a recorded graph index operations take their place.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from . import native
from .formats import empty_input_gradient, empty_output, outer_shape
from .onnx import lacks_translation
from .ragged import check_range
from .torch_backend import gradients_by_taps, st_sample_taps, st_sample_torch
from .tracing import is_dispatched, is_transformed
from .transforms import Options

HAS_TRITON = importlib.util.find_spec("triton") is not None
if HAS_TRITON:
    from . import autograd
    from .kernels.backward import sample_backward
    from .kernels.forward import sample_forward
    from .kernels.launch import INTERPRET as INTERPRET
else:
    INTERPRET = False

_Size = tuple[int, ...]
_Wanted = tuple[bool, bool]
_Run = Callable[[Tensor, Tensor, Tensor | None, _Size, Options], Tensor]
_Gradients = tuple[Tensor | None, Tensor | None]


def st_sample_triton(
    input: Tensor, theta: Tensor, index: Tensor | None, out_size: _Size, options: Options
) -> Tensor:
    """`st_sample` by the Triton kernels, arguments validated."""
    if not (torch.compiler.is_compiling() or is_dispatched(input, theta, *_tensors(index))):
        return autograd.sample(input, theta, index, out_size, options)
    if is_transformed(input, theta):
        return st_sample_taps(input, theta, index, out_size, options)
    return st_sample_registered(input, theta, index, out_size, options)


def st_sample_native(
    input: Tensor, theta: Tensor, index: Tensor | None, out_size: _Size, options: Options
) -> Tensor:
    """`st_sample` by the native library, arguments validated; by torch for whoever looks on."""
    if torch.compiler.is_compiling() and is_transformed(input, theta):
        return st_sample_taps(input, theta, index, out_size, options)
    if torch.compiler.is_compiling() and takes_operators():
        return st_sample_registered(input, theta, index, out_size, options)
    if native.function.sees_only_tensors(input, theta, *_tensors(index)):
        return native.function.sample(input, theta, index, out_size, options)
    return st_sample_torch(input, theta, index, out_size, options)


def takes_operators() -> bool:
    """Whether who records a graph can keep a registered operator: all but an ONNX export that has no name for it."""
    return torch.compiler.is_dynamo_compiling() or not lacks_translation()


def st_sample_registered(
    input: Tensor, theta: Tensor, index: Tensor | None, out_size: _Size, options: Options
) -> Tensor:
    """`st_sample` as one node of a graph."""
    return sample(input, theta, index, out_size, *options)


def _tensors(index: Tensor | None) -> tuple[Tensor, ...]:
    return () if index is None else (index,)


def _check_range(input: Tensor, index: Tensor | None) -> None:
    """What eager mode refuses, when a graph runs on a CPU."""
    if index is not None and index.device.type == "cpu":
        check_range(index, input.shape[0])


def _by_kernels(input: Tensor) -> bool:
    return HAS_TRITON and (input.device.type == "cuda" or INTERPRET)


def _natively(input: Tensor) -> bool:
    """Whether the native library takes the tensors of a registered operator."""
    if input.device.type != "cpu":
        return False
    return native.library.MISSING is None and native.sampler.can_sample(input)


@torch.library.custom_op("stn_triton::sample", mutates_args=())
def sample(
    input: Tensor, theta: Tensor, index: Tensor | None, out_size: Sequence[int],
    transform: str, mode: str, padding_mode: str, padding_value: float, align_corners: bool, samples: int,
    control_points: Sequence[float],
) -> Tensor:  # fmt: skip
    """`st_sample`, arguments validated."""
    options = Options(
        transform, mode, padding_mode, padding_value, align_corners, samples, tuple(control_points)
    )  # fmt: skip
    natively = native.sampler.sample_forward if _natively(input) else st_sample_torch
    run: _Run = sample_forward if _by_kernels(input) else natively
    _check_range(input, index)
    return run(input, theta, index, tuple(out_size), options)


@sample.register_fake
def _(
    input: Tensor, theta: Tensor, index: Tensor | None, out_size: Sequence[int],
    transform: str, mode: str, padding_mode: str, padding_value: float, align_corners: bool, samples: int,
    control_points: Sequence[float],
) -> Tensor:  # fmt: skip
    if lacks_translation():
        raise RuntimeError(
            "ONNX has no operator stn_triton::sample: give torch.onnx.export "
            "custom_translation_table=stn_triton.onnx_translations()"
        )
    options = Options(
        transform, mode, padding_mode, padding_value, align_corners, samples, tuple(control_points)
    )  # fmt: skip
    outer = outer_shape(theta, len(out_size), options)
    return empty_output(input, outer, tuple(out_size))


@torch.library.custom_op("stn_triton::sample_backward", mutates_args=())
def sample_backward_op(
    grad: Tensor, input: Tensor, theta: Tensor, index: Tensor | None, out_size: Sequence[int],
    transform: str, mode: str, padding_mode: str, padding_value: float, align_corners: bool, samples: int,
    control_points: Sequence[float], input_wanted: bool, theta_wanted: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The gradients of (input, theta); one that is not wanted is an empty tensor."""
    options = Options(
        transform, mode, padding_mode, padding_value, align_corners, samples, tuple(control_points)
    )  # fmt: skip
    natively = native.sampler.sample_backward if _natively(input) else _torch_backward
    run: Callable[..., _Gradients] = sample_backward if _by_kernels(input) else natively
    wanted = input_wanted, theta_wanted
    of_input, of_theta = run(grad, input, theta, index, tuple(out_size), options, wanted)
    return (
        input.new_empty(0) if of_input is None else of_input,
        theta.new_empty(0) if of_theta is None else of_theta,
    )


@sample_backward_op.register_fake
def _(
    grad: Tensor, input: Tensor, theta: Tensor, index: Tensor | None, out_size: Sequence[int],
    transform: str, mode: str, padding_mode: str, padding_value: float, align_corners: bool, samples: int,
    control_points: Sequence[float], input_wanted: bool, theta_wanted: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    return (
        empty_input_gradient(input) if input_wanted else input.new_empty(0),
        theta.new_empty(theta.shape) if theta_wanted else theta.new_empty(0),
    )


def _torch_backward(
    grad: Tensor, input: Tensor, theta: Tensor, index: Tensor | None, out_size: _Size, options: Options,
    wanted: _Wanted,
) -> _Gradients:  # fmt: skip
    of_input, of_theta = gradients_by_taps(grad, input, theta, index, out_size, options)
    formatted = empty_input_gradient(input).copy_(of_input) if wanted[0] else None
    return formatted, of_theta if wanted[1] else None


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    input, theta, index, *ctx.arguments = inputs
    ctx.save_for_backward(input, theta, index)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    wanted = ctx.needs_input_grad[:2]
    grads = sample_backward_op(grad, *ctx.saved_tensors, *ctx.arguments, *wanted)
    of_tensors = (g if w else None for g, w in zip(grads, wanted, strict=True))
    return *of_tensors, *[None] * (1 + len(ctx.arguments))  # index and the arguments


sample.register_autograd(_backward, setup_context=_setup_context)
