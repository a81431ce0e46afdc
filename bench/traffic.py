"""The bytes that a case must move, counted from its own theta."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache
from itertools import product

import torch
from torch import Tensor

from .cases import Case, Grads
from .grids import parameters, sample_groups, source_pixels
from .inputs import make_index, make_theta


@dataclass(frozen=True)
class Reach:
    """How many pixels of one channel the theta of a case touches, summed over the batch."""

    source: int
    """Distinct source pixels that any sample of any of the K maps reads."""
    outputs: int
    """Output pixels that read at least one source pixel; the others are 0 and pass on no gradient."""


def _padded(case: Case, s: Tensor, size: int) -> Tensor:
    """A coordinate (with bicubic, that of a tap) after padding."""
    if case.padding_mode == "zeros":
        return s.clamp(-3, size + 2)
    if case.padding_mode == "reflection":
        low, span = (0.0, size - 1) if case.align_corners else (-0.5, size)
        distance = (s - low).abs() % (2 * span) if span else torch.zeros_like(s)
        s = low + torch.minimum(distance, 2 * span - distance)
    return s.clamp(0, size - 1)


def _taps(case: Case, s: Tensor, size: int) -> list[Tensor]:
    """Indices of the pixels that each coordinate reads along one axis; some may lie outside."""
    if case.mode == "bicubic":
        return [_padded(case, s.floor() + step, size).round().long() for step in (-1, 0, 1, 2)]
    s = _padded(case, s, size)
    return (
        [s.round().long()] if case.mode == "nearest" else [s.floor().long(), s.floor().long() + 1]
    )


_MOST_SAMPLES = 2**22
"""How many samples are looked at together; each takes some hundred bytes of memory."""


@cache
def _reach(case: Case, device: str) -> Reach:
    size = case.shape[2:]
    flat = parameters(case, make_theta(case)).to(device)
    touched = torch.zeros(case.shape[0], math.prod(size), dtype=torch.bool, device=device)
    outputs = 0
    for maps, samples in sample_groups(case, flat):
        together = max(_MOST_SAMPLES // (math.prod(case.out_size) * samples**case.ndim), 1)
        for some in maps.split(together):
            reads = _touch(case, flat[some], samples, touched, _images(case, some))
            outputs += int(reads.sum())
    return Reach(int(touched.sum()), outputs)


def _images(case: Case, maps: Tensor) -> Tensor:
    """The images that some maps read."""
    index = make_index(case)
    return maps // (case.k or 1) if index is None else index[maps]


def _touch(case: Case, flat: Tensor, samples: int, touched: Tensor, images: Tensor) -> Tensor:
    """Mark in `touched` (N, pixels) what some maps, of these images, read; returns which outputs read anything."""
    size = case.shape[2:]
    found = source_pixels(case, flat, samples)[::-1]  # z, y, x
    reads = torch.zeros_like(found[0], dtype=torch.bool)
    base = (images.to(touched.device) * touched.shape[1]).reshape(-1, *[1] * case.ndim)
    for tap in product(*map(_taps, [case] * case.ndim, found, size)):
        inside = torch.ones_like(reads)
        pixel = torch.zeros_like(tap[0])
        for index, length in zip(tap, size, strict=True):
            inside &= (index >= 0) & (index < length)
            pixel = pixel * length + index
        touched.view(-1)[(pixel + base)[inside]] = True
        reads |= inside
    for axis in range(-case.ndim, 0):
        reads = reads.unflatten(axis, (-1, samples)).any(axis)
    return reads


def reach(case: Case, device: str = "cpu") -> Reach:
    """The reach of a case, counted exactly from its theta."""
    plain = replace(case, name="", dtype=torch.float32, memory_format="contiguous", grads=("both",))
    return _reach(plain, device)


def min_bytes(case: Case, grads: Grads | None, device: str = "cpu") -> int:
    """The bytes that must cross device memory: what a pass needs of each tensor, once. theta is too small to count.

    The forward pass reads the source pixels that it touches, however many samples read them, and writes the whole
    result. The backward pass reads the gradient of the result where that reaches the image, reads the touched source
    pixels once more if theta wants a gradient, and writes the whole gradient of the input, zeros included, if the input
    wants one.
    """
    touched = reach(case, device)
    per_pixel = case.shape[1] * torch.finfo(case.dtype).bits // 8
    source = touched.source * per_pixel
    total = source + case.maps * math.prod(case.out_size) * per_pixel
    if grads is not None:
        total += touched.outputs * per_pixel
    total += source if grads in ("both", "theta") else 0
    whole = case.shape[0] * math.prod(case.shape[2:]) * per_pixel
    total += whole if grads in ("both", "input") else 0
    return total


def least_peak_bytes(case: Case, grads: Grads | None) -> int:
    """The memory that a call must add to what it is given: the result and each gradient wanted."""
    element = torch.finfo(case.dtype).bits // 8
    total = case.output_elements() * element
    total += math.prod(case.shape) * element if grads in ("both", "input") else 0
    total += make_theta(case).numel() * 4 if grads in ("both", "theta") else 0
    return total
