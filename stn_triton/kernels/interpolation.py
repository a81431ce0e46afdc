"""What padding does to a source coordinate, and which weight a tap has: once as seen from the output pixel
(`tap`), once as seen from an input pixel (`touch`).
"""

import triton
import triton.language as tl


@triton.jit
def pad(s, size, PADDING: tl.constexpr):
    """Source coordinate as the sampler uses it: bounded, so that it converts to int safely; never NaN."""
    if PADDING == "border":
        s = tl.where(s > 0, s, 0.0).to(s.dtype)
        s = tl.where(s < size - 1, s, size - 1).to(s.dtype)
    else:
        s = tl.where(s > -2, s, -2.0).to(s.dtype)
        s = tl.where(s < size + 1, s, size + 1).to(s.dtype)
    return s


@triton.jit
def moves(s, size, PADDING: tl.constexpr):
    """Whether the padded coordinate follows the unpadded one: False at and beyond the ends of "border"."""
    if PADDING == "border":
        free = (s > 0) & (s < size - 1)
    else:
        free = s == s
    return free


@triton.jit
def round_half_even(s):
    """Nearest whole number, ties to even; exact for every finite coordinate."""
    low = tl.floor(s)
    rest = s - low
    odd = low - 2 * tl.floor(low * 0.5)
    return tl.where((rest > 0.5) | ((rest == 0.5) & (odd != 0)), low + 1, low)


@triton.jit
def tap(s, INDEX: tl.constexpr, MODE: tl.constexpr):
    """Tap number INDEX of the padded coordinate s: (whole coordinate, weight, d weight / d s)."""
    if MODE == "nearest":
        at = round_half_even(s)
        weight = tl.full(s.shape, 1.0, s.dtype)
        slope = tl.full(s.shape, 0.0, s.dtype)
    else:
        low = tl.floor(s)
        if INDEX == 0:
            at = low
            weight = 1 - (s - low)
            slope = tl.full(s.shape, -1.0, s.dtype)
        else:
            at = low + 1
            weight = s - low
            slope = tl.full(s.shape, 1.0, s.dtype)
    return at, weight, slope


@triton.jit
def touches(s, q, MODE: tl.constexpr):
    """Whether coordinate s has a tap, of whatever weight, on input pixel q. False for NaN."""
    if MODE == "nearest":
        hit = round_half_even(s) == q
    else:
        # floor(s) is q - 1 or q; q - 1 and q + 1 are exact, so this is the floor to the bit.
        hit = (s >= q - 1) & (s < q + 1)
    return hit


@triton.jit
def touch(s, q, size, MODE: tl.constexpr, PADDING: tl.constexpr):
    """Input pixel q as a tap of the unpadded coordinate s: (whether it is one, weight, d weight / d s)."""
    if PADDING == "zeros":
        padded = s  # No clamp is needed: q lies inside, and what touches it does too.
    else:
        padded = pad(s, size, PADDING)
    hit = touches(padded, q, MODE)
    if MODE == "nearest":
        weight = tl.where(hit, 1.0, 0.0).to(s.dtype)
        slope = tl.zeros_like(weight)
    else:
        away = padded - q
        weight = tl.where(hit, 1 - tl.abs(away), 0.0).to(s.dtype)
        slope = tl.where(away < 0, 1.0, -1.0).to(s.dtype)
        slope = tl.where(hit & moves(s, size, PADDING), slope, 0.0).to(s.dtype)
    return hit, weight, slope
