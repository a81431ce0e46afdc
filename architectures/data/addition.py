"""Batches for MNIST addition: two distorted digits in two channels, labelled with their sum."""

from __future__ import annotations

import torch
from torch import Tensor

from .digits import Digits, draw_digits
from .distort import rts


def addition_batch(
    digits: Digits,
    n: int,
    *,
    generator: torch.Generator,
    canvas: tuple[int, int] = (42, 42),
    difficulty: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """One batch: images (n, 2, *canvas) float32 in [0, 1], sums (n,) int64 from 0 to 18.

    Each channel holds one digit, rotated, scaled and placed independently of the other (`rts`). At a difficulty below 1
    the digits are less distorted; at 0 they stand upright in the middle. All is drawn and computed on the generator's
    device, where the digits must be.

    Source: Jaderberg et al. 2015 (arXiv:1506.02025), appendix A.1; the difficulty is ours.
    """
    images, labels = draw_digits(digits, 2 * n, generator=generator)
    placed = rts(
        images,
        canvas,
        generator=generator,
        degrees=45 * difficulty,
        scale=(1 - 0.3 * difficulty, 1 + 0.2 * difficulty),
        spread=difficulty,
    )
    return placed.reshape(n, 2, *canvas), labels.reshape(n, 2).sum(1)
