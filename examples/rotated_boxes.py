"""Rotated boxes of two images, cropped in one launch, and boxes that learn to hold what they should.

Each image has a few bars, turned by any angle, and five boxes begin beside them. `index` says which image a box is in,
so that one call crops all boxes. The gradient reaches the boxes, which move, turn and stretch until each crop shows its
bar upright, as the template does.

    python examples/rotated_boxes.py [PICTURE]
"""

import sys

import torch
from torch import Tensor

from stn_triton import st_sample

SIZE, CROP = 96, (24, 48)
INDEX = torch.tensor([0, 1, 1, 0, 1])  # the image of each box
TRUTH = torch.tensor(
    # centre (x, y) and half width and height, all from -1 to 1 over the image; angle
    [
        [-0.45, -0.40, 0.30, 0.15, 0.50],
        [-0.40, 0.45, 0.34, 0.17, -0.35],
        [0.45, -0.45, 0.28, 0.14, 0.90],
        [0.42, 0.35, 0.32, 0.16, -0.70],
        [0.45, 0.45, 0.26, 0.13, 0.15],
    ]
)


def to_theta(boxes: Tensor) -> Tensor:
    """Boxes (M, 5) -> theta (M, 2, 3), which maps the box's own x and y to the image."""
    x, y, width, height, angle = boxes.unbind(-1)
    cos, sin = angle.cos(), angle.sin()
    rows = (width * cos, -height * sin, x), (width * sin, height * cos, y)
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def bar(x: Tensor, y: Tensor) -> Tensor:
    """A soft bar that fills a box, darker towards its right end."""
    inside = torch.sigmoid(12 * (0.8 - x.abs())) * torch.sigmoid(12 * (0.7 - y.abs()))
    return inside * (1 - 0.35 * (x + 1).clamp(0, 2))


def axes(height: int, width: int) -> tuple[Tensor, Tensor]:
    """The coordinates (x, y) of the pixels' centres, from -1 to 1."""
    x, y = ((torch.arange(n) + 0.5) * 2 / n - 1 for n in (width, height))
    return x.expand(height, width), y.unsqueeze(1).expand(height, width)


def images() -> Tensor:
    """Two images (2, 1, SIZE, SIZE) with a bar in each true box."""
    drawn = torch.zeros(2, 1, SIZE, SIZE)
    at = torch.stack(axes(SIZE, SIZE), -1)
    for image, box, theta in zip(INDEX, TRUTH, to_theta(TRUTH), strict=True):
        own = (at - box[:2]) @ torch.linalg.inv(theta[:, :2]).mT
        drawn[image, 0] += bar(*own.unbind(-1))
    return drawn


def crops(pictures: Tensor, boxes: Tensor) -> Tensor:
    """What the boxes hold, (M, 1, *CROP), each pixel the mean of 2 x 2 samples; outside the image it is dark."""
    return st_sample(
        pictures, to_theta(boxes), CROP, index=INDEX, antialias=2, padding_value=-0.2
    )  # fmt: skip


def learn(pictures: Tensor, boxes: Tensor, steps: int = 250) -> Tensor:
    """Move the boxes until what they hold looks like the template."""
    boxes = boxes.clone().requires_grad_()
    template = bar(*axes(*CROP))
    optimiser = torch.optim.Adam([boxes], lr=0.02)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        optimiser.zero_grad()
        (crops(pictures, boxes) - template).square().mean().mul(len(boxes)).backward()
        optimiser.step()
        schedule.step()
    return boxes.detach()


def draw(path: str, pictures: Tensor, before: Tensor, after: Tensor) -> None:
    """A picture: both images with the boxes before (dashed) and after, then the crops before and after."""
    from matplotlib.figure import Figure
    from matplotlib.gridspec import GridSpec

    figure = Figure(figsize=(9, 6.4), layout="constrained")
    grid = GridSpec(4, 10, figure=figure)
    colours = [f"C{number}" for number in range(len(INDEX))]
    corners = torch.tensor([[-1.0, -1, 1], [1, -1, 1], [1, 1, 1], [-1, 1, 1], [-1, -1, 1]])
    for image in range(2):
        panel = figure.add_subplot(grid[:2, 5 * image : 5 * image + 5])
        panel.imshow(pictures[image, 0], cmap="gray", extent=(-1, 1, 1, -1))
        panel.set(title=f"image {image}", xticks=[], yticks=[])
        for number in (image == INDEX).nonzero().flatten().tolist():
            for boxes, style in ((before, "--"), (after, "-")):
                x, y = (corners @ to_theta(boxes)[number].mT).unbind(-1)
                panel.plot(x, y, style, color=colours[number])
    for row, (name, boxes) in enumerate((("before", before), ("after", after))):
        for number, crop in enumerate(crops(pictures, boxes)):
            panel = figure.add_subplot(grid[2 + row, 2 * number : 2 * number + 2])
            panel.imshow(crop[0], cmap="gray", vmin=-0.2, vmax=1)
            panel.set(title=f"box {number} {name}", xticks=[], yticks=[])
            for spine in panel.spines.values():
                spine.set(color=colours[number], linewidth=2)
    figure.savefig(path, dpi=100)


def main(path: str | None = None) -> tuple[Tensor, Tensor]:
    """The boxes that were found, and the true ones."""
    pictures = images()
    generator = torch.Generator().manual_seed(0)
    moved = torch.tensor([0.12, 0.12, 0.05, 0.05, 0.35])
    start = TRUTH + moved * (2 * torch.rand(TRUTH.shape, generator=generator) - 1)
    found = learn(pictures, start)
    if path is not None:
        draw(path, pictures, start, found)
    return found, TRUTH


if __name__ == "__main__":
    found, truth = main(sys.argv[1] if len(sys.argv) > 1 else None)
    torch.set_printoptions(precision=3, sci_mode=False)
    print(f"found\n{found}\ntruth\n{truth}")
