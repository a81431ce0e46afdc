"""Figures of what transformers look at, and of plain images, drawn by matplotlib."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .calls import Call
from .figures import Figure, mpl

BACKGROUND = "#15171c"
COLOURS = (
    "#ff9d2e", "#35c4f0", "#7ddf64", "#f062c0", "#ffe14d", "#b48cff", "#4de0b8", "#ff8a80",
)  # fmt: skip
RIGHT, WRONG = "#8fe388", "#ff6b6b"
_EDGE, _TEXT, _OUTSIDE = "#3a3f4b", "#aab0bd", "#262a33"
_FARTHEST = 4
"""Frames are shown as far as this many image sizes beyond the image."""
_SIDE, _GAP = 1.55, 0.25
"""Inches of a picture's side, and between pictures of two images."""
_HEADING, _LABEL, _TITLE = 0.55, 0.5, 0.3
"""Inches that the lines of text take."""
_COLUMNS = 8
"""Images side by side where there is nothing but images."""

Titles = Sequence[tuple[str, bool]]
_Range = tuple[float, float]


def calls_figure(
    images: Tensor,
    calls: Sequence[Call],
    *,
    heading: str,
    titles: Titles = (),
    boxes: Tensor | None = None,
) -> Figure:
    """A strip for each call: every image with the frames, and what is sampled in them; without calls, the images.

    Shapes: images (N, C, [D,] H, W); titles: for each image a text, and whether it is green (right) or red (wrong);
    boxes (N, 4), the true ones in pixels (x0, y0, x1, y1), drawn with dashes.
    """
    if not calls:
        return images_figure(images, heading=heading, titles=titles, boxes=boxes)
    n, rows = len(images), len(calls)
    beside = rows > 1  # of several strips each is low and wide; a single one is narrow and high
    wide = 2 * _SIDE if beside else _SIDE
    high = _SIDE if beside else _SIDE + _SIDE * max(map(_crops_height, calls))
    above = [_TITLE if titles else 0.0] + [0.0] * (rows - 1)
    words = [heading, *(line for call in calls for line in _label(call).splitlines())]
    width = max(n * (wide + _GAP) + _GAP, _width_of(words))
    height = _HEADING + rows * (high + _LABEL + _GAP / 2) + sum(above) + _GAP / 2
    with _figure(width, height, heading) as figure:
        top = height - _HEADING
        for row, call in enumerate(calls):
            figure.text(
                _GAP / width, top / height, _label(call), color=_TEXT, va="top", linespacing=1.4
            )
            top -= _LABEL + above[row] + high
            lines = call.lines(images)
            for i in range(n):
                at = (_GAP + i * (wide + _GAP), top, wide, high)
                title = titles[i] if above[row] else None
                box = boxes[i] if boxes is not None and call.frames_on != "source" else None
                _draw_one(figure, at, images, call, lines, i, title, box)
            top -= _GAP / 2
    return figure


