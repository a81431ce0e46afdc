"""The batches of the paper's experiments: what is drawn, where it lands, and that ink is not lost."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from architectures.data import (
    Digits,
    cluttered_batch,
    colocalisation_batch,
    draw_digits,
    elastic_batch,
    elastic_theta,
    homography_theta,
    projective_batch,
    projective_theta,
    rotated_batch,
    rotation_theta,
    rts,
    rts_batch,
    volume_batch,
)
from stn_triton import identity_theta

Batch = Callable[..., tuple[Tensor, Tensor]]

BATCHES: dict[str, tuple[Batch, tuple[int, ...]]] = {
    "R": (rotated_batch, (1, 28, 28)),
    "RTS": (rts_batch, (1, 42, 42)),
    "P": (projective_batch, (1, 28, 28)),
    "E": (elastic_batch, (1, 28, 28)),
    "TC": (cluttered_batch, (1, 60, 60)),
    "3D": (volume_batch, (1, 60, 60, 60)),
}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def telling_digits(per_class: int = 3) -> Digits:
    """Strokes of two bars whose brightness tells their label, somewhere in the middle 20 pixels."""
    labels = torch.arange(10).repeat(per_class)
    images = torch.zeros(len(labels), 28, 28, dtype=torch.uint8)
    for number, label in enumerate(labels.tolist()):
        top = 5 + number % 4
        images[number, top : top + 14, 9:13] = 25 * (label + 1)
        images[number, top + 10 : top + 14, 9:20] = 25 * (label + 1)
    return Digits(images=images, labels=labels)


DIGITS = telling_digits()


@pytest.mark.parametrize("name", BATCHES)
def test_batches(name: str) -> None:
    batch, shape = BATCHES[name]
    n = 4 if name == "3D" else 60
    images, labels = batch(DIGITS, n, generator=seeded())
    assert images.shape == (n, *shape)
    assert (images.dtype, labels.dtype) == (torch.float32, torch.int64)
    assert labels.shape == (n,)
    assert images.min() >= 0
    assert images.max() <= 1 + 1e-6
    assert images.flatten(1).any(1).all(), "no blank image"
    if name != "TC":
        told = (images.flatten(1).amax(1) * 255 / 25 - 1).round().long()
        assert torch.equal(told, labels), "the label is that of the digit seen"
    torch.rand(3)  # the global generator has no say
    again = batch(DIGITS, n, generator=seeded())
    assert torch.equal(again[0], images)
    assert torch.equal(again[1], labels)
    generator = seeded()
    batch(DIGITS, n, generator=generator)
    assert not torch.equal(batch(DIGITS, n, generator=generator)[0], images), "batches differ"
    assert not torch.equal(batch(DIGITS, n, generator=seeded(1))[0], images), "seeds differ"


@pytest.mark.parametrize("name", BATCHES)
def test_no_image_at_all(name: str) -> None:
    batch, shape = BATCHES[name]
    images, labels = batch(DIGITS, 0, generator=seeded())
    assert images.shape == (0, *shape)
    assert labels.shape == (0,)


@pytest.mark.parametrize("name", BATCHES)
def test_labels_are_drawn_evenly(name: str) -> None:
    batch, _ = BATCHES[name]
    n = 3000 if name != "3D" else 0
    counts = torch.bincount(batch(DIGITS, n, generator=seeded())[1], minlength=10)
    assert (counts - n / 10).abs().max() <= 5 * math.sqrt(n / 10)


def uniformly(values: Tensor, low: float, high: float) -> None:
    """Within [low, high], and the deciles where they should be."""
    assert low - 1e-3 <= values.min()
    assert values.max() <= high + 1e-3
    share = torch.linspace(0.1, 0.9, 9, dtype=values.dtype)
    wanted = low + (high - low) * share
    assert (values.quantile(share) - wanted).abs().max() < 0.05 * (high - low)


# R


def test_rotation_is_a_rotation() -> None:
    theta = rotation_theta(2000, generator=seeded()).double()
    assert theta.shape == (2000, 2, 3)
    linear = theta[:, :, :2]
    torch.testing.assert_close(
        linear @ linear.mT, torch.eye(2).double().expand(2000, 2, 2), rtol=0, atol=1e-6
    )
    assert not theta[:, :, 2].any()
    assert (torch.linalg.det(linear) > 0).all()
    uniformly(torch.rad2deg(torch.atan2(linear[:, 1, 0], linear[:, 0, 0])), -90, 90)


def test_rotated_batch_keeps_the_ink() -> None:
    images, _ = rotated_batch(DIGITS, 200, generator=seeded())
    drawn, _ = draw_digits(DIGITS, 200, generator=seeded())
    ratio = images.sum((1, 2, 3)) / drawn.sum((1, 2, 3))
    assert (ratio - 1).abs().max() < 0.03


def test_rotated_by_nothing() -> None:
    images, _ = rotated_batch(DIGITS, 20, generator=seeded(), degrees=0)
    assert torch.allclose(images, draw_digits(DIGITS, 20, generator=seeded())[0], atol=1e-5)


# RTS


def test_rts_batch_is_rts_of_draws() -> None:
    generator = seeded()
    images, labels = draw_digits(DIGITS, 20, generator=generator)
    placed = rts(images, (50, 44), generator=generator, degrees=10, scale=(1, 2))
    batch = rts_batch(DIGITS, 20, generator=seeded(), canvas=(50, 44), degrees=10, scale=(1, 2))
    assert torch.equal(batch[0], placed)
    assert torch.equal(batch[1], labels)


# P

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
    # The mean scale is 0.875; redrawing pulls the spread in a little.
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


def centroid(maps: Tensor) -> Tensor:
    """(N, 1, h, w) -> (N, 2): the centre of mass, x and y in pixels."""
    mass = maps[:, 0].double() / maps.double().sum((1, 2, 3))[:, None, None]
    x = (mass.sum(1) * torch.arange(maps.shape[3])).sum(1)
    y = (mass.sum(2) * torch.arange(maps.shape[2])).sum(1)
    return torch.stack((x, y), 1)


# E


@pytest.mark.parametrize("canvas", [(28, 28), (56, 28)], ids=str)
def test_elastic_points(canvas: tuple[int, int]) -> None:
    n = 3000
    theta = elastic_theta(n, (28, 28), canvas, generator=seeded()).double()
    assert theta.shape == (n, 16, 2)
    lattice = identity_theta("tps", dtype=torch.float64)
    ratio = torch.tensor(canvas[::-1]) / 28
    inverse_scale = math.log(1 / 0.75) / 0.25  # the mean of 1 / s
    torch.testing.assert_close(theta.mean(0), lattice * ratio * inverse_scale, rtol=0, atol=0.02)
    # Opposite points cancel the scale, which all share: what stays is twice a point's noise.
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


def test_projective_loses_little_ink() -> None:
    """The recipe does not forbid that ink leaves the canvas; on average next to none does."""
    images, _ = projective_batch(DIGITS, 400, generator=seeded())
    wide, _ = projective_batch(DIGITS, 400, generator=seeded(), canvas=(84, 84))
    torch.testing.assert_close(wide[..., 28:56, 28:56], images, rtol=0, atol=1e-3)
    lost = 1 - images.sum((1, 2, 3)) / wide.sum((1, 2, 3))
    assert lost.mean() < 0.04
    drawn, _ = draw_digits(DIGITS, 400, generator=seeded())
    assert (wide.sum((1, 2, 3)) / drawn.sum((1, 2, 3))).min() > 0.1, "no specks"


# TC


def test_clutter_is_a_digit_and_patches() -> None:
    n = 200
    images, labels = cluttered_batch(DIGITS, n, generator=seeded(), patches=0)
    told = (images.amax((1, 2, 3)) * 255 / 25 - 1).round().long()
    assert torch.equal(told, labels)
    drawn = DIGITS.images.float().sum((1, 2)) / 255
    assert torch.isin(images.sum((1, 2, 3)).round(decimals=3), drawn.round(decimals=3)).all()
    more, same = cluttered_batch(DIGITS, n, generator=seeded())
    assert same.shape == labels.shape
    with_patches = (more > 0).sum((1, 2, 3))
    assert with_patches.max() <= (DIGITS.images > 0).sum((1, 2)).max() + 6 * 36


def test_clutter_adds_and_clamps() -> None:
    """All of the canvas is white where many white patches fall on each other."""
    white = Digits(images=torch.full((2, 28, 28), 255, dtype=torch.uint8), labels=torch.arange(2))
    images, _ = cluttered_batch(white, 5, generator=seeded(), canvas=(28, 28))
    assert torch.equal(images, torch.ones(5, 1, 28, 28))
    grey = Digits(images=white.images // 5, labels=white.labels)
    images, _ = cluttered_batch(grey, 5, generator=seeded(), canvas=(28, 28), patches=1)
    assert (images > 0.21).sum((1, 2, 3)).tolist() == [36] * 5, "one patch of 6 x 6 each"
    assert images.max() == pytest.approx(0.4)
    assert images.min() == pytest.approx(0.2)


def test_clutter_comes_from_other_digits() -> None:
    images = torch.zeros(2, 28, 28, dtype=torch.uint8)
    images[1] = 255
    digits = Digits(images=images, labels=torch.arange(2))
    pictures, labels = cluttered_batch(digits, 60, generator=seeded(), canvas=(28, 28), patches=1)
    ink = pictures.sum((1, 2, 3))
    assert torch.equal(ink, torch.where(labels == 1, 784.0, 36.0))


def test_places_are_uniform() -> None:
    dot = torch.zeros(1, 28, 28, dtype=torch.uint8)
    dot[:, 14, 14] = 255
    digits = Digits(images=dot, labels=torch.zeros(1, dtype=torch.int64))
    images, boxes = colocalisation_batch(digits, 3000, generator=seeded(), canvas=(84, 60))
    at = images[:, 0].flatten(1).argmax(1)
    assert torch.equal(images.sum((1, 2, 3)), torch.ones(3000)), "moved, not blurred"
    x, y = (at % 60 - 14).double(), (at // 60 - 14).double()
    for values, last in ((x, 32), (y, 56)):
        assert (values.min(), values.max()) == (0, last), "the first and the last place, too"
        uniformly(values, 0, last)
    assert torch.corrcoef(torch.stack((x, y)))[0, 1].abs() < 0.06
    wanted = torch.stack((x, y, x + 28, y + 28), 1).float()
    assert torch.equal(boxes, wanted)


def test_clutter_refuses() -> None:
    one = Digits(images=DIGITS.images[:1], labels=DIGITS.labels[:1])
    with pytest.raises(ValueError, match="wanted 2 digits at least, got 1"):
        cluttered_batch(one, 3, generator=seeded())
    with pytest.raises(ValueError, match="hold 28 x 28 pixels, got 27 x 60"):
        cluttered_batch(DIGITS, 3, generator=seeded(), canvas=(27, 60))
    for size in (0, 29):
        with pytest.raises(ValueError, match=f"patch_size must be 1 to 28, got {size}"):
            cluttered_batch(DIGITS, 3, generator=seeded(), patch_size=size)
    assert cluttered_batch(one, 3, generator=seeded(), patches=0)[0].shape == (3, 1, 60, 60)


# Co-localisation


@pytest.mark.parametrize("clutter", [False, True])
def test_colocalisation_boxes_frame_the_digit(clutter: bool) -> None:
    digits = DIGITS.of_class(7)
    n = 40
    images, boxes = colocalisation_batch(
        digits, n, generator=seeded(), clutter=clutter, clutter_from=DIGITS
    )
    assert images.shape == (n, 1, 84, 84)
    assert (images.dtype, boxes.dtype) == (torch.float32, torch.float32)
    assert images.max() <= 1
    assert boxes.shape == (n, 4)
    for image, box in zip(images[:, 0], boxes.long().tolist(), strict=True):
        x0, y0, x1, y1 = box
        assert (x1 - x0, y1 - y0) == (28, 28)
        crop = image[y0:y1, x0:x1]
        fits = [(crop >= digit.float() / 255 - 1e-6).all() for digit in digits.images]
        assert any(fits), "the digit is in its box"
        if not clutter:
            assert (crop > 0).sum() == (image > 0).sum(), "and nothing beside it"
    if clutter:
        plain = digits.images.float().sum((1, 2)).max() / 255
        assert (images.sum((1, 2, 3)) > plain).float().mean() > 0.9, "patches were added"


def test_colocalisation_uses_every_digit_before_any_again() -> None:
    images = torch.arange(1, 6, dtype=torch.uint8)[:, None, None].expand(5, 28, 28)
    digits = Digits(images=images, labels=torch.full((5,), 3))
    for n in (1, 5, 12):
        drawn, _ = colocalisation_batch(digits, n, generator=seeded())
        counts = torch.bincount((drawn.amax((1, 2, 3)) * 255).round().long(), minlength=6)[1:]
        assert counts.sum() == n
        assert counts.max() - counts.min() <= 1


def test_colocalisation_refuses() -> None:
    with pytest.raises(ValueError, match=r"one class, got classes \[0, 1, 2"):
        colocalisation_batch(DIGITS, 3, generator=seeded())
    with pytest.raises(ValueError, match=r"one class, got classes \[\]"):
        colocalisation_batch(DIGITS.of_class(11), 3, generator=seeded())
    with pytest.raises(ValueError, match="wants clutter_from"):
        colocalisation_batch(DIGITS.of_class(1), 3, generator=seeded(), clutter=True)


# Volumes


def whole_volume(n: int, volume: tuple[int, int, int], degrees: float, depth: int) -> Tensor:
    return volume_batch(DIGITS, n, generator=seeded(), volume=volume, degrees=degrees, depth=depth)[
        0
    ]


@pytest.mark.parametrize("depth", [1, 8])
def test_volumes_without_rotation_are_extruded_digits(depth: int) -> None:
    volumes = whole_volume(20, (40, 50, 60), 0, depth)
    drawn, _ = draw_digits(DIGITS, 20, generator=seeded())
    ratio = volumes.sum((1, 2, 3, 4)) / (drawn.sum((1, 2, 3)) * depth)
    torch.testing.assert_close(ratio, torch.ones(20), rtol=0, atol=1e-3)
    occupied = (volumes[:, 0].amax((2, 3)) > 0).sum(1)
    assert ((occupied == depth) | (occupied == depth + 1)).all()


def test_volumes_keep_the_ink() -> None:
    """Nothing is cut off by the volume, or by the cube that is sampled."""
    volumes = whole_volume(20, (60, 60, 60), 90, 8)
    drawn, _ = draw_digits(DIGITS, 20, generator=seeded())
    ratio = volumes.sum((1, 2, 3, 4)) / (drawn.sum((1, 2, 3)) * 8)
    assert (ratio - 1).abs().max() < 0.03


def test_volumes_are_placed_and_turned_everywhere() -> None:
    volumes = whole_volume(60, (48, 48, 48), 45, 4)[:, 0]
    step = torch.arange(48.0)
    centres = []
    for axis in (1, 2, 3):
        others = [each for each in (1, 2, 3) if each != axis]
        mass = volumes.sum(others)
        centres.append((mass / mass.sum(1, keepdim=True)) @ step)
    at = torch.stack(centres, 1)
    assert (at.mean(0) - 23.5).abs().max() < 4
    assert at.amin(0).max() < 17
    assert at.amax(0).min() > 30
    thick = (volumes.amax((2, 3)) > 0).sum(1)
    assert thick.min() < 14 < thick.max(), "bodies lean out of their plane"


def test_volume_labels_and_faces() -> None:
    volumes, labels = volume_batch(DIGITS, 6, generator=seeded(), volume=(20, 20, 20))
    assert volumes.shape == (6, 1, 20, 20, 20)
    assert labels.shape == (6,)
    assert volumes.isfinite().all(), "a body that is too long is put in the middle"


def spread(mass: Tensor) -> Tensor:
    """(n, d, h, w) -> the eigenvalues of each body's covariance, (n, 3)."""
    mass = mass.double()
    at = torch.cartesian_prod(*(torch.arange(length).double() for length in mass.shape[1:]))
    weights = mass.flatten(1) / mass.sum((1, 2, 3))[:, None]
    from_mean = at - (weights @ at)[:, None]
    return torch.linalg.eigvalsh(from_mean.mT @ (weights[..., None] * from_mean))


