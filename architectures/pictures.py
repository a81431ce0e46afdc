"""What transformers look at, drawn."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import matplotlib as mpl
import torch
from matplotlib.figure import Figure
from torch import Tensor

from stn_triton import SpatialTransformer
from stn_triton.transforms import TRANSFORMS

from .parallel import ParallelSTN

COLOURS = ("#ff9d2e", "#35c4f0", "#7ddf64", "#f062c0")


def frame_corners(theta: Tensor, size: tuple[int, int], transform: str) -> Tensor:
    """The closed outline of a transformer's frame on its input.

    Convention: theta maps output to input coordinates, normalised, (x, y); pixel centres lie on whole numbers.
    Shapes: theta (..., *theta shape), size (H, W) of the input -> (..., P, 2), x and y in pixels; P is 5, the corners
    and the first one again, where straight lines stay straight, and more for the transforms that bend them.
    """
    entry = TRANSFORMS[transform]
    side = torch.linspace(-1, 1, 2 if entry.lattice is None else 33, device=theta.device)
    x, y = entry.grid(theta.float(), (side, side)).unbind(-1)
    height, width = size
    points = torch.stack(((x + 1) * width - 1, (y + 1) * height - 1), -1) / 2
    edges = (
        points[..., 0, :-1, :],
        points[..., :-1, -1, :],
        points[..., -1, 1:, :].flip(-2),
        points[..., :, 0, :].flip(-2),
    )
    return torch.cat(edges, -2)


@torch.no_grad()
def draw_frames(network: ParallelSTN, images: Tensor, sums: Tensor, path: Path) -> None:
    """Draw each image with the frames of all transformers, and below what each of them sampled.

    Shapes: images (N, 1, H, W) in [0, 1], sums (N,), the true labels. Writes a PNG.
    """
    logits, thetas = network(images, return_theta=True)
    maps = network.sample(images, thetas).cpu().numpy()
    guesses = logits.argmax(1).tolist()
    size = (images.shape[2], images.shape[3])
    transform = cast(SpatialTransformer, network.transformers[0]).transform
    outlines = frame_corners(thetas, size, transform).cpu().numpy()
    n, k = thetas.shape[:2]
    ratios = [2.0] + [1.0] * ((k + 1) // 2)
    with mpl.rc_context({"font.family": "DejaVu Sans", "font.size": 11}):
        figure = Figure(
            figsize=(2.3 * n, 2.3 * sum(ratios) / 2 + 1.0), facecolor="#15171c", dpi=130
        )
        columns = figure.add_gridspec(
            1, n, left=0.02, right=0.98, top=0.80, bottom=0.03, wspace=0.14
        )
        figure.suptitle(
            "Two transformers find two digits, told nothing but the sum",
            color="white",
            y=0.965,
            fontsize=14,
        )
        for i in range(n):
            cells = columns[i].subgridspec(
                len(ratios), 2, height_ratios=ratios, hspace=0.08, wspace=0.08
            )
            canvas = figure.add_subplot(cells[0, :])
            canvas.imshow(images[i, 0].cpu().numpy(), cmap="gray", vmin=0, vmax=1)
            for j in range(k):
                canvas.plot(
                    *outlines[i, j].T, color=COLOURS[j % len(COLOURS)], linewidth=2.2, clip_on=False
                )
            canvas.set(xlim=(-0.5, size[1] - 0.5), ylim=(size[0] - 0.5, -0.5))
            right = guesses[i] == int(sums[i])
            canvas.set_title(
                f"{guesses[i]}" + ("" if right else f"  (is {int(sums[i])})"),
                color="#8fe388" if right else "#ff6b6b", fontsize=15, pad=7,
            )  # fmt: skip
            _frame(canvas, "#3a3f4b", 1.0)
            for j in range(k):
                crop = figure.add_subplot(cells[1 + j // 2, j % 2])
                crop.imshow(maps[i, j, 0], cmap="gray", vmin=0, vmax=1)
                _frame(crop, COLOURS[j % len(COLOURS)], 2.5)
        figure.savefig(path)


def _frame(axes: mpl.axes.Axes, colour: str, width: float) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(color=colour, linewidth=width)
