"""The error of a checkpoint on the experiment's test set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from .checkpoint import load_module
from .datamodule import make_data


def device() -> torch.device:
    """Where to evaluate: an accelerator if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@torch.no_grad()
def evaluate(checkpoint: Path, data_dir: Path | None) -> dict[str, Any]:
    """experiment, model, error_percent, examples, seed, step of a checkpoint.

    The test digits are distorted in the same way every time. For co-localisation the error is the share of boxes whose
    intersection over union with the truth is 0.5 or less, in the images that were learned from, as in the paper.

    Raises:
        CheckpointError: as `load_module`.
        DataError: data that are missing or broken.
    """
    module, step = load_module(checkpoint)
    module.to(device())
    settings = dict(module.hparams)
    wrong = examples = 0
    for images, labels in make_data(settings, data_dir).test_batches(device()):
        right = module.right(images, labels)
        wrong += int((~right).sum())
        examples += len(right)
    return {
        "experiment": settings["experiment"],
        "model": settings["model"],
        "error_percent": round(100 * wrong / max(examples, 1), 4),
        "examples": examples,
        "seed": settings["seed"],
        "step": step,
    }
