"""Maps that follow control points: thin plate splines and piecewise affine maps (paper, section 3.2).

    s = identity(x, y) + sum over m of c_m B_m(x, y),

with (x, y) normalised output coordinates. The basis B depends on the sizes only, and the coefficients c, 0 for the
identity, are found by the host (`stn_triton.control_points.Lattice`): they are the map's parameters of the kernels.

The control points form a regular lattice, and arithmetic tells where they are; or they are SCATTERED, anywhere, one row
of them, and lie in memory.
"""

from typing import Any, NamedTuple

import triton
import triton.language as tl

from .units import divide, half, middle, pixels_per_unit, units_per_pixel


class LatticeMap(NamedTuple):
    """Where the coefficients lie, and the control points; the identity that the coefficients are added to."""

    row: Any  # LOCATED: where the source coordinates lie
    out: Any  # (x, y, z)
    points: Any
    G: Any  # control points in a row
    ROWS: Any
    unit_x: Any  # normalised units per output pixel
    unit_y: Any
    half_x: Any  # source pixels per normalised unit
    half_y: Any
    a: Any  # the identity: sx = a dx + mx, sy = d dy + my
    mx: Any
    d: Any
    my: Any


@triton.jit
def load(row, call, out, ORIGIN: tl.constexpr, SPEC: tl.constexpr):
    """The map whose coefficients lie at `row`; ORIGIN 0.0: its change, which has no identity."""
    W, H, _ = call.size
    OW, OH, _ = out
    align = call.align_corners
    return LatticeMap(
        row, out, call.points_ptr, call.G, call.ROWS,
        units_per_pixel(OW, align, SPEC), units_per_pixel(OH, align, SPEC),
        half(W, align, SPEC), half(H, align, SPEC),
        ORIGIN * pixels_per_unit(W, OW, align, SPEC), ORIGIN * middle(W, SPEC),
        ORIGIN * pixels_per_unit(H, OH, align, SPEC), ORIGIN * middle(H, SPEC),
    )  # fmt: skip


@triton.jit
def _steps(m, SPEC: tl.constexpr):
    """tps: from one control point to the next in normalised coordinates; else half the steps along a side; (x, y)."""
    if SPEC.SCATTERED:
        steps = m.unit_x, m.unit_y  # of which nobody makes use
    elif SPEC.TRANSFORM == "tps":
        two = tl.full((), 2.0, SPEC.COMPUTE)
        steps = divide(two, (m.G - 1).to(SPEC.COMPUTE)), divide(two, (m.ROWS - 1).to(SPEC.COMPUTE))
    else:
        steps = middle(m.G, SPEC), middle(m.ROWS, SPEC)
    return steps


@triton.jit
def _from_point(x, number, step, SPEC: tl.constexpr):
    """How far coordinate x is from point `number` of an axis; tps: normalised, else in steps of the lattice."""
    number = (number + tl.zeros((), tl.int32)).to(SPEC.COMPUTE)
    if SPEC.TRANSFORM == "tps":
        away = x - tl.fma(number, step, -1.0)
    else:
        away = tl.fma(x, step, step - number)
    return away


@triton.jit
def _logarithm(x):
    """log x of positive x, in single precision to 1.7 units in the last place.

    With x = (1 + f) 2^e and f between -1/3 and 1/3 it is e log 2 + f - f^2 / 2 + f^3 q(f). CUDA's own takes twice as
    many instructions, most of them for numbers that do not occur here: the smallest only meet a factor x that leaves
    nothing of them.
    """
    if x.dtype == tl.float32:
        bits = x.to(tl.int32, bitcast=True)
        exponent = (bits - 0x3F2AAAAB) & -0x800000  # e, 23 bits up
        f = (bits - exponent).to(tl.float32, bitcast=True) - 1
        # By least squares, to 4e-8 of the logarithm.
        q = tl.fma(f, 0.13463622, -0.15131453)
        q = tl.fma(f, q, 0.14116643)
        q = tl.fma(f, q, -0.16470645)
        q = tl.fma(f, q, 0.20003307)
        q = tl.fma(f, q, -0.25004312)
        q = tl.fma(f, q, 0.33333346)
        squared = f * f
        of_fraction = tl.fma(squared * f, q, tl.fma(squared, -0.5, f))
        found = tl.fma(exponent.to(tl.float32), 0.6931471805599453 * 2.0**-23, of_fraction)
    else:
        found = tl.log(x)
    return found


