"""Callbacks of the training: whole checkpoints of finite weights, and pictures for TensorBoard."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from architectures.checkpoint import all_finite

from .errors import Diverged
from .files import replacing
from .framework import Callback, Checkpoint, L, TensorBoardLogger, TorchCheckpointIO
from .loaders import Loaders

_SIGNALS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]
_LOSSES_BETWEEN = 50
"""On an accelerator losses are checked once in so many steps, since the host must wait for the device to read them."""


class WholeCheckpoints(TorchCheckpointIO):
    """Writes each checkpoint beside the old one and then replaces that, so that a whole one is there at any time."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        with replacing(Path(path)) as part, part.open("wb") as file:
            try:
                torch.save(checkpoint, file)
            except RuntimeError as error:
                # torch raises it on closing its archive after a write that failed.
                if isinstance(error.__context__, OSError):
                    raise error.__context__ from None
                raise
            file.flush()
            os.fsync(file.fileno())


class Finite(Callback):
    """Stop a training whose loss or weights are not finite, before such weights are saved or validated."""

    def __init__(self, checkpoint: Path) -> None:
        self._checkpoint = checkpoint
        self._first_bad: Tensor | None = None
        """The number of the first step whose loss is not finite, on the device; infinite if there is none."""

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, *_: Any) -> None:
        loss = outputs["loss"].detach()
        step = torch.where(loss.isfinite(), torch.inf, float(trainer.global_step))
        self._first_bad = step if self._first_bad is None else torch.minimum(self._first_bad, step)
        if loss.device.type == "cpu" or trainer.global_step % _LOSSES_BETWEEN == 0:
            self._check_losses(trainer, pl_module)

    def on_validation_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.check(trainer, pl_module)

    def check(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Check losses and weights now.

        Raises:
            Diverged: one of them is not finite; raised in all processes alike.
        """
        self._check_losses(trainer, pl_module)
        bad = not all_finite(pl_module.state_dict().values())
        if trainer.strategy.reduce_boolean_decision(bad, all=False):
            self._stop(trainer, pl_module, trainer.global_step, "weights are")

    def _check_losses(self, trainer: L.Trainer, pl_module: Any) -> None:
        if self._first_bad is None:
            return
        first = trainer.strategy.reduce(self._first_bad, reduce_op="min")
        if first.isfinite():
            self._stop(trainer, pl_module, int(first), "loss is")

    def _stop(self, trainer: L.Trainer, pl_module: Any, step: int, what: str) -> NoReturn:
        if not trainer.is_global_zero:  # process 0 tells what happened
            raise Diverged
        schedule = pl_module.schedule
        lr = schedule.lr * schedule.factor(step - 1)
        kept = (
            f"{self._checkpoint} is as it was before"
            if self._checkpoint.exists()
            else "nothing was saved yet"
        )
        raise Diverged(
            f"step {step}: the {what} not finite, at a learning rate of {lr:.3g}; try a smaller --lr, or another "
            f"--precision than {trainer.precision} ({kept})"
        )


class KeepLast(Checkpoint):
    """Save last.ckpt every so many steps, and when training ends.

    A step that is validated is saved after its validation, and after best.ckpt: a run that is killed during the
    validation goes on from the checkpoint before, and validates again. For this order it must be the last callback that
    Lightning is given: Lightning calls those that save checkpoints after all others, in the order given.

    SIGINT (Ctrl-C), SIGTERM and SIGHUP (a closed terminal) end the training after the step that is under way, in all
    processes; `signal` is then the number of the signal. A second signal ends the process at once. A signal that is
    ignored, as SIGHUP is by nohup, stays so.
    """

    def __init__(self, folder: Path, every: int) -> None:
        self.path = folder / "last.ckpt"
        self.every = every
        self.finite = Finite(self.path)
        self.signal = 0
        self._before: dict[int, Any] = {}
        self._saved = -1

    def on_train_start(self, *_: Any) -> None:
        if threading.current_thread() is threading.main_thread():
            self._before = {
                number: signal.signal(number, self._stop)
                for number in _SIGNALS
                if signal.getsignal(number) not in (signal.SIG_IGN, None)
            }

    def _stop(self, number: int, _: object) -> None:
        self.signal = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *_: Any) -> None:
        if trainer.strategy.reduce_boolean_decision(bool(self.signal), all=False):
            trainer.should_stop = True
        is_due = trainer.global_step % self.every == 0 and not any(trainer.num_val_batches)
        if is_due or trainer.should_stop:
            self._save(trainer, pl_module)

    def on_validation_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        self._save(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        if self._saved != trainer.global_step:
            self._save(trainer, pl_module)
        self._restore()

    def on_exception(self, *_: Any) -> None:
        self._restore()

    def _save(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.finite.check(trainer, pl_module)
        for logger in trainer.loggers:
            logger.save()  # a run that is killed and goes on from here has the metrics of all steps before
        trainer.save_checkpoint(self.path)
        self._saved = trainer.global_step


class Pictures(Callback):
    """Draw for TensorBoard what the transformers look at, after a validation, and at most once in `every` steps.

    To draw a picture takes seconds, as long as some hundred steps of a small network.
    """

    def __init__(self, every: int, examples: int = 6) -> None:
        self._every = every
        self._examples = examples
        self._next = 0

    def on_validation_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        boards = [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
        given = trainer.datamodule  # type: ignore[attr-defined]  # set by fit
        if not boards or not trainer.is_global_zero or not isinstance(given, Loaders):
            return
        if trainer.global_step < self._next:
            return
        self._next = trainer.global_step + self._every
        from architectures.pictures.figures import pixels

        from .show import network_figure

        settings = dict(pl_module.hparams)
        image = pixels(network_figure(pl_module.network, settings, given.data, self._examples))
        for board in boards:
            # Not add_figure, which would draw by pyplot.
            board.experiment.add_image("attention", image, trainer.global_step, dataformats="HWC")
