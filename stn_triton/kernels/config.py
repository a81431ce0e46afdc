"""What a launch depends on besides its tensors: the geometry of the call and the block sizes.

The numbers of `forward_blocks` and `gather_blocks` are the only tuning there is: nothing is tuned at run time.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import triton.language as tl
from torch import Tensor

from stn_triton.formats import compute_dtype, is_channels_last, transformers
from stn_triton.transforms import Options

_TRITON_DTYPES = {torch.float32: tl.float32, torch.float64: tl.float64}
_ENOUGH_PROGRAMS = 1024  # about eight for each multiprocessor of a large GPU


class Geometry(NamedTuple):
    """Sizes, strides and compile-time facts of one call, as every kernel takes them."""

    n: int
    k: int
    channels: int
    sizes: tuple[int, ...]  # K, channels in vectors, H, W, OH, OW, align_corners
    strides: tuple[int, ...]  # of input, in vectors
    constexprs: dict[str, Any]


class Blocks(NamedTuple):
    """Pixels and channels of one program."""

    TILE_X: int
    TILE_Y: int
    BLOCK_C: int
    num_warps: int
    maxnreg: int | None = None


def needs_int64(elements: int) -> bool:
    """Whether offsets of that many elements pass the range of int32."""
    return elements > 2**31 - 1


def geometry(input: Tensor, theta: Tensor, out_size: tuple[int, int], options: Options) -> Geometry:
    """Read off the geometry of one call."""
    n, channels, height, width = input.shape
    k = math.prod(transformers(theta, options))
    strides = input.stride()
    channels_last = is_channels_last(input)
    vector = math.gcd(channels, 16 // input.element_size()) if channels_last else 1
    span = sum(
        (size - 1) * stride for size, stride in zip(input.shape[1:], strides[1:], strict=True)
    )
    largest = max(span + 1, channels * height * width, channels * math.prod(out_size))
    return Geometry(
        n,
        k,
        channels,
        (k, channels // vector, height, width, *out_size, int(options.align_corners)),
        tuple(stride // vector for stride in strides),
        {
            "TRANSFORM": options.transform,
            "MODE": options.mode,
            "PADDING": options.padding_mode,
            "COMPUTE": _TRITON_DTYPES[compute_dtype(input, theta)],
            "OFFSET": tl.int64 if needs_int64(largest) else tl.int32,
            "CHANNELS_LAST": channels_last,
            "VECTOR": vector,
        },
    )


def grid_of(images: int, size: tuple[int, ...], channels: int, blocks: Blocks) -> int:
    """Programs of a launch over `images` images of `size` (height, width)."""
    return images * tiles_of(size, channels, blocks)


def tiles_of(size: tuple[int, ...], channels: int, blocks: Blocks) -> int:
    """Programs for one image: tiles times channel blocks."""
    height, width = size
    tiles = -(-width // blocks.TILE_X) * -(-height // blocks.TILE_Y)
    return tiles * -(-channels // blocks.BLOCK_C)


def _channel_block(channels: int, most: int) -> int:
    """The largest power of two that divides `channels`, if that is a fair block; else the next one above."""
    divisor = channels & -channels
    above = 1 << (channels - 1).bit_length()
    return min(divisor if divisor >= 16 else above, most)


def forward_blocks(g: Geometry) -> Blocks:
    """Blocks of the forward and the theta-only backward kernel, whose tiles are output pixels."""
    size = g.sizes[4:6]
    if g.constexprs["CHANNELS_LAST"]:
        block = _channel_block(g.channels, 64)
        return Blocks(8, min(2048 // block, 256) // 8, block, 4)
    tile_x = 32 if size[1] > 16 else 16
    blocks = Blocks(tile_x, 256 // tile_x, _channel_block(g.channels, 8), 4)
    while blocks.BLOCK_C > 1 and grid_of(g.n * g.k, size, g.channels, blocks) < _ENOUGH_PROGRAMS:
        blocks = blocks._replace(BLOCK_C=blocks.BLOCK_C // 2)
    return blocks


def gather_blocks(g: Geometry) -> Blocks:
    """Blocks of the gather kernel, whose tiles are input pixels."""
    # With 128 registers a lane 16 warps fit on a multiprocessor; left alone, the compiler takes up to 200, or spills a
    # few to reach a step below. Double precision needs more.
    maxnreg = 128 if g.constexprs["COMPUTE"] is tl.float32 else None
    if g.constexprs["CHANNELS_LAST"]:
        block = _channel_block(g.channels, 64)
        pixels = max(min(1024 // block, 64), 16)
        lanes = pixels * block // g.constexprs["VECTOR"]  # one vector a lane
        return Blocks(pixels // 4, 4, block, min(max(lanes // 32, 4), 8), maxnreg)
    return Blocks(16, 8, _channel_block(g.channels, 4), 4, maxnreg)
