"""What transformers look at, drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from stn_triton import SpatialTransformer, st_sample
from stn_triton.control_points import ControlPoints, checked_points
from stn_triton.transforms import TRANSFORMS

from .colocalisation import CoLocaliser
from .figures import Figure, mpl
from .parallel import ParallelSTN
from .serial import SerialSTN
from .stacked import StackedSTN

BACKGROUND = "#15171c"
COLOURS = ("#ff9d2e", "#35c4f0", "#7ddf64", "#f062c0")
RIGHT, WRONG = "#8fe388", "#ff6b6b"
_LINES = 5
"""Lines of the lattice drawn into frames whose inside bends, along each side, the edges among them."""


@dataclass(frozen=True, kw_only=True)
class View:
    """What one transformer sees of a batch: the lines of its frames, the outline first, and what it sampled there.

    Shapes: lines (N, P, 2) each, x and y in pixels of the input; maps (N, C, h, w), or (N, C, d, h, w) of volumes.
    """

    lines: list[Tensor]
    maps: Tensor


def frame_corners(
    theta: Tensor, size: tuple[int, int], transform: str, control_points: ControlPoints = None
) -> Tensor:
    """The closed outline of a transformer's frame on its input.

    Convention: theta maps output to input coordinates, normalised, (x, y); pixel centres lie on whole numbers.
    Shapes: theta (..., *theta shape), size (H, W) of the input -> (..., P, 2), x and y in pixels; P is 5, the corners
    and the first one again, where straight lines stay straight, and more for the transforms that bend them.
    """
    entry = TRANSFORMS[transform]
    side = torch.linspace(-1, 1, 2 if entry.lattice is None else 33, device=theta.device)
    given = checked_points(control_points, transform, entry.lattice)
    points = _pixels(entry.grid(theta.float(), (side, side), given), size)
    edges = (
        points[..., 0, :-1, :],
        points[..., :-1, -1, :],
        points[..., -1, 1:, :].flip(-2),
        points[..., :, 0, :].flip(-2),
    )
    return torch.cat(edges, -2)


def frame_lines(
    theta: Tensor, size: Sequence[int], transform: str, control_points: ControlPoints = None
) -> list[Tensor]:
    """The outline of a transformer's frame on its input, and the lines of a lattice in it where the inside bends.

    Convention: as `frame_corners`; of volumes, the edges of the frame as they look along the depth.
    Shapes: theta (N, *theta shape), size ([D,] H, W) -> lines (N, P, 2).
    """
    if len(size) == 3:
        return _box_edges(theta, (size[1], size[2]))
    height, width = size
    lines = [frame_corners(theta, (height, width), transform, control_points)]
    if transform in ("affine", "attention"):
        return lines
    entry = TRANSFORMS[transform]
    given = checked_points(control_points, transform, entry.lattice)
    fine, coarse = torch.linspace(-1, 1, 33), torch.linspace(-1, 1, _LINES)[1:-1]
    for sides, axis in (((coarse, fine), -3), ((fine, coarse), -2)):
        y, x = (side.to(theta.device) for side in sides)
        at = entry.grid(theta.float(), (x, y), given)  # (N, rows, columns, 2)
        lines += _pixels(at, (height, width)).unbind(axis)
    return lines


def _pixels(at: Tensor, size: tuple[int, int]) -> Tensor:
    """Normalised (x, y) on an image of size (H, W), (..., 2), in pixels."""
    height, width = size
    return ((at + 1) * at.new_tensor((width, height)) - 1) / 2


def _box_edges(theta: Tensor, size: tuple[int, int]) -> list[Tensor]:
    """The edges of 3-D frames, theta (N, 3, 4), in x and y: the near face, the far one, and what joins them."""
    face = theta.new_tensor(((-1, -1), (1, -1), (1, 1), (-1, 1), (-1, -1)))
    near, far = (torch.cat((face, face.new_tensor((z, 1)).expand(5, 2)), 1) for z in (-1.0, 1.0))

    def place(corners: Tensor) -> Tensor:
        at = (theta.unsqueeze(1) @ corners.unsqueeze(-1)).squeeze(-1)[..., :2]
        return _pixels(at, size)

    joins = [torch.stack((near[i], far[i])) for i in range(4)]
    return [place(corners) for corners in (near, far, *joins)]


@torch.no_grad()
def views(network: nn.Module, images: Tensor) -> list[View]:
    """What each transformer of a network sees of the images; in a row, by the product of the thetas so far.

    Empty for networks without transformers. Of several transformers in a row that have no matrices, the first only.
    """
    size = tuple(images.shape[2:])
    if isinstance(network, CoLocaliser):
        crops, theta = network(images)
        return [View(lines=frame_lines(theta, size, "attention"), maps=crops)]
    if isinstance(network, ParallelSTN):
        theta = network.localise(images)
        maps = network.sample(images, theta)
        first = cast(SpatialTransformer, network.transformers[0])
        how = first.transform, first.control_points
        each = zip(theta.unbind(1), maps.unbind(1), strict=True)
        return [View(lines=frame_lines(one, size, *how), maps=seen) for one, seen in each]
    if not isinstance(network, SerialSTN | StackedSTN):
        return []
    row = [cast(SpatialTransformer, module) for module in network.transformers]
    thetas = network(images, return_theta=True)[1]
    if any(TRANSFORMS[one.transform].matrix is None for one in row):
        lines = frame_lines(thetas[0], size, row[0].transform, row[0].control_points)
        return [View(lines=lines, maps=row[0].sample(images, thetas[0]))]
    return [
        View(lines=frame_lines(theta, size, "affine"), maps=st_sample(images, theta, size))
        for theta in network.composed_theta(thetas)
    ]


def attention_figure(
    images: Tensor,
    seen: Sequence[View],
    titles: Sequence[tuple[str, bool]],
    heading: str,
    *,
    boxes: Tensor | None = None,
) -> Figure:
    """Each image with the frames of all transformers, and below what each of them sampled.

    Shapes: images (N, C, [D,] H, W) in [0, 1]; titles: N texts and whether they are good news; boxes (N, 4), the truth
    in pixels (x0, y0, x1, y1), dashed.
    """
    n, k = len(images), len(seen)
    height, width = images.shape[-2:]
    ratios = [2.0] + [1.0] * ((k + 1) // 2)
    with mpl.rc_context({"font.family": "DejaVu Sans", "font.size": 11}):
        figure = Figure(
            figsize=(2.3 * n, 2.3 * sum(ratios) / 2 + 1.0), facecolor=BACKGROUND, dpi=130
        )
        columns = figure.add_gridspec(
            1, n, left=0.02, right=0.98, top=0.80, bottom=0.03, wspace=0.14
        )
        figure.suptitle(heading, color="white", y=0.965, fontsize=14)
        for i in range(n):
            cells = columns[i].subgridspec(
                len(ratios), 2, height_ratios=ratios, hspace=0.08, wspace=0.08
            )
            canvas = figure.add_subplot(cells[0, :])
            canvas.imshow(picture(images[i]))
            for j, view in enumerate(seen):
                for line, points in enumerate(view.lines):
                    (drawn,) = canvas.plot(
                        *points[i].cpu().numpy().T,
                        color=COLOURS[j % len(COLOURS)],
                        linewidth=0.7 if line else 2.2,
                        alpha=0.8 if line else 1.0,
                    )
                    drawn.set_clip_path(
                        None
                    )  # a little beyond the edge, but not into the neighbours
                    drawn.set_clip_box(canvas.bbox.padded(12))
            if boxes is not None:
                x0, y0, x1, y1 = (boxes[i] - 0.5).tolist()
                canvas.plot(
                    (x0, x1, x1, x0, x0), (y0, y0, y1, y1, y0), color="white", linestyle="--"
                )
            canvas.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
            text, good = titles[i]
            canvas.set_title(text, color=RIGHT if good else WRONG, fontsize=15, pad=7)
            _frame(canvas, "#3a3f4b", 1.0)
            for j, view in enumerate(seen):
                crop = figure.add_subplot(cells[1 + j // 2, j % 2 if k > 1 else slice(None)])
                crop.imshow(picture(view.maps[i]))
                _frame(crop, COLOURS[j % len(COLOURS)], 2.5)
    return figure


@torch.no_grad()
def draw_frames(network: ParallelSTN, images: Tensor, sums: Tensor, path: Path) -> None:
    """Draw each image with the frames of all transformers, and below what each of them sampled.

    Shapes: images (N, 1, H, W) in [0, 1], sums (N,), the true labels. Writes a PNG.
    """
    titles = class_titles(network(images), sums)
    heading = "Two transformers find two digits, told nothing but the sum"
    figure = attention_figure(images, views(network, images), titles, heading)
    figure.savefig(path, format="png")


def class_titles(logits: Tensor, labels: Tensor) -> list[tuple[str, bool]]:
    """What the network says of each image, and the truth where that is something else.

    Shapes: logits (N, classes), labels (N,); or (N, places, 11) and (N, places), numbers whose places after the last
    digit have class 10.
    """
    titles = []
    for guess, truth in zip(logits.argmax(-1).tolist(), labels.tolist(), strict=True):
        said, true = _text(guess), _text(truth)
        titles.append((said if said == true else f"{said}  (is {true})", said == true))
    return titles


def _text(label: int | list[int]) -> str:
    if isinstance(label, int):
        return str(label)
    return "".join("" if digit == 10 else str(digit) for digit in label) or "–"


def picture(image: Tensor) -> np.ndarray[Any, Any]:
    """An image (C, H, W) in [0, 1] as RGB (H, W, 3): grey, colours, or two channels as light of two colours.

    A volume (C, D, H, W) is seen along its depth, where its brightest voxels are.
    """
    flat = image.detach().float().cpu()
    if flat.dim() == 4:
        flat = flat.amax(1)
    if len(flat) == 2:
        light = torch.tensor([mpl.colors.to_rgb(colour) for colour in COLOURS[:2]])
        rgb = torch.einsum("chw,cr->hwr", flat, light)
    else:
        rgb = flat[:3].expand(3, -1, -1).movedim(0, -1)
    return rgb.clamp(0, 1).numpy()


def style_axes(axes: mpl.axes.Axes) -> None:
    """The dark look, for axes with numbers on them."""
    axes.set_facecolor(BACKGROUND)
    axes.tick_params(colors="#aab0bd")
    axes.title.set_color("white")
    axes.xaxis.label.set_color("#aab0bd")
    axes.grid(color="#2a2e37", linewidth=0.8)
    for spine in axes.spines.values():
        spine.set_color("#3a3f4b")


def _frame(axes: mpl.axes.Axes, colour: str, width: float) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(color=colour, linewidth=width)