def test_volumes_can_stay_in_the_middle() -> None:
    volumes = volume_batch(DIGITS, 20, generator=seeded(), degrees=0, spread=0.0)[0][:, 0]
    for axis in (1, 2, 3):
        profile = volumes.amax([other for other in (1, 2, 3) if other != axis])
        before = (profile > 0.01).int().argmax(1)
        after = (profile.flip(1) > 0.01).int().argmax(1)
        assert (before - after).abs().max() <= 2, "as much room on either side"


def test_volumes_are_turned_rigidly() -> None:
    drawn, _ = draw_digits(DIGITS, 12, generator=seeded())
    bodies = drawn.expand(-1, 9, -1, -1)
    turned = whole_volume(12, (48, 48, 48), 90, 9)[:, 0]
    # Interpolation blurs: up to a quarter of a voxel's square along each axis, and a third in all.
    torch.testing.assert_close(spread(turned), spread(bodies), rtol=0.02, atol=0.5)


def test_volumes_are_not_mirrored() -> None:
    flat = whole_volume(6, (60, 60, 60), 0, 6).sum(2) / 6
    drawn, _ = draw_digits(DIGITS, 6, generator=seeded())
    for image, picture in zip(drawn, flat, strict=True):
        best = torch.nn.functional.conv2d(picture[None], image[None], padding=14).max()
        assert best / image.square().sum() > 0.85
