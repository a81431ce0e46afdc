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


def sample_rows(input: Tensor, source: Tensor, mode: str, padding_mode: str) -> Tensor:
    """Sample at source coordinates in pixels.

    Shapes: input (N, C, H, W) float32; source (2, N, P) float32, x and y, finite. Returns (N, P, C), the channels of a
    pixel side by side in memory. Gradients for input and source.
    """
    n, channels, height, width = input.shape
    at, weights = _taps(source, (width, height), mode, padding_mode)
    image = torch.arange(n, dtype=torch.int32).mul_(height * width).unsqueeze(1)
    lines = [y * width + image for y in at[:, 1]]
    # Pair by pair: a broadcast over two taps would run in steps of two elements.
    index = torch.stack([line + x for line in lines for x in at[:, 0]], -1)  # (N, P, T * T)
    weight = torch.stack([wy * wx for wy in weights[:, 1] for wx in weights[:, 0]], -1)
    rows = input.permute(0, 2, 3, 1).reshape(-1, channels)
    output = _WeightedRows.apply(rows, weight.flatten(0, 1), index.flatten(0, 1))
    return output.view(n, -1, channels)


def _taps(
    source: Tensor, size: tuple[int, int], mode: str, padding_mode: str
) -> tuple[Tensor, Tensor]:
    """Whole coordinates (int32, inside) and weights of the taps of source coordinates, (T, 2, N, P).

    A tap outside weighs nothing and reads its inside neighbour.
    """
    last = source.new_tensor(size).view(2, 1, 1) - 1
    if padding_mode == "border":
        clipped = source.detach().clamp(torch.zeros(()), last)
        source = torch.where((source > 0) & (source < last), source, clipped)
    else:
        source = source.clamp(-torch.full((), 2.0), last + 2)
    if mode == "nearest":
        at = source.detach().round().unsqueeze(0)
        weights = torch.ones_like(at)
    else:
        low = source.detach().floor()
        rest = source - low
        at = torch.stack((low, low + 1))
        weights = torch.stack((1 - rest, rest))
    inside = at.clamp(torch.zeros(()), last)
    return inside.int(), torch.where(inside == at, weights, 0.0)


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
