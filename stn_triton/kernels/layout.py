"""Blocks of pixels and channels: which lanes hold what, and where an element lies in memory.

A block has one axis of pixels and one of channels. Neighbouring lanes hold channels (channels_last, but for a few odd
ones) or pixels: `per_pixel` and `per_channel` spread a vector over either, and one kernel serves both.
"""

from typing import Any, NamedTuple

import triton
import triton.language as tl

PIXELS_FIRST = tl.constexpr(tuple(map(int, triton.__version__.split(".")[:2])) < (3, 7))
"""Which axis comes first where pixels are to be in neighbouring lanes.

A gather shows the compiler no contiguous axis, so it takes one by position: the first up to Triton 3.6, the last
since 3.7. The other way round, lanes lie along channels, and every kernel converts layouts through shared memory.
"""


class Tiling(NamedTuple):
    """What one program holds, at compile time."""

    TILE_X: int
    TILE_Y: int
    LINE: int  # pixels of a row in neighbouring lanes, before the next row
    BLOCK_C: int
    EXISTING: int  # channels of a block that exist, where it is the same for all; else 0
    ONE_BLOCK: bool  # one block holds all channels


class Channels(NamedTuple):
    """The channels of a program's block."""

    number: Any
    exists: Any  # as a block of one pixel


class Image(NamedTuple):
    """An image of the input: where it begins, and its strides in vectors."""

    ptr: Any
    channel: Any
    slice: Any
    row: Any
    pixel: Any
    outside: Any  # what lies there


@triton.jit
def per_pixel(x, SPEC: tl.constexpr):
    """A value for each pixel of a block, spread over its channels."""
    return tl.expand_dims(x, 1 if SPEC.CHANNEL_LANES or PIXELS_FIRST else 0)


@triton.jit
def per_channel(x, SPEC: tl.constexpr):
    """A value for each channel of a block, spread over its pixels."""
    return tl.expand_dims(x, 0 if SPEC.CHANNEL_LANES or PIXELS_FIRST else 1)


@triton.jit
def tile_count(size, TILING: tl.constexpr):
    """Tiles of an image of `size` (x, y, z): two-dimensional ones, slice after slice."""
    size_x, size_y, size_z = size
    return tl.cdiv(size_x, TILING.TILE_X) * tl.cdiv(size_y, TILING.TILE_Y) * size_z


@triton.jit
def program_tile(size, first_row, SPEC: tl.constexpr, TILING: tl.constexpr):
    """The tile of a program of `launch.launch_tiles`: (px, py, pz) of its lanes, and its number.

    A warp holds a patch of LINE pixels across. Pixels may lie past the image's end. pz is one number.
    """
    size_x, size_y, _ = size
    across, row = tl.program_id(0), first_row + tl.program_id(1)
    tile = row * tl.cdiv(size_x, TILING.TILE_X) + across
    pz = row * 0
    if SPEC.NDIM == 3:
        tiles_y = tl.cdiv(size_y, TILING.TILE_Y)
        pz, row = row // tiles_y, row % tiles_y
    lane = tl.arange(0, TILING.TILE_X * TILING.TILE_Y)
    patch, lane = lane // 32, lane % 32
    patches = TILING.TILE_X // TILING.LINE
    px = patch % patches * TILING.LINE + lane % TILING.LINE
    py = patch // patches * (32 // TILING.LINE) + lane // TILING.LINE
    return across * TILING.TILE_X + px, row * TILING.TILE_Y + py, pz, tile


@triton.jit
def program_image(first_image, C, SPEC: tl.constexpr, TILING: tl.constexpr):
    """(Image, channel block) of a program of `launch.launch_tiles`."""
    image = first_image + tl.program_id(2)
    block = image * 0
    if not TILING.ONE_BLOCK:
        blocks = channel_blocks(C, SPEC, TILING)
        image, block = image // blocks, image % blocks
    return image, block


@triton.jit
def channel_blocks(C, SPEC: tl.constexpr, TILING: tl.constexpr):
    """Blocks that C vectors of channels take."""
    return tl.cdiv(C * SPEC.VECTOR, TILING.BLOCK_C)


@triton.jit
def _number_of_image(nk, index_ptr, K, SPEC: tl.constexpr):
    """The image that transformer number nk samples; indexed: which may be none of the K, and then is the first.

    Mostly K is 1, and a division costs thirty instructions.
    """
    n = nk
    if SPEC.INDEXED:
        number = tl.load(index_ptr + nk)
        n = tl.where(_is_image(number, K), number, 0)
    elif K > 1:
        n = nk // K
    return n.to(tl.int64)


@triton.jit
def _is_image(number, images):
    """Whether an image has that number."""
    return (number >= 0) & (number < images)


@triton.jit
def sampled_image(input_ptr, index_ptr, nk, K, strides, padding_value, SPEC: tl.constexpr):
    """The image that transformer number nk samples; strides: of the input (n, c, d, h, w), in vectors."""
    stride_n, stride_c, stride_d, stride_h, stride_w = strides
    at = input_ptr + _number_of_image(nk, index_ptr, K, SPEC) * stride_n * SPEC.VECTOR
    outside = outside_value(padding_value, SPEC)
    return Image(at, stride_c, stride_d, stride_h, stride_w, outside)


