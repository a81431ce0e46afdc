"""Random rotation, scale and place, and the batches made with them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from architectures.data import (
    Digits,
    addition_batch,
    draw_digits,
    rts,
    rts_theta,
)
from architectures.data.distort import ink_bounds
from stn_triton import st_sample
from support.digits import centroid, seeded


def blobs(n: int, h: int = 28, w: int = 28) -> Tensor:
    """Smooth shapes somewhere inside an image, off its centre, as digits are."""
    noise = torch.rand(n, 1, h - 14, w - 14, generator=seeded(9))
    smooth = F.avg_pool2d(F.pad(noise, [4] * 4), 3, 1)
    return F.pad(smooth, [4, 4, 2, 6])


def drawn(
    theta: Tensor, image: tuple[int, int], canvas: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor]:
    """The angle in degrees and the scale of each theta, and how far it is from such a map, in pixels."""
    # Canvas pixels to image pixels.
    size = torch.tensor(image[::-1]) / 2
    per_pixel = torch.tensor(canvas[::-1]) / 2
    linear = theta[:, :, :2] * size[:, None] / per_pixel
    forward = torch.linalg.inv(linear.double())
    scale = torch.linalg.det(forward).sqrt()
    angle = torch.rad2deg(torch.atan2(forward[:, 1, 0], forward[:, 0, 0]))
    residue = forward @ forward.mT - scale[:, None, None] ** 2 * torch.eye(2)
    return angle, scale, residue.abs().amax((1, 2))


@pytest.mark.parametrize(
    ("image", "canvas"),
    [((28, 28), (42, 42)), ((28, 20), (40, 60))],
    ids=["squares", "oblongs"],
)
@pytest.mark.parametrize(
    ("degrees", "scale"), [(45.0, (0.7, 1.2)), (90.0, (1.0, 1.0)), (0.0, (0.5, 2.0))], ids=str
)
def test_rts_ranges(
    image: tuple[int, int],
    canvas: tuple[int, int],
    degrees: float,
    scale: tuple[float, float],
) -> None:
    n = 2000
    options = {} if degrees == 45.0 else {"degrees": degrees, "scale": scale}
    theta = rts_theta(blobs(n, *image), canvas, generator=seeded(), **options)
    assert theta.shape == (n, 2, 3)
    assert theta.dtype == torch.float32
    angle, factor, residue = drawn(theta, image, canvas)
    assert residue.max() < 1e-5, "nothing but rotation and scale, also where sides differ"
    for values, low, high in ((angle, -degrees, degrees), (factor, *scale)):
        width = high - low
        assert low - 1e-4 <= values.min() <= low + 0.01 * width + 1e-4
        assert high - 0.01 * width - 1e-4 <= values.max() <= high + 1e-4
        # Uniform: the deciles lie where they should; their standard deviation is about 1 %.
        wanted = low + width * torch.linspace(0.1, 0.9, 9, dtype=torch.float64)
        deciles = values.quantile(torch.linspace(0.1, 0.9, 9, dtype=torch.float64))
        assert (deciles - wanted).abs().max() <= 0.05 * width + 1e-4
    if degrees and scale[0] < scale[1]:
        assert torch.corrcoef(torch.stack((angle, factor)))[0, 1].abs() < 0.1


def test_rts_turns_by_the_angle() -> None:
    """The picture itself: the direction from a bright dot to a dim one turns by the drawn angle."""
    image = torch.zeros(1, 1, 28, 28)
    image[0, 0, 13:16, 4:7] = 1.0
    dim = torch.zeros_like(image)
    dim[0, 0, 13:16, 22:25] = 1.0
    both = torch.cat((image, dim)).amax(0, keepdim=True).expand(50, 1, 28, 28)
    theta = rts_theta(both, (42, 42), generator=seeded())
    angle, scale, _ = drawn(theta, (28, 28), (42, 42))
    ends = [centroid(st_sample(one.expand(50, 1, 28, 28), theta, (42, 42))) for one in (image, dim)]
    (dx, dy) = (ends[1] - ends[0]).double().unbind(1)
    torch.testing.assert_close(torch.rad2deg(torch.atan2(dy, dx)), angle, rtol=0, atol=1.5)
    torch.testing.assert_close(torch.hypot(dx, dy), 18 * scale, rtol=0.03, atol=0)


@pytest.mark.parametrize("real", [False, True], ids=["blobs", "digits"])
def test_rts_cuts_nothing_off(real: bool, embedded: tuple[Digits, Digits]) -> None:
    n = 400
    images = draw_digits(embedded[0], n, generator=seeded(1))[0] if real else blobs(n)
    on_canvas = rts(images, (42, 42), generator=seeded())
    theta = rts_theta(images, (42, 42), generator=seeded())
    # The same placing on a canvas of twice the size around the first.
    wide = st_sample(images, theta * torch.tensor([2.0, 2.0, 1.0]), (84, 84))
    torch.testing.assert_close(wide[..., 21:63, 21:63], on_canvas, rtol=0, atol=1e-4)
    wide[..., 21:63, 21:63] = 0
    assert wide.max() < 1e-5, "ink beside the canvas"


@pytest.mark.parametrize("w", [5, 28, 255, 256, 300])
def test_ink_is_bounded_by_its_outermost_pixels(w: int) -> None:
    images = (torch.rand(6, 1, 9, w, generator=seeded(1)) > 0.98).float()
    images[0] = 0
    images[1, 0, :, 0] = images[2, 0, 4, w - 1] = 1
    forward = torch.randn(6, 2, 2, generator=seeded(2))
    low, high = ink_bounds(images, forward)
    for image, matrix, ours in zip(images, forward, torch.stack((low, high), 1), strict=True):
        y, x = image[0].nonzero().unbind(1)
        points = torch.stack((x - (w - 1) / 2, y - 4.0), 1) @ matrix.T
        reach = matrix.abs().sum(1)
        wanted = torch.zeros(2, 2)
        if len(points):
            wanted = torch.stack((points.amin(0) - reach, points.amax(0) + reach))
        torch.testing.assert_close(ours, wanted)


def test_rts_conserves_ink() -> None:
    images = blobs(400)
    theta = rts_theta(images, (42, 42), generator=seeded())
    placed = rts(images, (42, 42), generator=seeded())
    _, scale, _ = drawn(theta, (28, 28), (42, 42))
    ratio = placed.sum((1, 2, 3)) / (images.sum((1, 2, 3)) * scale.square().float())
    assert (ratio - 1).abs().max() < 0.05
    assert placed.min() >= 0
    assert placed.max() <= images.max() * (1 + 1e-6)


def test_rts_places_everywhere() -> None:
    dots = torch.zeros(2000, 1, 28, 28)
    dots[:, :, 3:5, 20:22] = 1  # not in the middle: the place is that of the ink, not of the image
    at = centroid(rts(dots, (42, 60), generator=seeded()))
    for axis, length in ((0, 60), (1, 42)):
        values = at[:, axis]
        assert values.min() < 4
        assert values.max() > length - 5
        assert abs(values.mean() - (length - 1) / 2) < 0.03 * length
        quartiles = values.quantile(torch.tensor([0.25, 0.75], dtype=values.dtype))
        assert abs(quartiles[1] - quartiles[0] - (length - 4) / 2) < 0.06 * length
    assert torch.corrcoef(at.T)[0, 1].abs() < 0.1


def test_rts_centres_what_is_too_large() -> None:
    images = torch.ones(20, 1, 28, 28)
    theta = rts_theta(images, (10, 12), generator=seeded())
    torch.testing.assert_close(theta[:, :, 2], torch.zeros(20, 2), rtol=0, atol=1e-5)


def test_rts_of_blank_images_is_blank() -> None:
    theta = rts_theta(torch.zeros(3, 1, 28, 28), (42, 42), generator=seeded())
    assert theta.isfinite().all()
    assert not rts(torch.zeros(3, 1, 28, 28), generator=seeded()).any()


def test_rts_is_seeded() -> None:
    images = blobs(5)
    first = rts(images, generator=seeded(1))
    assert first.shape == (5, 1, 42, 42)
    torch.rand(7)  # the global generator must not matter
    assert torch.equal(rts(images, generator=seeded(1)), first)
    assert not torch.equal(rts(images, generator=seeded(2)), first)
    generator = seeded(1)
    rts(images, generator=generator)
    assert not torch.equal(rts(images, generator=generator), first), "the next draw is another"
    assert rts(images, (50, 44), generator=seeded()).shape == (5, 1, 50, 44)
    same = rts(images[:1].expand(5, -1, -1, -1), generator=seeded())
    assert not torch.equal(same[0], same[1]), "every image has a draw of its own"


@pytest.mark.parametrize("shape", [(28, 28), (3, 28, 28), (3, 2, 28, 28)])
def test_rts_refuses(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"\(N, 1, H, W\), got ") as raised:
        rts(torch.zeros(shape), generator=seeded())
    assert str(shape) in str(raised.value)


# Addition


def telling_digits() -> Digits:
    """Squares whose brightness tells their label: 25 grey levels for each step."""
    labels = torch.arange(10)
    images = torch.zeros(10, 28, 28, dtype=torch.uint8)
    images[:, 10:17, 12:19] = (25 * (labels + 1)).byte()[:, None, None]
    return Digits(images=images, labels=labels)


def told(images: Tensor) -> Tensor:
    """(N, 2, h, w) -> (N, 2): the label that each channel's brightness tells."""
    exact = images.amax((2, 3)) * 255 / 25 - 1
    torch.testing.assert_close(exact, exact.round(), rtol=0, atol=1e-3)
    return exact.round().long()


