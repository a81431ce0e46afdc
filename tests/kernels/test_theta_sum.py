"""The sum of theta's gradient over the programs that found its parts."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")

from stn_triton.kernels.geometry import geometry
from stn_triton.kernels.launch import recorded
from stn_triton.kernels.theta_sum import new_partial, sum_partial
from stn_triton.transforms import TRANSFORMS, Options
from support.checks import needs_triton

SIZES = (0, 1, 7, 8, 9, 64, 65, 512, 1300)


def of_transform(
    name: str, parts: int, device: torch.device, theta_dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    u = torch.empty(2, 1, 4, 5, device=device)
    theta = TRANSFORMS[name].identity(2, 3).to(device, theta_dtype)
    theta = theta.expand(2, 2, *theta.shape).contiguous()
    g = geometry(u, theta, None, (3, 4), Options(name))
    partial = new_partial(g, theta, parts).normal_()
    found = sum_partial(g, partial, theta)
    assert (found.shape, found.dtype) == (theta.shape, theta.dtype)
    exact = partial.double().sum(1)
    lattice = TRANSFORMS[name].lattice
    if lattice is not None:
        weights = lattice.weights((3, 3)).to(device)
        exact = weights.mT @ exact.view(4, -1, 2)
    error = (found.double().flatten() - exact.flatten()).abs().max()
    eps = torch.finfo(found.dtype).eps
    # Weights of a spline are up to 10.
    adding = torch.finfo(partial.dtype).eps * parts * (10 if lattice else 1)
    assert error <= adding + eps * exact.abs().max()
    assert torch.equal(found, sum_partial(g, partial, theta))
    return found


@needs_triton
@pytest.mark.parametrize("parts", SIZES)
def test_any_number_of_parts(parts: int, device: torch.device) -> None:
    found = of_transform("affine", parts, device)
    assert parts > 0 or not found.any()


@needs_triton
@pytest.mark.parametrize("name", TRANSFORMS)
def test_every_transform(name: str, device: torch.device) -> None:
    of_transform(name, 21, device)


@needs_triton
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_rounded_once_to_thetas_dtype(dtype: torch.dtype, device: torch.device) -> None:
    of_transform("affine", 70, device, dtype)


def test_three_sizes_of_programs() -> None:
    u, theta = torch.empty(1, 1, 4, 5, device="meta"), torch.empty(1, 2, 3, device="meta")
    g = geometry(u, theta, None, (3, 4), Options())
    with recorded() as launches:
        for parts in SIZES:
            sum_partial(g, new_partial(g, theta, parts), theta)
    assert {each.constexprs["ROWS"] for each in launches} == {8, 64, 512}
