"""Batches for MNIST addition: two distorted digits in two channels, labelled with their sum."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from .digits import Digits, draw_digits
from .distort import rts


def addition_batch(
    digits: Digits, n: int, *, generator: torch.Generator, canvas: tuple[int, int] = (42, 42)
) -> tuple[Tensor, Tensor]:
    """One batch: images (n, 2, *canvas) float32 in [0, 1], sums (n,) int64 from 0 to 18.

    Each channel holds one digit, rotated, scaled and placed independently of the other (`rts`).
    All is drawn and computed on the generator's device, where the digits must be.

    Source: Jaderberg et al. 2015 (arXiv:1506.02025), appendix A.1.
    """
    images, labels = draw_digits(digits, 2 * n, generator=generator)
    placed = rts(images, canvas, generator=generator)
    return placed.reshape(n, 2, *canvas), labels.reshape(n, 2).sum(1)


def addition_batches(
    digits: Digits,
    n: int,
    *,
    seed: int,
    device: torch.device | str = "cpu",
    canvas: tuple[int, int] = (42, 42),
) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless batches (`addition_batch`), the same ones for the same seed on the same device."""
    digits = digits.to(device)
    generator = torch.Generator(device).manual_seed(seed)
    while True:
        yield addition_batch(digits, n, generator=generator, canvas=canvas)
