"""The derivatives of the fused op in eager mode: of any order, forward and backward, and batched.

With S(theta) the linear map from image to result, v = S(theta) u (and what `padding_value` adds, which depends on
theta alone), and S' its change along a tangent of theta: first order needs S' u, the adjoint of S, and the derivative
of <g, S u> by theta; second order the adjoint of S' and the derivative of <g, S' u> by theta. Each is a kernel;
derivatives of those come from index operations (`taps`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .kernels.backward import input_backward, sample_backward
from .kernels.backward_theta import theta_backward
from .kernels.forward import sample_forward
from .ragged import fold_index
from .registered import registered_gradients
from .torch_backend import gradients_by_taps, st_sample_taps
from .tracing import (
    as_stored,
    is_dispatched,
    is_gradient_wanted,
    is_transformed,
    is_vectorized,
)
from .transforms import Options, theta_dims

_Size = tuple[int, ...]
_Wanted = tuple[bool, bool]


def sample(
    input: Tensor, theta: Tensor, index: Tensor | None, size: _Size, options: Options
) -> Tensor:
    """S(theta) u with every derivative."""
    if is_vectorized(input, theta):
        # Such batches have rules for composite operations only where a transform takes these apart.
        run = partial(st_sample_taps, index=index, out_size=size, options=options)
        return torch.func.vjp(run, input, theta)[0]
    stored = as_stored(input), as_stored(theta)
    if is_transformed(input, theta):
        return _Sample.apply(*stored, index, size, options)
    if not is_gradient_wanted(input, theta):
        return sample_forward(*stored, index, size, options)
    return _LeanSample.apply(*stored, index, size, options)


class _LeanSample(torch.autograd.Function):
    """S(theta) u, from (input, theta, index, size, options), where only the gradient is likely to be wanted.

    A Function that transforms can look into takes PyTorch twice as long to call.
    """

    @staticmethod
    def forward(
        ctx: Any, input: Tensor, theta: Tensor, index: Tensor | None, size: _Size, options: Options
    ) -> Tensor:
        ctx.save_for_backward(input, theta, index)
        ctx.arguments = size, options
        return sample_forward(input, theta, index, size, options)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        input, theta, index = ctx.saved_tensors
        size, options = ctx.arguments
        wanted = ctx.needs_input_grad[:2]
        if torch.is_grad_enabled() or is_vectorized(grad) or is_transformed(grad, input, theta):
            return _Sample.backward(ctx, grad)
        if is_dispatched(grad, input, theta):
            found = registered_gradients(grad, input, theta, index, size, options, wanted)
        else:
            found = sample_backward(as_stored(grad), input, theta, index, size, options, wanted)
        return *found, *[None] * 3


class _Sample(torch.autograd.Function):
    """The same, whatever is wanted."""

    @staticmethod
    def forward(
        input: Tensor, theta: Tensor, index: Tensor | None, size: _Size, options: Options
    ) -> Tensor:
        return sample_forward(input, theta, index, size, options)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _keep(ctx, *inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        wanted = ctx.needs_input_grad[:2]
        if is_vectorized(grad):
            return *gradients_by_taps(grad, *ctx.saved_tensors, *ctx.arguments), *[None] * 3
        grads = iter(_Backward.apply(grad, *ctx.saved_tensors, *ctx.arguments, wanted))
        return *(next(grads) if each else None for each in wanted), *[None] * 3

    @staticmethod
    def jvp(ctx: Any, input_along: Tensor | None, theta_along: Tensor | None, *_: None) -> Tensor:
        input, theta, _ = ctx.saved_tensors
        return _total(
            _along_input(ctx, input_along, theta),
            _second_order("tangent", ctx, input, theta, theta_along),
        )

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...],
        input: Tensor, theta: Tensor, index: Tensor | None, size: _Size, options: Options,
    ) -> tuple[Tensor, int]:  # fmt: skip
        batch, (input_dim, theta_dim, index_dim) = info.batch_size, in_dims[:3]
        if index is not None and input_dim is None:
            # Crops of the same images: in one call that has no more of them.
            (theta,) = _fold(batch, (theta_dim,), (theta,))
            (index,) = _fold(batch, (index_dim,), (index,))
            return _unfold(batch, _Sample.apply(input, theta, index, size, options)), 0
        if input_dim is None and theta_dim is not None:
            # The thetas of a batch are transformers of one image.
            theta = theta.movedim(theta_dim, 1)  # (N, B, [K,] *shape)
            several = theta.dim() - 1 > 1 + theta_dims(theta, len(size), options)
            output = _Sample.apply(
                input, theta.flatten(1, 2) if several else theta, None, size, options
            )
            return output.unflatten(1, (batch, -1)) if several else output, 1
        folded = _fold(batch, in_dims[:2], (input, theta))
        index = fold_index(batch, index_dim, index, len(folded[0]) // batch)
        return _unfold(batch, _Sample.apply(*folded, index, size, options)), 0


class _Backward(torch.autograd.Function):
    """Those gradients of <grad, S(theta) u> by (u, theta) that are wanted."""

    @staticmethod
    def forward(
        grad: Tensor, input: Tensor, theta: Tensor, index: Tensor | None, size: _Size,
        options: Options, wanted: _Wanted,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        grad, input, theta = map(as_stored, (grad, input, theta))
        found = sample_backward(grad, input, theta, index, size, options, wanted)
        return tuple(each for each in found if each is not None)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        *arguments, ctx.wanted = inputs
        _keep(ctx, *arguments)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *found: Tensor | None) -> tuple[Tensor | None, ...]:
        grad, input, theta, _ = ctx.saved_tensors
        along = iter(found)
        input_along, theta_along = (next(along) if each else None for each in ctx.wanted)
        return (
            _total(
                _along_input(ctx, input_along, theta),
                _second_order("tangent", ctx, input, theta, theta_along),
            ),
            _second_order("adjoint", ctx, grad, input, theta, theta_along),
            _total(
                _gradient_along_input(ctx, grad, input_along, theta),
                _second_order("curvature", ctx, grad, input, theta, theta_along),
            ),
            *[None] * 4,
        )

    @staticmethod
    def jvp(
        ctx: Any, grad_along: Tensor | None, input_along: Tensor | None, theta_along: Tensor | None,
        *_: None,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        grad, input, theta, _ = ctx.saved_tensors
        changes = []
        if ctx.wanted[0]:
            changes.append(_total(
                _gradient(ctx, (True, False), grad_along, input, theta),
                _second_order("adjoint", ctx, grad, input, theta, theta_along),
                like=input,
            ))  # fmt: skip
        if ctx.wanted[1]:
            changes.append(_total(
                _gradient(ctx, (False, True), grad_along, input, theta),
                _gradient_along_input(ctx, grad, input_along, theta),
                _second_order("curvature", ctx, grad, input, theta, theta_along),
                like=theta,
            ))  # fmt: skip
        return tuple(changes)

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], grad: Tensor, input: Tensor, theta: Tensor,
        index: Tensor | None, *arguments: Any,
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:  # fmt: skip
        folded = _fold(info.batch_size, in_dims[:3], (grad, input, theta))
        images = len(folded[1]) // info.batch_size
        index = fold_index(info.batch_size, in_dims[3], index, images)
        found = _Backward.apply(*folded, index, *arguments)
        return tuple(_unfold(info.batch_size, each) for each in found), (0,) * len(found)


class _SecondOrder(torch.autograd.Function):
    """One of `_PRODUCTS`, from (its name, index, size, options, *tensors)."""

    @staticmethod
    def forward(
        name: str, index: Tensor | None, size: _Size, options: Options, *tensors: Tensor
    ) -> Tensor:
        return _PRODUCTS[name].kernel(index, size, options, *map(as_stored, tensors))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.name, index, ctx.size, ctx.options, *tensors = inputs
        ctx.save_for_backward(index, *tensors)
        ctx.save_for_forward(index, *tensors)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        formula, tensors = _formula(ctx)
        return *[None] * 4, *torch.func.vjp(formula, *tensors)[1](grad)

    @staticmethod
    def jvp(ctx: Any, _1: None, _2: None, _3: None, _4: None, *along: Tensor | None) -> Tensor:
        formula, tensors = _formula(ctx)
        changes = [
            torch.zeros_like(tensor) if change is None else change
            for tensor, change in zip(tensors, along, strict=True)
        ]
        return torch.func.jvp(formula, tensors, tuple(changes))[1]

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], name: str, index: Tensor | None, size: _Size,
        options: Options, *tensors: Tensor,
    ) -> tuple[Tensor, int]:  # fmt: skip
        folded = _fold(info.batch_size, in_dims[4:], tensors)
        # The image is the third tensor from the end: theta and the tangent follow it.
        images = len(folded[-3]) // info.batch_size
        index = fold_index(info.batch_size, in_dims[1], index, images)
        return _unfold(info.batch_size, _SecondOrder.apply(name, index, size, options, *folded)), 0


def _formula(ctx: Any) -> tuple[Callable[..., Tensor], tuple[Tensor, ...]]:
    """The same in index operations, and the tensors it depends on."""
    index, *tensors = ctx.saved_tensors
    return partial(_PRODUCTS[ctx.name].formula, index, ctx.size, ctx.options), tuple(tensors)


class _Product(NamedTuple):
    """A kernel, (index, size, options, *tensors) -> Tensor, and the same in index operations."""

    kernel: Callable[..., Tensor]
    formula: Callable[..., Tensor]


def _tangent(
    index: Tensor | None, size: _Size, options: Options, input: Tensor, theta: Tensor, along: Tensor
) -> Tensor:
    """By the transpose of the transpose, as forward mode may be under way already and does not nest."""
    run = partial(st_sample_taps, input, index=index, out_size=size, options=options)

    def transposed(grad: Tensor) -> Tensor:
        return torch.func.vjp(run, theta)[1](grad)[0]

    return torch.func.vjp(transposed, torch.zeros_like(run(theta)))[1](along.to(theta.dtype))[0]


def _adjoint(
    index: Tensor | None, size: _Size, options: Options, grad: Tensor, input: Tensor, *rest: Tensor
) -> Tensor:
    def tangent(input: Tensor) -> Tensor:
        return _tangent(index, size, options, input, *rest)

    return torch.func.vjp(tangent, input)[1](grad)[0]


def _curvature(
    index: Tensor | None, size: _Size, options: Options, grad: Tensor, input: Tensor, theta: Tensor,
    along: Tensor,
) -> Tensor:  # fmt: skip
    def tangent(theta: Tensor) -> Tensor:
        return _tangent(index, size, options, input, theta, along)

    return torch.func.vjp(tangent, theta)[1](grad)[0]


def _along(kernel: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A kernel's launcher, called with the tangent after the other tensors."""

    def run(index: Tensor | None, size: _Size, options: Options, *tensors: Tensor) -> Tensor:
        *others, along = tensors
        return kernel(*others, index, size, options, tangent=along)

    return run


