"""Checkpoints of `python -m architectures train`, read without trusting them: tensors and plain values only."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from torch import Tensor, nn

from stn_triton.modules import check_at_least

from .errors import first_line
from .networks.registry import create_model
from .options import check_kind

_PARTS = {"hyper_parameters": dict, "state_dict": dict, "global_step": int}
_SETTINGS = {
    "experiment": str, "model": str, "model_options": dict, "data_options": dict, "image_size": int,
    "schedule_name": str, "schedule": dict, "seed": int,
}  # fmt: skip
"""The settings of a training that its checkpoint must hold, and the kind of each."""
_NETWORK = "network."
"""What the names of the network's weights begin with. Others may be there, such as those of an encoder."""


class CheckpointError(ValueError):
    """A checkpoint that is broken, or not of this program or network; the message begins with its path."""


def load_model(path: str | PathLike[str], *, map_location: str | torch.device = "cpu") -> nn.Module:
    """The trained network of a checkpoint that `python -m architectures train` wrote.

    It is what `create_model` makes by the name and with the options of the training, with the trained weights in
    float32 (the averaged ones if the training averaged them), in evaluation mode, on the device `map_location`. Of
    co-localisation it is the `CoLocaliser`, without the encoder that only its training needs.

    The file is not trusted: nothing but tensors and plain values is read from it. Lightning is not needed.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: truncated, damaged, not such a checkpoint, weights that do not fit the network or are not finite,
            a device that is not there; the message begins with the path.
    """
    path = Path(path)
    network = restored_network(read_checkpoint(path), path)
    try:
        return network.to(map_location)
    except (AssertionError, RuntimeError) as error:  # a build of torch without CUDA asserts
        raise ValueError(
            f"{path}: its network cannot be put on map_location={str(map_location)!r}: {first_line(error)}"
        ) from error


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint of `train` as the dictionary that Lightning wrote, on the CPU.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: unreadable, truncated, or not of `python -m architectures train`.
    """
    if path.is_dir():
        raise CheckpointError(f"{path}: wanted a checkpoint, such as last.ckpt in it, got a folder")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint")
    try:
        _check_sums(path)
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # archives, pickles and their contents fail in many ways
        reason = error.strerror if isinstance(error, OSError) else None
        raise CheckpointError(
            f"{path}: not a readable checkpoint: {reason or 'truncated, damaged or a file of another kind'}"
        ) from error
    try:
        check_kind("its content", saved, dict)
        for name, kind in _PARTS.items():
            check_kind(name, saved.get(name), kind)
        settings = saved["hyper_parameters"]
        for name, kind in _SETTINGS.items():
            check_kind(f"its {name}", settings.get(name), kind)
        check_at_least("its image_size", settings["image_size"], 1)
    except (TypeError, ValueError) as error:
        raise not_of_train(path, error) from error
    return saved


def not_of_train(path: Path, reason: Exception) -> CheckpointError:
    """The error for a checkpoint that `train` cannot have written."""
    line = shorten(str(reason), 200, placeholder=" ...")
    return CheckpointError(f"{path}: not a checkpoint of `python -m architectures train`: {line}")


def _check_sums(path: Path) -> None:
    """Compare each part of the archive with its checksum, which `torch.load` does not.

    Raises:
        BadZipFile: a part that is damaged; no archive at all.
    """
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise zipfile.BadZipFile(f"{damaged} is not what its checksum says")


def restored_network(saved: dict[str, Any], path: Path) -> nn.Module:
    """The network of a checkpoint that `read_checkpoint` read from this path, in evaluation mode.

    Raises:
        CheckpointError: no network has that name, or these options; weights that do not fit or are not finite.
    """
    settings = saved["hyper_parameters"]
    try:
        network = create_model(settings["model"], **settings["model_options"])
    except (RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path}: its network cannot be built: {first_line(error)}"
        ) from error
    weights = {
        name.removeprefix(_NETWORK): value
        for name, value in saved["state_dict"].items()
        if isinstance(name, str) and name.startswith(_NETWORK)
    }
    load_weights(network, weights, settings["model"], path)
    return network.eval()


def load_weights(module: nn.Module, weights: Mapping[str, Any], name: str, path: Path) -> None:
    """Load weights of a checkpoint at path into the network `name`, or into what holds it.

    Raises:
        CheckpointError: weights that do not fit, or that are not finite.
    """
    misfit = _misfit(module.state_dict(), weights)
    if misfit is not None:
        raise CheckpointError(f"{path}: its weights are not those of {name}: {misfit}")
    try:
        module.load_state_dict(weights)
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path}: its weights are not those of {name}: {reason}") from error
    if not all_finite(module.state_dict().values()):
        raise CheckpointError(
            f"{path}: its weights are not finite: the training had diverged before it was saved"
        )


def _misfit(wanted: Mapping[str, Any], weights: Mapping[str, Any]) -> str | None:
    """What is wrong with the first of these weights that a network cannot load; None if all fit."""
    for name, own in wanted.items():
        if name not in weights:
            return f"wanted {name}, got none"
        value = weights[name]
        if not isinstance(value, Tensor):
            return f"wanted {name} as a tensor, got {type(value).__name__}"
        if value.is_floating_point() != own.is_floating_point() or value.is_complex():
            return f"wanted {name} as {own.dtype}, got {value.dtype}"
        if value.shape != own.shape:
            return f"wanted {name} of shape {tuple(own.shape)}, got {tuple(value.shape)}"
    unknown = next((name for name in weights if name not in wanted), None)
    return None if unknown is None else f"got {unknown!r}, which this network does not have"


def all_finite(tensors: Any) -> bool:
    """Whether no entry of these tensors is infinite or NaN. The device is waited for once, not once for each tensor."""
    finite = [each.detach().isfinite().all() for each in tensors if _is_float(each)]
    return not finite or bool(torch.stack([each.to(finite[0].device) for each in finite]).all())


def _is_float(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()