@triton.jit
def where_sampled(pixels, index_ptr, nk, images, SPEC: tl.constexpr):
    """Those of the pixels of transformer number nk that sample an image; indexed: none if its index names no image."""
    if SPEC.INDEXED:
        # The interpreter takes what numbers and blocks gave together for no mask.
        pixels = (pixels & _is_image(tl.load(index_ptr + nk), images)) != 0
    return pixels


@triton.jit
def rows_of(n, starts_ptr):
    """Which transformations sample image n: the first and the last but one of `ragged.rows_of_images`."""
    return tl.load(starts_ptr + n), tl.load(starts_ptr + n + 1)


@triton.jit
def block_channels(block, C, SPEC: tl.constexpr, TILING: tl.constexpr):
    """The channels of channel block number `block`.

    Channel counts and strides come in units of VECTOR elements: the multiplication shows the compiler that VECTOR
    neighbours lie together and are masked together, so that it moves them with one instruction.
    """
    lane = tl.arange(0, TILING.BLOCK_C)
    channel = block * TILING.BLOCK_C + lane
    if TILING.EXISTING > 0:
        exists = lane < TILING.EXISTING
    else:
        exists = channel < C * SPEC.VECTOR
    return Channels(channel, per_channel(exists, SPEC))


@triton.jit
def _pointers(ptr, pixel, stride_c, channels, SPEC: tl.constexpr):
    """Pointers to a block's elements, from the offsets of its pixels (in vectors) in the image at `ptr`."""
    if SPEC.CHANNEL_LANES:
        offsets = per_pixel(pixel, SPEC) * SPEC.VECTOR + per_channel(channels.number, SPEC)
    else:
        channel = per_channel(channels.number.to(SPEC.OFFSET) * stride_c, SPEC)
        offsets = per_pixel(pixel, SPEC) + channel
    return ptr + offsets


@triton.jit
def input_block(image, ix, iy, slice_offset, channels, SPEC: tl.constexpr):
    """Pointers to pixels (ix, iy) of a slice of the input, which may have any strides."""
    pixel = iy.to(SPEC.OFFSET) * image.row + ix.to(SPEC.OFFSET) * image.pixel + slice_offset
    return _pointers(image.ptr, pixel, image.channel, channels, SPEC)


@triton.jit
def outside_value(padding_value, SPEC: tl.constexpr):
    """What lies outside an image, as `geometry.Geometry.padding` hands it over."""
    if SPEC.COMPUTE == tl.float64:
        value = padding_value.to(tl.int64).to(tl.float64, bitcast=True)
    else:
        value = padding_value
    return value


@triton.jit
def dense_image(ptr, number, size, C, SPEC: tl.constexpr):
    """Image `number`, of `size` (x, y, z) and C vectors of channels, of those that lie at `ptr` without gaps."""
    size_x, size_y, size_z = size
    return ptr + number.to(tl.int64) * C * SPEC.VECTOR * size_x * size_y * size_z


@triton.jit
def dense_block(image, p, size, C, channels, SPEC: tl.constexpr):
    """Pointers to pixels p = (px, py, pz) of such an image."""
    size_x, size_y, size_z = size
    px, py, pz = p
    plane = size_x.to(SPEC.OFFSET) * size_y * size_z
    pixel = (pz.to(SPEC.OFFSET) * size_y + py) * size_x + px
    if SPEC.CHANNELS_LAST:
        pixel = pixel * C
        # The stride is 1. The compiler must not see that, or it would lay lanes along the channels.
        plane = tl.minimum(C, 1)
    return _pointers(image, pixel, plane, channels, SPEC)


@triton.jit
def load_dense(image, p, size, C, channels, exists, SPEC: tl.constexpr):
    """The block at pixels p of such an image, and 0 where a pixel or channel does not exist."""
    at = dense_block(image, p, size, C, channels, SPEC)
    there = per_pixel(exists, SPEC) & channels.exists
    return tl.load(at, mask=there, other=0.0).to(SPEC.COMPUTE)


@triton.jit
def store_dense(image, p, size, C, channels, exists, x, SPEC: tl.constexpr):
    """Store block x at pixels p of such an image, as far as pixels and channels exist."""
    at = dense_block(image, p, size, C, channels, SPEC)
    tl.store(at, as_stored(x, image), mask=per_pixel(exists, SPEC) & channels.exists)


@triton.jit
def as_stored(x, ptr):
    """A value in the dtype of what `ptr` points to."""
    if ptr.dtype.element_ty == tl.bfloat16:
        x = x.to(tl.float32)  # Triton's interpreter narrows float64 to bfloat16 wrongly in one step
    return x.to(ptr.dtype.element_ty)


@triton.jit
def block_zeros(PIXELS: tl.constexpr, BLOCK_C: tl.constexpr, SPEC: tl.constexpr):
    """A block of zeros."""
    COMPUTE: tl.constexpr = SPEC.COMPUTE
    if SPEC.CHANNEL_LANES or PIXELS_FIRST:
        zeros = tl.zeros((PIXELS, BLOCK_C), COMPUTE)
    else:
        zeros = tl.zeros((BLOCK_C, PIXELS), COMPUTE)
    return zeros


@triton.jit
def sum_pixels(x, SPEC: tl.constexpr):
    """Add up a block's pixels: a vector of channels."""
    return tl.sum(x, 0 if SPEC.CHANNEL_LANES or PIXELS_FIRST else 1)


@triton.jit
def sum_channels(x, SPEC: tl.constexpr):
    """Add up a block's channels: a vector of pixels."""
    return tl.sum(x, 1 if SPEC.CHANNEL_LANES or PIXELS_FIRST else 0)
