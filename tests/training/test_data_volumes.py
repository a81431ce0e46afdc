"""Digits as bodies in a volume: turned rigidly, placed everywhere, and no ink lost."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from architectures.data import draw_digits, volume_batch
from support.digits import DIGITS, seeded


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
    volumes = volume_batch(DIGITS, 20, generator=seeded(), difficulty=0.0)[0][:, 0]
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
