"""What the gathers by pixels and through boxes are compiled for, and what their functions hand to each other."""

from typing import Any, NamedTuple

import triton
import triton.language as tl

from stn_triton.kernels.layout import dense_image
from stn_triton.kernels.supersampling import load_finer_map


class PixelSpec(NamedTuple):
    """What the kernel is compiled for: a `geometry.Spec`, field by field, and what it adds."""

    TRANSFORM: str
    NDIM: int
    MODE: str
    PADDING: str
    HAS_PADDING_VALUE: bool  # False
    ANTIALIAS: str
    TANGENT: bool
    INDEXED: bool
    COMPUTE: Any
    OFFSET: Any
    CHANNELS_LAST: bool
    CHANNEL_LANES: bool
    VECTOR: int
    SCATTERED: bool  # False
    LOCATED: bool  # False
    SEVERAL: bool  # transformations of an image
    LANES_Y: int  # rows of a tile that are in lanes together


class Tile(NamedTuple):
    """The input pixels of a program."""

    x: Any  # of its lanes
    y: Any
    z: Any  # one slice
    exists: Any  # lanes inside the image


class Grid(NamedTuple):
    """What one transformer samples: its map, and where the gradients of its output lie."""

    m: Any  # from the finer output to source pixels
    t: Any  # its change
    size: Any  # of the input, (x, y, z)
    finer: Any  # of the output with a pixel for each sample
    out: Any  # of the output
    samples: Any  # along each axis of an output pixel
    align_corners: Any
    ptr: Any  # of the gradients
    C: Any  # vectors of channels
    channels: Any  # of the program


@triton.jit
def load_grid(call, grad_output_ptr, nk, C, channels, SPEC: tl.constexpr):
    """The samples of transformer number nk."""
    samples, finer, m, t = load_finer_map(call, nk, SPEC)
    grad = dense_image(grad_output_ptr, nk, call.out, C, SPEC)
    return Grid(m, t, call.size, finer, call.out, samples, call.align_corners, grad, C, channels)
