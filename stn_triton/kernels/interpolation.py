"""What padding does to a source coordinate, and which weight a tap has: once as seen from the output pixel
(`tap`), once as seen from an input pixel (`touch`).

Padding moves coordinates, except for "bicubic", where it moves every tap by itself.
"""

import triton
import triton.language as tl

FAR = tl.constexpr(2.0**22)
"""Coordinates beyond it are not told apart by float32 taps."""


@triton.constexpr_function
def taps_of(MODE):
    """Taps along each axis."""
    return 1 if MODE == "nearest" else 4 if MODE == "bicubic" else 2


@triton.jit
def reach(SPEC: tl.constexpr):
    """How far from a source coordinate its taps lie, in source pixels."""
    return 0.5 if SPEC.MODE == "nearest" else 2.0 if SPEC.MODE == "bicubic" else 1.0


@triton.jit
def pad(s, size, align_corners, SPEC: tl.constexpr):
    """Source coordinate as the sampler uses it: (s, how it follows the unpadded one: 1, -1 or 0).

    It is bounded, so that it converts to int safely, and never NaN.
    """
    follows = tl.where(tl.abs(s) < float("inf"), 1.0, 0.0).to(s.dtype)
    if SPEC.MODE == "bicubic":
        if SPEC.PADDING == "reflection":
            s = tl.where(tl.abs(s) < FAR, s, 0.0).to(s.dtype)
        else:
            s = _bounded(s, -3, size + 2)
    elif SPEC.PADDING == "border":
        follows = tl.where((s > 0) & (s < size - 1), follows, 0.0).to(s.dtype)
        s = _bounded(s, 0, size - 1)
    elif SPEC.PADDING == "reflection":
        s, side = reflect(s, size, align_corners)
        follows = tl.where((s > 0) & (s < size - 1), side, 0.0).to(s.dtype)
        s = _bounded(s, 0, size - 1)
    else:
        s = _bounded(s, -2, size + 1)
    return s, follows


@triton.jit
def _bounded(s, low, high):
    s = tl.where(s > low, s, low).to(s.dtype)
    return tl.where(s < high, s, high).to(s.dtype)


@triton.jit
def reflect(s, size, align_corners):
    """Fold at the ends: (s, 1 or -1 as it follows the unfolded s).

    The ends are the outer pixels' centres (align_corners) or their outer edges. A coordinate that is not finite, or
    farther away than can be told, gives 0.
    """
    low = (align_corners - 1).to(s.dtype) * 0.5
    span = (size - align_corners).to(s.dtype)
    span = tl.where(span > 0, span, 1.0).to(s.dtype)
    known = tl.abs(s) < FAR * span
    away = tl.where(known, s - low, 0.0).to(s.dtype)
    length = tl.abs(away)
    image = tl.floor(length / span)
    rest = tl.fma(-image, span, length)
    image = tl.where(rest < 0, image - 1, tl.where(rest >= span, image + 1, image))
    rest = tl.where(rest < 0, rest + span, tl.where(rest >= span, rest - span, rest))
    odd = image - 2 * tl.floor(image * 0.5) != 0
    folded = tl.where(odd, span - rest, rest) + low
    folded = tl.where((s >= 0) & (s <= size - 1), s, folded)  # without the rounding of folding
    folded = tl.where(known & (size > 1), folded, 0.0).to(s.dtype)
    side = tl.where(odd == (away < 0), 1.0, -1.0)
    return folded, tl.where(known, side, 0.0).to(s.dtype)


@triton.jit
def landing(s, size, align_corners, SPEC: tl.constexpr):
    """Where inside the image padding moves source coordinate s, with its taps around it; outside with "zeros"."""
    s, _ = pad(s, size, align_corners, SPEC)
    if SPEC.MODE == "bicubic":  # taps are moved one by one, but never farther from each other
        if SPEC.PADDING == "border":
            s = _bounded(s, 0, size - 1)
        elif SPEC.PADDING == "reflection":
            s, _ = reflect(s, size, align_corners)
    return s


