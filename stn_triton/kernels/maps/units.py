"""Pixels, normalised units, and the arithmetic that every kernel must round alike.

Sizes are tuples with x first: `size` of the input, `out` of the output.
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
def linear(by_x, by_y, offset, dx, dy):
    """by_x dx + by_y dy + offset, in two fused multiply-adds.

    Fused by name, so that every kernel finds the same floor of a coordinate to the bit: plain `*` and `+` would be
    contracted differently from kernel to kernel.
    """
    return tl.fma(by_x, dx, tl.fma(by_y, dy, offset))


@triton.jit
def centred(p, output_size, SPEC: tl.constexpr):
    """Output index -> its distance from the centre of the output, exact."""
    return p.to(SPEC.COMPUTE) - (output_size - 1).to(SPEC.COMPUTE) * 0.5


@triton.jit
def middle(size, SPEC: tl.constexpr):
    """The centre of an image, in pixels."""
    return (size - 1).to(SPEC.COMPUTE) * 0.5


@triton.jit
def half(size, align_corners, SPEC: tl.constexpr):
    """Pixels per normalised unit."""
    return (size - align_corners).to(SPEC.COMPUTE) * 0.5


@triton.jit
def pixels_per_unit(source_size, output_size, align_corners, SPEC: tl.constexpr):
    """Source pixels per output pixel of the identity; 0 where aligned corners leave no extent."""
    span = output_size - align_corners
    whole = (source_size - align_corners).to(SPEC.COMPUTE)
    ratio = divide(whole, tl.maximum(span, 1).to(SPEC.COMPUTE))
    return tl.where(span == 0, 0.0, ratio).to(SPEC.COMPUTE)


@triton.jit
def units_per_pixel(output_size, align_corners, SPEC: tl.constexpr):
    """Normalised units from one output pixel to the next; 0 where aligned corners leave no extent."""
    span = output_size - align_corners
    step = divide(tl.full((), 2.0, SPEC.COMPUTE), tl.maximum(span, 1).to(SPEC.COMPUTE))
    return tl.where(span == 0, 0.0, step).to(SPEC.COMPUTE)


@triton.constexpr_function
def host_knows(ANTIALIAS, COMPUTE):
    """Whether the host hands over the ratios of sizes in 2-D: not those of an output whose size it does not know, and
    not in double precision, which it cannot hand over.
    """
    return ANTIALIAS == "none" and tl.float32 == COMPUTE


@triton.jit
def ratios(call, out, SPEC: tl.constexpr):
    """`pixels_per_unit` in 2-D, for an output of size `out`: (x by x, x by y, y by x, y by y)."""
    if host_knows(SPEC.ANTIALIAS, SPEC.COMPUTE):
        found = call.ratios
    else:
        W, H, _ = call.size
        OW, OH, _ = out
        found = (
            pixels_per_unit(W, OW, call.align_corners, SPEC),
            pixels_per_unit(W, OH, call.align_corners, SPEC),
            pixels_per_unit(H, OW, call.align_corners, SPEC),
            pixels_per_unit(H, OH, call.align_corners, SPEC),
        )
    return found


@triton.jit
def total(x):
    """The sum over a vector of lanes, or over a block of two axes."""
    if len(x.shape) == 2:
        x = tl.sum(x, 1)
    return tl.sum(x, 0)