def images_figure(
    images: Tensor, *, heading: str, titles: Titles = (), boxes: Tensor | None = None
) -> Figure:
    """Images side by side, in as many rows as they need; shapes as in `calls_figure`."""
    columns = min(len(images), _COLUMNS)
    rows = -(-len(images) // columns)
    high = _SIDE + (_TITLE if titles else 0.0) + _GAP / 2
    width = max(columns * (_SIDE + _GAP) + _GAP, _width_of([heading]))
    height = _HEADING + rows * high + _GAP / 2
    with _figure(width, height, heading) as figure:
        for i in range(len(images)):
            row, column = divmod(i, columns)
            top = height - _HEADING - (row + 1) * high + _GAP / 2
            at = (_GAP + column * (_SIDE + _GAP), top, _SIDE, _SIDE)
            title = titles[i] if titles else None
            _draw_one(
                figure, at, images, None, (), i, title, boxes[i] if boxes is not None else None
            )
    return figure


def _width_of(words: Sequence[str]) -> float:
    """The inches that lines of text need."""
    return 0.08 * max(map(len, words)) + 2 * _GAP


@contextmanager
def _figure(width: float, height: float, heading: str) -> Iterator[Figure]:
    """A figure with a heading, to draw on."""
    with mpl.rc_context({"font.family": "DejaVu Sans", "font.size": 9}):
        figure = Figure(figsize=(width, height), facecolor=BACKGROUND, dpi=130)
        at = (height - _HEADING + 0.15) / height
        figure.text(_GAP / width, at, heading, color="white", fontsize=13, va="bottom")
        yield figure


def _draw_one(
    figure: Figure, at: tuple[float, float, float, float], images: Tensor, call: Call | None,
    lines: Sequence[Sequence[Tensor]], i: int, title: tuple[str, bool] | None, box: Tensor | None,
) -> None:  # fmt: skip
    """One image of a strip, in a rectangle (x, y, width, height) in inches: its frames, and what they hold."""
    x, y, wide, high = at
    side = _SIDE - 0.06
    shown = images[i] if call is None or call.frames_on != "source" else call.source[i]
    canvas = _axes(figure, (x, y + high - side, side, side))
    canvas.set_facecolor(_OUTSIDE)
    canvas.imshow(picture(shown, value_range(shown)))
    height, width = shown.shape[-2:]
    _draw_frames(canvas, [[line[i] for line in one] for one in lines], (height, width))
    _border(canvas, _EDGE, 1.0)
    if box is not None:
        x0, y0, x1, y1 = (box - 0.5).tolist()
        canvas.plot((x0, x1, x1, x0, x0), (y0, y0, y1, y1, y0), color="white", linestyle="--")
    if title is not None:
        text, good = title
        canvas.set_title(text, color=RIGHT if good else WRONG, fontsize=12, pad=4)
    if call is None:
        return
    k = call.maps.shape[1]
    columns = _columns(k)
    cell = _SIDE / columns
    right, upper = (x + _SIDE, y + high) if wide > high else (x, y + high - _SIDE)
    scale = value_range(call.source[i])
    for j in range(k):
        down, across = divmod(j, columns)
        corner = (right + across * cell, upper - (down + 1) * cell + 0.06, cell - 0.06, cell - 0.06)
        crop = _axes(figure, corner)
        crop.imshow(picture(call.maps[i, j], scale))
        _border(crop, COLOURS[j % len(COLOURS)], 2.0)
        _mark(crop, crop.get_xlim()[0], crop.get_ylim()[1], COLOURS[j % len(COLOURS)])


def _draw_frames(
    canvas: mpl.axes.Axes, frames: Sequence[Sequence[Tensor]], size: tuple[int, int]
) -> None:
    """Frames on an image of this size (H, W), whole: the view grows until they fit."""
    height, width = size
    ends = [[-0.5, width - 0.5], [-0.5, height - 0.5]]
    for j, lines in enumerate(frames):
        colour = COLOURS[j % len(COLOURS)]
        for number, points in enumerate(lines):
            inside = number and points.shape[0] > 2
            xy = points.float().cpu().numpy()
            canvas.plot(
                *xy.T, color=colour, linewidth=0.6 if inside else 1.8, alpha=0.8 if inside else 1.0,
                solid_joinstyle="round",
            )  # fmt: skip
            for axis in (0, 1):
                known = xy[np.isfinite(xy).all(1), axis]
                if len(known):
                    ends[axis] += [float(known.min()), float(known.max())]
        x, y = lines[0][0].tolist()
        _mark(canvas, x, y, colour)
    spans = []
    for length, values in zip((width, height), ends, strict=True):
        farthest = _FARTHEST * length
        spans.append((max(min(values), -farthest), min(max(values), length + farthest)))
    margin = 0.04 * max(last - first for first, last in spans) if frames else 0.0
    (x0, x1), (y0, y1) = spans
    canvas.set(xlim=(x0 - margin, x1 + margin), ylim=(y1 + margin, y0 - margin))


def _mark(axes: mpl.axes.Axes, x: float, y: float, colour: str) -> None:
    """The output's upper left corner."""
    axes.plot(
        [x], [y], marker="o", markersize=5, color=colour, markeredgecolor=BACKGROUND,
        markeredgewidth=0.8, clip_on=False, zorder=5,
    )  # fmt: skip


def _axes(figure: Figure, at: tuple[float, float, float, float]) -> mpl.axes.Axes:
    """Axes in a rectangle (x, y, width, height) in inches from the figure's lower left corner."""
    width, height = figure.get_size_inches()
    return figure.add_axes((at[0] / width, at[1] / height, at[2] / width, at[3] / height))


def _columns(k: int) -> int:
    """How many of K pictures stand side by side in a square."""
    return math.isqrt(k - 1) + 1


def _crops_height(call: Call) -> float:
    """The height of all pictures of what a call sees, relative to their width."""
    k = call.maps.shape[1]
    return -(-k // _columns(k)) / _columns(k)


def _label(call: Call) -> str:
    """What a strip shows, in two lines."""
    k = call.maps.shape[1]
    several = f" × {k}" if k > 1 else ""
    sizes = [" × ".join(map(str, shape)) for shape in (call.source.shape[1:], call.maps.shape[2:])]
    where = {
        "image": "frames on the image",
        "composed": "frames composed onto the image",
        "source": f"frames on what it samples{_shown(call.source)}",
    }[call.frames_on]
    sees = f"and what {'they see' if k > 1 else 'it sees'}{_shown(call.maps[:, 0])}"
    return f"{call.name}: {call.transform}{several}, {sizes[0]} → {sizes[1]}\n{where}, {sees}"


def _shown(maps: Tensor) -> str:
    """How maps that are no picture, volumes and many channels, are shown as one."""
    notes = ["along the depth"] if maps.dim() == 5 else []
    notes += [f"mean of {maps.shape[1]} channels"] if maps.shape[1] > 3 else []
    return f" ({', '.join(notes)})" if notes else ""


def value_range(image: Tensor) -> _Range:
    """What is black and what is white in a picture of (C, [D,] H, W): 0 and 1, or its extremes if it goes beyond."""
    flat = _flat(image)
    known = flat[flat.isfinite()]
    if not len(known):
        return 0.0, 1.0
    least, most = float(known.min()), float(known.max())
    within = len(image) <= 3 and least >= 0 and most <= 1
    return (0.0, 1.0) if within or least == most else (least, most)


def picture(image: Tensor, values: _Range = (0.0, 1.0)) -> np.ndarray[Any, Any]:
    """An image (C, H, W) as RGB (H, W, 3): grey, colours, two channels as light of two colours, the mean of more.

    A volume (C, D, H, W) is seen along its depth, where its brightest voxels are. values: what is black and white.
    """
    flat = (_flat(image) - values[0]) / (values[1] - values[0])
    flat = flat.nan_to_num(0.0, posinf=1.0, neginf=0.0).clamp(0, 1)
    if len(flat) == 2:
        light = torch.tensor([mpl.colors.to_rgb(colour) for colour in COLOURS[:2]])
        rgb = torch.einsum("chw,cr->hwr", flat, light)
    else:
        rgb = flat.expand(3, -1, -1).movedim(0, -1)
    return rgb.clamp(0, 1).numpy()


def _flat(image: Tensor) -> Tensor:
    """(C, [D,] H, W) -> (1 to 3, H, W)."""
    flat = image.detach().float().cpu()
    if flat.dim() == 4:
        flat = flat.amax(1)
    return flat if len(flat) <= 3 else flat.mean(0, keepdim=True)


def style_axes(axes: mpl.axes.Axes) -> None:
    """The dark look, for axes with numbers on them."""
    axes.set_facecolor(BACKGROUND)
    axes.tick_params(colors="#aab0bd")
    axes.title.set_color("white")
    axes.xaxis.label.set_color("#aab0bd")
    axes.grid(color="#2a2e37", linewidth=0.8)
    for spine in axes.spines.values():
        spine.set_color("#3a3f4b")


def _border(axes: mpl.axes.Axes, colour: str, width: float) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(color=colour, linewidth=width)
