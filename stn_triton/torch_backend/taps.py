"""Sampling by plain index operations: every tap is gathered, weighted and summed.

Slower than `grid_sampler` and than the kernels, but with every derivative that PyTorch knows: the tap's whole
coordinates are constants, their weights are polynomials of the source coordinates, and all operations have forward
mode, higher derivatives and rules for batching.
"""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor

from stn_triton.transforms import Options

_CUBIC = -0.75
"""PyTorch's parameter of the cubic convolution."""


def sample_taps(image: Tensor, source: Tensor, options: Options) -> Tensor:
    """Sample at source coordinates in pixels.

    Shapes: image (N, C, *size); source (ndim, N, P), x first, finite, of the image's dtype. Returns (N, C, P).
    Derivatives of any order and mode for image and source.
    """
    channels, *size = image.shape[1:]
    pixels = image.flatten(2)
    taps = []
    for s, length in zip(source.unbind(), reversed(size), strict=True):
        at, weights, inside = axis_taps(s, s.new_full((), length - 1), options)
        taps.append(list(zip(at.long(), weights, inside, strict=True)))
    output = pixels.new_zeros(())
    for tap in product(*reversed(taps)):
        index, weight, there = tap[0]
        for (at, factor, inside), length in zip(tap[1:], size[1:], strict=True):
            index, weight, there = index * length + at, weight * factor, there & inside
        values = pixels.gather(2, index.unsqueeze(1).expand(-1, channels, -1))
        output = output + _left_out(weight.unsqueeze(1), values, there.unsqueeze(1), options)
    return output


def weight_outside(source: Tensor, size: tuple[int, ...], options: Options) -> Tensor:
    """The sum of the weights of all taps outside an image of `size`, with "zeros".

    Shapes: source (ndim, N, P), x first, finite. Returns (N, P): exactly 0 where all taps lie inside, a constant 1
    where none does. Derivatives of any order and mode.
    """
    total = torch.zeros_like(source[0])
    alone = torch.zeros_like(total, dtype=torch.bool)
    for s, length in zip(source.unbind(), reversed(size), strict=True):
        _, weights, inside = axis_taps(s, s.new_full((), length - 1), options, weigh_outside=True)
        beyond = torch.where(inside, 0.0, weights).sum(0)
        total = total + (1 - total) * beyond
        alone = alone | ~inside.any(0)
    # Their weights are 1 only nearly; and the outer `where` stops gradients that are not finite.
    return torch.where(alone, 1.0, total)


def _left_out(weight: Tensor, values: Tensor, there: Tensor, options: Options) -> Tensor:
    """weight * values, or 0 where no tap is there, whatever the values or the gradients are."""
    if options.padding_mode != "zeros":
        return weight * values
    # The outer `where` stops gradients that are not finite, the inner one values: 0 times either is NaN.
    return torch.where(there, weight * torch.where(there, values, 0.0), 0.0)


def axis_taps(
    source: Tensor, last: Tensor, options: Options, *, weigh_outside: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """The taps of finite source coordinates in pixels: (whole coordinates, weights, inside or not), stacked in front.

    last: the last pixel's number, broadcast against source. A tap outside weighs nothing (unless `weigh_outside`) and
    reads its inside neighbour.
    """
    if options.mode == "bicubic":
        low = source.detach().floor()
        at = torch.stack([low + number for number in (-1, 0, 1, 2)])
        weights = torch.stack(_cubic_weights(source - low))
        if options.padding_mode == "reflection":
            at = _reflected(at, last, options.align_corners)
    elif options.mode == "nearest":
        at = _padded(source.detach(), last, options).round().unsqueeze(0)
        # A constant that still depends on the source, so that its gradient is 0 and not missing.
        weights = torch.where(at.isfinite(), 1.0, source)
    else:
        source = _padded(source, last, options)
        low = source.detach().floor()
        rest = source - low
        at = torch.stack((low, low + 1))
        weights = torch.stack((1 - rest, rest))
    pixel = at.clamp(torch.zeros_like(last), last)
    inside = pixel == at
    if options.padding_mode == "zeros" and not weigh_outside:
        weights = torch.where(inside, weights, 0.0)
    return pixel, weights, inside


def _padded(source: Tensor, last: Tensor, options: Options) -> Tensor:
    """The coordinate that is read instead; constant at and beyond the ends."""
    if options.padding_mode == "zeros":
        return source
    if options.padding_mode == "reflection":
        source = _reflected(source, last, options.align_corners)
    ends = source.detach().clamp(torch.zeros_like(last), last)
    return torch.where((source > 0) & (source < last), source, ends)


def _reflected(source: Tensor, last: Tensor, align_corners: bool) -> Tensor:
    """Folded at the outer edges of the end pixels, or at their centres."""
    edge = 0.0 if align_corners else -0.5
    span = (last - 2 * edge).clamp(min=1)
    away = (source - edge).abs().remainder(2 * span)
    return torch.where(away < span, away, 2 * span - away) + edge


def _cubic_weights(rest: Tensor) -> list[Tensor]:
    """Keys' cubic convolution at the taps -1, 0, 1 and 2 pixels from the one to the left."""

    def near(t: Tensor) -> Tensor:
        return ((_CUBIC + 2) * t - (_CUBIC + 3)) * t * t + 1

    def far(t: Tensor) -> Tensor:
        return ((_CUBIC * t - 5 * _CUBIC) * t + 8 * _CUBIC) * t - 4 * _CUBIC

    return [far(1 + rest), near(rest), near(1 - rest), far(2 - rest)]
