"""The transformations on the device: one file each, all with the same verbs, and here the choice between them.

    load              theta's numbers as a map in pixels
    locate            output pixels to source coordinates
    along             how these change as the map changes along a tangent
    sums, add_derivatives, store_gradient     the way back, from derivatives by source coordinates to theta's gradient

The host's side of the same table is `stn_triton.transforms.TRANSFORMS`. A new transformation is a file with these
verbs, a line in each function below, and a row there.

Positions are tuples: d = (dx, dy, dz) an output pixel's distance from the centre of the output, s = (sx, sy, sz) source
coordinates in pixels, by = (by_x, by_y, by_z) derivatives by these. In 2-D the third is there and means nothing.
"""

import triton
import triton.language as tl

from . import affine, lattice, projective, volume


@triton.constexpr_function
def is_lattice(TRANSFORM):
    """Whether the map's numbers are coefficients of a basis, of which there may be any number."""
    return TRANSFORM in ("tps", "piecewise_affine")


@triton.jit
def _numbers(call, SPEC: tl.constexpr):
    """By how many numbers the kernel knows a map."""
    numbers = call.PARAMETERS
    if SPEC.LOCATED:
        numbers = call.out[0].to(tl.int64) * call.out[1] * 2
    return numbers


@triton.jit
def load(call, number, out, ORIGIN: tl.constexpr, SPEC: tl.constexpr):
    """Map number `number` for an output of size `out`; ORIGIN 0.0: that of a tangent, the change of a map."""
    row = call.map_ptr + number.to(tl.int64) * _numbers(call, SPEC)
    if SPEC.TRANSFORM == "projective":
        m = projective.load(row, call, out, ORIGIN, SPEC)
    elif is_lattice(SPEC.TRANSFORM):
        m = lattice.load(row, call, out, ORIGIN, SPEC)
    elif SPEC.NDIM == 3:
        m = volume.load(row, call, out, ORIGIN, SPEC)
    else:
        m = affine.load(row, call, out, ORIGIN, SPEC)
    return m


@triton.jit
def load_with_tangent(call, nk, out, SPEC: tl.constexpr):
    """(Map, tangent) of transformation number nk, which lie side by side in memory; without a tangent (map, map)."""
    if SPEC.TANGENT:
        m = load(call, 2 * nk, out, 1.0, SPEC)
        t = load(call, 2 * nk + 1, out, 0.0, SPEC)
    else:
        m = load(call, nk, out, 1.0, SPEC)
        t = m
    return m, t


@triton.jit
def locate(m, d, SPEC: tl.constexpr):
    """Source coordinates of output pixels."""
    dx, dy, dz = d
    if SPEC.NDIM == 3:
        s = volume.locate(m, dx, dy, dz)
    else:
        if SPEC.TRANSFORM == "projective":
            sx, sy = projective.locate(m, dx, dy)
        elif is_lattice(SPEC.TRANSFORM):
            sx, sy = lattice.locate(m, dx, dy, SPEC)
        else:
            sx, sy = affine.locate(m, dx, dy)
        s = sx, sy, dz
    return s


@triton.jit
def along(m, t, d, SPEC: tl.constexpr):
    """How source coordinates change as the map changes along t. Most maps are linear in their numbers."""
    if SPEC.TRANSFORM == "projective":
        dx, dy, dz = d
        along_x, along_y = projective.along(m, t, dx, dy)
        change = along_x, along_y, dz
    else:
        change = locate(t, d, SPEC)
    return change


@triton.jit
def sums(zero, SPEC: tl.constexpr):
    """The accumulators of `add_derivatives`, all of them `zero`; lattices have none."""
    if SPEC.TRANSFORM == "projective":
        found = projective.sums(zero)
    elif SPEC.NDIM == 3:
        found = volume.sums(zero)
    else:
        found = affine.sums(zero)
    return found


@triton.jit
def add_derivatives(sums, m, by, d, SPEC: tl.constexpr):
    """Add the derivatives by the map's numbers, given those by the source coordinates."""
    dx, dy, dz = d
    by_x, by_y, by_z = by
    if SPEC.TRANSFORM == "projective":
        sums = projective.add_derivatives(sums, m, by_x, by_y, dx, dy)
    elif SPEC.NDIM == 3:
        sums = volume.add_derivatives(sums, by_x, by_y, by_z, dx, dy, dz)
    else:
        sums = affine.add_derivatives(sums, by_x, by_y, dx, dy)
    return sums


@triton.jit
def store_gradient(ptr, sums, call, out, SPEC: tl.constexpr):
    """The chain from the map's numbers, whose derivatives `sums` holds lane by lane, back to theta."""
    if SPEC.TRANSFORM == "projective":
        projective.store_gradient(ptr, sums, call, out, SPEC)
    elif SPEC.NDIM == 3:
        volume.store_gradient(ptr, sums, call, out, SPEC)
    else:
        affine.store_gradient(ptr, sums, call, out, SPEC)


@triton.jit
def widest(m, SPEC: tl.constexpr):
    """Of a linear map: the most source pixels that one step of the output crosses along an axis."""
    if SPEC.NDIM == 3:
        most = volume.widest(m)
    else:
        most = affine.widest(m)
    return most
