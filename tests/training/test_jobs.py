"""Runs in processes of their own: several at once, one that fails, a signal that ends them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lightning")
pytest.importorskip("matplotlib")
pytest.importorskip("mlxtend")

from architectures.training import jobs
from architectures.training.jobs import Stopped, run_all
from architectures.training.run import Run


def test_a_run_survives_the_way_to_its_process() -> None:
    run = Run(experiment="svhn", data_dir=Path("a b"), out=Path("c"), data_options={"margin": 0.2})
    assert jobs._from_text(jobs._to_text(run)) == run
    run = replace(run, data_dir=None, max_minutes=0.5, resume=True)
    assert jobs._from_text(jobs._to_text(run)) == run


def _program(text: str) -> Callable[..., subprocess.Popen[str]]:
    """A `Popen` that runs this program in place of the run's; its arguments are the file and a folder."""
    popen = subprocess.Popen

    def start(command: list[str], **options: Any) -> subprocess.Popen[str]:
        return popen([sys.executable, "-c", text, command[-1]], **options)

    return start


def _runs(folder: Path, number: int) -> dict[str, Run]:
    return {f"run{i}": Run(experiment="mnist_r", seed=i, out=folder / f"run{i}") for i in range(number)}  # fmt: skip


def test_jobs_run_at_once_and_one_may_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = """
import json, os, pathlib, sys, time
run = json.load(sys.stdin)
pathlib.Path(sys.argv[1]).with_suffix(".began").touch()
if run["seed"] == 1:
    sys.exit("wanted more\\n")
if run["seed"] == 2:
    os.abort()
while run["seed"] == 0 and not list(pathlib.Path(sys.argv[1]).parent.glob("run3.began")):
    time.sleep(0.01)
pathlib.Path(sys.argv[1]).write_text(json.dumps({"seed": run["seed"], "threads": os.environ["OMP_NUM_THREADS"]}))
"""
    monkeypatch.setattr(jobs.subprocess, "Popen", _program(program))
    begun: list[str] = []
    outcomes = dict(run_all(_runs(tmp_path, 4), 2, begun.append))
    assert begun == ["run0", "run1", "run2", "run3"]
    threads = str(max(1, len(jobs._processors()) // 2))
    assert [outcomes[f"run{i}"] for i in (0, 3)] == [
        {"seed": seed, "threads": threads} for seed in (0, 3)
    ]
    assert outcomes["run1"] == f"wanted more ({tmp_path / 'run1.log'})"
    assert str(outcomes["run2"]).startswith(f"ended by signal {signal.SIGABRT:d}, perhaps for want")


@pytest.mark.skipif(os.name != "posix", reason="signals are of another kind there")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_all_jobs_cleanly(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = """
import pathlib, signal, sys, time
path = pathlib.Path(sys.argv[1])
def save(number, frame):
    path.with_suffix(".saved").write_text(str(number))
    sys.exit(128 + number)
signal.signal(signal.SIGTERM, save)
path.with_suffix(".began").touch()
time.sleep(60)
"""
    monkeypatch.setattr(jobs.subprocess, "Popen", _program(program))
    sleep = time.sleep

    def interrupt(seconds: float) -> None:
        sleep(seconds)
        if len(list(tmp_path.glob("*.began"))) == 2 and not list(tmp_path.glob("*.sent")):
            (tmp_path / "x.sent").touch()
            signal.raise_signal(number)

    monkeypatch.setattr(jobs.time, "sleep", interrupt)
    before = signal.getsignal(number)
    with pytest.raises(Stopped) as stopped:
        dict(run_all(_runs(tmp_path, 3), 2, lambda key: None))
    assert stopped.value.args == (number,)
    assert signal.getsignal(number) == before
    saved = {path.name: path.read_text() for path in tmp_path.glob("*.saved")}
    assert saved == {name: str(signal.SIGTERM.value) for name in ("run0.saved", "run1.saved")}
