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
    return not input.is_contiguous() and input.is_contiguous(memory_format=torch.channels_last)


def transformers(theta: Tensor, options: Options) -> tuple[int, ...]:
    """(K,) if theta has the axis of K transformers, else ()."""
    return tuple(theta.shape[1 : theta.dim() - len(TRANSFORMS[options.transform].shape)])


def empty_output(
    input: Tensor, theta: Tensor, out_size: tuple[int, int], options: Options
) -> Tensor:
    """The result, not yet filled: (N, [K,] C, h, w)."""
    n, channels = input.shape[:2]
    outer = (n, *transformers(theta, options))
    if is_channels_last(input):
        return input.new_empty((*outer, *out_size, channels)).movedim(-1, -3)
    return input.new_empty((*outer, channels, *out_size))


def empty_input_gradient(input: Tensor) -> Tensor:
    """The gradient of the input, not yet filled: (N, C, H, W)."""
    n, channels, height, width = input.shape
    if is_channels_last(input):
        return input.new_empty((n, height, width, channels)).movedim(-1, -3)
    return input.new_empty(input.shape)


def like_output(gradient: Tensor, input: Tensor) -> Tensor:
    """A gradient of the result in the result's own memory format."""
    if is_channels_last(input):
        return gradient.movedim(-3, -1).contiguous().movedim(-1, -3)
    return gradient.contiguous()
