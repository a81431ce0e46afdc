"""Reading curved lines of text: a thin-plate spline of 2 x 10 fiducials straightens each line before it is read.

    python examples/rectify_text.py [PICTURE]

Lines of five letters are bent along arcs of any curvature. A small network reads them; in front of it a transformer
moves 20 control points, ten along the upper edge of its output and ten along the lower one, as the text rectifiers RARE
(Shi et al. 2016) and ASTER do. Nobody tells it where the text is: the letters are the only labels. The same reader is
trained without it, too.
"""

import sys
from pathlib import Path

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

from stn_triton import SpatialTransformer, outside_penalty

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
LENGTH = 5
CANVAS, LINE = (48, 96), (24, 96)
FIDUCIALS = [(x / 10, y) for y in (-0.9, 0.9) for x in range(-9, 10, 2)]


def glyphs() -> Tensor:
    """The letters in a font that matplotlib ships, (26, 20, 16), white on black."""
    font = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSansMono-Bold.ttf"
    drawn = []
    for letter in LETTERS:
        image = Image.new("L", (16, 20))
        ImageDraw.Draw(image).text(
            (8, 10), letter, fill=255, font=ImageFont.truetype(font, 22), anchor="mm"
        )
        drawn.append(torch.from_numpy(np.asarray(image, dtype=np.float32) / 255))
    return torch.stack(drawn)


GLYPHS = glyphs()


