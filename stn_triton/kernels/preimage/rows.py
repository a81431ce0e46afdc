"""Rows of a preimage: which outputs of a row lie in strips.

What a pixel collects are the outputs whose source coordinates lie within reach of it. For every map that has an
inverse these are linear conditions on the output's coordinates, and in a row of the output each one is an interval.
Bounds are generous: `visit` then decides about each output, by its coordinate as the forward kernel finds it.
"""

from typing import Any, NamedTuple

import triton
import triton.language as tl


class Strip(NamedTuple):
    """low <= by_x dx + by_y dy + by_z dz <= high, outputs (dx, dy, dz) from the centre; a half plane has no high."""

    by_x: Any
    by_y: Any
    by_z: Any
    low: Any  # where by_x is negative low and high have changed places
    high: Any
    inverse: Any  # 1 / by_x, +inf for 0


class Preimage(NamedTuple):
    """Outputs that may touch a pixel: where the strips overlap, in these rows and slices."""

    top: Any
    bottom: Any  # above top where no output touches the pixel
    front: Any
    back: Any
    strips: Any


@triton.jit
def first_index(x, size):
    """The first index at or after x, within [0, size]; 0 if x is NaN."""
    x = tl.minimum(tl.maximum(x, 0.0), size.to(x.dtype))  # a maximum with NaN is the other number
    return tl.ceil(x).to(tl.int32)


@triton.jit
def last_index(x, size):
    """The last index at or before x, within [-1, size - 1]; size - 1 if x is NaN."""
    x = tl.maximum(tl.minimum(x, (size - 1).to(x.dtype)), -1.0)
    return tl.floor(x).to(tl.int32)


@triton.jit
def is_finite(x):
    """Whether a number is finite, in a form that the interpreter takes beside blocks too."""
    return (tl.abs(x) < float("inf")) != 0


@triton.jit
def whole_inverse(x):
    """1 / x, and +inf for a zero of either sign: ends that are multiplied by it then leave an empty interval or all."""
    return 1 / tl.where(x == 0, 0.0, x).to(x.dtype)


@triton.jit
def make_strip(by_x, by_y, by_z, centre, half, inverse):
    """The strip centre +- half."""
    turned = tl.where(by_x < 0, -half, half)
    return Strip(by_x, by_y, by_z, centre - turned, centre + turned, inverse)


@triton.jit
def row_interval(strips, dy, dz, width, SPEC: tl.constexpr):
    """The pixels of an output row that lie in all strips: (first, last), empty as last < first."""
    HALVES: tl.constexpr = SPEC.TRANSFORM == "projective"
    COUNT: tl.constexpr = 4 if SPEC.TRANSFORM == "projective" else SPEC.NDIM
    infinity = float("inf")
    left, right = dy, dy
    for i in tl.static_range(COUNT):
        strip = strips[i]
        across = strip.by_y * dy
        if SPEC.NDIM == 3:
            across = tl.fma(strip.by_z, dz, across)
        near = (strip.low - across) * strip.inverse
        if HALVES:
            far = tl.where(strip.by_x < 0, near, infinity).to(dy.dtype)
            near = tl.where(strip.by_x < 0, -infinity, near).to(dy.dtype)
        else:
            far = (strip.high - across) * strip.inverse
        if i == 0:
            left, right = near, far
        else:
            left, right = tl.maximum(left, near), tl.minimum(right, far)
    # Each end went through four roundings, of numbers up to the output's width: eight of them are allowed for.
    EPS: tl.constexpr = 2.0**-52 if SPEC.COMPUTE == tl.float64 else 2.0**-23
    most = width.to(SPEC.COMPUTE)
    slack = 8 * EPS * most
    centre = (most - 1) * 0.5
    return first_index(left + (centre - slack), width), last_index(right + (centre + slack), width)
