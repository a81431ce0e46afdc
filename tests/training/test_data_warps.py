"""Digits warped by homographies and by splines: what is drawn, and that the picture follows theta."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from architectures.data import (
    Digits,
    draw_digits,
    elastic_batch,
    elastic_theta,
    homography_theta,
    projective_batch,
    projective_theta,
)
from stn_triton import identity_theta
from support.digits import DIGITS, centroid, seeded, uniformly

# Homographies

CORNERS = torch.tensor([(-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0)], dtype=torch.float64)


def through(theta: Tensor, points: Tensor) -> Tensor:
    """Where a homography (8,) takes points (P, 2), one after the other and by the formula."""
    a, b, c, d, e, f, g, h = theta.double().tolist()
    rows = []
    for x, y in points.tolist():
        below = g * x + h * y + 1
        rows.append(((a * x + b * y + c) / below, (d * x + e * y + f) / below))
    return torch.tensor(rows, dtype=torch.float64)


@given(
    st.lists(st.floats(-0.3, 0.3), min_size=8, max_size=8),
    st.lists(st.floats(-0.3, 0.3), min_size=8, max_size=8),
)
def test_homography_takes_four_points_to_four(first: list[float], second: list[float]) -> None:
    points, images = (CORNERS + torch.tensor(each).view(4, 2) for each in (first, second))
    theta = homography_theta(points[None], images[None])
    assert theta.shape == (1, 8)
    torch.testing.assert_close(through(theta[0], points), images, rtol=0, atol=1e-5)


def corners_on_canvas(theta: Tensor, canvas: tuple[int, int]) -> Tensor:
    """(n, 8) -> where the image's corners are on the canvas, (n, 4, 2) pixels from its middle."""
    matrix = torch.cat((theta, torch.ones(len(theta), 1)), 1).double().unflatten(1, (3, 3))
    ends = torch.cat((CORNERS, torch.ones(4, 1)), 1)
    moved = ends @ torch.linalg.inv(matrix).mT
    return moved[..., :2] / moved[..., 2:] * torch.tensor(canvas[::-1]) / 2


@pytest.mark.parametrize("canvas", [(28, 28), (40, 60)], ids=str)
def test_projective_corners(canvas: tuple[int, int]) -> None:
    n = 4000
    at = corners_on_canvas(projective_theta(n, (28, 28), canvas, generator=seeded()), canvas)
    # The mean scale is 0.875; drawing anew what does not fit narrows the spread a little.
    torch.testing.assert_close(at.mean(0), CORNERS * 14 * 0.875, rtol=0, atol=0.6)
    scale_std = 14 * 0.25 / math.sqrt(12)
    assert (at.std(0) / math.hypot(5, scale_std) - 1).abs().max() < 0.08
    noise = at - at.mean(0)
    between = torch.corrcoef(noise.flatten(1).T) - torch.eye(8)
    assert between.abs().max() < 0.2, "corners move apart from each other, but for the scale"
    edges = at.roll(-1, 1) - at
    turn = edges[..., 0] * edges.roll(-1, 1)[..., 1] - edges[..., 1] * edges.roll(-1, 1)[..., 0]
    assert turn.min() > 0, "convex, the right way round"


def test_projective_scale_alone() -> None:
    theta = projective_theta(2000, (28, 28), (28, 28), generator=seeded(), corner_std=0)
    uniformly(1 / theta[:, 0].double(), 0.75, 1.0)
    scaled = torch.zeros_like(theta)
    scaled[:, 0] = scaled[:, 4] = theta[:, 0]
    torch.testing.assert_close(theta, scaled, rtol=0, atol=1e-6)


def test_projective_corners_that_never_fit_stay() -> None:
    theta = projective_theta(50, (28, 28), (28, 28), generator=seeded(), corner_std=1e6)
    assert theta.isfinite().all()
    least = corners_on_canvas(theta, (28, 28)).abs().amax((1, 2))
    assert ((least < 14.1) | (least > 1e3)).all(), "unmoved, or large and convex"
    assert (least < 14.1).any()


