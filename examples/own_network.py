"""A network of one's own: two transformers look at one image, and what they see is classified together.

    python examples/own_network.py

The task: two bright squares somewhere in noise; is the one in the left half higher than the one in the right half?
"""

import torch
from torch import Tensor, nn

from architectures import ParallelSTN


def network() -> nn.Module:
    """Images (N, 1, 32, 32) -> logits (N, 2)."""
    look = nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(256, 32), nn.ReLU())
    return ParallelSTN(
        look,
        nn.Sequential(nn.Conv2d(1, 8, 5), nn.ReLU(), nn.MaxPool2d(4), nn.Flatten()),
        nn.Sequential(nn.Linear(2 * 72, 32), nn.ReLU(), nn.Linear(32, 2)),
        in_features=32,
        out_size=(16, 16),
        num_transformers=2,
        transform="attention",
        initial_theta=[[0.5, -0.5, 0.0], [0.5, 0.5, 0.0]],
    )


def batch(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Images (n, 1, 32, 32) and labels (n,): 1 where the left square is the higher one."""
    images = 0.3 * torch.rand(n, 1, 32, 32, generator=generator)
    tops = torch.randint(0, 28, (n, 2), generator=generator)
    columns = torch.randint(0, 12, (n, 2), generator=generator) + torch.tensor((0, 16))
    for i in range(n):
        for top, left in zip(tops[i].tolist(), columns[i].tolist(), strict=True):
            images[i, 0, top : top + 4, left : left + 4] = 1
    return images, (tops[:, 0] < tops[:, 1]).long()


def main(steps: int = 200) -> float:
    """Train, and give the error on new images in percent."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    model = network()
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(steps):
        images, labels = batch(64, generator)
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimiser.step()
    images, labels = batch(500, generator)
    with torch.no_grad():
        return 100 * (model(images).argmax(1) != labels).float().mean().item()


if __name__ == "__main__":
    print(f"error after 200 steps: {main():.1f} %")
