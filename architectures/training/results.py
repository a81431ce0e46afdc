"""The results of a table: a file that holds every run, and the table and the picture that are made from it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from architectures.checkpoint import CheckpointError

from .experiments import Schedule
from .files import write_json, write_text
from .provenance import provenance
from .tables import TABLES, Cell

_OPTIONS = {"max_steps": "--max-steps", "data_options": "--data-option"}
_MADE_WITH = ("schedule", *_OPTIONS, "data")
"""What all runs of one file have in common."""


@dataclass(kw_only=True)
class Results:
    """What results.json holds, which names no machine and no folder.

    max_steps: the limit that was asked for; None: the steps of the schedule.
    data_options: those that were asked for beside the table's own.
    data: their digest, whether they are the embedded digits, and the numbers of digits or pictures.
    runs: by their keys, in the order in which they ended.
    """

    table: str
    schedule: str
    max_steps: int | None
    data: dict[str, Any]
    data_options: dict[str, Any] = field(default_factory=dict)
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)

    def read(self, path: Path) -> None:
        """Take the runs of an earlier call from the file, if it is there.

        Raises:
            CheckpointError: the file is no such file, or its runs are of other data, or of other steps.
        """
        if not path.exists():
            return
        try:
            found = json.loads(path.read_text())
            runs = {run["key"]: run for run in found["runs"]}
            had = {name: found[name] for name in _MADE_WITH}
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path}: not results of reproduce") from error
        if had["data"] != self.data:
            raise CheckpointError(
                f"{path}: is of other data than those given now; wanted these, or another --out"
            )
        for name, option in _OPTIONS.items():
            own = json.loads(json.dumps(getattr(self, name)))  # which makes lists of tuples
            if had[name] != own:
                raise CheckpointError(
                    f"{path}: was made with {option} {had[name] or 'left out'}, got {own or 'none'}; "
                    "wanted the same, or another --out"
                )
        self.runs = runs

    def write(self, folder: Path) -> None:
        """Write results.json, with what it was made with, and table.md."""
        content = {
            "kind": "paper",
            "table": self.table,
            **{name: getattr(self, name) for name in _MADE_WITH},
            **provenance(),
            "runs": [{"key": key, **run} for key, run in self.runs.items()],
        }
        write_json(folder / "results.json", content)
        write_text(folder / "table.md", self.markdown(TABLES[self.table]) + "\n")

    def of(self, cell: Cell) -> list[dict[str, Any]]:
        """The runs of a cell, by seed."""
        found = [run for key, run in self.runs.items() if key.startswith(f"{cell.name}-seed")]
        return sorted(found, key=lambda run: run["seed"])

    def markdown(self, cells: Sequence[Cell]) -> str:
        """Figures in percent, "ours ± standard deviation of the seeds (the paper's)", and how they were trained."""
        rows = list(dict.fromkeys(cell.row for cell in cells))
        columns = list(dict.fromkeys(cell.column for cell in cells))
        texts = {(cell.row, cell.column): self._figure(cell) for cell in cells}
        what = "found" if cells[0].shows_found else "error"
        lines = [
            f"| {what} %, ours (paper's) | " + " | ".join(columns) + " |",
            "|---" * (len(columns) + 1) + "|",
        ]
        lines += [
            f"| {row} | " + " | ".join(texts.get((row, column), "") for column in columns) + " |"
            for row in rows
        ]
        return "\n".join([*lines, "", *self._notes(cells)])

    def _figure(self, cell: Cell) -> str:
        figures = [cell.shown(run["error_percent"]) for run in self.of(cell)]
        ours = f"{mean(figures):.1f}" if figures else "–"
        if len(figures) > 1:
            ours += f" ± {stdev(figures):.1f}"
        paper = cell.shown(cell.paper)
        return f"{ours} ({'–' if paper is None else f'{paper:.1f}'})"

    def _notes(self, cells: Iterable[Cell]) -> list[str]:
        """What was trained on, and a line for each way of training, with the networks that it holds for."""
        ways: dict[str, list[str]] = {}
        for cell in cells:
            runs = self.of(cell)
            if runs:
                ways.setdefault(_way(runs), []).append(f"{cell.row} {cell.column}")
        data = self.data
        digits = "the embedded digits" if data["embedded"] else "files"
        text = (
            f"Mean ± standard deviation over the seeds. Data: {digits}, {data['train']:,} to train on, "
            f"{data['validation']:,} for validation, {data['test']:,} to test. Schedule: {self.schedule}."
        )
        lines = [text, ""]
        for way, names in ways.items():
            lines.append(f"- {way}" if len(ways) == 1 else f"- {way}: {', '.join(names)}")
        return lines if ways else [text]


def _way(runs: Sequence[dict[str, Any]]) -> str:
    """How the runs of one cell were trained, as a phrase."""
    schedule = runs[0]["schedule"]
    steps = sorted({run["steps"] for run in runs})
    span = f"{steps[0]:,}" + (f" to {steps[-1]:,}" if len(steps) > 1 else "")
    whole = "" if steps[0] >= schedule["steps"] else f" (of {schedule['steps']:,})"
    seeds = ", ".join(str(run["seed"]) for run in runs)
    count = "1 seed" if len(runs) == 1 else f"{len(runs)} seeds"
    return f"{count} ({seeds}), {span} steps{whole} of {Schedule(**schedule).in_words()}"
