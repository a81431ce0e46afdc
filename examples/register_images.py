"""Registering two images: the affine theta that turns one into the other, found by gradient descent on theta alone.

python examples/register_images.py
"""

import torch
from torch import Tensor

from stn_triton import identity_theta, st_sample


def blobs(n: int = 12, size: int = 96) -> Tensor:
    """A smooth picture (1, 1, size, size) of Gaussian blobs."""
    generator = torch.Generator().manual_seed(0)
    x, y, width = (torch.rand(n, 1, 1, generator=generator) for _ in range(3))
    axis = torch.linspace(0, 1, size)
    distance = (axis - 0.2 - 0.6 * x) ** 2 + (axis[:, None] - 0.2 - 0.6 * y) ** 2
    return (-distance / (0.05 + 0.05 * width) ** 2).exp().sum(0)[None, None]


def register(moving: Tensor, fixed: Tensor, steps: int = 200) -> Tensor:
    """The theta (1, 2, 3) for which st_sample(moving, theta) is most like fixed."""
    size = (fixed.shape[2], fixed.shape[3])
    theta = identity_theta("affine", (1,)).requires_grad_()
    optimiser = torch.optim.Adam([theta], lr=0.02)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        optimiser.zero_grad()
        (st_sample(moving, theta, size) - fixed).square().mean().backward()
        optimiser.step()
        schedule.step()
    return theta.detach()


def main() -> tuple[Tensor, Tensor]:
    """The theta that was found, and the one that made the second image."""
    moving = blobs()
    truth = torch.tensor([[[0.9, -0.2, 0.1], [0.15, 1.05, -0.08]]])
    found = register(moving, st_sample(moving, truth, (96, 96)))
    torch.testing.assert_close(found, truth, atol=2e-3, rtol=0)
    return found, truth


if __name__ == "__main__":
    found, truth = main()
    torch.set_printoptions(precision=3, sci_mode=False)
    print(f"found\n{found[0]}\ntruth\n{truth[0]}")
