"""Backward for the input by atomic additions, for what `backward_gather` cannot turn round.

Tiling: as in the forward kernel; every output pixel adds to its taps. Floating-point sums depend on the order of
additions, which differs from run to run. Where results must not, the sums are integers: with a power of two as unit,
small enough that nothing overflows, integer addition is exact in any order.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from stn_triton.formats import compute_dtype, empty_input_gradient, like_output
from stn_triton.transforms import TRANSFORMS, Options

from .config import geometry, grid_of, parameters, smaller_blocks
from .coords import locate, locate_tangent
from .interpolation import follow, inside, pad_all, product_weight, tap, tap_z, taps_of
from .launch import UNSPECIALISED, launch
from .layout import (
    block_offsets,
    channel_lanes,
    dense_pixels,
    elements,
    per_channel,
    per_pixel,
    tile_count,
    tile_pixels,
)
from .supersampling import load_finer_map, mean, sample_count, sample_position

FINER = tl.constexpr(2.0**40)
"""How much finer the second integer of a double-precision sum counts."""


@triton.jit
def _add(ptr, fine_ptr, value, units, mask, FIXED: tl.constexpr):
    """Add to a sum in memory; in integer units if FIXED, and what is left over in finer units if it is double."""
    if FIXED:
        counted = value * units[0] * units[1]
        whole = tl.floor(counted + 0.5)
        tl.atomic_add(ptr, whole.to(tl.int64), mask=mask, sem="relaxed")
        if value.dtype == tl.float64:
            rest = (counted - whole) * FINER
            tl.atomic_add(fine_ptr, tl.floor(rest + 0.5).to(tl.int64), mask=mask, sem="relaxed")
    else:
        tl.atomic_add(ptr, value, mask=mask, sem="relaxed")


@triton.jit(do_not_specialize=UNSPECIALISED)
def _scatter_backward_kernel(
    map_ptr, grad_output_ptr, units_ptr,        # (N * K, [2,] PARAMETERS), (N * K, C, OD, OH, OW), (N, 2)
    sum_ptr, fine_ptr,                          # (N, C, D, H, W)
    K, C, G, PARAMETERS, D, H, W, OD, OH, OW, align_corners, S,     # C in vectors; align_corners 0 or 1
    stride_n, stride_c, stride_d, stride_h, stride_w,               # of input, which is not read
    TRANSFORM: tl.constexpr, NDIM: tl.constexpr, MODE: tl.constexpr, PADDING: tl.constexpr,
    ANTIALIAS: tl.constexpr, COMPUTE: tl.constexpr, OFFSET: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, VECTOR: tl.constexpr,
    TILE_X: tl.constexpr, TILE_Y: tl.constexpr, BLOCK_C: tl.constexpr,
    FIXED: tl.constexpr, TANGENT: tl.constexpr,
):  # fmt: skip
    size, out = (W, H, D), (OW, OH, OD)
    tiles = tile_count(out, TILE_X, TILE_Y)
    blocks = tl.cdiv(C * VECTOR, BLOCK_C)
    program = tl.program_id(0)
    nk = program // (tiles * blocks)
    px, py, pz = tile_pixels(program % tiles, out, TILE_X, TILE_Y)
    channel, exists = channel_lanes(program // tiles % blocks, C, BLOCK_C, VECTOR)
    exists = per_channel(exists, CHANNELS_LAST)
    in_output = (px < OW) & (py < OH)

    S, finer, m, t = load_finer_map(
        map_ptr, nk, G, PARAMETERS, size, out, S, align_corners,
        TRANSFORM, NDIM, ANTIALIAS, COMPUTE, TANGENT,
    )  # fmt: skip
    count = 1 if ANTIALIAS == "none" else sample_count(S, NDIM)
    pixel = dense_pixels(px, py, pz, out, C, CHANNELS_LAST, OFFSET)
    offsets = block_offsets(
        pixel, channel, elements(out, OFFSET), CHANNELS_LAST, VECTOR, OFFSET
    )  # fmt: skip
    grad = tl.load(
        grad_output_ptr + nk.to(tl.int64) * C * VECTOR * OW * OH * OD + offsets,
        mask=per_pixel(in_output, CHANNELS_LAST) & exists, other=0.0,
    ).to(COMPUTE)  # fmt: skip
    grad = mean(grad, count, ANTIALIAS)
    n = (nk // K).to(tl.int64)
    units = tl.load(units_ptr + 2 * n), tl.load(units_ptr + 2 * n + 1)  # anything if not FIXED
    sum_ptr += n * C * VECTOR * W * H * D
    fine_ptr += n * C * VECTOR * W * H * D

    TAPS: tl.constexpr = taps_of(MODE)
    for sample in range(count):
        dx, dy, dz = sample_position(px, py, pz, sample, S, finer, NDIM, ANTIALIAS, COMPUTE)
        s = locate(m, dx, dy, dz, TRANSFORM, NDIM)
        along = locate_tangent(m, t, dx, dy, dz, TRANSFORM, NDIM) if TANGENT else s
        padded, follows = pad_all(s, size, align_corners, NDIM, MODE, PADDING)
        sx, sy, sz = padded
        if TANGENT:
            along = follow(along, follows)
        for tz in tl.static_range(TAPS if NDIM == 3 else 1):
            iz, wz, slope_z = tap_z(sz, D, align_corners, tz, NDIM, MODE, PADDING)
            in_z = in_output & inside(iz, D) if NDIM == 3 else in_output
            for ty in tl.static_range(TAPS):
                iy, wy, slope_y = tap(sy, H, align_corners, ty, MODE, PADDING)
                for tx in tl.static_range(TAPS):
                    ix, wx, slope_x = tap(sx, W, align_corners, tx, MODE, PADDING)
                    slopes = slope_x, slope_y, slope_z
                    weight = product_weight((wx, wy, wz), slopes, along, NDIM, TANGENT)
                    found = in_z & inside(ix, W) & inside(iy, H)
                    slice = iz if NDIM == 3 else pz
                    pixel = dense_pixels(
                        ix.to(OFFSET), iy.to(OFFSET), slice, size, C, CHANNELS_LAST, OFFSET
                    )  # fmt: skip
                    offsets = block_offsets(
                        pixel, channel, elements(size, OFFSET), CHANNELS_LAST, VECTOR, OFFSET
                    )  # fmt: skip
                    _add(
                        sum_ptr + offsets, fine_ptr + offsets, per_pixel(weight, CHANNELS_LAST) * grad, units,
                        per_pixel(found, CHANNELS_LAST) & exists, FIXED,
                    )  # fmt: skip


def scatter_backward(
    grad_output: Tensor,
    input: Tensor,
    theta: Tensor,
    out_size: tuple[int, ...],
    options: Options,
    tangent: Tensor | None = None,
) -> Tensor:
    """The gradient of the input, or its change as theta changes along `tangent`."""
    g = geometry(input, theta, out_size, options)
    blocks = smaller_blocks(g)
    wide = compute_dtype(input, theta)
    grad_output = like_output(grad_output, input)
    largest = grad_output.abs().flatten(1).amax(1) if grad_output.numel() else None
    if tangent is not None and largest is not None:
        largest = largest.to(wide) * _farthest(tangent.to(wide), g.size)
    fixed = _is_fixed(options, tangent) and largest is not None
    total = empty_input_gradient(input, torch.int64 if fixed else wide).zero_()
    fine = torch.zeros_like(total) if fixed and wide == torch.float64 else total
    units = (
        _units(largest, g.k * math.prod(g.out_size), wide) if fixed else theta.new_zeros((g.n, 2))
    )
    launch(
        _scatter_backward_kernel,
        (grid_of(g.n * g.k, g.out_size, g.channels, blocks),),
        parameters(input, theta, options, tangent), grad_output, units, total, fine,
        *g.sizes, *g.strides, FIXED=fixed, TANGENT=tangent is not None, **g.constexprs, **blocks._asdict(),
    )  # fmt: skip
    if not fixed:
        return total.to(input.dtype)
    unit = units.double().prod(1).view(-1, *[1] * (input.dim() - 1))
    if fine is not total:
        return total.double().add_(fine.double(), alpha=1 / FINER.value).div_(unit).to(input.dtype)
    return torch.div(total, unit, out=empty_input_gradient(input))


def _is_fixed(options: Options, tangent: Tensor | None) -> bool:
    """Whether sums must not depend on the order of additions."""
    if options.transform == "projective" and tangent is not None:
        return False  # no bound of the change of a coordinate near the horizon
    lattice = TRANSFORMS[options.transform].lattice is not None
    return not lattice or torch.are_deterministic_algorithms_enabled()


def _farthest(tangent: Tensor, size: tuple[int, ...]) -> Tensor:
    """A bound, for each image, of how much a tap's weight changes along a tangent of theta."""
    # Normalised coordinates are at most 1 and the basis of a lattice stays below 16.
    return 16 * max(size) * tangent.abs().flatten(1).sum(1)


def _units(largest: Tensor, summands: int, dtype: torch.dtype) -> Tensor:
    """Integer units to 1 for each image, as two powers of two (N, 2), with which no sum passes 2^62.

    largest: of the values, for each image; where it is not finite, units are 0, which makes the result NaN.
    """
    _, exponent = torch.frexp(largest.to(dtype))
    bits = 60 - math.ceil(math.log2(summands)) - exponent  # cubic weights may add up to 2
    halves = torch.stack((bits // 2, bits - bits // 2), 1)
    units = torch.ldexp(torch.ones_like(halves, dtype=dtype), halves)
    return torch.where(largest.isfinite().unsqueeze(1), units, 0.0)
