"""Blocks of pixels and channels: which lanes hold what, and where an element lies in memory.

A block has one axis of pixels and one of channels. Neighbouring lanes hold channels (channels_last) or pixels:
`per_pixel` and `per_channel` spread a vector over either, and one kernel serves both.
"""

import triton
import triton.language as tl

PIXELS_FIRST = tl.constexpr(tuple(map(int, triton.__version__.split(".")[:2])) < (3, 7))
"""Which axis comes first where pixels are to be in neighbouring lanes.

A gather shows the compiler no contiguous axis, so it takes one by position: the first up to Triton 3.6, the last
since 3.7. The other way round, lanes lie along channels, and every kernel converts layouts through shared memory.
"""


@triton.jit
def per_pixel(x, CHANNELS_LAST: tl.constexpr):
    """A value for each pixel of a block, spread over its channels."""
    return tl.expand_dims(x, 1 if CHANNELS_LAST or PIXELS_FIRST else 0)


@triton.jit
def per_channel(x, CHANNELS_LAST: tl.constexpr):
    """A value for each channel of a block, spread over its pixels."""
    return tl.expand_dims(x, 0 if CHANNELS_LAST or PIXELS_FIRST else 1)


@triton.jit
def tile_pixels(tile, size, TILE_X: tl.constexpr, TILE_Y: tl.constexpr):
    """Lanes of tile number `tile` of an image of `size` (x, y, z): (px, py, pz), perhaps past the image's end.

    Tiles are two-dimensional, slice after slice: pz is one number.
    """
    size_x, size_y, _ = size
    tiles_x = tl.cdiv(size_x, TILE_X)
    tiles_y = tl.cdiv(size_y, TILE_Y)
    lane = tl.arange(0, TILE_X * TILE_Y)
    px = (tile % tiles_x) * TILE_X + lane % TILE_X
    py = (tile // tiles_x % tiles_y) * TILE_Y + lane // TILE_X
    return px, py, tile // (tiles_x * tiles_y)


@triton.jit
def tile_count(size, TILE_X: tl.constexpr, TILE_Y: tl.constexpr):
    """Tiles of an image of `size` (x, y, z)."""
    size_x, size_y, size_z = size
    return tl.cdiv(size_x, TILE_X) * tl.cdiv(size_y, TILE_Y) * size_z


@triton.jit
def program_tile(
    size, first_row, TILE_X: tl.constexpr, TILE_Y: tl.constexpr, NDIM: tl.constexpr
):  # fmt: skip
    """The tile of a program of `launch.launch_tiles`: (px, py, pz) of its lanes as in `tile_pixels`, and its number."""
    size_x, size_y, _ = size
    across, row = tl.program_id(0), first_row + tl.program_id(1)
    tile = row * tl.cdiv(size_x, TILE_X) + across
    pz = row * 0
    if NDIM == 3:
        tiles_y = tl.cdiv(size_y, TILE_Y)
        pz, row = row // tiles_y, row % tiles_y
    lane = tl.arange(0, TILE_X * TILE_Y)
    return across * TILE_X + lane % TILE_X, row * TILE_Y + lane // TILE_X, pz, tile


@triton.jit
def program_image(first_image, channel_blocks, ONE_BLOCK: tl.constexpr):
    """(Image, channel block) of a program of `launch.launch_tiles`."""
    image = first_image + tl.program_id(2)
    block = image * 0
    if not ONE_BLOCK:
        image, block = image // channel_blocks, image % channel_blocks
    return image, block


@triton.jit
def input_image(nk, K):
    """The image that transformer number nk samples; mostly K is 1, and a division costs thirty instructions."""
    n = nk
    if K > 1:
        n = nk // K
    return n.to(tl.int64)


@triton.jit
def channel_lanes(
    block, channel_vectors, BLOCK_C: tl.constexpr, VECTOR: tl.constexpr, EXISTING: tl.constexpr = 0
):  # fmt: skip
    """Channels of channel block number `block`, and which of them exist: the first EXISTING, where that is known.

    Channel counts and strides come in units of VECTOR elements: the multiplication shows the compiler that VECTOR
    neighbours lie together and are masked together, so that it moves them with one instruction.
    """
    channel = block * BLOCK_C + tl.arange(0, BLOCK_C)
    if EXISTING > 0:
        exists = tl.arange(0, BLOCK_C) < EXISTING
    else:
        exists = channel < channel_vectors * VECTOR
    return channel, exists


@triton.jit
def block_offsets(
    pixel, channel, stride_c, CHANNELS_LAST: tl.constexpr, VECTOR: tl.constexpr, OFFSET: tl.constexpr
):  # fmt: skip
    """Offsets of a block's elements inside one image, from those of its pixels (in vectors) and its channels."""
    if CHANNELS_LAST:
        offsets = per_pixel(pixel, CHANNELS_LAST) * VECTOR + per_channel(channel, CHANNELS_LAST)
    else:
        channel = per_channel(channel.to(OFFSET) * stride_c, CHANNELS_LAST)
        offsets = per_pixel(pixel, CHANNELS_LAST) + channel
    return offsets


@triton.jit
def dense_pixels(px, py, pz, size, C, CHANNELS_LAST: tl.constexpr, OFFSET: tl.constexpr):
    """Offsets of pixels (in vectors) in an image of `size` (x, y, z) without gaps."""
    size_x, size_y, _ = size
    pixel = (pz.to(OFFSET) * size_y + py) * size_x + px
    if CHANNELS_LAST:
        pixel = pixel * C
    return pixel


@triton.jit
def elements(size, OFFSET: tl.constexpr):
    """Elements of one channel of an image of `size` (x, y, z)."""
    size_x, size_y, size_z = size
    return size_x.to(OFFSET) * size_y * size_z


@triton.jit
def as_stored(x, ptr):
    """A value in the dtype of what `ptr` points to."""
    if ptr.dtype.element_ty == tl.bfloat16:
        x = x.to(tl.float32)  # Triton's interpreter narrows float64 to bfloat16 wrongly in one step
    return x.to(ptr.dtype.element_ty)


@triton.jit
def block_zeros(
    PIXELS: tl.constexpr, BLOCK_C: tl.constexpr, CHANNELS_LAST: tl.constexpr, DTYPE: tl.constexpr
):  # fmt: skip
    """A block of zeros."""
    if CHANNELS_LAST or PIXELS_FIRST:
        zeros = tl.zeros((PIXELS, BLOCK_C), DTYPE)
    else:
        zeros = tl.zeros((BLOCK_C, PIXELS), DTYPE)
    return zeros


@triton.jit
def block_product(weights, block, CHANNELS_LAST: tl.constexpr):
    """Weighted sums of a block's pixels, for every pixel of another block.

    weights: that block's pixels where blocks have pixels, this block's where they have channels.
    """
    if CHANNELS_LAST or PIXELS_FIRST:
        left, right = weights, block
    else:
        left, right = block, weights
    return tl.dot(left, right, input_precision="ieee", out_dtype=block.dtype)


@triton.jit
def sum_pixels(x, CHANNELS_LAST: tl.constexpr):
    """Add up a block's pixels: a vector of channels."""
    return tl.sum(x, 0 if CHANNELS_LAST or PIXELS_FIRST else 1)


@triton.jit
def sum_channels(x, CHANNELS_LAST: tl.constexpr):
    """Add up a block's channels: a vector of pixels."""
    return tl.sum(x, 1 if CHANNELS_LAST or PIXELS_FIRST else 0)


@triton.jit
def sum_lane_channels(x, CHANNELS_LAST: tl.constexpr, VECTOR: tl.constexpr):
    """Add up a block's channels as far as one lane holds them.

    Pixels in lanes: a lane holds all channels, the result is a block of one channel. Channels in lanes: a lane holds
    VECTOR of them, the result is pixels x (channels / VECTOR), to be added up once, after all loops.
    """
    if CHANNELS_LAST:
        total = tl.sum(tl.reshape(x, (x.shape[0], x.shape[1] // VECTOR, VECTOR)), 2)
    else:
        total = per_pixel(sum_channels(x, CHANNELS_LAST), CHANNELS_LAST)
    return total


@triton.jit
def lane_zeros(
    PIXELS: tl.constexpr, BLOCK_C: tl.constexpr, CHANNELS_LAST: tl.constexpr,
    VECTOR: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Zeros in the shape of `sum_lane_channels` of a block."""
    return block_zeros(PIXELS, BLOCK_C // VECTOR if CHANNELS_LAST else 1, CHANNELS_LAST, DTYPE)
