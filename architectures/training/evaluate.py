"""The error of a checkpoint on the experiment's test set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from architectures.checkpoint import not_of_train, read_checkpoint, restored_network
from architectures.data import DataError
from architectures.options import check_kinds, check_known, free_keywords
from stn_triton.checks import check_name

from .batches import make_data
from .errors import UsageError
from .experiment_data import ExperimentData
from .experiments import EXPERIMENTS, Schedule
from .origin import check_tested


def device() -> torch.device:
    """The device to evaluate on: a GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def evaluate(
    checkpoint: Path,
    data_dir: Path | None,
    *,
    embedded: bool = False,
    num_workers: int | None = None,
) -> dict[str, Any]:
    """The error of a checkpoint, as a dictionary: experiment, model, error_percent, examples, seed, step.

    It has the key `data`, too, with a sentence, where the data are not, or may not be, those of the training.

    The test digits are distorted in the same way every time. For co-localisation the error is the share of boxes whose
    intersection over union with the truth is 0.5 or less, in the images that were learned from, as in the paper.
    embedded: test on the embedded digits even a network that was trained on files, which may contain them.

    Raises:
        FileNotFoundError, CheckpointError: as `read_run`; a network trained on files would be tested on the embedded
            digits, and `embedded` is False.
        DataError: data that are missing or broken.
        UsageError: embedded digits and a folder, or for an experiment without digits.
    """
    saved = read_run(checkpoint)
    settings = saved["hyper_parameters"]
    if embedded and (data_dir is not None or EXPERIMENTS[settings["experiment"]].batch is None):
        wanted = "no --data-dir" if data_dir is not None else "an experiment with digits"
        raise UsageError(f"--embedded: wanted {wanted} beside it")
    data = make_data(settings, data_dir, num_workers=num_workers)
    note = note_on_data(saved, data, checkpoint, embedded=embedded)
    error, examples = error_on_test_set(restored_network(saved, checkpoint), settings, data)
    result = {
        "experiment": settings["experiment"],
        "model": settings["model"],
        "error_percent": error,
        "examples": examples,
        "seed": settings["seed"],
        "step": saved["global_step"],
    }
    return result if note is None else result | {"data": note}


@torch.no_grad()
def error_on_test_set(
    network: nn.Module, settings: dict[str, Any], data: ExperimentData
) -> tuple[float, int]:
    """The error of a network in percent, and on how many test examples, with the settings of its training."""
    network.to(device())
    wrong = examples = 0
    task = EXPERIMENTS[settings["experiment"]].task
    for images, labels in data.test_batches(device()):
        correct = task.right(network(images), images, labels)
        wrong += int((~correct).sum())
        examples += len(correct)
    return round(100 * wrong / max(examples, 1), 4), examples


def read_run(path: Path) -> dict[str, Any]:
    """As `read_checkpoint`, and of an experiment that there is, with an image size and a schedule that it can have.

    Raises:
        FileNotFoundError, CheckpointError: as `read_checkpoint`; other settings than `train` writes.
    """
    saved = read_checkpoint(path)
    settings = saved["hyper_parameters"]
    try:
        check_name("its experiment", settings["experiment"], EXPERIMENTS)
        sizes = EXPERIMENTS[settings["experiment"]].image_sizes
        check_name("its image_size", settings["image_size"], sizes)
        check_known("its schedule", settings["schedule"], free_keywords(Schedule))
        check_kinds(Schedule, settings["schedule"])
        Schedule(**settings["schedule"])
    except (TypeError, ValueError) as error:
        raise not_of_train(path, error) from error
    return saved


def note_on_data(
    saved: dict[str, Any], data: ExperimentData, path: Path, *, embedded: bool, use: str = "tested"
) -> str | None:
    """A sentence about these data, on which the checkpoint at path is to be tested, or None; as `check_tested`."""
    try:
        origin = data.origin()
    except DataError:  # a folder with a test set and no training data
        origin = None
    return check_tested(saved, origin, path, embedded=embedded, use=use)