_PRODUCTS = {
    # S' u, from (input, theta, along)
    "tangent": _Product(_along(sample_forward), _tangent),
    # the adjoint of S' at grad, from (grad, input, theta, along)
    "adjoint": _Product(_along(input_backward), _adjoint),
    # the derivative of <grad, S' u> by theta, from (grad, input, theta, along)
    "curvature": _Product(_along(theta_backward), _curvature),
}


def _keep(ctx: Any, *arguments: Any) -> None:
    *tensors, size, options = arguments
    ctx.save_for_backward(*tensors)
    ctx.save_for_forward(*tensors)
    ctx.arguments = size, options


def _along_input(ctx: Any, input_along: Tensor | None, theta: Tensor) -> Tensor | None:
    """The change of the result along a change of the input: what lies outside does not change."""
    if input_along is None:
        return None
    size, options = ctx.arguments
    return sample(
        input_along, theta, ctx.saved_tensors[-1], size, options._replace(padding_value=0.0)
    )


def _gradient(ctx: Any, wanted: _Wanted, *tensors: Tensor | None) -> Tensor | None:
    return _gradient_of(wanted, ctx.saved_tensors[-1], *ctx.arguments, *tensors)


def _gradient_along_input(
    ctx: Any, grad: Tensor, input_along: Tensor | None, theta: Tensor
) -> Tensor | None:
    """The change of theta's gradient along a change of the input."""
    size, options = ctx.arguments
    linear = options._replace(padding_value=0.0)
    return _gradient_of(
        (False, True), ctx.saved_tensors[-1], size, linear, grad, input_along, theta
    )


