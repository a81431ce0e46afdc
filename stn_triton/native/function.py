"""The native sampler under autograd. Higher derivatives and transforms such as vmap take the operations of torch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from stn_triton.registered import registered_gradients
from stn_triton.torch_backend import gradients_by_taps
from stn_triton.tracing import is_dispatched, is_gradient_wanted, is_transformed, is_vectorized
from stn_triton.transforms import Options

from .sampler import sample_backward, sample_forward

_Size = tuple[int, ...]


def sees_only_tensors(*tensors: Tensor) -> bool:
    """Whether the library may read these: no tracer, transform or mode has to see every operation."""
    return not (is_transformed(*tensors) or is_vectorized(*tensors) or is_dispatched(*tensors))


def sample(
    input: Tensor, theta: Tensor, index: Tensor | None, size: _Size, options: Options
) -> Tensor:
    """The output, S(theta) u, of plain tensors; autograd can differentiate it."""
    if is_gradient_wanted(input, theta):
        return _Sample.apply(input, theta, index, size, options)
    return sample_forward(input, theta, index, size, options)


class _Sample(torch.autograd.Function):
    """The output, from (input, theta, index, size, options)."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        ctx.save_for_backward(*arguments[:3])
        ctx.arguments = arguments[3:]
        return sample_forward(*arguments)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        arguments = (grad, *ctx.saved_tensors, *ctx.arguments)
        seen = arguments[:3]
        if torch.is_grad_enabled() or is_vectorized(grad) or is_transformed(*seen):
            return *gradients_by_taps(*arguments), *[None] * 3
        run: Any = registered_gradients if is_dispatched(*seen) else sample_backward
        return *run(*arguments, ctx.needs_input_grad[:2]), *[None] * 3
