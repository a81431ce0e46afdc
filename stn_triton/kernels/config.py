"""What a launch depends on besides its tensors: the geometry of the call and the block sizes.

The numbers of the functions named `..._blocks` are the only tuning there is: nothing is tuned at run time.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import triton.language as tl
from torch import Tensor

from stn_triton.formats import compute_dtype, is_channels_last, theta_shape, transformers
from stn_triton.transforms import AUTO, TRANSFORMS, Options, lattice_coefficients, lattice_tangent

from .cell_plan import Spec

_TRITON_DTYPES = {torch.float32: tl.float32, torch.float64: tl.float64}
_ENOUGH_WARPS = 2048  # about sixteen for each multiprocessor of a large GPU
_ENOUGH_PROGRAMS = 1024  # about eight for each multiprocessor of a large GPU


class Geometry(NamedTuple):
    """Sizes, strides and compile-time facts of one call, as every kernel takes them."""

    n: int
    k: int
    channels: int
    size: tuple[int, ...]  # of input, (D, H, W)
    out_size: tuple[int, ...]  # (OD, OH, OW)
    parameters: int  # numbers by which the kernels know a transformation
    # K, channels in vectors, G, PARAMETERS, *size, *out_size, align_corners, S
    sizes: tuple[int, ...]
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


def parameter_count(trailing: tuple[int, ...], options: Options) -> int:
    """Numbers by which the kernels know a transformation: theta's, or the coefficients of a lattice's basis."""
    lattice = TRANSFORMS[options.transform].lattice
    if lattice is None:
        return math.prod(trailing)
    return 2 * (trailing[0] + lattice.extra)


def parameters(
    input: Tensor, theta: Tensor, options: Options, tangent: Tensor | None = None
) -> Tensor:
    """Those numbers, transformation after transformation; with a tangent of theta, each followed by its own."""
    lattice = TRANSFORMS[options.transform].lattice
    axis = 1 + len(transformers(theta, input.dim() - 2, options))
    wide = compute_dtype(input, theta)
    if lattice is not None:
        theta = lattice_coefficients(theta.to(wide), lattice)
    if tangent is None:
        return theta.contiguous()
    tangent = tangent.to(wide)
    if lattice is not None:
        tangent = lattice_tangent(tangent, lattice)
    return torch.stack((theta.to(wide), tangent), axis)


def geometry(input: Tensor, theta: Tensor, out_size: tuple[int, ...], options: Options) -> Geometry:
    """Read off the geometry of one call."""
    n, channels, *size = input.shape
    stride_n, stride_c, *strides = input.stride()
    ndim = len(size)
    if ndim == 2:  # one slice
        size, strides, out_size = [1, *size], [0, *strides], (1, *out_size)
    trailing = theta_shape(theta, ndim, options)
    k = math.prod(transformers(theta, ndim, options))
    channels_last = is_channels_last(input)
    vector = math.gcd(channels, 16 // input.element_size()) if channels_last else 1
    span = sum(
        (length - 1) * stride
        for length, stride in zip((channels, *size), (stride_c, *strides), strict=True)
    )
    largest = max(span + 1, channels * math.prod(size), channels * math.prod(out_size))
    align_corners, samples = int(options.align_corners), options.samples
    count = parameter_count(trailing, options)
    return Geometry(
        n,
        k,
        channels,
        tuple(size),
        out_size,
        count,
        (
            *(k, channels // vector, math.isqrt(trailing[0]), count),
            *(*size, *out_size, align_corners, samples),
        ),
        tuple(stride // vector for stride in (stride_n, stride_c, *strides)),
        {
            "TRANSFORM": options.transform,
            "NDIM": ndim,
            "MODE": options.mode,
            "PADDING": options.padding_mode,
            "ANTIALIAS": {1: "none", AUTO: "auto"}.get(samples, "fixed"),
            "COMPUTE": _TRITON_DTYPES[compute_dtype(input, theta)],
            "OFFSET": tl.int64 if needs_int64(largest) else tl.int32,
            "CHANNELS_LAST": channels_last,
            "VECTOR": vector,
        },
    )


def grid_of(images: int, size: tuple[int, ...], channels: int, blocks: Blocks) -> int:
    """Programs of a launch over `images` images of `size` (depth, height, width)."""
    return images * tiles_of(size, channels, blocks)


def tiles_of(size: tuple[int, ...], channels: int, blocks: Blocks) -> int:
    """Programs for one image: tiles times channel blocks."""
    depth, height, width = size
    tiles = -(-width // blocks.TILE_X) * -(-height // blocks.TILE_Y) * depth
    return tiles * -(-channels // blocks.BLOCK_C)


def _channel_block(channels: int, most: int) -> int:
    """The largest power of two that divides `channels`, if that is a fair block; else the next one above."""
    divisor = channels & -channels
    above = 1 << (channels - 1).bit_length()
    return min(divisor if divisor >= 16 else above, most)


def forward_blocks(g: Geometry) -> Blocks:
    """Blocks of the forward and the theta-only backward kernel, whose tiles are output pixels."""
    size, facts = g.out_size, g.constexprs
    if facts["CHANNELS_LAST"]:
        block = _channel_block(g.channels, 64)
        # Told any limit, the compiler does not spill registers of these to reach a step below.
        spills = facts["NDIM"] == 3 and facts["MODE"] == "nearest"
        maxnreg = 128 if spills and facts["COMPUTE"] is tl.float32 else None
        warps = 2 if facts["VECTOR"] > 1 and _few_registers(g) else 4
        return Blocks(8, min(2048 // block, 256) // 8, block, warps, maxnreg)
    # A map that turns reads a square with fewer lines of memory than a strip. One that does not reads strips, and so
    # does one whose output they cover with fewer tiles.
    block = _channel_block(g.channels, 8)
    square, strip = Blocks(16, 16, block, 4), Blocks(32, 8, block, 4)
    turns = facts["NDIM"] == 2 and facts["TRANSFORM"] != "attention"
    tiles = [tiles_of(size, 1, each) for each in (square, strip)]
    blocks = square if size[-1] <= 16 or (turns and tiles[0] <= tiles[1]) else strip
    while blocks.BLOCK_C > 1 and grid_of(g.n * g.k, size, g.channels, blocks) < _ENOUGH_PROGRAMS:
        blocks = blocks._replace(BLOCK_C=blocks.BLOCK_C // 2)
    if _few_registers(g) and blocks.BLOCK_C <= 4:
        blocks = blocks._replace(num_warps=1 if g.channels == 1 else 2)
    return blocks


def _few_registers(g: Geometry) -> bool:
    """Whether a lane has room for four pixels and more, which share the work on the map and on the tile."""
    facts = g.constexprs
    return (
        TRANSFORMS[facts["TRANSFORM"]].matrix is not None
        and facts["NDIM"] == 2
        and facts["MODE"] != "bicubic"
        and facts["PADDING"] != "reflection"
        and facts["ANTIALIAS"] == "none"
        and facts["COMPUTE"] is tl.float32
    )


def smaller_blocks(g: Geometry, by: int = 2) -> Blocks:
    """Those blocks with fewer pixels, by this factor, where a kernel needs more registers for each."""
    blocks = forward_blocks(g)
    if by > 1 and not g.constexprs["CHANNELS_LAST"]:
        return blocks._replace(num_warps=4)  # two pixels a lane
    return blocks._replace(TILE_Y=max(blocks.TILE_Y // by, 1))


def gather_blocks(g: Geometry) -> Blocks:
    """Blocks of the gather by pixels, whose tiles are input pixels."""
    # Left alone, the compiler takes up to 200 registers for cubic weights, or spills a few to reach a step below.
    maxnreg = 168 if g.constexprs["COMPUTE"] is tl.float32 else None
    if g.constexprs["CHANNELS_LAST"]:
        block = _channel_block(g.channels, 64)
        pixels = max(min(1024 // block, 64), 16)
        lanes = pixels * block // g.constexprs["VECTOR"]  # one vector a lane
        return Blocks(pixels // 4, 4, block, min(max(lanes // 32, 4), 8), maxnreg)
    return Blocks(16, 8, _channel_block(g.channels, 4), 4, maxnreg)


def box_blocks(g: Geometry) -> Blocks:
    """Blocks of the gather through boxes, whose tiles are input pixels."""
    # Each lane holds the taps of several output pixels: four along an axis where padding moves every tap by itself.
    padding = g.constexprs["PADDING"]
    large = g.constexprs["MODE"] == "bicubic" and padding != "zeros"
    large |= g.constexprs["NDIM"] == 3 and padding == "reflection"
    rows, warps = (2, 8) if large else (4, 4)
    maxnreg = 240 if g.constexprs["COMPUTE"] is tl.float32 else None
    block = _channel_block(g.channels, 32)
    if g.constexprs["CHANNELS_LAST"]:
        return Blocks(8, 2 * rows, block, warps, maxnreg)
    return Blocks(16, rows, block, warps, maxnreg)


class CellBlocks(NamedTuple):
    """What of the gather by cells is not known to the compiler."""

    channels: int  # programs side by side for the channels of a pixel
    rows: int  # of a tile
    maxnreg: int | None


def cell_blocks(g: Geometry, *, with_theta: bool) -> tuple[Spec, CellBlocks]:
    """Blocks of the gather by cells, whose warps walk down strips of the input."""
    facts = g.constexprs
    vector = facts["VECTOR"]
    # Two lanes a cell let a warp move 32 bytes of a pixel at once, in 16 bits, and leave it 16 cells. A lane of four
    # channels in single precision takes some 110 registers, twelve for each channel, one of eight 160.
    vectors = 2 if vector > 1 and g.channels // vector % 2 == 0 else 1
    number = g.channels // (vector * vectors)
    programs = -(-number // max(4 // vector, 1))
    chunks = -(-number // programs) if programs else 1
    cells = 32 // vectors
    rows = _cell_rows(g, cells, programs)
    held = chunks * vector
    # Border, samples and sums in memory take some more.
    more = g.k > 1 or facts["PADDING"] == "border" or facts["ANTIALIAS"] != "none"
    maxnreg = (168 if more else 152) if held > 4 else 144 if more else 128 if held == 4 else 112
    spec = Spec(
        facts["TRANSFORM"], facts["MODE"], facts["PADDING"], facts["ANTIALIAS"],
        facts["COMPUTE"], facts["OFFSET"], facts["CHANNELS_LAST"],
        not facts["CHANNELS_LAST"] and g.strides[-1] == 1, with_theta, g.k != 1,
        cells, vectors, vector, chunks, held <= 4 or g.k == 1, programs * chunks != number,
    )  # fmt: skip
    return spec, CellBlocks(programs, rows, maxnreg if facts["COMPUTE"] is tl.float32 else None)


def _cell_rows(g: Geometry, cells: int, programs: int) -> int:
    """Rows of a tile: many, since what comes before the first costs three, but not so many that a GPU has idle warps.

    The column of cells on the left of a tile is one longer than the tile and found by one row of lanes.
    """
    _, height, width = g.size
    strips = -(-width // cells)
    for most in (28, 16, 11):
        bands = -(-height // min(most, cells - 1))
        if g.n * programs * strips * bands >= _ENOUGH_WARPS:
            break
    else:
        bands = -(-height // 8)
    return -(-height // bands)


def pixels_per_unit_of(g: Geometry) -> tuple[float, ...]:
    """`coords.pixels_per_unit` of the source's width by the output's width and height, then of its height.

    Quotients of numbers below 2**24 round to the same float32 by way of float64.
    """
    align_corners = g.sizes[-2]
    _, height, width = g.size
    return tuple(
        (source - align_corners) / (output - align_corners) if output > align_corners else 0.0
        for source in (width, height)
        for output in (g.out_size[2], g.out_size[1])
    )
