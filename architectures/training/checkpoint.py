"""Reading checkpoints, without trusting them: tensors and plain values only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from architectures.data.files import first_line

from .errors import CheckpointError
from .experiments import EXPERIMENTS
from .module import Classification, build

_SETTINGS = {
    "experiment", "model", "model_options", "data_options", "image_size", "schedule_name", "schedule", "seed",
}  # fmt: skip


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint of `train` as the dictionary that Lightning wrote, on the CPU.

    Raises:
        CheckpointError: missing, unreadable, truncated, or not of `python -m architectures train`.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint")
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # archives, pickles and their contents fail in many ways
        raise CheckpointError(
            f"{path}: not a readable checkpoint: truncated, damaged or a file of another kind"
        ) from error
    settings = found.get("hyper_parameters") if isinstance(found, dict) else None
    if (
        not isinstance(settings, dict)
        or not settings.keys() >= _SETTINGS
        or settings["experiment"] not in EXPERIMENTS
        or not found.keys() >= {"state_dict", "global_step"}
    ):
        raise CheckpointError(f"{path}: not a checkpoint of `python -m architectures train`")
    return found


def load_module(path: Path) -> tuple[Classification, int]:
    """The trained module of a checkpoint, in evaluation mode, and the step that it was saved at.

    Raises:
        CheckpointError: as `read_checkpoint`; weights that do not fit the network of that name.
    """
    found = read_checkpoint(path)
    try:
        module = build(found["hyper_parameters"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path}: not a network that there is: {first_line(error)}"
        ) from error
    load_weights(module, found, path)
    return module.eval(), int(found["global_step"])


def load_weights(module: Classification, found: dict[str, Any], path: Path) -> None:
    """Load the weights of what `read_checkpoint` found at path.

    Raises:
        CheckpointError: weights that do not fit.
    """
    try:
        module.load_state_dict(found["state_dict"])
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        name = found["hyper_parameters"]["model"]
        raise CheckpointError(
            f"{path}: its weights are not those of {name}: {first_line(error)}"
        ) from error
