"""Two digits on one canvas, labelled with their sum: the networks and the data of the demo.

MNIST addition (Jaderberg et al. 2015, arXiv:1506.02025, appendix A.1) but both digits lie on one canvas, which
is larger than what the classifier sees. Each of two transformers has to find its digit; only the sum is supervised.
"""

from __future__ import annotations

import torch
from einops import rearrange
from einops.layers.torch import Rearrange
from torch import Tensor, nn

from architectures.blocks.parallel import ParallelSTN
from architectures.data import Digits, draw_digits, rts

CANVAS = 64
CROP = 24
SCALE = 0.5
"""Side of a transformer's frame as a part of the canvas: 32 of 64 pixels, sampled at 24 x 24."""


def sum_batch(
    digits: Digits, n: int, *, generator: torch.Generator, spread: float = 1.0
) -> tuple[Tensor, Tensor]:
    """One batch: images (n, 1, 64, 64) in [0, 1], sums (n,) from 0 to 18.

    One digit at a random place of the left half, one of the right, each rotated by up to 15 degrees and scaled by
    0.8 to 1.2; drawn and computed on the generator's device, where the digits must be. A `spread` below 1 keeps
    both nearer to the middle of their halves.
    """
    images, labels = draw_digits(digits, 2 * n, generator=generator)
    halves = rts(
        images,
        (CANVAS, CANVAS // 2),
        generator=generator,
        degrees=15,
        scale=(0.8, 1.2),
        spread=spread,
    )
    return rearrange(halves, "(n k) c h w -> n c h (k w)", k=2), labels.reshape(n, 2).sum(1)


class CentroidLocalisation(nn.Module):
    """Where a small convolutional network finds what it looks for: (N, 1, h, w) -> (N, 2 * maps).

    The features are each map's centre of mass, x then y, normalised to [-1, 1]. They follow an object as it moves, and
    so the regression behind them learns to follow it from a few hundred examples.
    """

    def __init__(self, maps: int = 8) -> None:
        super().__init__()
        self.maps = nn.Sequential(
            nn.AvgPool2d(4),
            nn.Conv2d(3, 16, 5, padding=2),
            nn.ReLU(),
            nn.Conv2d(16, maps, 5, padding=2),
            nn.ReLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        ink = (x > 0).to(x.dtype)
        columns, rows = _axis(x.shape[3], x), _axis(x.shape[2], x).unsqueeze(1)
        mass = self.maps(torch.cat((x, ink * columns, ink * rows), 1)) + 1e-6
        columns, rows = _axis(mass.shape[3], x), _axis(mass.shape[2], x)
        total = mass.sum((2, 3))
        return torch.cat((mass.sum(2) @ columns / total, mass.sum(3) @ rows / total), 1)


def _axis(length: int, like: Tensor) -> Tensor:
    return torch.linspace(-1, 1, length, dtype=like.dtype, device=like.device)


class Adder(nn.Module):
    """Ten logits for each of two digits -> log probabilities of their sum: (N, 20) -> (N, 19)."""

    def forward(self, logits: Tensor) -> Tensor:
        left, right = rearrange(logits, "n (k d) -> k n d", k=2).softmax(-1)
        joint = rearrange(left.unsqueeze(2) * right.unsqueeze(1), "n i j -> n (i j)")
        digit = torch.arange(10, device=logits.device)
        sums = (digit.unsqueeze(1) + digit).flatten()
        return joint.new_zeros(len(joint), 19).index_add(1, sums, joint).clamp_min(1e-8).log()


def _reader(logits: int) -> nn.Sequential:
    """The network that reads a picture: (N, 1, 24, 24) -> (N, logits)."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        Rearrange("n c h w -> n (c h w)"),
        nn.Linear(32 * (CROP // 4) ** 2, 128),
        nn.ReLU(),
        nn.Linear(128, logits),
    )


def with_transformers() -> ParallelSTN:
    """(N, 1, 64, 64) -> log probabilities (N, 19): two attention transformers, one reader for both.

    Their frames start in the middle of the left and of the right half; only tx and ty are predicted.
    """
    return ParallelSTN(
        CentroidLocalisation(),
        _reader(10),
        Adder(),
        in_features=16,
        out_size=(CROP, CROP),
        num_transformers=2,
        transform="attention",
        initial_theta=[[SCALE, -0.5, 0.0], [SCALE, 0.5, 0.0]],
        fixed_scale=SCALE,
    )


def without_transformers() -> nn.Sequential:
    """(N, 1, 64, 64) -> log probabilities (N, 19): the same network, which reads the whole canvas at 24 x 24."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(CROP), _reader(20), Adder())
