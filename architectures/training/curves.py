"""Training curves, from the tables that training wrote."""

from __future__ import annotations

import csv
from pathlib import Path

from architectures.pictures.figures import Figure
from architectures.pictures.strips import BACKGROUND, COLOURS, style_axes

from .files import replacing


def read_metrics(run: Path) -> dict[str, list[tuple[int, float]]]:
    """(step, value) of every metric of a run, in order. Of steps that a resumed run repeated its own values count."""
    found: dict[str, dict[int, float]] = {}
    versions = sorted((run / "logs").glob("version_*"), key=lambda path: int(path.name[8:]))
    for version in versions:
        if not (version / "metrics.csv").is_file():
            continue
        with (version / "metrics.csv").open(newline="") as file:
            for row in csv.DictReader(file):
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
    with replacing(run / "curves.png") as part:
        figure.savefig(part, format="png")
