"""Digits somewhere on a larger black canvas among patches of others: TC (section 4.1) and co-localisation (A.2).

Places are whole pixels, uniform over those where the whole digit, or patch, is on the canvas. Pixels are therefore
moved exactly, by indices. Choices that the paper leaves open: each patch is cut from another digit, anywhere in its
28 x 28 image (some patches come out black); where things overlap they are added and the sum is clamped to 1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .digits import Digits


def cluttered_batch(
    digits: Digits,
    n: int,
    *,
    generator: torch.Generator,
    canvas: tuple[int, int] = (60, 60),
    patches: int = 6,
    patch_size: int = 6,
) -> tuple[Tensor, Tensor]:
    """TC: a digit at a random place of a black canvas, with random patches of other digits.

    Shapes: images (n, 1, *canvas) float32 in [0, 1], labels (n,) int64.

    Raises:
        ValueError: a canvas smaller than a digit; fewer than two digits to cut patches from; a patch larger than
            a digit.

    Source: Jaderberg et al. 2015 (arXiv:1506.02025), section 4.1 and appendix A.4.
    """
    if patches < 0:
        raise ValueError(f"patches must be at least 0, got {patches}")
    if patches and len(digits) < 2:
        raise ValueError(
            f"patches come from other digits: wanted 2 digits at least, got {len(digits)}"
        )
    chosen = torch.randint(len(digits), (n,), generator=generator, device=generator.device)
    # Drawn from all digits but the chosen one: numbers from its own on are raised by one.
    others = torch.randint(
        max(len(digits) - 1, 1), (n, patches), generator=generator, device=generator.device
    )
    others = others + (others >= chosen[:, None])
    total, _ = _place(digits.images[chosen].unsqueeze(1), canvas, generator)
    total = total + _patches(digits, others, canvas, patch_size, generator)
    return _as_images(total), digits.labels[chosen]


def colocalisation_batch(
    digits: Digits,
    n: int,
    *,
    generator: torch.Generator,
    clutter: bool = False,
    clutter_from: Digits | None = None,
    canvas: tuple[int, int] = (84, 84),
    patches: int = 16,
    patch_size: int = 6,
) -> tuple[Tensor, Tensor]:
    """Images that share a class, and where in them its digit is: T, or TC with patches of `clutter_from`.

    No digit is used twice before all were used once. The box is the digit's whole 28 x 28 image, which a
    digit classifier expects as its input, not only its ink.

    Shapes: digits of one class; images (n, 1, *canvas) float32 in [0, 1]; boxes (n, 4) float32, (x0, y0, x1, y1) in
    pixels from the outer edges as in `stn_triton.box_to_theta`.

    Raises:
        ValueError: digits of several classes, or none; clutter without `clutter_from`; a canvas smaller than a digit,
            or a patch larger.

    Source: Jaderberg et al. 2015 (arXiv:1506.02025), appendix A.2.
    """
    classes = digits.labels.unique().tolist()
    if len(classes) != 1:
        raise ValueError(f"wanted digits of one class, got classes {classes}")
    if clutter and not clutter_from:
        raise ValueError(
            "clutter=True wants clutter_from, the digits to cut patches from, got none"
        )
    device = generator.device
    rounds = torch.rand(-(-n // len(digits)), len(digits), generator=generator, device=device)
    chosen = rounds.argsort(1).flatten()[:n]
    total, place = _place(digits.images[chosen].unsqueeze(1), canvas, generator)
    size = torch.tensor(digits.images.shape[:0:-1], device=device)
    boxes = torch.cat((place, place + size), 1).float()
    if clutter and clutter_from:
        source = torch.randint(len(clutter_from), (n, patches), generator=generator, device=device)
        total = total + _patches(clutter_from, source, canvas, patch_size, generator)
    return _as_images(total), boxes


def _patches(
    digits: Digits,
    source: Tensor,
    canvas: tuple[int, int],
    size: int,
    generator: torch.Generator,
) -> Tensor:
    """A random square of each digit in source (n, k), put at random places and added up: (n, 1, *canvas)."""
    h, w = digits.images.shape[1:]
    if not 0 < size <= min(h, w):
        raise ValueError(f"patch_size must be 1 to {min(h, w)}, got {size}")
    y, x = (_corner(length - size, source.shape, generator) for length in (h, w))
    steps = torch.arange(size, device=generator.device)
    rows = (y[..., None] + steps)[..., :, None]  # (n, k, size, 1)
    columns = (x[..., None] + steps)[..., None, :]
    return _place(digits.images[source[..., None, None], rows, columns], canvas, generator)[0]


def _place(
    pictures: Tensor, canvas: tuple[int, int], generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Add k pictures each (n, k, h, w) to a black canvas at random: (n, 1, *canvas), corners (n, 2) of the first.

    Values are added as whole numbers, so that the sum is the same in any order, on a GPU too.
    """
    n, k, h, w = pictures.shape
    if h > canvas[0] or w > canvas[1]:
        raise ValueError(f"canvas must hold {h} x {w} pixels, got {canvas[0]} x {canvas[1]}")
    y, x = (_corner(room, (n, k), generator) for room in (canvas[0] - h, canvas[1] - w))
    rows = (y[..., None] + torch.arange(h, device=pictures.device))[..., :, None]
    columns = (x[..., None] + torch.arange(w, device=pictures.device))[..., None, :]
    target = (rows * canvas[1] + columns).flatten(1)
    total = pictures.new_zeros((n, canvas[0] * canvas[1]), dtype=torch.int32)
    total = total.scatter_add(1, target, pictures.flatten(1).int())
    return total.unflatten(1, (1, *canvas)), torch.stack((x, y), -1)[:, :1].flatten(1)


def _as_images(total: Tensor) -> Tensor:
    return total.clamp(max=255).float() / 255


def _corner(room: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Whole numbers from 0 to room inclusive."""
    return torch.randint(room + 1, shape, generator=generator, device=generator.device)
