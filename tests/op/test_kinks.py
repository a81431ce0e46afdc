"""Which side a backend takes where the slope of "bilinear" jumps and where "nearest" has ties."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from bench import definition
from stn_triton import st_sample
from support.checks import NATIVE, check, needs_triton, plain, slow

pytestmark = pytest.mark.usefixtures("poisoned_memory")
EXACT = [NATIVE, pytest.param("triton", marks=needs_triton)]
"""Backends whose coordinates are exact here. Those of torch are rounded, to one side of a kink or the other."""


WHOLE = {
    "identity": ([[1, 0, 0], [0, 1, 0]], (4, 5), (4, 5), False),
    "identity, a vector of columns": ([[1, 0, 0], [0, 1, 0]], (4, 32), (4, 32), False),
    "the same, corners aligned": ([[1, 0, 0], [0, 1, 0]], (5, 33), (5, 33), True),
    "identity, corners aligned": ([[1, 0, 0], [0, 1, 0]], (4, 5), (4, 5), True),
    "flipped": ([[-1, 0, 0], [0, -1, 0]], (4, 5), (4, 5), False),
    "quarter turn": ([[0, 1, 0], [-1, 0, 0]], (4, 4), (4, 4), False),
    "shifted": ([[1, 0, 0.5], [0, 1, -0.5]], (4, 4), (4, 4), False),
    "every second, corners aligned": ([[1, 0, 0], [0, 1, 0]], (3, 5), (5, 9), True),
    "both ends": ([[2, 0, 0], [0, 2, 0]], (3, 3), (5, 5), True),
    "one point": ([[0, 0, 0], [0, 0, 0]], (3, 5), (3, 2), False),
}


@pytest.mark.parametrize("backend", EXACT)
@pytest.mark.parametrize("padding_mode", ["zeros", "border", slow("reflection")])
@pytest.mark.parametrize("dtype", [torch.float32, slow(torch.float64)], ids=str)
@pytest.mark.parametrize("name", WHOLE)
def test_slopes_at_whole_coordinates(
    name: str, dtype: torch.dtype, padding_mode: str, backend: str, device: torch.device
) -> None:
    """The derivative is the one to the right, and 0 at the ends of padding; no coordinate here is rounded."""
    sample = partial(st_sample, backend=backend)
    matrix, in_size, out_size, align = WHOLE[name]
    theta = torch.tensor([matrix], dtype=dtype, device=device)
    found = definition.coordinates(theta.double(), in_size, out_size, "affine", align)
    assert any(torch.equal(s, s.round()) for s in found) or name.startswith("every second")
    u = torch.randn(1, 2, *in_size, dtype=dtype, device=device)
    options = {"padding_mode": padding_mode, "align_corners": align}
    torch.manual_seed(1)
    ours = check(sample, u, theta, out_size, reference=plain, **options)
    # What makes theta's gradient alone, from the cotangent that `check` drew, takes the same side.
    torch.manual_seed(1)
    g = torch.randn(ours["output"].shape, device=device).to(dtype)
    theta.requires_grad_()
    (alone,) = torch.autograd.grad(sample(u, theta, out_size, **options), theta, g)
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(alone, ours["theta gradient"], rtol=32 * eps, atol=32 * eps)


TIES = {
    "half a pixel to the right": ([[1, 0, 0.25], [0, 1, 0.25]], (4, 4), (4, 4), False),
    "half a pixel to the left": ([[1, 0, -0.25], [0, 1, -0.25]], (4, 4), (4, 4), False),
    "two rows of each": ([[1, 0, 0], [0, 1, 0]], (3, 5), (5, 9), True),
}


@pytest.mark.parametrize("backend", EXACT)
@pytest.mark.parametrize("padding_mode", ["zeros", "border"])
@pytest.mark.parametrize("name", TIES)
def test_ties_of_nearest_go_to_the_even_pixel(
    name: str, padding_mode: str, backend: str, device: torch.device
) -> None:
    matrix, in_size, out_size, align = TIES[name]
    theta = torch.tensor([matrix], dtype=torch.float32, device=device)
    found = definition.coordinates(theta.double(), in_size, out_size, "affine", align)
    assert all((s - s.floor() == 0.5).any() for s in found)
    u = torch.randn(1, 1, *in_size, device=device)
    options = {"padding_mode": padding_mode, "mode": "nearest", "align_corners": align}
    check(partial(st_sample, backend=backend), u, theta, out_size, reference=plain, **options)
