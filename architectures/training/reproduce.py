"""Training and evaluating every network of one of the paper's tables."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from fnmatch import fnmatchcase
from pathlib import Path
from statistics import mean
from typing import Any

from architectures.checkpoint import CheckpointError

from .batches import make_data
from .curves import draw_table
from .errors import UsageError
from .evaluate import read_run
from .jobs import Outcome, Stopped, run_all
from .lock import locked
from .provenance import sizes
from .results import Results
from .run import Run, fresh_settings
from .tables import TABLES, Cell
from .train import make_folder


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
    jobs: int = 1,
    runs: Path | None = None,
    data_options: Mapping[str, Any] | None = None,
) -> tuple[str, dict[str, str]]:
    """Train and evaluate the networks of a table; gives a table of our figures and the paper's, and what failed.

    The folder `out`/TABLE-SCHEDULE holds results.json, table.md and curves.png, which are written whole after each
    run, and a folder for each run. Runs that are done are not repeated, and an interrupted run goes on. If a run fails
    the others go on; the second result has the reason for each that failed.

    models: a shell pattern of the networks to train. jobs: how many runs are trained at once.
    runs: a folder in or below which runs of `train` lie. Those that belong to this table, schedule and seeds are
        copied, and are not trained again.
    data_options: for the data of all runs.

    Raises:
        UsageError: no network of the table matches `models`; data that cannot be used; another call is writing there.
        DataError: data that are missing or broken.
        CheckpointError: the results in the folder are of other data or steps; `runs` has two runs for one figure.
        Stopped: a signal ended it; the same call takes it up again.
        OSError: a file that cannot be written.
    """
    given = dict(data_options or {})
    cells = _cells(table, models, given)
    data = make_data(_settings(cells[0], 0, schedule), data_dir, num_workers=num_workers)
    results = Results(
        table=table, schedule=schedule, max_steps=max_steps, data=asdict(data.origin()) | sizes(data),
        data_options={name: value for name, value in given.items() if name != "cache_dir"},
    )  # fmt: skip
    folder = out / f"{table}-{schedule}"
    make_folder(folder)
    with locked(folder):
        results.read(folder / "results.json")
        wanted = {f"{cell.name}-seed{seed}": (cell, seed) for seed in seeds for cell in cells}
        if runs is not None:
            _take(runs, folder, wanted, results)
        todo = {
            key: Run(
                experiment=cell.experiment, model=cell.model, data_dir=data_dir, schedule=schedule, seed=seed,
                image_size=cell.image_size, data_options=dict(cell.data_options), max_steps=max_steps,
                max_minutes=max_minutes, num_workers=num_workers, resume=(folder / key / "last.ckpt").exists(),
                out=folder / key, quiet=jobs > 1,
            )
            for key, (cell, seed) in wanted.items()
            if not _is_done(results.runs.get(key), max_minutes)
        }  # fmt: skip
        failed = _work(folder, results, {key: wanted[key][0] for key in wanted}, todo, jobs)
    return results.markdown(cells), failed


def _cells(table: str, models: str, data_options: Mapping[str, Any]) -> list[Cell]:
    """The cells of a table whose networks match a pattern, with these options of the data beside their own."""
    chosen = [cell for cell in TABLES[table] if fnmatchcase(cell.model, models)]
    if not chosen:
        names = ", ".join(sorted({cell.model for cell in TABLES[table]}))
        raise UsageError(f"--model {models!r} fits no network of {table}; wanted one of {names}")
    return [replace(cell, data_options={**data_options, **cell.data_options}) for cell in chosen]


def _is_done(run: Mapping[str, Any] | None, max_minutes: float | None) -> bool:
    """Whether a run needs no more steps: it has done all of its schedule, or the same limit of minutes ended it."""
    if run is None:
        return False
    return run["steps"] >= run["schedule"]["steps"] or run["max_minutes"] == max_minutes


def _work(
    folder: Path, results: Results, cells: Mapping[str, Cell], todo: Mapping[str, Run], jobs: int
) -> dict[str, str]:
    """Train what is left to train, and write the results after each run; gives the reasons of those that failed."""
    progress = _Progress(len(cells), todo, results, jobs)
    failed: dict[str, str] = {}
    results.write(folder)
    try:
        with closing(run_all(todo, jobs, progress.begin)) as outcomes:
            for key, outcome in outcomes:
                if isinstance(outcome, str):
                    failed[key] = outcome
                else:
                    results.runs[key] = _record(cells[key], outcome, todo[key], results)
                    results.write(folder)
                    draw_table(folder, TABLES[results.table], results.runs)
                progress.end(key, cells[key], outcome)
    except Stopped as stopped:
        stopped.so_far = progress.so_far(folder)
        raise
    return failed


def _record(cell: Cell, found: Mapping[str, Any], run: Run, results: Results) -> dict[str, Any]:
    """What results.json holds of a run."""
    names = (
        "experiment", "model", "seed", "parameters", "schedule", "minutes", "examples", "error_percent",
    )  # fmt: skip
    figures: dict[str, Any] = {"paper_error_percent": cell.paper}
    if cell.shows_found:
        figures |= {
            "found_percent": round(cell.shown(found["error_percent"]), 4),
            "paper_found_percent": cell.shown(cell.paper),
        }
    return {
        "row": cell.row,
        "column": cell.column,
        **{name: found[name] for name in names},
        "steps": found["step"],
        "trained_on": results.data["train"],
        **figures,
        "max_minutes": run.max_minutes,
    }


class _Progress:
    """Lines that say which runs begin and end, and how long the rest may take."""

    def __init__(self, total: int, todo: Mapping[str, Run], results: Results, jobs: int) -> None:
        self._total = total
        self._left = len(todo)
        self._failed = 0
        self._next = total - len(todo)
        self._todo = todo
        self._results = results
        self._jobs = jobs
        self._begun: dict[str, float] = {}
        self._seconds: list[float] = []
        if self._next:
            print(f"{self._next} of {total} runs are done already", flush=True)

    def begin(self, key: str) -> None:
        self._next += 1
        self._begun[key] = time.monotonic()
        print(f"run {self._next} of {self._total}: {key}{self._estimate()}", flush=True)

    def end(self, key: str, cell: Cell, outcome: Outcome) -> None:
        seconds = time.monotonic() - self._begun.pop(key)
        self._left -= 1
        if isinstance(outcome, str):
            self._failed += 1
            print(f"{key}: failed: {outcome}", file=sys.stderr, flush=True)
            return
        self._seconds.append(seconds)
        what = "found" if cell.shows_found else "error"
        paper = "no figure" if cell.paper is None else f"{cell.shown(cell.paper):.1f} %"
        print(
            f"{key}: {what} {cell.shown(outcome['error_percent']):.2f} % (paper: {paper}) after {outcome['step']:,} "
            f"steps, {_span(seconds)}{self._estimate()}",
            flush=True,
        )

    def so_far(self, folder: Path) -> str:
        """How many runs are done, and the step that each of those under way would go on from."""
        parts = [f"{self._total - self._left - self._failed} of {self._total} runs are done"]
        if self._failed:
            parts.append(f"{self._failed} failed")
        return "; ".join([*parts, *(f"{key} {_reached(folder / key)}" for key in self._begun)])

    def _estimate(self) -> str:
        """The time left, by the runs that are done, or else by the limit."""
        limits = [60 * run.max_minutes for run in self._todo.values() if run.max_minutes]
        each = mean(self._seconds) if self._seconds else limits[0] if limits else None
        if each is None or not self._left:
            return ""
        return f"; {'about' if self._seconds else 'at most about'} {_span(each * -(-self._left // self._jobs))} left"


def _reached(run: Path) -> str:
    """The step that a run that was stopped would go on from."""
    try:
        saved = read_run(run / "last.ckpt")
    except (CheckpointError, FileNotFoundError):
        return "has no checkpoint yet"
    steps = saved["hyper_parameters"]["schedule"]["steps"]
    return f"is at step {saved['global_step']:,} of {steps:,}"


def _span(seconds: float) -> str:
    """A time as text: 40 s, 12 min, 3 h 20 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"


