"""The progress bar of a training, in a terminal or in a log."""

from __future__ import annotations

import sys
import time
from typing import Any

from tqdm import tqdm

from .framework import Callback, L


def steps_bar(total: int, description: str, *, initial: int = 0) -> tqdm[Any]:
    """A bar that counts steps as they pass, on standard output.

    It is drawn twice a second in a terminal, which shows only the last line, and every ten seconds in a log, which
    keeps all lines. Steps do not matter for that, since one takes from milliseconds to minutes.
    """
    interval = 0.5 if sys.stdout.isatty() else 10.0
    return tqdm(
        total=total, initial=initial, desc=description, unit="step", file=sys.stdout, dynamic_ncols=True,
        mininterval=interval, maxinterval=interval, miniters=1,
    )  # fmt: skip


class Progress(Callback):
    """One bar for the whole training: loss, accuracy, images per second, time left.

    Its clock stands still during validation, so that the time left is that of training steps. If its output cannot be
    written any more, as when the terminal is closed, the bar ends and the training goes on.
    """

    def __init__(self, description: str, batch_size: int) -> None:
        self._description = description
        self._batch_size = batch_size
        self._bar: tqdm[Any] | None = None
        self._paused = 0.0

    def on_train_start(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.is_global_zero:
            self._draw(self._begin, trainer)

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        self._draw(self._step, trainer)

    def on_validation_start(self, *_: Any) -> None:
        self._paused = time.time()

    def on_validation_end(self, *_: Any) -> None:
        if self._bar is not None:
            seconds = time.time() - self._paused
            self._bar.start_t += seconds
            self._bar.last_print_t += seconds

    def on_train_end(self, trainer: L.Trainer, *_: Any) -> None:
        self._draw(self._end, trainer)

    def on_exception(self, trainer: L.Trainer, *_: Any) -> None:
        self._draw(self._end, trainer)

    def _draw(self, action: Any, trainer: L.Trainer) -> None:
        try:
            action(trainer)
        except (OSError, ValueError):  # ValueError: a stream that was closed
            self._bar = None

    def _begin(self, trainer: L.Trainer) -> None:
        self._bar = steps_bar(trainer.max_steps, self._description, initial=trainer.global_step)

    def _step(self, trainer: L.Trainer) -> None:
        bar = self._bar
        if bar is None:
            return
        # Only when the bar is drawn, since reading the loss waits for the device.
        if time.time() - bar.last_print_t >= bar.mininterval:
            bar.set_postfix(self._metrics(trainer, bar), refresh=False)
        bar.update(trainer.global_step - bar.n)

    def _end(self, trainer: L.Trainer) -> None:
        if self._bar is not None:
            self._bar.set_postfix(self._metrics(trainer, self._bar), refresh=False)
            self._bar.close()
            self._bar = None

    def _metrics(self, trainer: L.Trainer, bar: tqdm[Any]) -> dict[str, str]:
        seconds = max(time.time() - bar.start_t, 1e-9)
        rate = self._batch_size * (trainer.global_step - bar.initial) / seconds
        values = {name: f"{value:.3g}" for name, value in trainer.progress_bar_metrics.items()}
        return values | {"images/s": f"{rate:.0f}"}
