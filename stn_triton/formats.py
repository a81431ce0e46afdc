"""Dtypes, shapes and memory formats of results: one statement for kernels, fakes and the torch backend."""

from __future__ import annotations

import torch
from torch import Tensor

from .transforms import TRANSFORMS, Options


def compute_dtype(input: Tensor, theta: Tensor) -> torch.dtype:
    """The dtype of coordinates, weights and sums."""
    wide = input.dtype == torch.float64 or theta.dtype == torch.float64
    return torch.float64 if wide else torch.float32


def is_channels_last(input: Tensor) -> bool:
    """Whether results keep the channels last: the input is channels_last and not also contiguous."""
    # Under `vmap`, a tensor can be asked for this memory format only.
    return not input.is_contiguous() and input.movedim(1, -1).is_contiguous()


def theta_shape(theta: Tensor, ndim: int, options: Options) -> tuple[int, ...]:
    """The trailing shape of a valid theta: that of one transformation of `ndim` axes."""
    shape = TRANSFORMS[options.transform].trailing_shape(
        tuple(theta.shape), ndim, options.control_points
    )
    assert shape is not None
    return shape


def outer_shape(theta: Tensor, ndim: int, options: Options) -> tuple[int, ...]:
    """What stands before one transformation in theta's shape, and before the channels in the result's.

    (N,), with an axis of K transformers (N, K), or (M,) with an index.
    """
    return tuple(theta.shape[: theta.dim() - len(theta_shape(theta, ndim, options))])


def empty_output(input: Tensor, outer: tuple[int, ...], out_size: tuple[int, ...]) -> Tensor:
    """The result, not yet filled: (*outer, C, *out_size), with (N,) or (N, K) outer axes."""
    channels = input.shape[1]
    if is_channels_last(input):
        return input.new_empty((*outer, *out_size, channels)).movedim(-1, len(outer))
    return input.new_empty((*outer, channels, *out_size))


def empty_input_gradient(input: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """The gradient of the input, not yet filled: (N, C, [D,] H, W); in the input's dtype if none is given."""
    if is_channels_last(input):
        n, channels, *size = input.shape
        return input.new_empty((n, *size, channels), dtype=dtype).movedim(-1, 1)
    return input.new_empty(input.shape, dtype=dtype)


def like_output(gradient: Tensor, input: Tensor) -> Tensor:
    """A gradient of the result in the result's own memory format."""
    if is_channels_last(input):
        axis = 1 - input.dim()
        return gradient.movedim(axis, -1).contiguous().movedim(-1, axis)
    return gradient.contiguous()