def test_projective_picture_follows_theta() -> None:
    """A dot in the picture is found where the inverse homography puts it."""
    dot = torch.zeros(28, 28, dtype=torch.uint8)
    dot[12:15, 17:20] = 255
    digits = Digits(images=dot[None], labels=torch.zeros(1, dtype=torch.int64))
    images, _ = projective_batch(digits, 50, generator=seeded(), corner_std=2)
    generator = seeded()
    draw_digits(digits, 50, generator=generator)
    theta = projective_theta(50, (28, 28), (28, 28), generator=generator, corner_std=2)
    matrix = torch.cat((theta, torch.ones(50, 1)), 1).double().unflatten(1, (3, 3))
    source = torch.tensor([18.5 / 14 - 1, 13.5 / 14 - 1, 1]).double()
    at = torch.linalg.inv(matrix) @ source
    wanted = (at[:, :2] / at[:, 2:] + 1) * 14 - 0.5
    torch.testing.assert_close(centroid(images), wanted, rtol=0, atol=0.35)


def test_projective_loses_little_ink() -> None:
    """The recipe does not forbid that ink leaves the canvas; on average next to none does."""
    images, _ = projective_batch(DIGITS, 400, generator=seeded())
    wide, _ = projective_batch(DIGITS, 400, generator=seeded(), canvas=(84, 84))
    torch.testing.assert_close(wide[..., 28:56, 28:56], images, rtol=0, atol=1e-3)
    lost = 1 - images.sum((1, 2, 3)) / wide.sum((1, 2, 3))
    assert lost.mean() < 0.04
    drawn, _ = draw_digits(DIGITS, 400, generator=seeded())
    assert (wide.sum((1, 2, 3)) / drawn.sum((1, 2, 3))).min() > 0.1, "no specks"


# Splines


@pytest.mark.parametrize("canvas", [(28, 28), (56, 28)], ids=str)
def test_elastic_points(canvas: tuple[int, int]) -> None:
    n = 3000
    theta = elastic_theta(n, (28, 28), canvas, generator=seeded()).double()
    assert theta.shape == (n, 16, 2)
    lattice = identity_theta("tps", dtype=torch.float64)
    ratio = torch.tensor(canvas[::-1]) / 28
    inverse_scale = math.log(1 / 0.75) / 0.25  # the mean of 1 / s
    torch.testing.assert_close(theta.mean(0), lattice * ratio * inverse_scale, rtol=0, atol=0.02)
    # The sum of two opposite points does not depend on the scale; the noise of both remains.
    pairs = (theta + theta.flip(1)) * 14 / math.sqrt(2)
    assert (pairs.std(0) / 1.5 - 1).abs().max() < 0.06
    still = elastic_theta(n, (28, 28), canvas, generator=seeded(), point_std=0).double()
    scale = lattice[-1, 0] * ratio[0] / still[:, -1, 0]
    uniformly(scale, 0.75, 1.0)
    torch.testing.assert_close(still, lattice * ratio / scale[:, None, None], rtol=0, atol=1e-5)


def test_elastic_picture_by_the_formula() -> None:
    """A spline solved and summed point by point, against the batch's own picture."""
    generator = seeded()
    drawn, _ = draw_digits(DIGITS, 3, generator=generator)
    theta = elastic_theta(3, (28, 28), (28, 28), generator=generator).double()
    images, _ = elastic_batch(DIGITS, 3, generator=seeded())
    lattice = identity_theta("tps", dtype=torch.float64)

    def phi(square: Tensor) -> Tensor:
        return torch.where(square > 0, square * square.clamp(min=1e-30).log(), 0.0)

    system = torch.zeros(19, 19, dtype=torch.float64)
    system[:16, :16] = phi((lattice[:, None] - lattice).square().sum(-1))
    system[:16, 16:] = torch.cat((torch.ones(16, 1), lattice), 1)
    system[16:, :16] = system[:16, 16:].T
    centres = (torch.arange(28).double() + 0.5) / 14 - 1
    at = torch.cartesian_prod(centres, centres).flip(1)
    basis = torch.cat((phi((at[:, None] - lattice).square().sum(-1)), torch.ones(784, 1), at), 1)
    for image, points, result in zip(drawn, theta, images, strict=True):
        right = torch.cat((points, torch.zeros(3, 2).double()))
        source = basis @ torch.linalg.solve(system, right)
        grid = source.view(1, 28, 28, 2)
        wanted = torch.nn.functional.grid_sample(image[None].double(), grid, align_corners=False)
        torch.testing.assert_close(result.double(), wanted[0], rtol=0, atol=1e-4)


def test_elastic_keeps_the_digit() -> None:
    images, _ = elastic_batch(DIGITS, 400, generator=seeded())
    ratio = images.sum((1, 2, 3)) / draw_digits(DIGITS, 400, generator=seeded())[0].sum((1, 2, 3))
    assert 0.75**2 < ratio.mean() < 1, "scaled by 0.875 on average"
    assert ratio.min() > 0.25
