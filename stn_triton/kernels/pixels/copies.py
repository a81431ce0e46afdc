"""Padding by reflection, for the gather by pixels: the mirrored copies of the image that outputs reach.

Folding at its ends repeats an image along each axis without end, every other copy mirrored. Copy number f lies between
low + f span and low + (f + 1) span, and pixel q in it at q + f span, if f is even, at 2 low + (f + 1) span - q if it is
odd. From the output to these places the map is affine.

"bilinear" and "nearest" fold a coordinate: an output belongs to the copy that its coordinate lies in. "bicubic" folds
each tap by itself: pixel q is tapped wherever one of its places is.
"""

from typing import Any, NamedTuple

import triton
import triton.language as tl

from stn_triton.kernels.interpolation import FAR, reach


class Copies(NamedTuple):
    """The copies that a transformer's outputs reach."""

    first: Any  # numbers of the first, (x, y, z)
    counts: Any  # along each axis
    whole: Any  # too many or too far: every pixel looks at every output, and padding takes its usual course
    plain: Any  # the image itself alone, and nothing at its ends
    free: Any  # axes along which every output is at index 0


class Copy(NamedTuple):
    """One of them."""

    numbers: Any  # (x, y, z), whole
    whole: Any
    plain: Any
    free: Any


@triton.jit
def _ends(size, align_corners, dtype: tl.constexpr):
    """(Twice the place of the lower end, how long the image is between its ends)."""
    return (align_corners - 1).to(dtype), tl.maximum(size - align_corners, 1).to(dtype)


@triton.jit
def is_odd(number):
    """Whether a copy is mirrored."""
    return number - 2 * tl.floor(number * 0.5) != 0


@triton.jit
def place(q, number, size, align_corners):
    """Where pixel q lies in a copy."""
    twice, span = _ends(size, align_corners, number.dtype)
    mirrored = twice + (number + 1) * span - q
    return tl.where(is_odd(number), mirrored, q + number * span).to(number.dtype)


@triton.jit
def is_repeated(q, number, size, align_corners):
    """Whether the copy beside has pixel q at the same place: with aligned corners the ends are their own images."""
    return (is_odd(number) != 0) & ((align_corners != 0) != 0) & ((q == 0) | (q == size - 1))


@triton.jit
def fold(s, number, free, size, align_corners):
    """Coordinate s in a copy, to the bit as `interpolation.pad` has it: (folded, how it follows s, whether in it)."""
    twice, span = _ends(size, align_corners, s.dtype)
    low = twice * 0.5
    odd = is_odd(number)
    behind = number < 0
    image = tl.where(behind, -number - 1, number)
    away = s - low
    length = tl.where(behind, -away, away).to(s.dtype)
    rest = tl.fma(-image, span, length)
    member = (rest >= 0) & (tl.fma(-image - 1, span, length) < 0) & ((away < 0) == behind)
    folded = tl.where(odd != behind, span - rest, rest) + low
    folded = tl.where(number == 0, s, folded)
    last = (size - 1).to(s.dtype)
    folded = tl.where(free, 0.0, folded).to(s.dtype)
    folded = tl.minimum(tl.maximum(folded, 0.0), last).to(s.dtype)
    follows = tl.where((folded > 0) & (folded < last), tl.where(odd, -1.0, 1.0), 0.0)
    return folded, follows.to(s.dtype), member | free


@triton.jit
def _numbers(middle, extent, slack, size, align_corners, finite, SPEC: tl.constexpr):
    """Along one axis: (first copy, how many, whether these are the image alone, free, whether all is near enough)."""
    twice, span = _ends(size, align_corners, middle.dtype)
    # An output is in the copy that its coordinate lies in; "bicubic": in those that its taps lie in.
    wide = extent + slack
    if SPEC.MODE == "bicubic":
        wide += reach(SPEC)
    first = tl.floor((middle - wide - twice * 0.5) / span)
    last = tl.floor((middle + wide - twice * 0.5) / span)
    free = ((finite == 0) | (size == 1)) != 0
    first = tl.where(free, 0.0, first).to(middle.dtype)
    count = tl.where(free, 1.0, last - first + 1).to(middle.dtype)
    plain = (middle - extent - slack > 0) & (middle + extent + slack < size - 1) & (free == 0)
    plain = plain != 0
    if SPEC.MODE == "bicubic":
        near = (tl.abs(middle) + wide < FAR * 0.5) & (free == 0)
        plain &= (middle - wide > 0) & (middle + wide < size - 1)
    else:
        near = (tl.abs(middle) + wide < FAR * 0.5 * span) | free
    return first, count, plain, free, near


@triton.jit
def copies_of(plan, size, out, align_corners, SPEC: tl.constexpr):
    """The copies that the outputs of a transformer reach."""
    x, columns, plain, free_x, near = _numbers(
        plan.middle[0], plan.extent[0], plan.slack, size[0], align_corners, plan.finite[0], SPEC
    )  # fmt: skip
    y, rows, plain_y, free_y, near_y = _numbers(
        plan.middle[1], plan.extent[1], plan.slack, size[1], align_corners, plan.finite[1], SPEC
    )  # fmt: skip
    total = columns * rows
    outputs = out[0].to(x.dtype) * out[1]
    plain &= plain_y
    near &= near_y
    z, slices, free_z = x * 0, x * 0 + 1, free_y
    if SPEC.NDIM == 3:
        z, slices, plain_z, free_z, near_z = _numbers(
            plan.middle[2], plan.extent[2], plan.slack, size[2], align_corners, plan.finite[2], SPEC
        )  # fmt: skip
        total *= slices
        outputs *= out[2]
        plain &= plain_z
        near &= near_z
    # A copy costs a tile as much as some five outputs cost it; a handful is never too many.
    whole = ((near & (total <= outputs * 0.2 + 27)) == 0) != 0
    one = tl.full((), 1.0, x.dtype)
    x, y, z = tl.where(whole, 0.0, x), tl.where(whole, 0.0, y), tl.where(whole, 0.0, z)
    columns, rows = tl.where(whole, one, columns), tl.where(whole, one, rows)
    slices = tl.where(whole, one, slices)
    return Copies(
        (x, y, z), (columns.to(tl.int32), rows.to(tl.int32), slices.to(tl.int32)),
        whole, plain, (free_x, free_y, free_z),
    )  # fmt: skip
