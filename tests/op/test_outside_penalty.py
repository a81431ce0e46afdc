"""`outside_penalty`: zero inside, what it measures, and that it pulls a frame back."""

from __future__ import annotations

import pytest
import torch

from stn_triton import identity_theta, outside_penalty, sampling_grid
from support.thetas import F64, OUT, SPACES, draw


@pytest.mark.parametrize(("transform", "ndim"), SPACES)
def test_penalty_is_zero_inside(transform: str, ndim: int) -> None:
    whole = identity_theta(transform, (2, 3), ndim=ndim)
    assert torch.equal(outside_penalty(whole, transform=transform), torch.zeros(2, 3))


def test_penalty_measures() -> None:
    shifted = torch.tensor([[1.0, 0, 0.5], [0, 1, 0]])  # two of four corners, by half a unit
    zoomed = torch.tensor([[2.0, 0, 0], [0, 2, 0]])  # every corner, by one unit in x and in y
    assert outside_penalty(torch.stack((shifted, zoomed))).tolist() == [0.125, 2.0]
    volume = torch.tensor([[1.5, 0.0, 0.0, 0.0]])
    assert outside_penalty(volume, transform="attention").tolist() == [0.75]
    points = identity_theta("tps", (1,), control_points=2)
    points[0, 3] += torch.tensor([1.0, -0.5])  # one of four, to the right
    assert outside_penalty(points, transform="tps").tolist() == [0.25]


def test_penalty_of_a_homography() -> None:
    affine = draw("affine", 6, spread=0.5)
    last = torch.tensor([0, 0, 1], dtype=F64).expand(6, 1, 3)
    whole = torch.cat((affine, last), 1)
    expected = outside_penalty(affine)
    torch.testing.assert_close(outside_penalty(-2 * whole, transform="projective"), expected)
    torch.testing.assert_close(
        outside_penalty(whole.flatten(1)[:, :8], transform="projective"), expected
    )
    # All corners land inside, but two of them from behind the horizon that crosses the output.
    crossing = torch.tensor([[0.1, 0, 0, 0, 0.1, 0, 2, 0]])
    corners = sampling_grid(crossing, (2, 2), transform="projective", align_corners=True)
    assert corners.abs().max() < 1
    assert outside_penalty(crossing, transform="projective").item() > 0.1


@pytest.mark.parametrize(("transform", "ndim"), SPACES)
def test_penalty_pulls_the_frame_back(transform: str, ndim: int) -> None:
    theta = draw(transform, 3, ndim=ndim, spread=0.4, dtype=torch.float32).requires_grad_()
    optimiser = torch.optim.SGD([theta], lr=0.3)
    for _ in range(400):
        optimiser.zero_grad()
        outside_penalty(theta, transform=transform).sum().backward()
        optimiser.step()
    grid = sampling_grid(theta.detach(), OUT[ndim], transform=transform, align_corners=True)
    assert grid.abs().max() < (1.1 if transform == "tps" else 1.02), "a spline bulges"
