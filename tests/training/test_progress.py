"""What is shown of a training: its bar, in a terminal or a log, and figures, whatever backend matplotlib is told."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("lightning")
pytest.importorskip("matplotlib")
pytest.importorskip("mlxtend")

import numpy as np
from lightning.pytorch.loggers import TensorBoardLogger

from architectures.pictures import figures
from architectures.training import batches, progress, show
from architectures.training.callbacks import Pictures
from architectures.training.loaders import Loaders
from architectures.training.progress import Progress
from architectures.training.run import Run
from architectures.training.train import train
from support import ROOT


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock for progress bars, which only a test moves."""
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(progress.time, "time", lambda: clock.now)
    original = progress.tqdm.__init__

    def patched(self: Any, *arguments: Any, **options: Any) -> None:
        original(self, *arguments, **options)
        self._time = lambda: clock.now
        self.start_t = self.last_print_t = clock.now

    monkeypatch.setattr(progress.tqdm, "__init__", patched)
    return clock


def _trainer(steps: int) -> Any:
    return SimpleNamespace(
        global_step=0, max_steps=steps, is_global_zero=True, progress_bar_metrics={"loss": 1.5}
    )


def _counted(printed: str) -> list[int]:
    return [int(number) for number in re.findall(r"\| (\d+)/100 ", printed)]


def test_a_log_counts_steps_as_they_pass(
    clock: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    """When slow steps follow fast ones, lines still come every ten seconds or so, each with the step reached."""
    trainer, bar = _trainer(100), Progress("net", 8)
    bar.on_train_start(trainer)
    for step in range(1, 101):
        clock.now += 0.1 if step <= 60 else 4.0
        trainer.global_step = step
        bar.on_train_batch_end(trainer)
        if step % 10 == 0:
            bar.on_validation_start()
            bar.on_validation_end()
    bar.on_train_end(trainer)
    counted = _counted(capsys.readouterr().out)
    assert counted[0] == 0 and counted[-1] == 100
    slow = [number for number in counted if 60 < number < 100]
    assert len(slow) >= 12, "a line every third step of four seconds"
    assert max(b - a for a, b in pairwise(slow)) <= 3


def test_the_time_left_is_without_validation(
    clock: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer, bar = _trainer(100), Progress("net", 8)
    bar.on_train_start(trainer)
    for step in range(1, 51):
        clock.now += 1.0
        trainer.global_step = step
        bar.on_train_batch_end(trainer)
        if step % 5 == 0:
            bar.on_validation_start()
            clock.now += 30.0
            bar.on_validation_end()
    printed = capsys.readouterr().out
    elapsed, left = re.findall(r"\| 50/100 \[(\S+)<(\S+),", printed)[-1]
    assert (elapsed, left) == ("00:50", "00:50")
    assert "loss=1.5" in printed and "images/s=8" in printed
    bar.on_train_end(trainer)


def test_a_bar_that_cannot_be_drawn_ends_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Closed:
        def write(self, text: str) -> int:
            raise OSError(5, "Input/output error")

        def flush(self) -> None:
            raise OSError(5, "Input/output error")

        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(batches, "_VALIDATED", 10)
    monkeypatch.setattr(sys, "stdout", Closed())
    run = Run(
        experiment="mnist_r", model="mnist_fcn", schedule="fast", max_steps=2, batch_size=4, out=tmp_path
    )  # fmt: skip
    train(run)
    assert (tmp_path / "last.ckpt").is_file()


# Figures


def test_pictures_are_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture takes as long as some hundred steps: not every validation draws one."""
    pytest.importorskip("tensorboard")
    drawn: list[int] = []
    monkeypatch.setattr(show, "network_figure", lambda *_: drawn.append(trainer.global_step))
    monkeypatch.setattr(figures, "pixels", lambda _: np.zeros((2, 2, 3), np.uint8))
    data: Any = None  # which only `network_figure` reads
    trainer: Any = SimpleNamespace(
        loggers=[TensorBoardLogger(tmp_path)], is_global_zero=True, datamodule=Loaders(data)
    )
    pictures = Pictures(every=10)
    for trainer.global_step in range(4, 41, 4):
        pictures.on_validation_end(trainer, SimpleNamespace(hparams={}, network=None))
    assert drawn == [4, 16, 28, 40]


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["module://matplotlib_inline.backend_inline", "nonsense"])
def test_files_are_drawn_whatever_backend_a_notebook_names(backend: str, tmp_path: Path) -> None:
    script = f"""
import sys
from pathlib import Path
from architectures.demo import run as demo
demo.throughput_table = lambda device: ""
arguments = "--steps 1 --batch-size 2 --test-size 6 --out".split()
assert demo.main([*arguments, {str(tmp_path / "demo.png")!r}]) == 0
from architectures.training import batches
from architectures.commands.main import main
batches._VALIDATED = 10
out = {str(tmp_path / "run")!r}
arguments = "train mnist_r --model mnist_fcn --fast --batch-size 4 --max-steps 2 --out".split()
assert main([*arguments, out]) == 0
assert main(["show", out + "/last.ckpt", "--out", {str(tmp_path / "show.png")!r}]) == 0
import matplotlib
assert "pyplot" not in dir(matplotlib) or not sys.modules["matplotlib.pyplot"].get_fignums()
"""
    environment = os.environ | {"MPLBACKEND": backend, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT, env=environment, timeout=300)  # fmt: skip
    for name in ("demo.png", "show.png", "run/curves.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    assert any((tmp_path / "run/logs").rglob("events.*"))


@pytest.mark.slow
def test_a_backend_that_there_is_stays_chosen() -> None:
    """A program that draws in windows keeps the backend that it chose."""
    script = (
        "import architectures.pictures.figures, matplotlib; print(matplotlib.rcParams['backend'])"
    )
    environment = os.environ | {"MPLBACKEND": "svg"}
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, cwd=ROOT, env=environment, capture_output=True, text=True
    )  # fmt: skip
    assert done.stdout.strip() == "svg"
