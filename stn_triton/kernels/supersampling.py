"""Antialiasing: an output pixel is the mean of S samples along each axis, pixels of a finer, virtual output."""

import triton
import triton.language as tl

from stn_triton.transforms import MOST_SAMPLES

from .coords import centred, divide, load_map, load_map_and_tangent

MOST = tl.constexpr(MOST_SAMPLES)


@triton.jit
def load_finer_map(
    map_ptr, nk, G, PARAMETERS, size, out, S, align_corners, TRANSFORM: tl.constexpr, NDIM: tl.constexpr,
    ANTIALIAS: tl.constexpr, COMPUTE: tl.constexpr, TANGENT: tl.constexpr, known=None,
):  # fmt: skip
    """Transformation number nk as it samples: (samples along each axis, the finer output's size, map, tangent)."""
    at = 2 * nk if TANGENT else nk
    S = _samples_of(map_ptr, at, G, PARAMETERS, size, out, S, TRANSFORM, NDIM, ANTIALIAS, COMPUTE)
    finer = _virtual(out, S, NDIM, ANTIALIAS)
    m, t = load_map_and_tangent(
        map_ptr, nk, G, PARAMETERS, size, finer, align_corners, TRANSFORM, NDIM, COMPUTE, TANGENT, known
    )  # fmt: skip
    return S, finer, m, t


@triton.jit
def samples_and_finer(
    map_ptr, nk, PARAMETERS, size, out, S,
    TRANSFORM: tl.constexpr, ANTIALIAS: tl.constexpr, COMPUTE: tl.constexpr,
):  # fmt: skip
    """(Samples along each axis, the finer output's size) of affine map number nk in 2-D."""
    S = _samples_of(map_ptr, nk, S, PARAMETERS, size, out, S, TRANSFORM, 2, ANTIALIAS, COMPUTE)
    return S, _virtual(out, S, 2, ANTIALIAS)


@triton.jit
def _samples_of(
    map_ptr, nk, G, PARAMETERS, size, out, S,
    TRANSFORM: tl.constexpr, NDIM: tl.constexpr, ANTIALIAS: tl.constexpr, COMPUTE: tl.constexpr,
):  # fmt: skip
    """Samples along each axis: S, or with "auto" as many as source pixels lie between output pixels."""
    if ANTIALIAS == "auto":
        m = load_map(map_ptr, nk, G, PARAMETERS, size, out, 0, TRANSFORM, NDIM, COMPUTE)
        if NDIM == 3:
            a, b, c, _, d, e, f, _, g, h, i, _ = m
            widest = tl.maximum(tl.maximum(tl.abs(a), tl.abs(b)), tl.abs(c))
            widest = tl.maximum(tl.maximum(widest, tl.abs(d)), tl.maximum(tl.abs(e), tl.abs(f)))
            widest = tl.maximum(tl.maximum(widest, tl.abs(g)), tl.maximum(tl.abs(h), tl.abs(i)))
            total = a + b + c + d + e + f + g + h + i
        else:
            a, b, _, c, d, _ = m
            widest = tl.maximum(tl.maximum(tl.abs(a), tl.abs(b)), tl.maximum(tl.abs(c), tl.abs(d)))
            total = a + b + c + d
        finite = (widest < float("inf")) & (total == total)  # a maximum may drop a NaN
        wanted = tl.minimum(tl.maximum(tl.ceil(widest - 1e-3), 1.0), MOST)
        samples = tl.where(finite, wanted, 1.0).to(tl.int32)
    else:
        samples = S
    return samples


@triton.jit
def _virtual(out, S, NDIM: tl.constexpr, ANTIALIAS: tl.constexpr):
    """The size (x, y, z) of the finer output."""
    OW, OH, OD = out
    if ANTIALIAS != "none":
        OW, OH = OW * S, OH * S
        if NDIM == 3:
            OD = OD * S
    return OW, OH, OD


@triton.jit
def sample_count(S, NDIM: tl.constexpr):
    """Samples of an output pixel."""
    count = S * S
    if NDIM == 3:
        count *= S
    return count


@triton.jit
def sample_position(
    px, py, pz, sample, S, finer, NDIM: tl.constexpr, ANTIALIAS: tl.constexpr, COMPUTE: tl.constexpr
):  # fmt: skip
    """Where sample number `sample` of output pixels lies, as distances from the centre of the output."""
    OW, OH, OD = finer
    if ANTIALIAS != "none":
        px = px * S + sample % S
        py = py * S + sample // S % S
        pz = pz * S + sample // (S * S) if NDIM == 3 else pz
    return centred(px, OW, COMPUTE), centred(py, OH, COMPUTE), centred(pz, OD, COMPUTE)


@triton.jit
def mean(total, count, ANTIALIAS: tl.constexpr):
    """The mean of `count` samples."""
    if ANTIALIAS != "none":
        total = divide(total, count.to(total.dtype))
    return total