@triton.jit
def round_half_even(s):
    """Nearest whole number, ties to even; exact for every finite coordinate."""
    low = tl.floor(s)
    rest = s - low
    odd = low - 2 * tl.floor(low * 0.5)
    return tl.where((rest > 0.5) | ((rest == 0.5) & (odd != 0)), low + 1, low)


@triton.jit
def cubic(away):
    """Keys' kernel with A = -0.75 at a distance of at most 2: (weight, its derivative by the distance)."""
    A: tl.constexpr = -0.75
    x = tl.abs(away)
    near = ((A + 2) * x - (A + 3)) * x * x + 1
    far = ((A * x - 5 * A) * x + 8 * A) * x - 4 * A
    near_slope = (3 * (A + 2) * x - 2 * (A + 3)) * x
    far_slope = (3 * A * x - 10 * A) * x + 8 * A
    slope = tl.where(x <= 1, near_slope, far_slope)
    return tl.where(x <= 1, near, far).to(away.dtype), tl.where(away < 0, -slope, slope).to(
        away.dtype
    )


@triton.jit
def tap_z(s, wanted, size, image, align_corners, INDEX: tl.constexpr, SPEC: tl.constexpr):
    """`tap` along z: (weight, d weight / d s, which of the `wanted` lie in a slice of the image, offset of the slice).

    In 2-D all lie in the one slice there is, and weight and slope are any number.
    """
    weight, slope, in_z, offset = s, s, wanted, 0
    if SPEC.NDIM == 3:
        iz, weight, slope = tap(s, size, align_corners, INDEX, SPEC)
        in_z &= inside(iz, size)
        offset = iz.to(SPEC.OFFSET) * image.slice
    return weight, slope, in_z, offset


@triton.jit
def curvature(s, INDEX: tl.constexpr, SPEC: tl.constexpr):
    """The second derivative of the weight of tap number INDEX of the padded coordinate s."""
    if SPEC.MODE == "bicubic":
        A: tl.constexpr = -0.75
        x = tl.abs(s - (tl.floor(s) + (INDEX - 1)))
        curve = tl.where(x <= 1, 6 * (A + 2) * x - 2 * (A + 3), 6 * A * x - 10 * A).to(s.dtype)
    else:
        curve = tl.zeros_like(s)
    return curve


@triton.jit
def tap(s, size, align_corners, INDEX: tl.constexpr, SPEC: tl.constexpr):
    """Tap number INDEX of the padded coordinate s: (whole coordinate, weight, d weight / d s)."""
    if SPEC.MODE == "nearest":
        at = round_half_even(s)
        weight = tl.full(s.shape, 1.0, s.dtype)
        slope = tl.full(s.shape, 0.0, s.dtype)
    elif SPEC.MODE == "bicubic":
        at = tl.floor(s) + (INDEX - 1)
        weight, slope = cubic(s - at)
        if SPEC.PADDING == "border":
            at = _bounded(at, 0, size - 1)
        elif SPEC.PADDING == "reflection":
            at, _ = reflect(at, size, align_corners)
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
def pad_all(s, size, align_corners, SPEC: tl.constexpr):
    """`pad` along every axis: ((x, y, z), how each follows); z only in 3-D."""
    sx, follows_x = pad(s[0], size[0], align_corners, SPEC)
    sy, follows_y = pad(s[1], size[1], align_corners, SPEC)
    sz, follows_z = sy, follows_y
    if SPEC.NDIM == 3:
        sz, follows_z = pad(s[2], size[2], align_corners, SPEC)
    return (sx, sy, sz), (follows_x, follows_y, follows_z)


@triton.jit
def follow(along, follows):
    """The changes of padded coordinates, given those of the unpadded ones (which may not be finite)."""
    x, y, z = along
    follows_x, follows_y, follows_z = follows
    return (
        tl.where(follows_x != 0, follows_x * x, 0.0).to(follows_x.dtype),
        tl.where(follows_y != 0, follows_y * y, 0.0).to(follows_y.dtype),
        tl.where(follows_z != 0, follows_z * z, 0.0).to(follows_z.dtype),
    )