def _gradient_of(
    wanted: _Wanted, index: Tensor | None, size: _Size, options: Options, *tensors: Tensor | None
) -> Tensor | None:
    there = _all_there(tensors)
    if there is None:
        return None
    if is_vectorized(*there):
        grad, input, theta = there
        return gradients_by_taps(grad, input, theta, index, size, options)[wanted.index(True)]
    (found,) = _Backward.apply(*there, index, size, options, wanted)
    return found


def _second_order(name: str, ctx: Any, *tensors: Tensor | None) -> Tensor | None:
    there = _all_there(tensors)
    if there is None:
        return None
    if is_vectorized(*there):
        return _PRODUCTS[name].formula(ctx.saved_tensors[-1], *ctx.arguments, *there)
    return _SecondOrder.apply(name, ctx.saved_tensors[-1], *ctx.arguments, *there)


def _all_there(tensors: Sequence[Tensor | None]) -> list[Tensor] | None:
    """The tensors, or None if one is missing: what is linear in it is 0."""
    there = [tensor for tensor in tensors if tensor is not None]
    return there if len(there) == len(tensors) else None


def _total(*terms: Tensor | None, like: Tensor | None = None) -> Any:
    """The sum of those terms that are there; if none is: zeros like `like`, or None."""
    there = [term for term in terms if term is not None]
    if not there:
        return None if like is None else torch.zeros_like(like)
    total = there[0]
    for term in there[1:]:
        total = total + term
    return total


def _fold(batch: int, dims: Sequence[int | None], tensors: Sequence[Tensor]) -> list[Tensor]:
    """Batched tensors, (B, N, ...), as tensors of B * N images; those that are not batched repeated."""
    return [
        (tensor.expand(batch, *tensor.shape) if dim is None else tensor.movedim(dim, 0)).flatten(
            0, 1
        )
        for tensor, dim in zip(tensors, dims, strict=True)
    ]


def _unfold(batch: int, tensor: Tensor) -> Tensor:
    return tensor.unflatten(0, (batch, -1))
