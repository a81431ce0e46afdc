"""Preimages of voxels under affine maps in 3-D."""

from typing import Any, NamedTuple

import triton
import triton.language as tl

from .rows import Preimage, first_index, is_finite, last_index, make_strip, whole_inverse


class VolumePlan(NamedTuple):
    """What all voxels share."""

    middle: Any  # of the source coordinates, (x, y, z)
    extent: Any  # how far these reach from it
    finite: Any  # whether they are finite
    slack: Any  # their rounding
    blur: (
        Any  # the same bound after multiplying by the inverse, larger as the determinant may cancel
    )
    cofactors: Any  # of the matrix, by columns: the normals of the faces of the output
    det: Any
    per_x: Any  # columns of the output per source pixel, along each axis


@triton.jit
def _row_finite(row, offset):
    return is_finite(row[0]) & is_finite(row[1]) & is_finite(row[2]) & is_finite(offset)


@triton.jit
def _extent(row, out):
    OW, OH, OD = out
    wide = tl.abs(row[0]) * (OW - 1) + tl.abs(row[1]) * (OH - 1)
    return (wide + tl.abs(row[2]) * (OD - 1)) * 0.5


@triton.jit
def _cross(p, q):
    return p[1] * q[2] - p[2] * q[1], p[2] * q[0] - p[0] * q[2], p[0] * q[1] - p[1] * q[0]


@triton.jit
def _uncancelled(p, q, r):
    """The determinant of three vectors without its signs: what its rounding is a part of."""
    x = tl.abs(p[1] * q[2]) + tl.abs(p[2] * q[1])
    y = tl.abs(p[2] * q[0]) + tl.abs(p[0] * q[2])
    z = tl.abs(p[0] * q[1]) + tl.abs(p[1] * q[0])
    return x * tl.abs(r[0]) + y * tl.abs(r[1]) + z * tl.abs(r[2])


@triton.jit
def plan(m, size, out):
    """What all voxels share."""
    a, b, c, mx, d, e, f, my, g, h, i, mz = m
    W, H, D = size
    rows = ((a, b, c), (d, e, f), (g, h, i))
    columns = ((a, d, g), (b, e, h), (c, f, i))
    extent = _extent(rows[0], out), _extent(rows[1], out), _extent(rows[2], out)
    EPS: tl.constexpr = 2.0**-52 if a.dtype == tl.float64 else 2.0**-23
    spread = W + H + D + tl.abs(mx) + tl.abs(my) + tl.abs(mz)
    spread += 2 * (extent[0] + extent[1] + extent[2])
    slack = 8 * EPS * spread
    cofactors = (
        _cross(columns[1], columns[2]), _cross(columns[2], columns[0]), _cross(columns[0], columns[1])
    )  # fmt: skip
    det = a * cofactors[0][0] + d * cofactors[0][1] + g * cofactors[0][2]
    blur = slack * (1 + _uncancelled(columns[0], columns[1], columns[2]) / tl.abs(det))
    return VolumePlan(
        (mx, my, mz), extent, (_row_finite(rows[0], mx), _row_finite(rows[1], my), _row_finite(rows[2], mz)),
        slack, blur, cofactors, det, (whole_inverse(a), whole_inverse(d), whole_inverse(g)),
    )  # fmt: skip


@triton.jit
def _box(left, right, middle):
    """A box of source coordinates as (half of its sides, its centre from `middle`)."""
    x, y, z = (right[0] - left[0]) * 0.5, (right[1] - left[1]) * 0.5, (right[2] - left[2]) * 0.5
    centre = left[0] + x - middle[0], left[1] + y - middle[1], left[2] + z - middle[2]
    return (x, y, z), centre


@triton.jit
def _apart(normal, u, half, columns, out):
    """Whether a plane with this normal parts the image of the output, about 0, from the box u +- half."""
    x, y, z = normal
    reached = tl.abs(x) * half[0] + tl.abs(y) * half[1] + tl.abs(z) * half[2]
    for axis in tl.static_range(3):
        column = columns[axis]
        along = tl.abs(x * column[0] + y * column[1] + z * column[2])
        reached += along * ((out[axis] - 1).to(x.dtype) * 0.5)
    return tl.abs(x * u[0] + y * u[1] + z * u[2]) > reached


@triton.jit
def meets(plan, m, left, right, out):
    """Whether outputs may lie between `left` and `right`; True where that cannot be told.

    Two boxes are apart if the normal of a face of either parts them, or of a plane along an edge of each. Only the last
    part what a singular map makes of the output, a plate or a needle, from the box.
    """
    a, b, c, mx, d, e, f, my, g, h, i, mz = m
    columns = ((a, d, g), (b, e, h), (c, f, i))
    half, u = _box(left, right, (mx, my, mz))
    half = half[0] + plan.slack, half[1] + plan.slack, half[2] + plan.slack
    apart = tl.abs(u[0]) > half[0] + plan.extent[0]
    apart |= tl.abs(u[1]) > half[1] + plan.extent[1]
    apart |= tl.abs(u[2]) > half[2] + plan.extent[2]
    for axis in tl.static_range(3):
        apart |= _apart(plan.cofactors[axis], u, half, columns, out)
        x, y, z = columns[axis]
        zero = tl.zeros_like(x)
        apart |= _apart((zero, -z, y), u, half, columns, out)
        apart |= _apart((z, zero, -x), u, half, columns, out)
        apart |= _apart((-y, x, zero), u, half, columns, out)
    return apart == 0


@triton.jit
def _range_of(cofactors, plan, u, half, length):
    """The indices along one axis of the output between which the box u +- half lies."""
    x, y, z = cofactors
    inverse = 1 / plan.det
    x, y, z = x * inverse, y * inverse, z * inverse
    middle = x * u[0] + y * u[1] + z * u[2] + (length - 1).to(x.dtype) * 0.5
    wide = tl.abs(x) * (half[0] + plan.blur) + tl.abs(y) * (half[1] + plan.blur)
    wide += tl.abs(z) * (half[2] + plan.blur)
    return first_index(middle - wide, length), last_index(middle + wide, length)


@triton.jit
def preimage(plan, m, left, right, out):
    """Outputs whose source coordinates may lie between `left` and `right`."""
    a, b, c, mx, d, e, f, my, g, h, i, mz = m
    _, OH, OD = out
    half, u = _box(left, right, (mx, my, mz))
    top, bottom = _range_of(plan.cofactors[1], plan, u, half, OH)
    front, back = _range_of(plan.cofactors[2], plan, u, half, OD)
    return Preimage(
        top, bottom, front, back,
        (
            make_strip(a, b, c, u[0], half[0] + plan.slack, plan.per_x[0]),
            make_strip(d, e, f, u[1], half[1] + plan.slack, plan.per_x[1]),
            make_strip(g, h, i, u[2], half[2] + plan.slack, plan.per_x[2]),
        ),
    )  # fmt: skip
