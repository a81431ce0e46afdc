"""Affine maps and attention in 3-D: twelve parameters, or a scale and three shifts.

    sx = a dx + b dy + c dz + mx,    sy = d dx + e dy + f dz + my,    sz = g dx + h dy + i dz + mz,

with (dx, dy, dz) the distance from the centre of the output.
"""

from typing import Any, NamedTuple

import triton
import triton.language as tl

from .units import half, middle, pixels_per_unit


class Volume(NamedTuple):
    """Source pixels per output pixel, and the source of the output's centre."""

    a: Any
    b: Any
    c: Any
    mx: Any
    d: Any
    e: Any
    f: Any
    my: Any
    g: Any
    h: Any
    i: Any
    mz: Any


@triton.jit
def _scales(length, call, out, SPEC: tl.constexpr):
    """`pixels_per_unit` of an axis of the input by each axis of the output."""
    OW, OH, OD = out
    return (
        pixels_per_unit(length, OW, call.align_corners, SPEC),
        pixels_per_unit(length, OH, call.align_corners, SPEC),
        pixels_per_unit(length, OD, call.align_corners, SPEC),
    )


@triton.jit
def _row(ptr, length, call, out, ORIGIN: tl.constexpr, SPEC: tl.constexpr):
    """One row of theta in pixel units: (by x, by y, by z, the centre's coordinate)."""
    COMPUTE: tl.constexpr = SPEC.COMPUTE
    by_x, by_y, by_z = _scales(length, call, out, SPEC)
    shift = tl.load(ptr + 3).to(COMPUTE)
    return (
        tl.load(ptr).to(COMPUTE) * by_x,
        tl.load(ptr + 1).to(COMPUTE) * by_y,
        tl.load(ptr + 2).to(COMPUTE) * by_z,
        _centre(shift, length, call, ORIGIN, SPEC),
    )


@triton.jit
def _centre(shift, length, call, ORIGIN: tl.constexpr, SPEC: tl.constexpr):
    return tl.fma(shift, half(length, call.align_corners, SPEC), ORIGIN * middle(length, SPEC))


@triton.jit
def load(row, call, out, ORIGIN: tl.constexpr, SPEC: tl.constexpr):
    """The map that theta at `row` stands for; ORIGIN 0.0: its change, which has no centre of its own."""
    W, H, D = call.size
    if SPEC.TRANSFORM == "attention":
        COMPUTE: tl.constexpr = SPEC.COMPUTE
        OW, OH, OD = out
        scale, zero = tl.load(row).to(COMPUTE), tl.full((), 0.0, COMPUTE)
        a = scale * pixels_per_unit(W, OW, call.align_corners, SPEC)
        e = scale * pixels_per_unit(H, OH, call.align_corners, SPEC)
        i = scale * pixels_per_unit(D, OD, call.align_corners, SPEC)
        mx = _centre(tl.load(row + 1).to(COMPUTE), W, call, ORIGIN, SPEC)
        my = _centre(tl.load(row + 2).to(COMPUTE), H, call, ORIGIN, SPEC)
        mz = _centre(tl.load(row + 3).to(COMPUTE), D, call, ORIGIN, SPEC)
        m = Volume(a, zero, zero, mx, zero, e, zero, my, zero, zero, i, mz)
    else:
        a, b, c, mx = _row(row, W, call, out, ORIGIN, SPEC)
        d, e, f, my = _row(row + 4, H, call, out, ORIGIN, SPEC)
        g, h, i, mz = _row(row + 8, D, call, out, ORIGIN, SPEC)
        m = Volume(a, b, c, mx, d, e, f, my, g, h, i, mz)
    return m


@triton.jit
def locate(m, dx, dy, dz):
    """Source coordinates of output pixels."""
    sx = tl.fma(m.a, dx, tl.fma(m.b, dy, tl.fma(m.c, dz, m.mx)))
    sy = tl.fma(m.d, dx, tl.fma(m.e, dy, tl.fma(m.f, dz, m.my)))
    sz = tl.fma(m.g, dx, tl.fma(m.h, dy, tl.fma(m.i, dz, m.mz)))
    return sx, sy, sz


@triton.jit
def widest(m):
    """The most source pixels that one step of the output crosses along an axis; not finite where a number is not."""
    most = tl.maximum(tl.maximum(tl.abs(m.a), tl.abs(m.b)), tl.abs(m.c))
    most = tl.maximum(tl.maximum(most, tl.abs(m.d)), tl.maximum(tl.abs(m.e), tl.abs(m.f)))
    most = tl.maximum(tl.maximum(most, tl.abs(m.g)), tl.maximum(tl.abs(m.h), tl.abs(m.i)))
    everything = m.a + m.b + m.c + m.d + m.e + m.f + m.g + m.h + m.i
    return tl.where(everything == everything, most, float("inf"))  # a maximum may drop a NaN


@triton.jit
def sums(zero):
    """Accumulators of `add_derivatives`."""
    return Volume(zero, zero, zero, zero, zero, zero, zero, zero, zero, zero, zero, zero)


@triton.jit
def add_derivatives(sums, by_x, by_y, by_z, dx, dy, dz):
    """Add the derivatives by the map's numbers, given those by the source coordinates."""
    a, b, c, mx, d, e, f, my, g, h, i, mz = sums
    return Volume(
        a + by_x * dx, b + by_x * dy, c + by_x * dz, mx + by_x,
        d + by_y * dx, e + by_y * dy, f + by_y * dz, my + by_y,
        g + by_z * dx, h + by_z * dy, i + by_z * dz, mz + by_z,
    )  # fmt: skip


@triton.jit
def store_gradient(ptr, sums, call, out, SPEC: tl.constexpr):
    """The chain from the map's numbers, whose derivatives the lanes hold in `sums`, back to theta's."""
    W, H, D = call.size
    x_by_x, x_by_y, x_by_z = _scales(W, call, out, SPEC)
    y_by_x, y_by_y, y_by_z = _scales(H, call, out, SPEC)
    z_by_x, z_by_y, z_by_z = _scales(D, call, out, SPEC)
    a, e, i = tl.sum(sums.a) * x_by_x, tl.sum(sums.e) * y_by_y, tl.sum(sums.i) * z_by_z
    mx = tl.sum(sums.mx) * half(W, call.align_corners, SPEC)
    my = tl.sum(sums.my) * half(H, call.align_corners, SPEC)
    mz = tl.sum(sums.mz) * half(D, call.align_corners, SPEC)
    if SPEC.TRANSFORM == "attention":
        tl.store(ptr, a + e + i)
        tl.store(ptr + 1, mx)
        tl.store(ptr + 2, my)
        tl.store(ptr + 3, mz)
    else:
        tl.store(ptr, a)
        tl.store(ptr + 1, tl.sum(sums.b) * x_by_y)
        tl.store(ptr + 2, tl.sum(sums.c) * x_by_z)
        tl.store(ptr + 3, mx)
        tl.store(ptr + 4, tl.sum(sums.d) * y_by_x)
        tl.store(ptr + 5, e)
        tl.store(ptr + 6, tl.sum(sums.f) * y_by_z)
        tl.store(ptr + 7, my)
        tl.store(ptr + 8, tl.sum(sums.g) * z_by_x)
        tl.store(ptr + 9, tl.sum(sums.h) * z_by_y)
        tl.store(ptr + 10, i)
        tl.store(ptr + 11, mz)
