"""From output pixels to source coordinates: the device side of `stn_triton.transforms`.

A map is the tuple (a, b, mx, c, d, my) in pixel units about the centre of the output:
    sx = a (px - cx) + b (py - cy) + mx,    sy = c (px - cx) + d (py - cy) + my.
Everything is an explicit fused multiply-add, so that every kernel finds the same floor of a coordinate to the bit:
plain `*` and `+` would be contracted differently from kernel to kernel.
"""

import triton
import triton.language as tl


@triton.jit
def divide(x, y):
    """x / y correctly rounded (float32 division is approximate by default)."""
    if x.dtype == tl.float64:
        quotient = x / y
    else:
        quotient = tl.div_rn(x, y)
    return quotient


@triton.jit
def pixels_per_unit(source_size, output_size, align_corners, COMPUTE: tl.constexpr):
    """Source pixels per output pixel of the identity; 0 where aligned corners leave no extent."""
    span = output_size - align_corners
    ratio = divide((source_size - align_corners).to(COMPUTE), tl.maximum(span, 1).to(COMPUTE))
    return tl.where(span == 0, 0.0, ratio).to(COMPUTE)


@triton.jit
def load_map(
    theta_ptr, nk, H, W, OH, OW, align_corners, TRANSFORM: tl.constexpr, COMPUTE: tl.constexpr
):  # fmt: skip
    """Theta number nk as a map in pixel units."""
    if TRANSFORM == "attention":
        row = theta_ptr + nk.to(tl.int64) * 3
        t00 = tl.load(row).to(COMPUTE)
        t02 = tl.load(row + 1).to(COMPUTE)
        t12 = tl.load(row + 2).to(COMPUTE)
        t01 = tl.full((), 0.0, COMPUTE)
        t10 = tl.full((), 0.0, COMPUTE)
        t11 = t00
    else:
        row = theta_ptr + nk.to(tl.int64) * 6
        t00 = tl.load(row).to(COMPUTE)
        t01 = tl.load(row + 1).to(COMPUTE)
        t02 = tl.load(row + 2).to(COMPUTE)
        t10 = tl.load(row + 3).to(COMPUTE)
        t11 = tl.load(row + 4).to(COMPUTE)
        t12 = tl.load(row + 5).to(COMPUTE)
    a = t00 * pixels_per_unit(W, OW, align_corners, COMPUTE)
    b = t01 * pixels_per_unit(W, OH, align_corners, COMPUTE)
    c = t10 * pixels_per_unit(H, OW, align_corners, COMPUTE)
    d = t11 * pixels_per_unit(H, OH, align_corners, COMPUTE)
    mx = tl.fma(t02, (W - align_corners).to(COMPUTE) * 0.5, (W - 1).to(COMPUTE) * 0.5)
    my = tl.fma(t12, (H - align_corners).to(COMPUTE) * 0.5, (H - 1).to(COMPUTE) * 0.5)
    return a, b, mx, c, d, my


@triton.jit
def centred(p, output_size, COMPUTE: tl.constexpr):
    """Output index -> its distance from the centre of the output, exact."""
    return p.to(COMPUTE) - (output_size - 1).to(COMPUTE) * 0.5


@triton.jit
def source(coefficient_x, coefficient_y, offset, dx, dy):
    """One source coordinate of the output pixel at (dx, dy) from the centre."""
    return tl.fma(coefficient_x, dx, tl.fma(coefficient_y, dy, offset))


@triton.jit
def store_theta_gradient(
    ptr, sums, H, W, OH, OW, align_corners, TRANSFORM: tl.constexpr, COMPUTE: tl.constexpr
):  # fmt: skip
    """The chain from the map back to theta.

    sums: d loss / d sx times (dx, dy, 1), then the same of sy, each summed over pixels and channels.
    """
    sx_dx, sx_dy, sx, sy_dx, sy_dy, sy = sums
    t00 = sx_dx * pixels_per_unit(W, OW, align_corners, COMPUTE)
    t02 = sx * ((W - align_corners).to(COMPUTE) * 0.5)
    t11 = sy_dy * pixels_per_unit(H, OH, align_corners, COMPUTE)
    t12 = sy * ((H - align_corners).to(COMPUTE) * 0.5)
    if TRANSFORM == "attention":
        tl.store(ptr, t00 + t11)
        tl.store(ptr + 1, t02)
        tl.store(ptr + 2, t12)
    else:
        tl.store(ptr, t00)
        tl.store(ptr + 1, sx_dy * pixels_per_unit(W, OH, align_corners, COMPUTE))
        tl.store(ptr + 2, t02)
        tl.store(ptr + 3, sy_dx * pixels_per_unit(H, OW, align_corners, COMPUTE))
        tl.store(ptr + 4, t11)
        tl.store(ptr + 5, t12)
