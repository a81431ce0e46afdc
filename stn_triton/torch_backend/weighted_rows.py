"""Sampling many channels on a CPU: every output pixel is a weighted sum of rows of a matrix pixels x channels.

`grid_sampler` goes through an NCHW image channel by channel, with a gather for every tap of every channel. With the
channels of a pixel side by side, its taps are a bag of rows, which `embedding_bag` sums many lanes at a time; and the
input's gradient is the transposed sum, a bag of output rows for every input pixel once the taps are sorted by pixel.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from stn_triton.tracing import is_transformed, is_vectorized, may_read_values
from stn_triton.transforms import Options

from .taps import axis_taps, sample_taps

FEWEST_CHANNELS = 16
"""From this many channels on, bags of rows are faster than `grid_sampler` on a channels_last image."""
FEWEST_CHANNELS_TO_TURN = 64
"""The same where the image and the result have to be turned from and to NCHW."""


def sample_rows(image: Tensor, source: Tensor, options: Options) -> Tensor:
    """Sample at source coordinates in pixels.

    Shapes: image (N, C, *size) float32; source (ndim, N, P) float32, x first, finite. Returns (N, P, C), the channels
    of a pixel side by side in memory. Gradients for image and source.
    """
    return _Rows.apply(image, source, options)


def is_finite(tensor: Tensor) -> bool:
    """Whether all values are known to be finite; True where nobody may look. Very large ones may count as infinite."""
    return not may_read_values(tensor) or bool(tensor.sum().isfinite())


class _Rows(torch.autograd.Function):
    """By bags of rows, in which a tap outside is a row of weight 0; by index operations where that would be NaN."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, source: Tensor, options: Options) -> Tensor:
        ctx.options = options
        with torch.set_grad_enabled(ctx.needs_input_grad[1]):
            # The weights keep their own graph back to the coordinates, for the fast backward.
            leaf = source.detach().requires_grad_(ctx.needs_input_grad[1])
            index, weights = _bags_of(image, leaf, options)
        rows = image.movedim(1, -1).reshape(-1, image.shape[1])
        output = _bags(index, rows, weights.detach()).view(len(image), -1, image.shape[1])
        ctx.save_for_backward(image, source, rows, index)
        ctx.leaf, ctx.weights = leaf, weights
        ctx.exact = options.padding_mode == "zeros" and not is_finite(output)
        return _exactly(image, source, options) if ctx.exact else output

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        image, source, rows, index = ctx.saved_tensors
        looked_at = (
            torch.is_grad_enabled() or is_transformed(grad, image, source) or is_vectorized(grad)
        )
        if looked_at or ctx.exact or not is_finite(grad):
            pull = torch.func.vjp(partial(_exactly, options=ctx.options), image, source)[1]
            return *pull(grad), None
        image_wanted, source_wanted, _ = ctx.needs_input_grad
        grad = grad.flatten(0, 1).contiguous()
        of_image, of_source = None, None
        if image_wanted:
            of_rows = _transposed_bags(index, grad, ctx.weights.detach(), len(rows))
            of_image = of_rows.view(len(image), *image.shape[2:], -1).movedim(-1, 1)
        if source_wanted:
            of_weights = _dots(index, rows, grad)
            (of_source,) = torch.autograd.grad(ctx.weights, ctx.leaf, of_weights, retain_graph=True)
        return of_image, of_source, None


def _exactly(image: Tensor, source: Tensor, options: Options) -> Tensor:
    """The same by operations that leave out taps and have derivatives of any order."""
    return sample_taps(image, source, options).movedim(1, 2).contiguous()


def _bags_of(image: Tensor, source: Tensor, options: Options) -> tuple[Tensor, Tensor]:
    """The rows of pixels that each sample adds up, and their weights: (N P, taps) int32, and float32."""
    n, _, *size = image.shape
    last = torch.tensor(size[::-1], dtype=source.dtype, device=source.device).view(-1, 1, 1) - 1
    at, weights, _ = axis_taps(source, last, options)  # (T, ndim, N, P)
    index = [torch.arange(n, dtype=torch.int32, device=source.device).unsqueeze(1)]
    weight: list[Tensor] = []
    # Tap by tap: a broadcast over two taps would run in steps of two elements.
    for length, along, factors in zip(
        size, at.int().unbind(1)[::-1], weights.unbind(1)[::-1], strict=True
    ):
        lines = [line * length for line in index]
        index = [line + tap for line in lines for tap in along]
        weight = [w * factor for w in weight for factor in factors] or list(factors)
    return torch.stack(index, -1).flatten(0, 1), torch.stack(weight, -1).flatten(0, 1)


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
    offsets = torch.arange(0, index.numel(), taps, dtype=torch.int32, device=index.device)
    bag = torch.arange(len(index), dtype=torch.int32, device=index.device).repeat_interleave(taps)
    flat = torch.ops.aten._embedding_bag_per_sample_weights_backward(
        grad, rows, index.flatten(), offsets, bag, 0
    )
    return flat.view(index.shape)
