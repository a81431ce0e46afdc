"""Antialiasing: an output pixel is the mean of S samples along each axis, pixels of a finer, virtual output."""

import triton
import triton.language as tl

from stn_triton.transforms import MOST_SAMPLES

from . import maps
from .maps.units import centred, divide

MOST = tl.constexpr(MOST_SAMPLES)


@triton.jit
def load_finer_map(call, nk, SPEC: tl.constexpr):
    """Transformation number nk as it samples: (samples along each axis, the finer output's size, map, tangent)."""
    S = _samples_of(call, nk, SPEC)
    finer = _virtual(call.out, S, SPEC)
    m, t = maps.load_with_tangent(call, nk, finer, SPEC)
    return S, finer, m, t


@triton.jit
def _samples_of(call, nk, SPEC: tl.constexpr):
    """Samples along each axis: S, or with "auto" as many as source pixels lie between output pixels."""
    if SPEC.ANTIALIAS == "auto":
        number = 2 * nk if SPEC.TANGENT else nk
        widest = maps.widest(maps.load(call, number, call.out, 1.0, SPEC), SPEC)
        # 1e-3: what rounding may add to a whole number of pixels is not worth another sample.
        wanted = tl.minimum(tl.maximum(tl.ceil(widest - 1e-3), 1.0), MOST)
        samples = tl.where(widest < float("inf"), wanted, 1.0).to(tl.int32)
    else:
        samples = call.S
    return samples


@triton.jit
def _virtual(out, S, SPEC: tl.constexpr):
    """The size (x, y, z) of the finer output."""
    OW, OH, OD = out
    if SPEC.ANTIALIAS != "none":
        OW, OH = OW * S, OH * S
        if SPEC.NDIM == 3:
            OD = OD * S
    return OW, OH, OD


@triton.jit
def sample_count(S, SPEC: tl.constexpr):
    """Samples of an output pixel."""
    count = 1
    if SPEC.ANTIALIAS != "none":
        count = S * S
        if SPEC.NDIM == 3:
            count *= S
    return count


@triton.jit
def sample_position(p, sample, S, finer, SPEC: tl.constexpr):
    """Where sample number `sample` of output pixels p = (px, py, pz) lies, as distances from the output's centre."""
    px, py, pz = p
    OW, OH, OD = finer
    if SPEC.ANTIALIAS != "none":
        px = px * S + sample % S
        py = py * S + sample // S % S
        pz = pz * S + sample // (S * S) if SPEC.NDIM == 3 else pz
    return centred(px, OW, SPEC), centred(py, OH, SPEC), centred(pz, OD, SPEC)


@triton.jit
def mean(total, count, SPEC: tl.constexpr):
    """The mean of `count` samples."""
    if SPEC.ANTIALIAS != "none":
        total = divide(total, count.to(total.dtype))
    return total