def test_addition_label_is_the_sum() -> None:
    images, sums = addition_batch(telling_digits(), 1500, generator=seeded())
    assert images.shape == (1500, 2, 42, 42)
    assert (images.dtype, sums.dtype) == (torch.float32, torch.int64)
    assert images.min() == 0
    assert images.max() <= 1 + 1e-6
    digits = told(images)
    assert torch.equal(digits.sum(1), sums)
    assert sorted(set(sums.tolist())) == list(range(19)), "all of 0 to 18"
    for channel in range(2):
        counts = torch.bincount(digits[:, channel], minlength=10)
        assert counts.min() > 100, "every digit is as likely: 150 of each, give or take 12"
    assert torch.corrcoef(digits.T.double())[0, 1].abs() < 0.1


def test_addition_channels_are_placed_apart() -> None:
    images, _ = addition_batch(telling_digits(), 1500, generator=seeded())
    left, right = (centroid(images[:, channel : channel + 1]) for channel in range(2))
    ink = (images > 0).sum((2, 3)).double()  # grows with the scale
    features = torch.cat((left.T, right.T, ink.T))
    between = torch.corrcoef(features.double())[[0, 0, 1, 1, 4], [2, 3, 2, 3, 5]]
    assert between.abs().max() < 0.1


def test_addition_batches_are_seeded() -> None:
    def batch(seed: int) -> tuple[Tensor, Tensor]:
        return addition_batch(telling_digits(), 8, generator=seeded(seed))

    (images, sums), (same_images, same_sums), (other, _) = batch(1), batch(1), batch(2)
    assert torch.equal(images, same_images) and torch.equal(sums, same_sums)
    assert not torch.equal(images, other)


def test_addition_without_difficulty_is_upright_in_the_middle() -> None:
    images, _ = addition_batch(telling_digits(), 8, generator=seeded(), difficulty=0.0)
    left, right = (centroid(images[:, channel : channel + 1]) for channel in range(2))
    assert (left - right).abs().max() < 0.01


def test_addition_canvas() -> None:
    images, sums = addition_batch(telling_digits(), 4, generator=seeded(), canvas=(50, 46))
    assert images.shape == (4, 2, 50, 46)
    assert sums.shape == (4,)


def test_draw_digits() -> None:
    digits = telling_digits()
    images, labels = draw_digits(digits, 40, generator=seeded())
    assert images.shape == (40, 1, 28, 28)
    assert images.dtype == torch.float32
    torch.testing.assert_close(images.amax((1, 2, 3)), 25 * (labels + 1) / 255)
    assert len(set(labels.tolist())) < 40, "with replacement"
