"""PyTorch's own samplers on a case: what eager PyTorch is timed with, and what the check computes its references by."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .cases import Case
from .grids import sample_groups, sampling_grid
from .inputs import in_format, make_index

_MODES = {"bilinear": 0, "nearest": 1, "bicubic": 2}
_PADDINGS = {"zeros": 0, "border": 1, "reflection": 2}


def per_map(case: Case, x: Tensor) -> Tensor:
    """(N, C, *size) -> (N * K, C, *size): every image once per transformer, in the same memory format."""
    index = make_index(case, x.device)
    if index is not None:
        return in_format(case, x.index_select(0, index))
    return x if case.k is None else x.repeat_interleave(case.k, 0)


def native(
    case: Case,
    x: Tensor,
    parameters: Tensor,
    grid: Callable[[Case, Tensor, int], Tensor] = sampling_grid,
) -> Tensor:
    """PyTorch's own kernels, (N * K, C, *out_size), then the mean over the samples of each output pixel.

    What `grid_sample` calls, except that with aligned corners on a GPU `grid_sample` goes to cuDNN.
    """
    x, groups = per_map(case, x), sample_groups(case, parameters)
    if len(groups) == 1:
        samples = groups[0][1]
        return _native(case, x, grid(case, parameters, samples), samples)
    parts = [
        _native(case, x[maps], grid(case, parameters[maps], samples), samples)
        for maps, samples in groups
    ]
    return torch.cat(parts)[torch.cat([maps for maps, _ in groups]).argsort()]


def _native(case: Case, x: Tensor, grid: Tensor, samples: int) -> Tensor:
    sampler = torch.grid_sampler_2d if case.ndim == 2 else torch.grid_sampler_3d
    options = _MODES[case.mode], _PADDINGS[case.padding_mode], case.align_corners
    found = sampler(x, grid, *options)
    if case.padding_value:
        inside = sampler(torch.ones_like(x[:, :1]), grid, *options)
        found = found + case.padding_value * (1 - inside)
    return mean_of_samples(case, found, samples)


def mean_of_samples(case: Case, finer: Tensor, samples: int) -> Tensor:
    """(N * K, C, *size), `samples` times too large along each axis, to the size of the result."""
    if samples == 1:
        return finer
    return F.avg_pool2d(finer, samples) if case.ndim == 2 else F.avg_pool3d(finer, samples)
