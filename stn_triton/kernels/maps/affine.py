"""Affine maps and attention in 2-D (paper, equations 1 and 2).

    sx = a dx + b dy + mx,    sy = c dx + d dy + my,

with (dx, dy) the distance from the centre of the output, so that the identity is exact and little cancels.
"""

from typing import Any, NamedTuple

import triton
import triton.language as tl

from .units import half, linear, middle, ratios, total


class Affine(NamedTuple):
    """Source pixels per output pixel, and the source of the output's centre."""

    a: Any
    b: Any
    mx: Any
    c: Any
    d: Any
    my: Any


@triton.jit
def _three(row, SPEC: tl.constexpr):
    """Three neighbouring numbers of theta."""
    COMPUTE: tl.constexpr = SPEC.COMPUTE
    first, second = tl.load(row).to(COMPUTE), tl.load(row + 1).to(COMPUTE)
    return first, second, tl.load(row + 2).to(COMPUTE)


@triton.jit
def load(row, call, out, ORIGIN: tl.constexpr, SPEC: tl.constexpr):
    """The map that theta at `row` stands for; ORIGIN 0.0: its change, which has no centre of its own."""
    COMPUTE: tl.constexpr = SPEC.COMPUTE
    W, H, _ = call.size
    x_by_x, x_by_y, y_by_x, y_by_y = ratios(call, out, SPEC)
    if SPEC.TRANSFORM == "attention":
        t00, t02, t12 = _three(row, SPEC)
        t01 = tl.full((), 0.0, COMPUTE)
        t10 = tl.full((), 0.0, COMPUTE)
        t11 = t00
    else:
        t00, t01, t02 = _three(row, SPEC)
        t10, t11, t12 = _three(row + 3, SPEC)
    mx = tl.fma(t02, half(W, call.align_corners, SPEC), ORIGIN * middle(W, SPEC))
    my = tl.fma(t12, half(H, call.align_corners, SPEC), ORIGIN * middle(H, SPEC))
    return Affine(t00 * x_by_x, t01 * x_by_y, mx, t10 * y_by_x, t11 * y_by_y, my)


@triton.jit
def locate(m, dx, dy):
    """Source coordinates of output pixels."""
    return linear(m.a, m.b, m.mx, dx, dy), linear(m.c, m.d, m.my, dx, dy)


@triton.jit
def widest(m):
    """The most source pixels that one step of the output crosses along an axis; not finite where a number is not."""
    most = tl.maximum(tl.maximum(tl.abs(m.a), tl.abs(m.b)), tl.maximum(tl.abs(m.c), tl.abs(m.d)))
    everything = m.a + m.b + m.c + m.d
    return tl.where(everything == everything, most, float("inf"))  # a maximum may drop a NaN


@triton.jit
def sums(zero):
    """Accumulators of `add_derivatives`."""
    return Affine(zero, zero, zero, zero, zero, zero)


@triton.jit
def add_derivatives(sums, by_x, by_y, dx, dy):
    """Add the derivatives by the map's numbers, given those by the source coordinates."""
    return Affine(
        tl.fma(by_x, dx, sums.a), tl.fma(by_x, dy, sums.b), sums.mx + by_x,
        tl.fma(by_y, dx, sums.c), tl.fma(by_y, dy, sums.d), sums.my + by_y,
    )  # fmt: skip


@triton.jit
def store_gradient(ptr, sums, call, out, SPEC: tl.constexpr):
    """The chain from the map's numbers, whose derivatives the lanes hold in `sums`, back to theta's."""
    W, H, _ = call.size
    x_by_x, x_by_y, y_by_x, y_by_y = ratios(call, out, SPEC)
    a, d = total(sums.a) * x_by_x, total(sums.d) * y_by_y
    mx = total(sums.mx) * half(W, call.align_corners, SPEC)
    my = total(sums.my) * half(H, call.align_corners, SPEC)
    if SPEC.TRANSFORM == "attention":
        tl.store(ptr, a + d)
        tl.store(ptr + 1, mx)
        tl.store(ptr + 2, my)
    else:
        tl.store(ptr, a)
        tl.store(ptr + 1, total(sums.b) * x_by_y)
        tl.store(ptr + 2, mx)
        tl.store(ptr + 3, total(sums.c) * y_by_x)
        tl.store(ptr + 4, d)
        tl.store(ptr + 5, my)
