"""Antialiasing in torch operations: an output pixel is the mean of S samples along each axis.

With a fixed S these are the pixels of a finer output. With `antialias=True` every transformation has an S of its own,
and gets what it would get alone: sample after sample is taken, and left out for those that do not ask for it. So memory
holds one sample of each output pixel at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from stn_triton.tracing import (
    is_dispatched,
    is_gradient_wanted,
    is_jit_traced,
    is_transformed,
    under_transforms,
)
from stn_triton.transforms import AUTO, MOST_SAMPLES, TRANSFORMS, Options, output_axes

_Size = tuple[int, ...]
Sampler = Callable[[Tensor, Tensor, Options], Tensor]
"""image (N, C, *size), normalised grid (N, K, *out_size, ndim) -> (N, C, K * out_size[0], *out_size[1:])."""


def mean_of_samples(
    image: Tensor, theta: Tensor, out_size: _Size, options: Options, sampler: Sampler
) -> Tensor:
    """Every output pixel as the mean of its samples: (N, C, K * out_size[0], *out_size[1:])."""
    samples = options.samples
    if samples == AUTO:
        asked = samples_asked(theta, tuple(image.shape[2:]), out_size, options)
        return _by_slices(image, theta, out_size, options, sampler, asked)
    finer = tuple(samples * length for length in out_size)
    axes = output_axes(finer, options.align_corners, theta)
    output = sampler(
        image, TRANSFORMS[options.transform].grid(theta, axes, options.control_points), options
    )
    if samples == 1:
        return output
    return (F.avg_pool2d if len(out_size) == 2 else F.avg_pool3d)(output, samples)


def samples_asked(theta: Tensor, in_size: _Size, out_size: _Size, options: Options) -> Tensor:
    """(N, K, *shape) -> (N, K): the largest step between neighbouring samples, in source pixels, rounded up."""
    matrix_of = TRANSFORMS[options.transform].matrix
    assert matrix_of is not None
    rows = matrix_of(theta.detach(), len(out_size)).unbind(-2)
    steps = [
        row[..., column].abs() * (length / out_length)
        for row, length in zip(rows, reversed(in_size), strict=True)
        for column, out_length in enumerate(reversed(out_size))
    ]
    most = (torch.stack(steps).amax(0) - 1e-3).ceil()
    return most.nan_to_num(1, 1, 1).clamp(1, MOST_SAMPLES)


def _by_slices(
    image: Tensor, theta: Tensor, out_size: _Size, options: Options, sampler: Sampler, asked: Tensor
) -> Tensor:
    """The same sample of every output pixel at once, as many as may be asked for."""
    most = _most(asked)
    one_slice = partial(_slice, out_size=out_size, options=options, sampler=sampler)
    # A compiled graph holds every slice: there a slice is all samples along x. Elsewhere it is one sample.
    along_x = most if torch.compiler.is_compiling() else 1
    if _may_recompute(image, theta):
        one_slice = partial(checkpoint, one_slice, use_reentrant=False, preserve_rng_state=False)
    total: Tensor | None = None
    for numbers in _slices(most, along_x, len(out_size)):
        part = one_slice(image, theta, asked, numbers)
        total = part if total is None else total + part
    assert total is not None
    count = asked[(slice(None), None, slice(None), *[None] * len(out_size))] ** len(out_size)
    return (total.unflatten(2, (-1, out_size[0])) / count).flatten(2, 3)


def _slices(most: int, along_x: int, ndim: int) -> Iterator[tuple[range, ...]]:
    """The numbers of the samples of each slice along each axis, x first."""
    for first in range(0, most, along_x):
        for others in product(range(most), repeat=ndim - 1):
            yield range(first, first + along_x), *(range(n, n + 1) for n in others)


def _slice(
    image: Tensor, theta: Tensor, asked: Tensor, numbers: tuple[range, ...], *, out_size: _Size, options: Options,
    sampler: Sampler,
) -> Tensor:  # fmt: skip
    """The sum of some samples of every output pixel; what a transformation does not ask for is left out."""
    count = asked.unsqueeze(-1)  # (N, K, 1)
    axes, taken = [], []
    for centre, along in zip(output_axes(out_size, False, theta), numbers, strict=True):
        number = torch.arange(along.start, along.stop, dtype=theta.dtype, device=theta.device)
        from_centre = (2 * number + 1) / count - 1  # (N, K, numbers), in halves of an output pixel
        axes.append(
            (centre.unsqueeze(-1) + (from_centre / centre.shape[0]).unsqueeze(-2)).flatten(-2)
        )
        taken.append((number < count).repeat(1, 1, centre.shape[0]))  # (N, K, length * numbers)
    there = _over_the_grid(taken)  # (N, K, *sizes)
    grid = TRANSFORMS[options.transform].grid(theta, tuple(axes), options.control_points)
    # The inner `where` stops gradients, the outer one values: a sample left out may lie on a pixel that is not finite.
    output = sampler(image, torch.where(there.unsqueeze(-1), grid, 0.0), options)
    output = torch.where(there.flatten(1, 2).unsqueeze(1), output, 0.0)
    return output.unflatten(-1, (out_size[-1], -1)).sum(-1)


def _over_the_grid(taken: list[Tensor]) -> Tensor:
    """Of each axis, x first, (N, K, length) -> (N, K, *lengths): taken along all of them."""
    ndim = len(taken)
    over = torch.ones((), dtype=torch.bool, device=taken[0].device)
    for number, along in enumerate(taken):
        before, after = ndim - 1 - number, number
        over = (
            over & along[(slice(None), slice(None), *[None] * before, slice(None), *[None] * after)]
        )
    return over


def _most(asked: Tensor) -> int:
    """The largest number that is asked for; the largest there can be where nobody may look."""
    everything = under_transforms(asked)
    return int(everything.max().item()) if everything is not None else MOST_SAMPLES


def _may_recompute(image: Tensor, theta: Tensor) -> bool:
    """Whether the backward may sample again, so that no slice keeps its grid in between."""
    looked_at = torch.compiler.is_compiling() or is_jit_traced() or is_dispatched(image, theta)
    wanted = is_gradient_wanted(image, theta)
    return wanted and not looked_at and not is_transformed(image, theta)
