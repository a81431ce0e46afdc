"""Runs of a table, one after the other in this process, or several at once, each in a process of its own.

Such a process is `python -m architectures.training.jobs FILE`. It reads a `Run` from its input, and writes what
`evaluate` finds to the file.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

from architectures.checkpoint import CheckpointError
from architectures.data import DataError
from architectures.errors import first_line, machine_trouble
from architectures.networks.registry import parameter_count

from .errors import Diverged, UsageError
from .evaluate import evaluate, read_run
from .files import write_json
from .run import Run
from .train import train

_SIGNALS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]
_OWN_GROUP: dict[str, Any] = {"process_group": 0} if os.name == "posix" else {}
"""A terminal sends Ctrl-C to a group of processes. Each run has another group, and is told once, by this process."""
_POLL_S = 0.2
"""Seconds between two looks at whether a process has ended."""
_PATHS = ("data_dir", "out")

Outcome = dict[str, Any] | str
"""What `evaluate` found, with the settings and the minutes of the training; or why the run failed, in one line."""


class Stopped(Exception):
    """A signal ended the runs; the argument is its number. so_far: how far they came, in words, if that is known."""

    so_far = ""


def run_all(
    runs: Mapping[str, Run], jobs: int, begin: Callable[[str], None]
) -> Generator[tuple[str, Outcome], None, None]:
    """Train and evaluate; gives each run's key and outcome as it ends. `begin` is called with the key as a run begins.

    With more than one job, runs are quiet, and what they print is in a file beside their folder, NAME.log.

    Raises:
        Stopped: a signal, such as Ctrl-C, ended it. Runs that were under way are saved, and can go on.
    """
    if jobs > 1:
        yield from _in_processes(runs, jobs, begin)
        return
    for key, run in runs.items():
        begin(key)
        yield key, _attempt(run)


def finish(run: Run) -> dict[str, Any]:
    """Train if there are steps left, and evaluate.

    Raises:
        Stopped: a signal ended the training.
        CheckpointError: the network was trained on other data, or its checkpoint does not say on which.
        CheckpointError, UsageError, DataError, Diverged, OSError: as `train` and `evaluate`.
    """
    assert run.out is not None
    path = run.out / "last.ckpt"
    if not (run.resume and _has_all_steps(read_run(path))):
        _, number = train(run)
        if number:
            raise Stopped(number)
    found = evaluate(path, run.data_dir, num_workers=run.num_workers)
    if "data" in found:
        raise CheckpointError(f"{path}: {found['data']}")
    checkpoint = read_run(path)
    settings = checkpoint["hyper_parameters"]
    return found | {
        "schedule": settings["schedule"],
        "minutes": _minutes(checkpoint),
        "parameters": parameter_count(settings["model"], **settings["model_options"]),
    }


def _has_all_steps(checkpoint: Mapping[str, Any]) -> bool:
    steps: int = checkpoint["hyper_parameters"]["schedule"]["steps"]
    return bool(checkpoint["global_step"] >= steps)


def _minutes(checkpoint: Mapping[str, Any]) -> float | None:
    """The minutes of training, all resumptions together; None where the checkpoint does not say them."""
    try:
        seconds = checkpoint["callbacks"]["Timer"]["time_elapsed"]["train"]
    except (KeyError, TypeError):
        return None
    return round(seconds / 60, 2)


def _attempt(run: Run) -> Outcome:
    """The outcome of a run in this process. An unexpected error, too, fails only its run; its traceback is printed."""
    try:
        return finish(run)
    except Stopped:
        raise
    except (CheckpointError, DataError, Diverged, OSError, UsageError) as error:
        return first_line(error)
    except Exception as error:
        trouble = machine_trouble(error)
        if trouble is None:
            traceback.print_exc()
        return trouble or f"{type(error).__name__}: {first_line(error)}"


@dataclass(kw_only=True)
class _Job:
    process: subprocess.Popen[str]
    log: Path
    found: Path

    def outcome(self) -> Outcome:
        """What the process found, after its end; or the last line that it printed."""
        if self.process.returncode == 0:
            found: dict[str, Any] = json.loads(self.found.read_text())
            return found
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        said = lines[-1].strip() if lines else "it printed nothing"
        if self.process.returncode < 0:
            said = f"ended by signal {-self.process.returncode}, perhaps for want of memory; {said}"
        return f"{said} ({self.log})"


def _in_processes(
    runs: Mapping[str, Run], jobs: int, begin: Callable[[str], None]
) -> Generator[tuple[str, Outcome], None, None]:
    waiting = list(runs)
    running: dict[str, _Job] = {}
    with _caught() as caught:
        try:
            while (waiting or running) and not caught:
                while waiting and len(running) < jobs:
                    key = waiting.pop(0)
                    begin(key)
                    running[key] = _start(runs[key], jobs)
                time.sleep(_POLL_S)
                for key in [key for key, job in running.items() if job.process.poll() is not None]:
                    outcome = running.pop(key).outcome()
                    if not caught:
                        yield key, outcome
        finally:
            _end(running, caught)
    if caught:
        raise Stopped(caught[0])


def _start(run: Run, jobs: int) -> _Job:
    assert run.out is not None
    run.out.parent.mkdir(parents=True, exist_ok=True)
    found, log = (run.out.with_name(f"{run.out.name}.{end}") for end in ("json", "log"))
    found.unlink(missing_ok=True)
    threads = str(max(1, len(_processors()) // jobs))
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "architectures.training.jobs", str(found)],
            stdin=subprocess.PIPE, stdout=file, stderr=subprocess.STDOUT, text=True,
            env=os.environ | {"OMP_NUM_THREADS": threads}, **_OWN_GROUP,
        )  # fmt: skip
    assert process.stdin is not None
    with suppress(BrokenPipeError), process.stdin as stream:  # it ended at once; its log says why
        stream.write(_to_text(run))
    return _Job(process=process, log=log, found=found)


def _processors() -> Any:
    """The processors that this process may use."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)  # fmt: skip


@contextmanager
def _caught() -> Iterator[list[int]]:
    """Note signals, by number, instead of being ended by them. One that is ignored, as SIGHUP is by nohup, stays so."""
    caught: list[int] = []
    before = {
        number: signal.signal(number, lambda number, _: caught.append(number))
        for number in _SIGNALS
        if signal.getsignal(number) not in (signal.SIG_IGN, None)
    }
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(running: Mapping[str, _Job], caught: list[int]) -> None:
    """Let the processes save and end. Another signal ends them at once."""
    for job in running.values():
        job.process.terminate()
    asked = len(caught)
    while any(job.process.poll() is None for job in running.values()):
        if len(caught) > asked:
            for job in running.values():
                job.process.kill()
        time.sleep(_POLL_S)


def _to_text(run: Run) -> str:
    settings = asdict(run)
    return json.dumps(settings | {name: settings[name] and str(settings[name]) for name in _PATHS})


def _from_text(text: str) -> Run:
    settings = json.loads(text)
    return Run(**settings | {name: settings[name] and Path(settings[name]) for name in _PATHS})


def main(found: Path, stream: TextIO) -> int:
    """The process of one run; gives its exit status."""
    try:
        outcome = _attempt(_from_text(stream.read()))
    except Stopped as stopped:
        return 128 + int(stopped.args[0])
    if isinstance(outcome, str):
        print(outcome, file=sys.stderr)
        return 1
    write_json(found, outcome)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.stdin))
