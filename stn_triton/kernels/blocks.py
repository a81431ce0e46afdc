"""Block sizes: what one program holds. Nothing is tuned at run time, and the numbers here are the only tuning.

Chosen by counting the instructions and sectors of the compiled kernels (`bench.emulate`) and, where the comment says
so, by timing them on an H100 (`bench.tune`). Every number has its reason beside it.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import triton.language as tl

from stn_triton.transforms import TRANSFORMS

from .cells.plan import CellSpec
from .geometry import Geometry
from .launch import Registers

_ENOUGH_WARPS = 2048
"""About sixteen for each multiprocessor of a large GPU: fewer leave it waiting for memory."""
_ENOUGH_PROGRAMS = 1024
"""The same in programs of two warps."""
_STREAMED = 2**16
"""An image of more pixels does not stay in the L1 caches until every program that reads it has run."""


class Blocks(NamedTuple):
    """Pixels and channels of one program, its warps, and the registers of a lane at most.

    LINE: pixels of a row in neighbouring lanes of a warp, before the next row; 32: a whole row of the tile.
    """

    TILE_X: int
    TILE_Y: int
    BLOCK_C: int
    num_warps: int
    maxnreg: Registers | None = None
    LINE: int = 32


def tiles_of(size: tuple[int, ...], channels: int, blocks: Blocks) -> int:
    """Programs for one image of `size` (depth, height, width): tiles times channel blocks."""
    depth, height, width = size
    tiles = -(-width // blocks.TILE_X) * -(-height // blocks.TILE_Y) * depth
    return tiles * -(-channels // blocks.BLOCK_C)


def _channel_block(channels: int, most: int) -> int:
    """The largest power of two that divides `channels`, if that is 16 or more; else the next one above."""
    divisor = channels & -channels
    above = 1 << (channels - 1).bit_length()
    return min(divisor if divisor >= 16 else above, most)


@lru_cache(maxsize=1024)
def forward_blocks(g: Geometry) -> Blocks:
    """Blocks of the forward kernel, whose tiles are output pixels."""
    # A second source coordinate and its slopes leave room for half as many pixels.
    blocks = _output_blocks(g, 2 if g.spec.TANGENT else 1)
    if _has_room(g) and not g.spec.CHANNEL_LANES and g.spec.TRANSFORM != "attention":
        # One pixel a lane leaves registers for twice as many warps, and a map that turns waits for memory. (H100:
        # 8x3x1234x1345 164 us for 177, 32x256x56² 89 for 97. Strips of maps that do not turn lose by it.)
        if blocks.BLOCK_C == 8:
            return blocks._replace(num_warps=8)
        if blocks.BLOCK_C == 4:
            return blocks._replace(TILE_X=16, TILE_Y=8, num_warps=4)
    return blocks


@lru_cache(maxsize=1024)
def theta_blocks(g: Geometry) -> Blocks:
    """Blocks of the theta-only backward kernel, whose tiles are output pixels too."""
    spec = g.spec
    # Short loads of channels_last have an address each; bicubic has sixteen taps; a tangent second derivatives.
    short = spec.CHANNEL_LANES and spec.VECTOR <= 4
    cubic = spec.MODE == "bicubic"
    few = short or cubic or spec.TANGENT
    blocks = _output_blocks(g, 4 if cubic and spec.TANGENT else 2 if few else 1)
    if _many_instructions(g):
        # Each number of a lattice is a sum over the tile: inside a warp, of four pixels a lane, these cost least.
        return blocks._replace(TILE_X=16, TILE_Y=8, num_warps=1)
    if not spec.CHANNEL_LANES and blocks.BLOCK_C == 8 and _has_room(g):
        # On sm_80 the compiler spills to reach 96. Any explicit limit stops that, and from sm_90 on it asks for less.
        return blocks._replace(maxnreg=Registers(128, 128))
    return blocks


def _output_blocks(g: Geometry, fewer: int) -> Blocks:
    """Blocks over output pixels, with `fewer` times fewer pixels a lane than suit bilinear sampling."""
    spec = g.spec
    if spec.CHANNEL_LANES:
        blocks = _last_blocks(g)
    else:
        blocks = _first_blocks(g)
    if spec.TANGENT and TRANSFORMS[spec.TRANSFORM].lattice and spec.COMPUTE is tl.float32:
        # As for 3-D nearest in `_last_blocks`.
        blocks = blocks._replace(maxnreg=Registers(128, 128))
    if fewer > 1 and not spec.CHANNEL_LANES:
        return blocks._replace(num_warps=4)  # two pixels a lane
    return blocks._replace(TILE_Y=max(blocks.TILE_Y // fewer, 1))


def _last_blocks(g: Geometry) -> Blocks:
    """channels_last: 2,048 elements, that is 32 to 256 pixels of up to 64 channels, in lines of eight pixels.

    Four warps: timed on an H100, two pixels a lane take 12 % less than four.
    """
    spec, block = g.spec, _channel_block(g.channels, 64)
    # 3-D nearest: without a limit the compiler spills to reach a smaller register count. Any explicit limit stops that.
    spills = spec.NDIM == 3 and spec.MODE == "nearest" and spec.COMPUTE is tl.float32
    return Blocks(
        8, min(2048 // block, 256) // 8, block, 4, Registers(128, 128) if spills else None
    )


def _first_blocks(g: Geometry) -> Blocks:
    """contiguous: 256 pixels of up to 8 channels."""
    spec, size = g.spec, g.out_size
    turns = spec.TRANSFORM != "attention"
    if spec.NDIM == 3 and turns and g.channels > 1:
        # Rows of a turned volume share nothing: 256 pixels of 8 channels touch 64 KB at each tap, which pushes out of
        # the L1 what the next tap would find there. (H200, 2x32x64³: 470 us, three times what is counted.)
        return Blocks(8, 8, 2, 2)
    block = _channel_block(g.channels, 8)
    if g.sparse:
        # No two pixels share a line of memory, and an L1 holds two thousand of them: the right taps find what the left
        # ones fetched only if they follow at once. (H100, 512x3x256² to 32²: 60 us; four pixels a lane of three
        # channels: 97 us.) With channels last one line has all channels of a pixel.
        return Blocks(16, 8, block if spec.CHANNELS_LAST else 1, 4, LINE=8)
    # A map that turns reads a square with fewer lines of memory than a strip. One that does not reads strips, and so
    # does one whose output they cover with clearly fewer tiles. (H100, 32x256x56²: 16 squares 90 us, 14 strips 106.)
    square, strip = Blocks(16, 16, block, 4), Blocks(32, 8, block, 4)
    tiles = [tiles_of(size, 1, each) for each in (square, strip)]
    blocks = square if size[-1] <= 16 or (turns and tiles[0] <= 1.2 * tiles[1]) else strip
    if turns:
        # So does a warp: its pixels form a square, too. DRAM answers with 64 bytes, so that a row has 16 pixels then.
        blocks = blocks._replace(LINE=16 if math.prod(g.size) > _STREAMED else 8)
    # Several programs share the channels where one for all would leave multiprocessors idle.
    while blocks.BLOCK_C > 1 and g.maps * tiles_of(size, g.channels, blocks) < _ENOUGH_PROGRAMS:
        blocks = blocks._replace(BLOCK_C=blocks.BLOCK_C // 2)
    if _has_room(g) and blocks.BLOCK_C <= 4:
        blocks = blocks._replace(num_warps=1 if g.channels == 1 else 2)
    if _many_instructions(g) and blocks.BLOCK_C <= 4:
        blocks = blocks._replace(num_warps=2)
    return blocks


def _many_instructions(g: Geometry) -> bool:
    """Whether the map costs so much that four pixels a lane, which share some of it, are worth their registers."""
    spec = g.spec
    lattice = TRANSFORMS[spec.TRANSFORM].lattice is not None
    return lattice and not spec.CHANNEL_LANES and not spec.TANGENT and _few_registers(g)


def _has_room(g: Geometry) -> bool:
    """Whether a lane has registers for four pixels and more, which share the work on the map and on the tile."""
    linear = TRANSFORMS[g.spec.TRANSFORM].matrix is not None
    return linear and g.spec.NDIM == 2 and _few_registers(g)


def _few_registers(g: Geometry) -> bool:
    """Whether to sample a pixel takes few registers."""
    spec = g.spec
    return (
        spec.MODE != "bicubic"
        and spec.PADDING != "reflection"
        and spec.ANTIALIAS == "none"
        and spec.COMPUTE is tl.float32
    )


def _one_warp(g: Geometry, most: int, channels: int) -> Blocks:
    """One warp, whose lanes are input pixels with so many channels, or vectors of channels; `most`: registers."""
    limit = Registers(most, most) if g.spec.COMPUTE is tl.float32 else None
    if g.spec.CHANNEL_LANES:
        block = _channel_block(g.channels, 64)
        pixels = max(32 * g.spec.VECTOR // block, 4)
        rows = 2 if pixels < 32 else 4
        return Blocks(pixels // rows, rows, block, 1, limit)
    return Blocks(8, 4, _channel_block(g.channels, channels), 1, limit)


@lru_cache(maxsize=1024)
def box_blocks(g: Geometry) -> Blocks:
    """Blocks of the gather through boxes, whose tiles are input pixels."""
    # It waits for memory: more warps that are resident are worth more than registers.
    spec = g.spec
    small = spec.MODE != "bicubic" and not spec.CHANNEL_LANES and not spec.TANGENT
    blocks = _one_warp(g, 80 if small else 168, 4)
    # Two pixels a lane share what is found out about an output, where that leaves enough programs.
    high = blocks._replace(TILE_Y=2 * blocks.TILE_Y)
    enough = g.n * tiles_of(g.size, g.channels, high) >= _ENOUGH_WARPS
    return high if small and enough else blocks


@lru_cache(maxsize=1024)
def pixel_blocks(g: Geometry) -> tuple[Blocks, int]:
    """(Blocks of the gather by pixels, rows of a tile that are in lanes together).

    What a program finds out about the map serves four tiles below each other, where that leaves enough programs.
    """
    # Any explicit limit keeps the compiler from spilling to reach a smaller register count. Eight channels share the
    # search for outputs: with 48 channels, blocks of eight issue 1.7 times fewer instructions than blocks of four.
    blocks = _one_warp(g, 168, 8)
    rows = blocks.TILE_Y
    high = blocks._replace(TILE_Y=4 * rows)
    enough = g.n * tiles_of(g.size, g.channels, high) >= 2 * _ENOUGH_WARPS
    return high if enough else blocks, rows


class CellBlocks(NamedTuple):
    """What the launcher of the gather by cells chooses without another compilation of the kernel."""

    channels: int  # programs side by side for the channels of a pixel
    rows: int  # of a tile
    maxnreg: Registers | None


@lru_cache(maxsize=1024)
def cell_blocks(g: Geometry, *, with_theta: bool) -> tuple[CellSpec, CellBlocks]:
    """Blocks of the gather by cells, whose warps walk down strips of the input."""
    spec = g.spec
    vector = spec.VECTOR
    # Two lanes a cell let a warp move 32 bytes of a pixel at once, in 16 bits, and leave it 16 cells.
    vectors = 2 if vector > 1 and g.vectors % 2 == 0 else 1
    number = g.channels // (vector * vectors)
    # A lane of four channels in single precision takes some 110 registers, twelve for each channel, one of eight 160.
    programs = -(-number // max(4 // vector, 1))
    chunks = -(-number // programs) if programs else 1
    cells = 32 // vectors
    held = chunks * vector
    # (H100: 8x3x1234x1345 380 us for 420. Crops, and eight channels a lane, lose by it.)
    ahead = with_theta and spec.TRANSFORM == "affine" and held <= 4
    cell_spec = CellSpec(
        *(spec if with_theta else g.linear_spec),
        DENSE=not spec.CHANNELS_LAST and g.strides[-1] == 1,
        WITH_THETA=with_theta,
        SEVERAL=g.several,
        CELLS=cells,
        VECTORS=vectors,
        CHUNKS=chunks,
        FOURFOLD=held <= 4 or not g.several,
        MASKED=programs * chunks != number,
        AHEAD=ahead,
        LEAVE_APART=False,
    )
    maxnreg = (
        _cell_registers(g, held, with_theta=with_theta, ahead=ahead)
        if spec.COMPUTE is tl.float32
        else None
    )
    return cell_spec, CellBlocks(programs, _cell_rows(g, cells, programs), maxnreg)


def _cell_registers(g: Geometry, held: int, *, with_theta: bool, ahead: bool) -> Registers:
    """The limit of registers. held: channels of a lane.

    From Hopper on it was timed, on an H100, where a few spilled numbers cost less than missing warps. For GPUs before
    it is the lowest one, in steps of 16, with which nothing is spilled.
    """
    # Border, samples and sums in memory take some more, and so do theta's sums.
    more = g.several or g.spec.PADDING == "border" or g.spec.ANTIALIAS != "none"
    sums = 16 if with_theta else 0
    if held > 4:
        return Registers(168 if more else 152, 128)
    if held == 4 or more:
        return Registers((144 if more else 128) + sums, 128 if with_theta else 96)
    return Registers(112 + sums, 112 if ahead else 96)


def _cell_rows(g: Geometry, cells: int, programs: int) -> int:
    """Rows of a tile: many, as the two phases before them cost as much as three, but few enough to leave many warps.

    The column of cells on the left of a tile is one longer than the tile and found by one row of lanes.
    """
    _, height, width = g.size
    strips = -(-width // cells)
    for most in (16, 8):
        bands = -(-height // min(most, cells - 1))
        if g.n * programs * strips * bands >= 2 * _ENOUGH_WARPS:
            break
    else:
        bands = -(-height // 4)
    return -(-height // bands)