@triton.jit
def product_weight(weights, slopes, along, SPEC: tl.constexpr):
    """The weight of a tap, the product over the axes; TANGENT: its change as the coordinates change by `along`."""
    wx, wy, wz = weights
    if SPEC.TANGENT:
        slope_x, slope_y, slope_z = slopes
        along_x, along_y, along_z = along
        weight = slope_x * along_x * wy + wx * slope_y * along_y
        if SPEC.NDIM == 3:
            weight = weight * wz + wx * wy * slope_z * along_z
    else:
        weight = wx * wy
        if SPEC.NDIM == 3:
            weight *= wz
    return weight


@triton.jit
def inside(at, size):
    """Whether a whole coordinate lies inside the image."""
    return (at >= 0) & (at < size)


@triton.jit
def meets(s, size, SPEC: tl.constexpr):
    """Whether a coordinate of "bilinear" or "bicubic" with "zeros" has a tap inside the image."""
    return (s >= -reach(SPEC)) & (s < size - 1 + reach(SPEC))


@triton.jit
def touches(s, q, SPEC: tl.constexpr):
    """Whether coordinate s has a tap, of whatever weight, on input pixel q. False for NaN."""
    if SPEC.MODE == "nearest":
        hit = round_half_even(s) == q
    elif SPEC.MODE == "bicubic":
        hit = (s >= q - 2) & (s < q + 2)
    else:
        # floor(s) is q - 1 or q; q - 1 and q + 1 are exact, so this is the floor to the bit.
        hit = (s >= q - 1) & (s < q + 1)
    return hit


@triton.jit
def touch(s, q, size, align_corners, SPEC: tl.constexpr):
    """Input pixel q as a tap of the unpadded coordinate s: (whether it is one, weight, d weight / d s)."""
    if SPEC.PADDING == "zeros":
        found = touch_unpadded(s, tl.full(s.shape, 1.0, s.dtype), q, SPEC)
    else:
        padded, follows = pad(s, size, align_corners, SPEC)
        found = touch_padded(padded, follows, q, size, align_corners, SPEC)
    return found


@triton.jit
def touch_padded(padded, follows, q, size, align_corners, SPEC: tl.constexpr):
    """The same, given the padded coordinate and how it follows the unpadded one."""
    if (SPEC.MODE == "bicubic") & (SPEC.PADDING != "zeros"):
        weight, slope = tl.zeros_like(padded - q), tl.zeros_like(padded - q)
        for index in tl.static_range(4):  # a pixel near the edge may be several taps
            at, w, dw = tap(padded, size, align_corners, index, SPEC)
            weight += tl.where(at == q, w, 0.0)
            slope += tl.where(at == q, dw * follows, 0.0)
        hit = (weight != 0) | (slope != 0)
    else:
        hit, weight, slope = touch_unpadded(padded, follows, q, SPEC)
    return hit, weight, slope


@triton.jit
def touch_unpadded(s, follows, q, SPEC: tl.constexpr):
    """The same where no padding moves a tap of s. No clamp is needed: q lies inside, and what touches it does too."""
    hit = touches(s, q, SPEC)
    if SPEC.MODE == "nearest":
        weight = tl.where(hit, 1.0, 0.0).to(s.dtype)
        slope = tl.zeros_like(weight)
    elif SPEC.MODE == "bicubic":
        weight, slope = cubic(s - q)
        weight = tl.where(hit, weight, 0.0).to(s.dtype)
        slope = tl.where(hit, slope, 0.0).to(s.dtype)
    else:
        away = s - q
        weight = tl.where(hit, 1 - tl.abs(away), 0.0).to(s.dtype)
        slope = tl.where(away < 0, follows, -follows).to(s.dtype)
        slope = tl.where(hit, slope, 0.0).to(s.dtype)
    return hit, weight, slope