def batch(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Images (n, 1, 48, 96) of lines bent along arcs, and their letters (n, 5)."""

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(n, 1, 1, generator=generator)

    letters = torch.randint(0, len(LETTERS), (n, LENGTH), generator=generator)
    straight = GLYPHS[letters].permute(0, 2, 1, 3).flatten(2).unsqueeze(1)  # (n, 1, 20, 80)
    height, width = CANVAS
    y, x = torch.meshgrid(
        torch.arange(height) - (height - 1) / 2,
        torch.arange(width) - (width - 1) / 2,
        indexing="ij",
    )
    tilt, bend = uniform(-0.1, 0.1), uniform(-1, 1) / 45  # 1 / radius, in pixels
    x, y = x * tilt.cos() + y * tilt.sin(), y * tilt.cos() - x * tilt.sin()
    bend = torch.where(bend.abs() < 1e-3, 1e-3, bend)
    y = y + uniform(-2, 2) - 380 * bend  # the middle of an arc is above or below its ends
    radius = 1 / bend
    along = torch.atan2(x * radius.sign(), (radius - y) * radius.sign()) * radius
    away = radius - radius.sign() * (x.square() + (radius - y).square()).sqrt()
    grid = torch.stack((along / 40, away / 10), -1)
    images = F.grid_sample(straight, grid, align_corners=False)
    noise = 0.08 * torch.randn(images.shape, generator=generator)
    return images * uniform(0.5, 1).unsqueeze(1) + noise, letters


def reader() -> nn.Sequential:
    """Lines (n, 1, 24, 96) -> logits (n, 26, 5)."""

    def block(before: int, after: int) -> list[nn.Module]:
        conv = nn.Conv2d(before, after, 3, padding=1, bias=False)
        return [conv, nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2)]

    return nn.Sequential(
        *block(1, 16), *block(16, 32), *block(32, 48),
        nn.AdaptiveAvgPool2d((3, LENGTH)), nn.Conv2d(48, len(LETTERS), (3, 1)), nn.Flatten(2),
    )  # fmt: skip


def rectifier() -> SpatialTransformer:
    """Images (n, 1, 48, 96) -> lines (n, 1, 24, 96)."""
    localisation = nn.Sequential(
        nn.AvgPool2d(2),
        nn.Conv2d(1, 16, 5, stride=2, padding=2), nn.ReLU(),
        nn.Conv2d(16, 32, 5, stride=2, padding=2), nn.ReLU(), nn.Flatten(),
        nn.Linear(32 * 6 * 12, 64), nn.ReLU(),
    )  # fmt: skip
    return SpatialTransformer(
        localisation, LINE, in_features=64, transform="tps", control_points=FIDUCIALS
    )


def accuracy(network: nn.Module, images: Tensor, letters: Tensor) -> float:
    """Letters read correctly, in percent."""
    network.eval()
    with torch.no_grad():
        return 100 * (network(images).argmax(1) == letters).float().mean().item()


def train(network: nn.Sequential, steps: int) -> list[float]:
    """Train on fresh lines, and give the losses."""
    generator = torch.Generator().manual_seed(1)
    network.train()
    # Where to look is learned more slowly than what to read.
    groups = [{"params": list(part.parameters())} for part in network]
    optimiser = torch.optim.Adam([group for group in groups if group["params"]])
    rates = [1e-3, 4e-3][-len(optimiser.param_groups) :]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rates, total_steps=steps)
    losses = []
    for _ in range(steps):
        images, letters = batch(32, generator)
        look, read = network
        if isinstance(look, SpatialTransformer):
            images, theta = look(images, return_theta=True)
            outside = outside_penalty(theta, transform="tps").mean()
        else:
            images, outside = look(images), 0
        loss = F.cross_entropy(read(images), letters) + outside
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        losses.append(loss.item())
    return losses


def picture(straighten: SpatialTransformer, images: Tensor, path: str | Path, said: str) -> None:
    """Lines with the control points that were found, and below what the reader sees of them."""
    with torch.no_grad():
        lines, theta = straighten(images, return_theta=True)
    columns, (height, width) = 4, CANVAS
    rows = len(images) // columns
    figure = Figure(figsize=(3.4 * columns, 2.75 * rows + 0.6), facecolor="#14171f", dpi=110)
    FigureCanvasAgg(figure)
    figure.suptitle(said, color="white", fontsize=14)
    cells = figure.subplots(
        2 * rows, columns, squeeze=False, height_ratios=[2, 1] * rows,
        gridspec_kw={"left": 0.01, "right": 0.99, "top": 0.91, "bottom": 0.01, "hspace": 0.06, "wspace": 0.03},
    )  # fmt: skip
    points = ((theta + 1) * torch.tensor((width, height)) - 1) / 2
    for i in range(rows * columns):
        above, below = cells[2 * (i // columns) : 2 * (i // columns) + 2, i % columns]
        above.imshow(images[i, 0], cmap="gray", vmin=0, vmax=1)
        for edge, colour in zip(points[i].view(2, 10, 2), ("#ffb000", "#3fd0ff"), strict=True):
            above.plot(*edge.T, color=colour, marker="o", markersize=4, linewidth=1.3)
        above.set_xlim(-6.5, width + 5.5)
        above.set_ylim(height + 5.5, -6.5)
        below.imshow(lines[i, 0], cmap="gray", vmin=0, vmax=1)
        above.set_axis_off()
        below.set_axis_off()
    figure.savefig(path, facecolor=figure.get_facecolor())


def main(steps: int = 500, path: str | Path = "rectify_text.png") -> dict[str, float]:
    """Train the reader alone and behind the rectifier; the letters that each of them reads, in percent."""
    images, letters = batch(1000, torch.Generator().manual_seed(2))
    found = {}
    for name in ("without", "with"):
        torch.manual_seed(0)
        before = rectifier() if name == "with" else nn.AdaptiveAvgPool2d(LINE)
        network = nn.Sequential(before, reader())
        train(network, steps)
        found[name] = accuracy(network, images, letters)
    assert isinstance(before, SpatialTransformer)
    said = (
        f"letters read: {found['without']:.1f} % without, {found['with']:.1f} % with the rectifier"
    )
    picture(before, images[:8], path, said)
    print(f"{said}; drawn into {path}")
    return found


if __name__ == "__main__":
    main(path=sys.argv[1] if len(sys.argv) > 1 else "rectify_text.png")
