"""What happens beside the steps: the progress bar, checkpoints that are whole or not there, pictures in TensorBoard."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.io import TorchCheckpointIO

from .datamodule import ExperimentData
from .files import replacing


class Progress(TQDMProgressBar):
    """One bar for the whole training: loss, accuracy, images per second, time left."""

    def __init__(self, description: str, batch_size: int) -> None:
        super().__init__()
        # A log keeps every line, a terminal only the last one.
        self._seconds_between = 0.5 if sys.stdout.isatty() else 10.0
        self._drawn = 0.0
        self._description = description
        self._batch_size = batch_size
        self._began = (0, 0.0)

    @property
    def total_train_batches(self) -> int:
        return self.trainer.max_steps

    def _should_update(self, current: int, total: float) -> bool:
        """By time, not by steps: these take from milliseconds to minutes."""
        now = time.perf_counter()
        due = self.is_enabled and (current == total or now - self._drawn >= self._seconds_between)
        if due:
            self._drawn = now
        return due

    def init_validation_tqdm(self) -> Tqdm:
        return Tqdm(disable=True)

    def on_train_start(self, trainer: L.Trainer, *_: Any) -> None:
        super().on_train_start(trainer, *_)
        self._began = (trainer.global_step, time.perf_counter())
        bar = self.train_progress_bar
        bar.reset(trainer.max_steps)
        bar.initial = bar.n = trainer.global_step
        bar.set_description(self._description)

    def on_train_epoch_start(self, *_: Any) -> None:
        """The whole training is one epoch."""

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        super().on_train_batch_end(trainer, _[0], _[1], _[2], trainer.global_step - 1)

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        step, second = self._began
        seconds = time.perf_counter() - second
        rate = self._batch_size * (trainer.global_step - step) / max(seconds, 1e-9)
        return metrics | {"images/s": f"{rate:.0f}"}


class WholeCheckpoints(TorchCheckpointIO):
    """A checkpoint replaces the one before at once: killed at any time, one of the two is there, whole."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        with replacing(Path(path)) as part, part.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())


class KeepLast(Callback):
    """Save last.ckpt every so many steps, and when training ends.

    SIGINT (Ctrl-C) and SIGTERM end it after the step that is under way, in all processes; `signal` is then its
    number. A second one ends the process at once.
    """

    def __init__(self, folder: Path, every: int) -> None:
        self.path = folder / "last.ckpt"
        self.every = every
        self.signal = 0
        self._before: dict[int, Any] = {}
        self._saved = -1

    def on_train_start(self, *_: Any) -> None:
        if threading.current_thread() is threading.main_thread():
            self._before = {
                number: signal.signal(number, self._stop)
                for number in (signal.SIGINT, signal.SIGTERM)
            }

    def _stop(self, number: int, _: object) -> None:
        self.signal = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.strategy.reduce_boolean_decision(bool(self.signal), all=False):
            trainer.should_stop = True
        if trainer.global_step % self.every == 0 or trainer.should_stop:
            self._save(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._saved != trainer.global_step:
            self._save(trainer)
        self._restore()

    def _save(self, trainer: L.Trainer) -> None:
        trainer.save_checkpoint(self.path)
        self._saved = trainer.global_step


class Pictures(Callback):
    """After each validation, what the transformers look at, for TensorBoard."""

    def __init__(self, examples: int = 6) -> None:
        self._examples = examples

    def on_validation_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        boards = [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
        data = trainer.datamodule  # type: ignore[attr-defined]  # set by fit
        if not boards or not trainer.is_global_zero or not isinstance(data, ExperimentData):
            return
        from .show import module_figure

        for board in boards:
            figure = module_figure(pl_module, data, self._examples)
            board.experiment.add_figure("attention", figure, trainer.global_step)
