"""The error budget of the tests and of the benchmarks: how far a result may be from the definition in float64."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_EPS64 = torch.finfo(torch.float64).eps


def roundings_of_truth(sizes: Sequence[int], *, transform: str, mode: str) -> int:
    """How many roundings in float64 the definition itself may be wrong by.

    Coordinates are numbers of pixels and as coarse as those; `sizes` are the lengths of input and output. A thin-plate
    spline is the solution of a system of condition 3e3. The slope of a cubic changes faster with the coordinate.
    """
    return (
        max(sizes, default=0) * (64 if transform == "tps" else 1) * (4 if mode == "bicubic" else 1)
    )


def beyond_budget(
    actual: Tensor,
    low: Tensor,
    true: Tensor,
    *,
    times: float = 2.0,
    roundings: float = 4.0,
    of_truth: int = 0,
) -> str | None:
    """None if `actual` is near enough to `true`, else what is wrong with it.

    No tolerance is set by hand: the largest error may be `times` as large as that of `low`, which is PyTorch's in the
    same dtype, and `roundings` more of the largest value in the dtype of `actual`. of_truth: see `roundings_of_truth`.
    """
    if actual.shape != true.shape:
        return f"shape {tuple(actual.shape)}, not {tuple(true.shape)}"
    if not actual.numel():
        return None
    if not actual.isfinite().all():
        return "not finite"
    largest = float(true.abs().amax())
    rounding = (torch.finfo(actual.dtype).eps + _EPS64 * of_truth) * largest
    ours = float((actual.double() - true.double()).abs().amax())
    theirs = float((low.double() - true.double()).abs().amax())
    if ours <= times * theirs + roundings * rounding:
        return None
    return f"error {ours:.3g}; PyTorch's own is {theirs:.3g}, one rounding {rounding:.3g}"
