"""Sampling many channels on a CPU: every output pixel is a weighted sum of rows of a matrix pixels x channels.

`grid_sampler` goes through an NCHW image channel by channel, with a gather for every tap of every channel. With the
channels of a pixel side by side, its taps are a bag of rows, which `embedding_bag` sums many lanes at a time; and the
input's gradient is the transposed sum, a bag of output rows for every input pixel once the taps are sorted by pixel.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

FEWEST_CHANNELS = 16
"""From this many channels on, bags of rows are faster than `grid_sampler` on a channels_last image."""
FEWEST_CHANNELS_TO_TURN = 64
"""The same where the image and the result have to be turned from and to NCHW."""


def sample_rows(input: Tensor, x: Tensor, y: Tensor, mode: str, padding_mode: str) -> Tensor:
    """Sample at source coordinates in pixels.

    Shapes: input (N, C, H, W) float32; x, y (N, P) float32, finite. Returns (N, P, C), the channels of a pixel side by
    side in memory. Gradients for input, x and y.
    """
    n, channels, height, width = input.shape
    columns, weights_x = _taps(x, width, mode, padding_mode)
    lines, weights_y = _taps(y, height, mode, padding_mode)
    image = torch.arange(n, dtype=torch.int32).mul_(height * width).view(n, 1, 1)
    index = (lines * width + image).unsqueeze(-1) + columns.unsqueeze(-2)  # (N, P, T, T)
    weights = weights_y.unsqueeze(-1) * weights_x.unsqueeze(-2)
    taps = index.shape[-1] ** 2
    rows = input.permute(0, 2, 3, 1).reshape(-1, channels)
    output = _WeightedRows.apply(rows, weights.view(-1, taps), index.view(-1, taps))
    return output.view(n, -1, channels)


def _taps(s: Tensor, size: int, mode: str, padding_mode: str) -> tuple[Tensor, Tensor]:
    """Whole coordinates (int32, inside) and weights of the taps of a coordinate, (N, P, T).

    A tap outside weighs nothing and reads its inside neighbour.
    """
    if padding_mode == "border":
        free = (s > 0) & (s < size - 1)
        s = torch.where(free, s, s.detach().clamp(0, size - 1))
    else:
        s = s.clamp(-2, size + 1)
    if mode == "nearest":
        at = s.detach().round().int().unsqueeze(-1)
        weights = torch.ones_like(s).unsqueeze(-1)
    else:
        low = s.detach().floor()
        first = low.int()
        at = torch.stack((first, first + 1), -1)
        rest = s - low
        weights = torch.stack((1 - rest, rest), -1)
    inside = (at >= 0) & (at < size)
    return at.clamp_(0, size - 1), weights * inside


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
        if torch.is_grad_enabled():  # a derivative of this derivative is wanted: plain operations
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
    offsets = torch.arange(0, index.numel(), taps, dtype=torch.int32)
    bag = torch.arange(len(index), dtype=torch.int32).repeat_interleave(taps)
    flat = torch.ops.aten._embedding_bag_per_sample_weights_backward(
        grad, rows, index.flatten(), offsets, bag, 0
    )
    return flat.view(index.shape)
