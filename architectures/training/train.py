"""Training one network on one experiment with Lightning's Trainer."""

from __future__ import annotations

import errno
import math
import os
import sys
import time
from contextlib import nullcontext, suppress
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from architectures.checkpoint import CheckpointError, load_weights
from architectures.data import DataError
from architectures.errors import first_line
from architectures.networks.registry import model_input

from .batches import make_data
from .callbacks import KeepLast, Pictures, WholeCheckpoints
from .colocalise import Colocalisation
from .curves import draw_curves
from .errors import UsageError
from .evaluate import read_run
from .experiment_data import ExperimentData
from .experiments import EXPERIMENTS, Schedule
from .files import check_writable, remove_parts
from .framework import (
    CSVLogger,
    L,
    LearningRateMonitor,
    Logger,
    MisconfigurationException,
    ModelCheckpoint,
    RunningStage,
    TensorBoardLogger,
    Timer,
)
from .loaders import Loaders
from .lock import locked
from .module import Classification
from .origin import Origin, check_resumed
from .progress import Progress
from .quiet import quiet
from .run import Run, fresh_settings
from .summary import beginning

_REFUSALS = (
    MisconfigurationException,
    ModuleNotFoundError,  # for a precision or a strategy that needs a package of its own
    RuntimeError,
    TypeError,
    ValueError,
)
"""What Lightning raises for options that it does not know, or that this machine cannot do."""
_MODULES = {type(module.task): module for module in (Classification, Colocalisation)}
"""The Lightning module for each kind of task."""
_LEAST_BETWEEN = 50
"""The fewest steps between two checkpoints, each with a validation, unless `checkpoint_every` says otherwise."""
_PICTURES = 10
"""About how many pictures an uninterrupted run leaves in TensorBoard's log at most."""
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""The numbers of the errors with which writing fails for want of room."""


def train(run: Run) -> tuple[Path, int]:
    """Train a network; gives the folder of the run, and the number of the signal that ended it, or 0.

    The folder holds last.ckpt, best.ckpt (least validation error), curves.png, and logs/version_*/metrics.csv, one
    version each time the run was resumed, with TensorBoard's events where that is installed.

    Raises:
        UsageError: arguments that do not fit the experiment, the checkpoint or this machine.
        FileNotFoundError, CheckpointError: the checkpoint to resume is missing, broken, or of other data.
        DataError: data that are missing or broken.
        Diverged: a loss or weights that are not finite; last.ckpt stays as it was.
        OSError: a file that cannot be written, on a full disk for instance; last.ckpt stays as it was.
    """
    checkpoint, saved, settings, out = _settings(run)
    _check_folder(out, new=checkpoint is None)
    schedule = Schedule(**settings["schedule"])
    keep = KeepLast(out, run.checkpoint_every or _steps_between(schedule.steps))
    with quiet():
        trainer = _trainer(run, settings, out, keep)
        _check_machine(trainer, schedule)
        data = make_data(settings, run.data_dir, num_workers=run.num_workers)
        torch.manual_seed(settings["seed"])
        try:
            module = _MODULES[type(EXPERIMENTS[run.experiment].task)](**settings)
        except (ArithmeticError, RuntimeError, TypeError, ValueError) as error:
            raise UsageError(f"--model-option: {first_line(error)}") from error
        data.check(
            model_input(settings["model"], **settings["model_options"]),
            settings["model_options"].get("num_classes"),
        )
        origin = data.origin()
        make_folder(out)
        # Process 0 alone writes, and holds the lock.
        with locked(out) if trainer.is_global_zero else nullcontext():
            if trainer.is_global_zero:
                remove_parts(out, ".ckpt")
            if checkpoint is None:
                _check_folder(out, new=True)  # again: the lock keeps others from beginning a run
            else:
                note = _check_resumable(checkpoint, saved, module, origin)
                if note is not None and trainer.is_global_zero:
                    print(note, file=sys.stderr)
            if trainer.is_global_zero and not run.quiet:
                text = beginning(trainer, module, data, run.data_dir, saved.get("global_step", 0))
                with suppress(OSError, ValueError):  # a closed terminal, as for `Progress`
                    print(text, flush=True)
            if checkpoint is None:
                _prepare(module, data, run, trainer)
            _fit(trainer, module, data, run, checkpoint)
            if trainer.is_global_zero:
                draw_curves(out)
                if run.max_minutes and trainer.global_step < schedule.steps and not keep.signal:
                    print(
                        f"{run.max_minutes:g} minutes ended it at step {trainer.global_step} of {schedule.steps}; "
                        f"go on with more and --resume {out / 'last.ckpt'}",
                        file=sys.stderr,
                    )
    return out, keep.signal


def _steps_between(steps: int) -> int:
    """How many steps lie between two checkpoints. Each has a validation, which is slow: a short run has only one."""
    return min(1_000, max(steps // 5, min(steps, _LEAST_BETWEEN)))


def _check_machine(trainer: L.Trainer, schedule: Schedule) -> None:
    """Refuse a precision or a number of processes that does not go with the schedule."""
    if trainer.precision == "16-true" and schedule.optimiser != "sgd":
        raise UsageError(
            "--precision 16-true: float16 cannot hold AdamW's squares of gradients; "
            "wanted 16-mixed, bf16-true, or a schedule without AdamW"
        )
    if schedule.batch_size % trainer.world_size:
        raise UsageError(
            f"--batch-size must be a multiple of the {trainer.world_size} processes, got {schedule.batch_size}"
        )


def _prepare(module: Classification, data: ExperimentData, run: Run, trainer: L.Trainer) -> None:
    """Prepare a new run for its first step. The time counts towards `max_minutes`, but leaves enough for one step."""
    start = time.monotonic()
    seconds = 60 * (run.max_minutes or math.inf)
    try:
        module.prepare(data, seconds)
    except ValueError as error:
        raise DataError(f"{run.data_dir or 'the digits'}: {first_line(error)}") from error
    spent = min(time.monotonic() - start, 0.99 * seconds)
    for callback in trainer.callbacks:  # type: ignore[attr-defined]  # which Lightning adds to it
        if isinstance(callback, Timer):
            callback.load_state_dict({"time_elapsed": {RunningStage.TRAINING.value: spent}})


def _fit(
    trainer: L.Trainer,
    module: Classification,
    data: ExperimentData,
    run: Run,
    checkpoint: Path | None,
) -> None:
    if run.compile:
        module.network.compile()
    try:
        trainer.fit(module, datamodule=Loaders(data), ckpt_path=checkpoint, weights_only=True)
    except SystemExit:  # Lightning turns Ctrl-C before the first step into this
        if trainer.interrupted:
            raise KeyboardInterrupt from None
        raise
    except NotImplementedError as error:
        if trainer.precision == "32-true":
            raise
        raise UsageError(f"--precision {run.precision}: {first_line(error)}") from error
    except OSError as error:
        # A logger raises it without the name of the file.
        if error.errno in _DISK_FULL and error.filename is None:
            raise OSError(
                f"{trainer.default_root_dir}: cannot be written: {error.strerror}"
            ) from error
        raise


def _settings(run: Run) -> tuple[Path | None, dict[str, Any], dict[str, Any], Path]:
    """Path and content of the checkpoint to resume, if any; `Classification`'s hyperparameters; the run's folder."""
    if run.experiment not in EXPERIMENTS:
        raise UsageError(
            f"unknown experiment {run.experiment!r}; wanted one of {', '.join(EXPERIMENTS)}"
        )
    settings = fresh_settings(run)
    name = (
        f"{run.experiment}-{settings['model']}-{settings['schedule_name']}-seed{settings['seed']}"
    )
    folder = run.out or Path("out/train") / name
    if not run.resume:
        return None, {}, settings, folder
    checkpoint = run.resume if isinstance(run.resume, Path) else folder / "last.ckpt"
    saved = read_run(checkpoint)
    settings = _resumed_settings(run, checkpoint, saved)
    return checkpoint, saved, settings, run.out or checkpoint.parent


def _resumed_settings(run: Run, checkpoint: Path, saved: dict[str, Any]) -> dict[str, Any]:
    """The settings of the checkpoint. Those that the run asks for must be the same, except the number of steps."""
    settings: dict[str, Any] = saved["hyper_parameters"]
    if settings["experiment"] != run.experiment:
        raise CheckpointError(
            f"{checkpoint}: wanted a checkpoint of {run.experiment}, got one of {settings['experiment']}"
        )
    had = settings | settings["schedule"] | settings["model_options"] | settings["data_options"]
    asked = {
        "model": run.model,
        "schedule_name": run.schedule,
        "seed": run.seed,
        "image_size": run.image_size,
        "batch_size": run.batch_size,
        "lr": run.lr,
        **run.model_options,
        **run.data_options,
    }
    for name, value in asked.items():
        if value is not None and value != had.get(name):
            raise UsageError(f"{checkpoint}: was trained with {name} {had.get(name)}, got {value}")
    if run.max_steps is not None:
        settings["schedule"] = settings["schedule"] | {"steps": run.max_steps}
    if saved["global_step"] >= settings["schedule"]["steps"]:
        print(
            f"{checkpoint}: nothing to do, all {saved['global_step']} steps are done; more with --max-steps",
            file=sys.stderr,
        )
    return settings


def _check_resumable(
    checkpoint: Path, saved: dict[str, Any], module: Classification, origin: Origin
) -> str | None:
    """Refuse a checkpoint of other data, or that Lightning would fail on later; gives `check_resumed`'s sentence."""
    load_weights(module, saved["state_dict"], saved["hyper_parameters"]["model"], checkpoint)
    missing = {"optimizer_states", "lr_schedulers", "loops"} - saved.keys()
    if missing:
        raise CheckpointError(f"{checkpoint}: cannot be resumed: it has no {min(missing)}")
    return check_resumed(saved, origin, checkpoint)


