"""Batches of distorted MNIST digits: R, RTS, P and E of the paper's section 4.1 and appendix A.4.

Every function draws n digits with replacement, distorts them by one `st_sample` and gives images (n, 1, *canvas),
float32 in [0, 1], with their labels (n,), int64. All of this is on the generator's device, where the digits must be.
Choices that the paper leaves open: digits are distorted anew for every batch, and the canvas of R, P and E has the
digits' own size, 28 x 28.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stn_triton import st_sample

from .digits import Digits, draw_digits
from .distort import elastic_theta, projective_theta, rotation_theta, rts


def rotated_batch(
    digits: Digits, n: int, *, generator: torch.Generator, degrees: float = 90.0
) -> tuple[Tensor, Tensor]:
    """R: digits rotated about the middle of the image by an angle uniform in [-degrees, degrees].

    Shapes: images (n, 1, 28, 28) float32 in [0, 1], labels (n,) int64.
    """
    images, labels = draw_digits(digits, n, generator=generator)
    theta = rotation_theta(n, generator=generator, degrees=degrees)
    return st_sample(images, theta, images.shape[2:]), labels


def rts_batch(
    digits: Digits,
    n: int,
    *,
    generator: torch.Generator,
    canvas: tuple[int, int] = (42, 42),
    degrees: float = 45.0,
    scale: tuple[float, float] = (0.7, 1.2),
) -> tuple[Tensor, Tensor]:
    """RTS: digits rotated, scaled and placed at random on a black canvas, all ink on it (`rts`).

    Shapes: images (n, 1, *canvas) float32 in [0, 1], labels (n,) int64.
    """
    images, labels = draw_digits(digits, n, generator=generator)
    return rts(images, canvas, generator=generator, degrees=degrees, scale=scale), labels


def projective_batch(
    digits: Digits,
    n: int,
    *,
    generator: torch.Generator,
    canvas: tuple[int, int] = (28, 28),
    scale: tuple[float, float] = (0.75, 1.0),
    corner_std: float = 5.0,
) -> tuple[Tensor, Tensor]:
    """P: digits scaled, then each corner of the image moved by N(0, corner_std) pixels (`projective_theta`).

    Shapes: images (n, 1, *canvas) float32 in [0, 1], labels (n,) int64.
    """
    images, labels = draw_digits(digits, n, generator=generator)
    h, w = images.shape[2:]
    theta = projective_theta(
        n, (h, w), canvas, generator=generator, scale=scale, corner_std=corner_std
    )
    return st_sample(images, theta, canvas, transform="projective"), labels


def elastic_batch(
    digits: Digits,
    n: int,
    *,
    generator: torch.Generator,
    canvas: tuple[int, int] = (28, 28),
    scale: tuple[float, float] = (0.75, 1.0),
    point_std: float = 1.5,
) -> tuple[Tensor, Tensor]:
    """E: digits scaled and bent by a spline of 4 x 4 points, each moved by N(0, point_std) pixels (`elastic_theta`).

    Shapes: images (n, 1, *canvas) float32 in [0, 1], labels (n,) int64.
    """
    images, labels = draw_digits(digits, n, generator=generator)
    h, w = images.shape[2:]
    theta = elastic_theta(n, (h, w), canvas, generator=generator, scale=scale, point_std=point_std)
    return st_sample(images, theta, canvas, transform="tps"), labels
