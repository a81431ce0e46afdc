"""Training curves, from the tables that training wrote."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from architectures.pictures.figures import Figure, mpl
from architectures.pictures.strips import BACKGROUND, COLOURS, style_axes

from .files import replacing
from .tables import Cell

_WIDEST = 5
"""The most panels side by side."""


def read_metrics(run: Path) -> dict[str, list[tuple[int, float]]]:
    """(step, value) of every metric of a run, in order. Where a resumed run repeated steps, the later values count.

    An unfinished last line, which a run leaves if it is killed while it writes, is left out.
    """
    found: dict[str, dict[int, float]] = {}
    versions = sorted((run / "logs").glob("version_*"), key=lambda path: int(path.name[8:]))
    for version in versions:
        if not (version / "metrics.csv").is_file():
            continue
        text = (version / "metrics.csv").read_text()
        for row in csv.DictReader(text[: text.rfind("\n") + 1].splitlines()):
            step = int(float(row["step"]))
            for name, value in row.items():
                if name not in ("step", "epoch") and value:
                    found.setdefault(name, {})[step] = float(value)
    return {name: sorted(points.items()) for name, points in found.items()}


def draw_curves(run: Path) -> None:
    """Draw loss and error over the steps into curves.png, if any were logged."""
    metrics = read_metrics(run)
    panels = {
        "loss": (("loss", "training"), ("val_loss", "validation")),
        "error, %": (("error", "training"), ("val_error", "validation")),
    }
    if "accuracy" in metrics:
        metrics["error"] = [(step, 100 - value) for step, value in metrics["accuracy"]]
    if not metrics:
        return
    figure = Figure(figsize=(11, 4), facecolor=BACKGROUND, dpi=130, layout="constrained")
    for axes, (title, lines) in zip(figure.subplots(1, 2), panels.items(), strict=True):
        for (name, label), colour, width in zip(lines, COLOURS, (1.2, 2.4), strict=False):
            points = metrics.get(name)
            if points:
                axes.plot(*zip(*points, strict=True), color=colour, linewidth=width, label=label)
        axes.set_xlabel("step")
        axes.set_title(title)
        axes.set_ylim(bottom=0)
        style_axes(axes)
        if axes.lines:
            axes.legend(frameon=False, labelcolor="white")
    _save(figure, run)


def draw_table(folder: Path, cells: Sequence[Cell], keys: Iterable[str]) -> None:
    """Draw the validation errors of a table's runs into curves.png: a panel for each column, a colour for each row.

    The paper's error is a dashed line. The scale is linear up to 1 %, and logarithmic from there. keys: the names of
    the runs, whose folders lie in `folder`.
    """
    names = list(keys)
    columns = list(dict.fromkeys(cell.column for cell in cells))
    rows = list(dict.fromkeys(cell.row for cell in cells))
    colours = dict(zip(rows, COLOURS * math.ceil(len(rows) / len(COLOURS)), strict=False))
    wide = min(len(columns), _WIDEST)
    high = math.ceil(len(columns) / wide)
    size = (max(3.4 * wide, 7.0), 3.4 * high)
    figure = Figure(figsize=size, facecolor=BACKGROUND, dpi=130, layout="constrained")
    panels = figure.subplots(high, wide, squeeze=False).flatten()
    for axes in panels[len(columns) :]:
        axes.set_visible(False)
    for axes, column in zip(panels, columns, strict=False):
        for cell in (cell for cell in cells if cell.column == column):
            runs = [name for name in names if name.startswith(f"{cell.name}-seed")]
            _draw_cell(axes, cell, [folder / name for name in runs], colours[cell.row])
        axes.set_title(column)
        axes.set_xlabel("step")
        axes.set_yscale("symlog", linthresh=1)
        axes.set_ylim(-0.03, 100)
        ticks = (0, 0.5, 1, 2, 5, 10, 20, 50, 100)
        axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        style_axes(axes)
    named = f": {columns[0]}" if len(columns) > 1 else ""
    panels[0].set_title(f"validation error, %{named}")
    lines = [mpl.lines.Line2D([], [], color=colour, label=row) for row, colour in colours.items()]
    if any(cell.paper is not None for cell in cells):
        lines.append(mpl.lines.Line2D([], [], color="white", linestyle="--", label="the paper's"))
    figure.legend(
        handles=lines, loc="outside lower center", ncols=min(len(lines), wide + 2), frameon=False,
        labelcolor="white",
    )  # fmt: skip
    _save(figure, folder)


def _draw_cell(axes: mpl.axes.Axes, cell: Cell, runs: Sequence[Path], colour: str) -> None:
    """The curves of one cell's runs, and the error that the paper gives."""
    for run in runs:
        points = read_metrics(run).get("val_error")
        if points:
            axes.plot(*zip(*points, strict=True), color=colour, linewidth=1.6, marker=".")
    if runs and cell.paper is not None:
        axes.axhline(cell.paper, color=colour, linewidth=1.0, linestyle="--")


def _save(figure: Figure, folder: Path) -> None:
    with replacing(folder / "curves.png") as part:
        figure.savefig(part, format="png")