def _check_folder(out: Path, *, new: bool) -> None:
    """Refuse, before any work, a folder that cannot be written or that holds another run."""
    try:
        check_writable(out)
        taken = new and (out / "last.ckpt").exists()
    except OSError as error:
        raise UsageError(f"--out {out}: cannot be written: {error}") from error
    if taken:
        raise UsageError(
            f"--out {out}: holds a run already; go on with it (--resume) or name another folder"
        )


def make_folder(out: Path) -> None:
    """Make the folder of a run, or of several.

    Raises:
        UsageError: it cannot be made.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out {out}: cannot be written: {error.strerror or error}") from error


def _trainer(run: Run, settings: dict[str, Any], out: Path, keep: KeepLast) -> L.Trainer:
    schedule = Schedule(**settings["schedule"])
    table = CSVLogger(out, name="logs")
    loggers: list[Logger] = [table]
    callbacks: list[L.Callback] = [
        keep.finite,
        ModelCheckpoint(out, "best", monitor="val_error", enable_version_counter=False),
        keep,
        LearningRateMonitor(),
        Timer(None if run.max_minutes is None else timedelta(minutes=run.max_minutes)),
    ]
    if find_spec("tensorboard"):
        loggers.append(
            TensorBoardLogger(out, "logs", version=table.version, default_hp_metric=False)
        )
        callbacks.append(Pictures(schedule.steps // _PICTURES))
    if not run.quiet:
        callbacks.append(Progress(settings["model"], schedule.batch_size))
    machine: dict[str, Any] = {
        "devices": run.devices or os.environ.get("LOCAL_WORLD_SIZE", "1"),  # which torchrun sets
        "num_nodes": run.num_nodes,
        "strategy": run.strategy,
        "precision": run.precision,
    }
    try:
        return L.Trainer(
            **machine,
            max_steps=schedule.steps,
            max_epochs=-1,
            val_check_interval=keep.every,
            check_val_every_n_epoch=None,
            log_every_n_steps=min(50, max(1, schedule.steps // 20)),
            gradient_clip_val=schedule.clip,
            default_root_dir=out,
            callbacks=callbacks,
            logger=loggers,
            plugins=[WholeCheckpoints()],
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
            enable_progress_bar=False,  # `Progress` draws one
            enable_model_summary=False,
        )
    except _REFUSALS as error:
        raise UsageError(f"{_at_fault(machine)}: {first_line(error)}") from error


def _at_fault(machine: dict[str, Any]) -> str:
    """The option that Lightning refuses: the first that it refuses on its own, or else all of them."""
    for name, value in machine.items():
        alone = {"devices": "1", name: value}
        try:
            L.Trainer(**alone, logger=False, enable_checkpointing=False, enable_progress_bar=False)
        except _REFUSALS:
            return f"--{name.replace('_', '-')} {value}"
    return "--devices, --num-nodes, --strategy or --precision"
