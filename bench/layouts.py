"""Memory layouts in which a caller may hand over a tensor, for the tests and for `bench.hostile`."""

from __future__ import annotations

import math

from torch import Tensor

LAYOUTS = ("contiguous", "channels_last", "strided", "expanded", "transposed")
RARE_LAYOUTS = ("repeated", "offset")


def laid_out(tensor: Tensor, layout: str) -> Tensor:
    """The numbers of a tensor of two axes or more in a memory layout, one of `LAYOUTS` or `RARE_LAYOUTS`.

    - "channels_last": the channels of a pixel, along axis 1, lie together.
    - "strided": a part of a larger tensor, every second row and every third column of it. The rest is NaN, so that
      a result shows if it was read.
    - "transposed": the last two axes are swapped in memory.
    - "expanded": the first image and its first column stand for all others, by strides of 0.
    - "repeated": the first image stands for all others.
    - "offset": the tensor begins three elements after the allocation, so that wide loads would be misaligned.
    """
    if layout == "contiguous":
        return tensor.contiguous()
    if layout == "channels_last":
        return tensor.movedim(1, -1).contiguous().movedim(-1, 1)
    if layout == "strided":
        return _strided(tensor)
    if layout == "transposed":
        return tensor.transpose(-2, -1).contiguous().transpose(-2, -1)
    if layout == "expanded":
        return tensor[:1, ..., :1].expand(tensor.shape)
    if layout == "repeated":
        return tensor[:1].expand(tensor.shape)
    assert layout == "offset", layout
    flat = tensor.new_full((tensor.numel() + 3,), math.nan)
    flat[3:] = tensor.flatten()
    return flat[3:].view(tensor.shape)


def _strided(tensor: Tensor) -> Tensor:
    *outer, rows, columns = tensor.shape
    if len(outer) > 1:
        outer[1] += 1
    whole = tensor.new_full((*outer, 2 * rows, 3 * columns), math.nan)
    part = whole[:, 1:] if len(outer) > 1 else whole
    part = part[..., ::2, 1::3]
    part.copy_(tensor)
    return part
