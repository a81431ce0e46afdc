"""Training and evaluating every network of one of the paper's tables."""

from __future__ import annotations

import json
from collections.abc import Sequence
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from statistics import mean
from typing import Any

from architectures.checkpoint import CheckpointError

from .datamodule import make_data
from .errors import UsageError
from .evaluate import evaluate
from .files import write_json, write_text
from .tables import TABLES, Cell
from .train import Run, fresh_settings, train


def reproduce(
    table: str,
    data_dir: Path | None,
    out: Path,
    *,
    schedule: str = "paper",
    seeds: Sequence[int] = (0,),
    max_steps: int | None = None,
    max_minutes: float | None = None,
    models: str = "*",
    num_workers: int | None = None,
) -> str:
    """Train and evaluate the networks of a table, one by one; gives our errors beside the paper's, as Markdown.

    The folder `out`/TABLE-SCHEDULE holds results.json and table.md, which are written after each run, and a folder for
    each run. Runs that are done are not repeated, and an interrupted run goes on. `models`: a shell pattern.

    Raises:
        UsageError: no network of the table matches `models`; and as `train`.
        CheckpointError: results that are there are of other data; and as `train`.
        KeyboardInterrupt: a run was stopped.
    """
    cells = [cell for cell in TABLES[table] if fnmatchcase(cell.model, models)]
    if not cells:
        names = ", ".join(sorted({cell.model for cell in TABLES[table]}))
        raise UsageError(f"--model {models!r} fits no network of {table}; wanted one of {names}")
    folder = out / f"{table}-{schedule}"
    results = _read(folder / "results.json")

    @cache
    def digest(experiment: str) -> str:
        return make_data(fresh_settings(Run(experiment=experiment)), data_dir).origin().digest

    for seed in seeds:
        for cell in cells:
            key = f"{cell.experiment}-{cell.column}-{cell.row}-seed{seed}"
            if results.get(key, {}).get("asked") == [max_steps, max_minutes]:
                _check_data(
                    results[key], digest(cell.experiment), f"{folder / 'results.json'}: {key}"
                )
                continue
            run = folder / key
            settings = Run(
                experiment=cell.experiment, model=cell.model, data_dir=data_dir, schedule=schedule, seed=seed,
                image_size=cell.image_size, data_options=dict(cell.data_options), max_steps=max_steps,
                max_minutes=max_minutes, num_workers=num_workers, resume=(run / "last.ckpt").exists(), out=run,
            )  # fmt: skip
            print(key, flush=True)
            if train(settings)[1]:
                raise KeyboardInterrupt
            found = evaluate(run / "last.ckpt", data_dir, num_workers=num_workers)
            results[key] = found | {
                "asked": [max_steps, max_minutes],
                "digest": digest(cell.experiment),
                "paper_error_percent": cell.paper,
            }
            write_json(folder / "results.json", results)
            write_text(folder / "table.md", markdown(cells, results, seeds) + "\n")
    return markdown(cells, results, seeds)


def _check_data(done: dict[str, Any], digest: str, where: str) -> None:
    if done.get("digest", digest) != digest:
        raise CheckpointError(
            f"{where} is of other data than those given now; wanted these, or another --out"
        )


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise CheckpointError(f"{path}: not JSON: {error}") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: not results of reproduce")
    return found


def markdown(cells: Sequence[Cell], results: dict[str, Any], seeds: Sequence[int]) -> str:
    """A table of errors in percent, "ours (the paper's)": the mean over the seeds that are done; – where none is."""
    rows = list(dict.fromkeys(cell.row for cell in cells))
    columns = list(dict.fromkeys(cell.column for cell in cells))
    texts = {}
    for cell in cells:
        keys = [f"{cell.experiment}-{cell.column}-{cell.row}-seed{seed}" for seed in seeds]
        errors = [results[key]["error_percent"] for key in keys if key in results]
        ours = f"{mean(errors):.1f}" if errors else "–"
        texts[cell.row, cell.column] = (
            f"{ours} ({'–' if cell.paper is None else f'{cell.paper:.1f}'})"
        )
    lines = [
        "| error %, ours (paper's) | " + " | ".join(columns) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    lines += [
        f"| {row} | " + " | ".join(texts.get((row, c), "") for c in columns) + " |" for row in rows
    ]
    return "\n".join(lines)
