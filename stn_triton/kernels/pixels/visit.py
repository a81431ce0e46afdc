"""What one output gives to one input pixel, lane by lane."""

import triton
import triton.language as tl

from stn_triton.kernels import maps
from stn_triton.kernels.interpolation import product_weight, touch, touch_unpadded
from stn_triton.kernels.layout import load_dense, per_pixel
from stn_triton.kernels.maps.units import centred, linear

from .copies import fold, place


@triton.jit
def _touch_in_copy(s, q, axis: tl.constexpr, copy, size, align_corners, SPEC: tl.constexpr):
    """`interpolation.touch` along one axis, of the outputs in a mirrored copy of the image alone."""
    if SPEC.PADDING != "reflection" or copy.whole:
        hit, weight, slope = touch(s, q, size[axis], align_corners, SPEC)
    elif SPEC.MODE == "bicubic":
        there = place(q, copy.numbers[axis], size[axis], align_corners)
        hit, weight, slope = touch_unpadded(s, tl.full(s.shape, 1.0, s.dtype), there, SPEC)
    elif copy.plain:
        hit, weight, slope = touch_unpadded(s, tl.full(s.shape, 1.0, s.dtype), q, SPEC)
    else:
        folded, follows, member = fold(
            s, copy.numbers[axis], copy.free[axis], size[axis], align_corners
        )
        hit, weight, slope = touch_unpadded(folded, follows, q, SPEC)
        hit &= member
    return hit, weight, slope


@triton.jit
def _change(grid, d, slopes, SPEC: tl.constexpr):
    """How source coordinates change along the tangent; 0 where nothing depends on it, since it may not be finite."""
    x, y, z = maps.along(grid.m, grid.t, d, SPEC)
    x = tl.where(slopes[0] != 0, x, 0.0).to(SPEC.COMPUTE)
    y = tl.where(slopes[1] != 0, y, 0.0).to(SPEC.COMPUTE)
    if SPEC.NDIM == 3:
        z = tl.where(slopes[2] != 0, z, 0.0).to(SPEC.COMPUTE)
    return x, y, z


@triton.jit
def visit(given, px, py, pz, visited, q, copy, side, grid, SPEC: tl.constexpr):
    """Add what the outputs (px, py, pz) give to the input pixels q, where `visited`."""
    OW, OH, OD = grid.finer
    d = centred(px, OW, SPEC), centred(py, OH, SPEC), centred(pz, OD, SPEC)
    s = maps.locate(grid.m, d, SPEC)
    corners = grid.align_corners
    hit, wx, slope_x = _touch_in_copy(s[0], q[0], 0, copy, grid.size, corners, SPEC)
    hit_y, wy, slope_y = _touch_in_copy(s[1], q[1], 1, copy, grid.size, corners, SPEC)
    visited &= hit & hit_y
    wz, slope_z = wy, slope_y
    if SPEC.NDIM == 3:
        hit_z, wz, slope_z = _touch_in_copy(s[2], q[2], 2, copy, grid.size, corners, SPEC)
        visited &= hit_z
    if SPEC.TRANSFORM == "projective":
        visited &= (linear(grid.m.g, grid.m.h, grid.m.i, d[0], d[1]) < 0) == (side < 0)
    slopes = slope_x, slope_y, slope_z
    along = _change(grid, d, slopes, SPEC) if SPEC.TANGENT else slopes
    weight = product_weight((wx, wy, wz), slopes, along, SPEC)
    if SPEC.TANGENT:
        weight = tl.where(visited, weight, 0.0).to(SPEC.COMPUTE)
    if SPEC.ANTIALIAS != "none":
        px, py = px // grid.samples, py // grid.samples
        if SPEC.NDIM == 3:
            pz = pz // grid.samples
    output = px, py, pz
    grad = load_dense(grid.ptr, output, grid.out, grid.C, grid.channels, visited != 0, SPEC)
    return given + per_pixel(weight, SPEC) * grad
