"""Projective maps (homographies), in 2-D (paper, section 3.2).

    x = a dx + b dy + c,  y = d dx + e dy + f,  z = g dx + h dy + i;    sx = x / z + mx,  sy = y / z + my,

with (dx, dy) the distance from the centre of the output, and (mx, my) the centre of the source. z = 0 lies outside.
"""

from collections import namedtuple
from typing import Any, NamedTuple

import triton
import triton.language as tl

from .units import divide, half, linear, middle, pixels_per_unit, units_per_pixel


class Projective(NamedTuple):
    """The homogeneous matrix in pixels (its last row for a third coordinate without unit), and the source's centre."""

    a: Any
    b: Any
    c: Any
    d: Any
    e: Any
    f: Any
    g: Any
    h: Any
    i: Any
    mx: Any
    my: Any


Matrix = namedtuple("Matrix", "a b c d e f g h i")
"""Accumulators of the derivatives by the matrix."""


@triton.jit
def load(row, call, out, ORIGIN: tl.constexpr, SPEC: tl.constexpr):
    """The map that theta at `row` stands for, of eight numbers or nine; ORIGIN 0.0: its change, whose ninth is 0."""
    COMPUTE: tl.constexpr = SPEC.COMPUTE
    W, H, _ = call.size
    OW, OH, _ = out
    align = call.align_corners
    return Projective(
        tl.load(row).to(COMPUTE) * pixels_per_unit(W, OW, align, SPEC),
        tl.load(row + 1).to(COMPUTE) * pixels_per_unit(W, OH, align, SPEC),
        tl.load(row + 2).to(COMPUTE) * half(W, align, SPEC),
        tl.load(row + 3).to(COMPUTE) * pixels_per_unit(H, OW, align, SPEC),
        tl.load(row + 4).to(COMPUTE) * pixels_per_unit(H, OH, align, SPEC),
        tl.load(row + 5).to(COMPUTE) * half(H, align, SPEC),
        tl.load(row + 6).to(COMPUTE) * units_per_pixel(OW, align, SPEC),
        tl.load(row + 7).to(COMPUTE) * units_per_pixel(OH, align, SPEC),
        tl.load(row + 8, mask=call.PARAMETERS == 9, other=ORIGIN).to(COMPUTE),
        middle(W, SPEC),
        middle(H, SPEC),
    )


@triton.jit
def homogeneous(m, dx, dy):
    """(x, y, z) of output pixels."""
    return (
        linear(m.a, m.b, m.c, dx, dy),
        linear(m.d, m.e, m.f, dx, dy),
        linear(m.g, m.h, m.i, dx, dy),
    )


@triton.jit
def locate(m, dx, dy):
    """Source coordinates of output pixels."""
    x, y, z = homogeneous(m, dx, dy)
    outside = z == 0
    infinity = float("inf")
    sx = tl.where(outside, infinity, divide(x, z)).to(x.dtype) + m.mx
    sy = tl.where(outside, infinity, divide(y, z)).to(x.dtype) + m.my
    return sx, sy


@triton.jit
def along(m, t, dx, dy):
    """How source coordinates change as the map changes along t."""
    x, y, z = homogeneous(m, dx, dy)
    x_along, y_along, z_along = homogeneous(t, dx, dy)
    along_x = divide(x_along - divide(x, z) * z_along, z)
    along_y = divide(y_along - divide(y, z) * z_along, z)
    return along_x, along_y


@triton.jit
def sums(zero):
    """Accumulators of `add_derivatives`."""
    return Matrix(zero, zero, zero, zero, zero, zero, zero, zero, zero)


@triton.jit
def _add(sums, x, y, z, dx, dy):
    """Add the derivatives by the matrix, given those by the homogeneous coordinates."""
    a, b, c, d, e, f, g, h, i = sums
    return Matrix(
        a + x * dx, b + x * dy, c + x, d + y * dx, e + y * dy, f + y, g + z * dx, h + z * dy, i + z
    )


@triton.jit
def _where_finite(by, x):
    """x, but 0 where the derivative `by` is: there a coordinate may not be finite, nor then be x."""
    return tl.where(by == 0, 0.0, x).to(by.dtype)


@triton.jit
def add_derivatives(sums, m, by_x, by_y, dx, dy):
    """Add the derivatives by the matrix, given those by the source coordinates."""
    x, y, z = homogeneous(m, dx, dy)
    by_x, by_y = _where_finite(by_x, divide(by_x, z)), _where_finite(by_y, divide(by_y, z))
    below = _where_finite(by_x, by_x * divide(x, z)) + _where_finite(by_y, by_y * divide(y, z))
    return _add(sums, by_x, by_y, -below, dx, dy)


@triton.jit
def add_curvature(sums, m, t, by_x, by_y, dx, dy):
    """What `add_derivatives` does not know: source coordinates are not linear in a homography.

    by_x, by_y: first derivatives by the source coordinates; t: the tangent along which they are taken.
    """
    x, y, z = homogeneous(m, dx, dy)
    x_along, y_along, z_along = homogeneous(t, dx, dy)
    shift_x = _where_finite(by_x, -by_x * divide(divide(z_along, z), z))
    shift_y = _where_finite(by_y, -by_y * divide(divide(z_along, z), z))
    below_x = 2 * divide(x, z) * z_along - x_along
    below_y = 2 * divide(y, z) * z_along - y_along
    below = _where_finite(by_x, by_x * divide(divide(below_x, z), z))
    below += _where_finite(by_y, by_y * divide(divide(below_y, z), z))
    return _add(sums, shift_x, shift_y, below, dx, dy)


@triton.jit
def store_gradient(ptr, sums, call, out, SPEC: tl.constexpr):
    """The chain from the matrix, whose derivatives the lanes hold in `sums`, back to theta's numbers."""
    W, H, _ = call.size
    OW, OH, _ = out
    align = call.align_corners
    tl.store(ptr, tl.sum(sums.a) * pixels_per_unit(W, OW, align, SPEC))
    tl.store(ptr + 1, tl.sum(sums.b) * pixels_per_unit(W, OH, align, SPEC))
    tl.store(ptr + 2, tl.sum(sums.c) * half(W, align, SPEC))
    tl.store(ptr + 3, tl.sum(sums.d) * pixels_per_unit(H, OW, align, SPEC))
    tl.store(ptr + 4, tl.sum(sums.e) * pixels_per_unit(H, OH, align, SPEC))
    tl.store(ptr + 5, tl.sum(sums.f) * half(H, align, SPEC))
    tl.store(ptr + 6, tl.sum(sums.g) * units_per_pixel(OW, align, SPEC))
    tl.store(ptr + 7, tl.sum(sums.h) * units_per_pixel(OH, align, SPEC))
    tl.store(ptr + 8, tl.sum(sums.i), mask=call.PARAMETERS == 9)
