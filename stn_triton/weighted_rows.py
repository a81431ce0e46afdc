"""Sampling many channels on a CPU: every output pixel is a weighted sum of rows of a matrix pixels x channels.

`grid_sampler` goes through an NCHW image channel by channel, with a gather for every tap of every channel. With the
channels of a pixel side by side, its taps are a bag of rows, which `embedding_bag` sums many lanes at a time; and the
input's gradient is the transposed sum, a bag of output rows for every input pixel once the taps are sorted by pixel.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .taps import axis_taps, is_transformed
from .transforms import Options

FEWEST_CHANNELS = 16
"""From this many channels on, bags of rows are faster than `grid_sampler` on a channels_last image."""
FEWEST_CHANNELS_TO_TURN = 64
"""The same where the image and the result have to be turned from and to NCHW."""


def sample_rows(image: Tensor, source: Tensor, options: Options) -> Tensor:
    """Sample at source coordinates in pixels.

    Shapes: image (N, C, *size) float32; source (ndim, N, P) float32, x first, finite. Returns (N, P, C), the channels
    of a pixel side by side in memory. Gradients for image and source.
    """
    n, channels, *size = image.shape
    last = source.new_tensor(size[::-1]).view(-1, 1, 1) - 1
    at, weights = axis_taps(source, last, options)  # (T, ndim, N, P)
    index = [torch.arange(n, dtype=torch.int32).unsqueeze(1)]
    weight: list[Tensor] = []
    # Tap by tap: a broadcast over two taps would run in steps of two elements.
    for length, along, factors in zip(
        size, at.int().unbind(1)[::-1], weights.unbind(1)[::-1], strict=True
    ):
        lines = [line * length for line in index]
        index = [line + tap for line in lines for tap in along]
        weight = [w * factor for w in weight for factor in factors] or list(factors)
    rows = image.movedim(1, -1).reshape(-1, channels)
    output = _WeightedRows.apply(
        rows, torch.stack(weight, -1).flatten(0, 1), torch.stack(index, -1).flatten(0, 1)
    )
    return output.view(n, -1, channels)


class _WeightedRows(torch.autograd.Function):
    """(R, C) rows, (P, T) weights, (P, T) int32 index -> (P, C): sum over t of weights[p, t] rows[index[p, t]]."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weights: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(rows, weights, index)
        return _bags(index, rows, weights)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        rows, weights, index = ctx.saved_tensors
        rows_wanted, weights_wanted, _ = ctx.needs_input_grad
        grad = grad.contiguous()
        if torch.is_grad_enabled() or is_transformed():  # plain operations have every derivative
            taps = weights.unsqueeze(-1) * grad.unsqueeze(1)
            of_rows = torch.zeros_like(rows).index_add(0, index.flatten(), taps.flatten(0, 1))
            of_weights = (rows[index.long()] * grad.unsqueeze(1)).sum(-1)
            return of_rows, of_weights, None
        return (
            _transposed_bags(index, grad, weights, len(rows)) if rows_wanted else None,
            _dots(index, rows, grad) if weights_wanted else None,
            None,
        )


def _bags(index: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
    return torch.nn.functional.embedding_bag(index, rows, per_sample_weights=weights, mode="sum")


def _transposed_bags(index: Tensor, grad: Tensor, weights: Tensor, count: int) -> Tensor:
    flat = index.flatten()
    order = flat.argsort(stable=True)
    sizes = torch.bincount(flat, minlength=count)
    return torch.nn.functional.embedding_bag(
        order // index.shape[1], grad, sizes.cumsum(0) - sizes,
        per_sample_weights=weights.flatten()[order], mode="sum",
    )  # fmt: skip


def _dots(index: Tensor, rows: Tensor, grad: Tensor) -> Tensor:
    taps = index.shape[1]
    if taps == 1:  # nearest: the weight is a constant
        return torch.zeros_like(index, dtype=grad.dtype)
    offsets = torch.arange(0, index.numel(), taps, dtype=torch.int32)
    bag = torch.arange(len(index), dtype=torch.int32).repeat_interleave(taps)
    flat = torch.ops.aten._embedding_bag_per_sample_weights_backward(
        grad, rows, index.flatten(), offsets, bag, 0
    )
    return flat.view(index.shape)