@triton.jit
def _basis(m, i, j, dx, dy, steps, SPEC: tl.constexpr):
    """The function of control point i of row j at output pixels."""
    if SPEC.SCATTERED:
        at = m.points + 2 * i
        across = tl.fma(dx, m.unit_x, -tl.load(at))
        down = tl.fma(dy, m.unit_y, -tl.load(at + 1))
    else:
        across = _from_point(dx * m.unit_x, i, steps[0], SPEC)
        down = _from_point(dy * m.unit_y, j, steps[1], SPEC)
    if SPEC.TRANSFORM == "tps":
        squared = tl.fma(across, across, down * down)
        value = 0.5 * squared * _logarithm(tl.where(squared > 0, squared, 1.0).to(SPEC.COMPUTE))
    else:
        farthest = tl.maximum(tl.abs(across), tl.abs(down))
        value = tl.maximum(1 - tl.maximum(farthest, tl.abs(across - down)), 0.0).to(SPEC.COMPUTE)
    return value


@triton.jit
def locate(m, dx, dy, SPEC: tl.constexpr):
    """Source coordinates of output pixels."""
    if SPEC.LOCATED:
        sx, sy = _located(m, dx, dy, SPEC)
    else:
        sx, sy = _evaluated(m, dx, dy, SPEC)
    return sx, sy


@triton.jit
def _located(m, dx, dy, SPEC: tl.constexpr):
    """Source coordinates from memory."""
    OW, OH, _ = m.out
    px, py = dx + middle(OW, SPEC), dy + middle(OH, SPEC)
    # Lanes past the end read some pixel that is there.
    px, py = tl.minimum(px.to(tl.int32), OW - 1), tl.minimum(py.to(tl.int32), OH - 1)
    return located_at(m, px, py, SPEC)


@triton.jit
def located_at(m, px, py, SPEC: tl.constexpr):
    """Source coordinates of output pixels (px, py), from memory."""
    OW, OH, _ = m.out
    at = m.row + (py.to(SPEC.OFFSET) * OW + px)
    return tl.load(at), tl.load(at + OW.to(tl.int64) * OH)


@triton.jit
def _evaluated(m, dx, dy, SPEC: tl.constexpr):
    x, y = dx * m.unit_x, dy * m.unit_y
    by_x, by_y = x * 0, x * 0
    row, steps = m.row, _steps(m, SPEC)
    for j in range(m.ROWS):
        for i in range(m.G):
            value = _basis(m, i, j, dx, dy, steps, SPEC)
            by_x = tl.fma(tl.load(row), value, by_x)
            by_y = tl.fma(tl.load(row + 1), value, by_y)
            row += 2
    if SPEC.TRANSFORM == "tps":
        by_x += tl.fma(tl.load(row + 4), y, tl.fma(tl.load(row + 2), x, tl.load(row)))
        by_y += tl.fma(tl.load(row + 5), y, tl.fma(tl.load(row + 3), x, tl.load(row + 1)))
    sx = tl.fma(by_x, m.half_x, tl.fma(m.a, dx, m.mx))
    sy = tl.fma(by_y, m.half_y, tl.fma(m.d, dy, m.my))
    return sx, sy


@triton.jit
def store_gradient(ptr, m, by_x, by_y, dx, dy, SPEC: tl.constexpr):
    """The derivatives by the coefficients, given those by the source coordinates: sums over the lanes."""
    x, y = dx * m.unit_x, dy * m.unit_y
    by_x, by_y = by_x * m.half_x, by_y * m.half_y
    steps = _steps(m, SPEC)
    for j in range(m.ROWS):
        for i in range(m.G):
            value = _basis(m, i, j, dx, dy, steps, SPEC)
            tl.store(ptr, tl.sum(by_x * value))
            tl.store(ptr + 1, tl.sum(by_y * value))
            ptr += 2
    if SPEC.TRANSFORM == "tps":
        tl.store(ptr, tl.sum(by_x))
        tl.store(ptr + 1, tl.sum(by_y))
        tl.store(ptr + 2, tl.sum(by_x * x))
        tl.store(ptr + 3, tl.sum(by_y * x))
        tl.store(ptr + 4, tl.sum(by_x * y))
        tl.store(ptr + 5, tl.sum(by_y * y))
