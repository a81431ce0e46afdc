"""The fused op as PyTorch sees it: an `autograd.Function` in eager mode, registered operators while compiling.

The Function is the leaner call, and derivatives that it lacks raise; a registered operator would give zeros to
forward-mode AD without a word. `torch.compile` and `torch.export` need the registered operators.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .formats import empty_input_gradient, empty_output
from .kernels.backward_gather import gather_backward
from .kernels.backward_theta import theta_backward
from .kernels.forward import sample_forward
from .transforms import Options

_Size = tuple[int, int]


def sample_backward(
    grad: Tensor,
    input: Tensor,
    theta: Tensor,
    out_size: _Size,
    options: Options,
    wanted: tuple[bool, bool],
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients of (input, theta) as far as they are wanted, by the kernel that does no more than that."""
    input_wanted, theta_wanted = wanted
    if input_wanted:
        return gather_backward(grad, input, theta, out_size, options, with_theta=theta_wanted)
    return None, theta_backward(grad, input, theta, out_size, options) if theta_wanted else None


class _Sample(torch.autograd.Function):
    @staticmethod
    def forward(input: Tensor, theta: Tensor, out_size: _Size, options: Options) -> Tensor:
        return sample_forward(input, theta, out_size, options)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        input, theta, ctx.out_size, ctx.options = inputs
        ctx.save_for_backward(input, theta)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        wanted = ctx.needs_input_grad[:2]
        grads = _SampleBackward.apply(grad, *ctx.saved_tensors, ctx.out_size, ctx.options, wanted)
        return *grads, None, None


class _SampleBackward(torch.autograd.Function):
    """A Function of its own, so that a derivative of the derivative is an error and not a zero."""

    @staticmethod
    def forward(
        grad: Tensor,
        input: Tensor,
        theta: Tensor,
        out_size: _Size,
        options: Options,
        wanted: tuple[bool, bool],
    ) -> tuple[Tensor | None, Tensor | None]:
        return sample_backward(grad, input, theta, out_size, options, wanted)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        raise RuntimeError(
            "st_sample's Triton backend has no second derivatives; use backend='torch' for them"
        )


@torch.library.custom_op("stn_triton::sample", mutates_args=())
def sample(
    input: Tensor, theta: Tensor, out_h: int, out_w: int,
    transform: str, mode: str, padding_mode: str, align_corners: bool,
) -> Tensor:  # fmt: skip
    """`st_sample` by the Triton kernels, arguments validated."""
    return sample_forward(
        input, theta, (out_h, out_w), Options(transform, mode, padding_mode, align_corners)
    )


@sample.register_fake
def _(
    input: Tensor, theta: Tensor, out_h: int, out_w: int,
    transform: str, mode: str, padding_mode: str, align_corners: bool,
) -> Tensor:  # fmt: skip
    return empty_output(
        input, theta, (out_h, out_w), Options(transform, mode, padding_mode, align_corners)
    )


@torch.library.custom_op("stn_triton::sample_backward", mutates_args=())
def sample_backward_op(
    grad: Tensor, input: Tensor, theta: Tensor, out_h: int, out_w: int,
    transform: str, mode: str, padding_mode: str, align_corners: bool, input_wanted: bool, theta_wanted: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The gradients of (input, theta); one that is not wanted is an empty tensor."""
    options = Options(transform, mode, padding_mode, align_corners)
    grads = sample_backward(
        grad, input, theta, (out_h, out_w), options, (input_wanted, theta_wanted)
    )
    of_input, of_theta = grads
    return (
        input.new_empty(0) if of_input is None else of_input,
        theta.new_empty(0) if of_theta is None else of_theta,
    )


@sample_backward_op.register_fake
def _(
    grad: Tensor, input: Tensor, theta: Tensor, out_h: int, out_w: int,
    transform: str, mode: str, padding_mode: str, align_corners: bool, input_wanted: bool, theta_wanted: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    return (
        empty_input_gradient(input) if input_wanted else input.new_empty(0),
        theta.new_empty(theta.shape) if theta_wanted else theta.new_empty(0),
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    input, theta, *ctx.arguments = inputs
    ctx.save_for_backward(input, theta)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    wanted = ctx.needs_input_grad[:2]
    grads = sample_backward_op(grad, *ctx.saved_tensors, *ctx.arguments, *wanted)
    return *(g if w else None for g, w in zip(grads, wanted, strict=True)), *[None] * 6


sample.register_autograd(_backward, setup_context=_setup_context)


def st_sample_triton(input: Tensor, theta: Tensor, out_size: _Size, options: Options) -> Tensor:
    """`st_sample` by the Triton kernels, arguments validated."""
    if torch.compiler.is_compiling():
        if torch.autograd.forward_ad._current_level >= 0:  # the operator would give zeros
            raise RuntimeError("st_sample has no forward-mode derivatives inside torch.compile")
        return sample(input, theta, *out_size, *options)
    return _Sample.apply(input, theta, out_size, options)