def _take(
    runs: Path, folder: Path, wanted: Mapping[str, tuple[Cell, int]], results: Results
) -> None:
    """Copy the runs below a folder that belong to the table, whole, to where its own would be.

    Raises:
        UsageError: there is no such folder, or no run in it.
        CheckpointError: two runs belong to one figure and seed; a run that is broken.
    """
    own = folder.resolve()
    paths = sorted(path for path in runs.rglob("last.ckpt") if own not in path.resolve().parents)
    if not paths:
        raise UsageError(f"--runs {runs}: wanted runs of train, got no last.ckpt in or below it")
    taken: dict[str, Path] = {}
    for path in paths:
        settings = read_run(path)["hyper_parameters"]
        for key, (cell, seed) in wanted.items():
            if not _belongs(settings, cell, seed, results):
                continue
            if key in taken:
                raise CheckpointError(
                    f"{path}: is for {key}, as {taken[key]} is; wanted one run for it"
                )
            taken[key] = path
    for key, path in taken.items():
        if key in results.runs or (folder / key).exists():
            print(f"{key}: is there already, {path.parent} is left alone", file=sys.stderr)
            continue
        part = folder / f".{key}.part"
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(path.parent, part)
        part.rename(folder / key)
        print(f"{key}: taken from {path.parent}", flush=True)


def _belongs(settings: Mapping[str, Any], cell: Cell, seed: int, results: Results) -> bool:
    """Whether a run with these settings is one of a cell."""
    asked = _settings(cell, seed, results.schedule)
    names = set(asked) - {"schedule"}
    steps = results.max_steps
    return all(settings[name] == asked[name] for name in names) and (
        steps is None or settings["schedule"]["steps"] == steps
    )


def _settings(cell: Cell, seed: int, schedule: str) -> dict[str, Any]:
    """The settings of a run of a cell."""
    return fresh_settings(
        Run(
            experiment=cell.experiment, model=cell.model, schedule=schedule, seed=seed,
            image_size=cell.image_size, data_options=dict(cell.data_options),
        )
    )  # fmt: skip
