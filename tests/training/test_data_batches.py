"""The batches of the paper's experiments: shapes, labels and seeds, rotation, clutter and co-localisation."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from architectures.data import (
    Digits,
    cluttered_batch,
    colocalisation_batch,
    draw_digits,
    elastic_batch,
    projective_batch,
    rotated_batch,
    rotation_theta,
    rts,
    rts_batch,
    volume_batch,
)
from architectures.data.distort import bend_digits
from support.digits import DIGITS, centroid, seeded, telling_digits, uniformly

Batch = Callable[..., tuple[Tensor, Tensor]]

BATCHES: dict[str, tuple[Batch, tuple[int, ...]]] = {
    "R": (rotated_batch, (1, 28, 28)),
    "RTS": (rts_batch, (1, 42, 42)),
    "P": (projective_batch, (1, 28, 28)),
    "E": (elastic_batch, (1, 28, 28)),
    "TC": (cluttered_batch, (1, 60, 60)),
    "3D": (volume_batch, (1, 60, 60, 60)),
}


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
    torch.rand(3)  # the global generator must not matter
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


# R: rotated


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


# RTS: rotated, translated and scaled


def test_rts_batch_is_rts_of_draws() -> None:
    generator = seeded()
    images, labels = draw_digits(DIGITS, 20, generator=generator)
    placed = rts(images, (50, 44), generator=generator, degrees=10, scale=(1, 2))
    batch = rts_batch(DIGITS, 20, generator=seeded(), canvas=(50, 44), degrees=10, scale=(1, 2))
    assert torch.equal(batch[0], placed)
    assert torch.equal(batch[1], labels)


# TC: translated, with clutter


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


def test_digits_are_bent_each_in_its_own_way() -> None:
    digits = telling_digits(per_class=40)
    same = bend_digits(digits, generator=seeded(), std=0.0)
    assert torch.equal(same.images, digits.images)
    bent = bend_digits(digits, generator=seeded(), std=1.0)
    assert torch.equal(bent.labels, digits.labels)
    assert (bent.images.shape, bent.images.dtype) == (digits.images.shape, torch.uint8)
    assert torch.equal(bend_digits(digits, generator=seeded(), std=1.0).images, bent.images)
    told = (bent.images.flatten(1).amax(1) / 25 - 1).round().long()
    assert torch.equal(told, digits.labels), "nothing is brighter or dimmer"
    moved = centroid(bent.images[:, None]) - centroid(digits.images[:, None])
    # A stroke lies between two to four points of the lattice, each of which moves by a standard deviation of 1 pixel.
    assert 0.3 < moved.std() < 1.0
    assert moved.mean().abs() < 0.15, "no direction is preferred"
    assert len({tuple(image.flatten().tolist()) for image in bent.images}) == len(digits)
