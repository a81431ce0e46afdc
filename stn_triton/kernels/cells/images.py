"""Rows of pixels in the lanes of a warp that gathers by cells: reading them, writing them, and passing sums on.

A block has the shape (VECTORS, CELLS, VECTOR): lanes of a cell, cells, channels of a lane. A program holds CHUNKS
blocks, and most functions here take all of them as a tuple. What has no channels, such as a coordinate, has the shape
(VECTORS, CELLS); `for_channels` makes it fit a block.
"""

from typing import Any, NamedTuple

import triton
import triton.language as tl

from stn_triton.kernels.layout import as_stored


class Image(NamedTuple):
    """Where a program's channels lie in an image."""

    ptr: Any  # to the program's first channel of pixel (0, 0)
    channel: Any  # offsets of a block's channels (channels_last)
    vectors: Any  # how many vectors of channels there are, from the program's first on
    chunk: Any  # elements from one chunk to the next
    outside: Any  # the value of what lies outside the image


class Tile(NamedTuple):
    """The input pixels of a program."""

    x: Any  # of its upper left pixel
    y: Any
    rows: Any  # how many
    lane: Any  # the number of each lane's column
    exists: Any  # whether that column is in the image


@triton.jit
def for_channels(x):
    """A row's values (one a cell) as a block that has them for every channel."""
    return tl.expand_dims(x, 2)


@triton.jit
def zero_row(DTYPE: tl.constexpr, SPEC: tl.constexpr):
    """A zero for each cell of a row."""
    # Triton 3.6 takes a shape from constants with a name only.
    VECTORS: tl.constexpr = SPEC.VECTORS
    CELLS: tl.constexpr = SPEC.CELLS
    return tl.zeros((VECTORS, CELLS), DTYPE)


@triton.jit
def zero_block(DTYPE: tl.constexpr, SPEC: tl.constexpr):
    """A block of zeros."""
    VECTORS: tl.constexpr = SPEC.VECTORS
    CELLS: tl.constexpr = SPEC.CELLS
    VECTOR: tl.constexpr = SPEC.VECTOR
    return tl.zeros((VECTORS, CELLS, VECTOR), DTYPE)


@triton.jit
def zero_blocks(SPEC: tl.constexpr):
    """A tuple of blocks of zeros."""
    CHUNKS: tl.constexpr = SPEC.CHUNKS
    blocks = ()
    for _ in tl.static_range(CHUNKS):
        blocks = blocks + (zero_block(SPEC.COMPUTE, SPEC),)
    return blocks


@triton.jit
def add_blocks(first, second, SPEC: tl.constexpr):
    """The sums of two tuples of blocks, block by block."""
    CHUNKS: tl.constexpr = SPEC.CHUNKS
    total = ()
    for i in tl.static_range(CHUNKS):
        total = total + (first[i] + second[i],)
    return total


@triton.jit
def of_cell(blocks, number, SPEC: tl.constexpr):
    """The blocks of cell `number`, given to all cells."""
    CHUNKS: tl.constexpr = SPEC.CHUNKS
    index = zero_block(tl.int32, SPEC) + number
    chosen = ()
    for i in tl.static_range(CHUNKS):
        chosen = chosen + (tl.gather(blocks[i], index, 1),)
    return chosen


@triton.jit
def from_left(blocks, lane, first, SPEC: tl.constexpr):
    """Each cell's blocks from its neighbour on the left, `first` for the cell without one."""
    CHUNKS: tl.constexpr = SPEC.CHUNKS
    index = zero_block(tl.int32, SPEC) + for_channels(tl.maximum(lane - 1, 0))
    moved = ()
    for i in tl.static_range(CHUNKS):
        there = tl.gather(blocks[i], index, 1)
        moved = moved + (tl.where(for_channels(lane > 0), there, first[i]),)
    return moved


@triton.jit
def channels_in(ptr, first, chunk, vectors, outside, SPEC: tl.constexpr):
    """An image as a program sees it that begins with vector of channels number `first`."""
    vector = tl.arange(0, SPEC.VECTORS)[:, None, None] * SPEC.VECTOR
    channel = vector + tl.arange(0, SPEC.VECTOR)[None, None, :]
    return Image(ptr, channel, vectors - first, chunk, outside)


@triton.jit
def chunk_exists(mask, image, CHUNK: tl.constexpr, SPEC: tl.constexpr):
    """A mask of cells as a mask of block number CHUNK, without the channels that do not exist."""
    # The interpreter takes what numbers and blocks gave together for no mask: hence the comparison.
    block = for_channels(mask != 0)
    if SPEC.MASKED:
        vector = tl.arange(0, SPEC.VECTORS)[:, None, None] + CHUNK * SPEC.VECTORS
        block = block & (vector < image.vectors)
    return block


@triton.jit
def _pointers(image, pixel, CHUNK: tl.constexpr, SPEC: tl.constexpr):
    at = image.ptr + CHUNK * image.chunk
    if SPEC.CHANNELS_LAST:
        at = at + (for_channels(pixel * SPEC.VECTOR) + image.channel)
    else:
        at = at + for_channels(pixel)
    return at


@triton.jit
def load_block(image, pixel, mask, CHUNK: tl.constexpr, SPEC: tl.constexpr):
    """Block number CHUNK at the offsets of pixels (channels_last: in vectors), 0 where masked."""
    mask = chunk_exists(mask, image, CHUNK, SPEC)
    return tl.load(_pointers(image, pixel, CHUNK, SPEC), mask=mask, other=0.0).to(SPEC.COMPUTE)


@triton.jit
def load_row(image, pixel, mask, SPEC: tl.constexpr):
    """All blocks of a row of pixels."""
    CHUNKS: tl.constexpr = SPEC.CHUNKS
    blocks = ()
    for i in tl.static_range(CHUNKS):
        blocks = blocks + (load_block(image, pixel, mask, i, SPEC),)
    return blocks


@triton.jit
def or_outside(blocks, there, image, SPEC: tl.constexpr):
    """Blocks of a row of pixels, and what lies outside the image where these are not `there`."""
    CHUNKS: tl.constexpr = SPEC.CHUNKS
    found = blocks
    if SPEC.HAS_PADDING_VALUE:
        found = ()
        for i in tl.static_range(CHUNKS):
            found = found + (tl.where(for_channels(there != 0), blocks[i], image.outside),)
    return found


@triton.jit
def store_row(image, pixel, mask, blocks, SPEC: tl.constexpr):
    """All blocks of a row of pixels, rounded to what the image holds."""
    CHUNKS: tl.constexpr = SPEC.CHUNKS
    for i in tl.static_range(CHUNKS):
        there = chunk_exists(mask, image, i, SPEC)
        tl.store(_pointers(image, pixel, i, SPEC), as_stored(blocks[i], image.ptr), mask=there)
