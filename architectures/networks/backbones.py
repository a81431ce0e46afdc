"""Networks that give feature maps, for the birds: our own, one of timm, or whatever a function makes."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from os import PathLike
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import nn

from .inception import Inception

Backbone = str | Callable[[], nn.Module] | None
"""The name of a model of timm, or a function that makes a network; None: `Inception`."""


def make_backbone(
    backbone: Backbone,
    features: int | None,
    in_channels: int,
    weights: str | PathLike[str] | None,
) -> tuple[nn.Module, int]:
    """A new backbone, with the weights of the file if there is one, and the number of its features."""
    if backbone is None:
        network: Any = Inception(in_channels)
    elif isinstance(backbone, str):
        network = _from_timm(backbone, in_channels)
    elif isinstance(backbone, nn.Module) or not callable(backbone):
        raise TypeError(
            "backbone must be a name or a function that makes a module (a new one for each stream), "
            f"got {type(backbone).__name__}"
        )
    else:
        network = backbone()
    if not isinstance(network, nn.Module):
        raise TypeError(f"backbone must make an nn.Module, got {type(network).__name__}")
    if features is None:
        features = getattr(network, "num_features", None)
    if not isinstance(features, int):
        raise ValueError(
            "backbone_features must say how many feature maps the backbone gives: "
            f"{type(network).__name__} has no num_features"
        )
    if weights is not None:
        load_weights(network, weights)
    return network, features


def _from_timm(name: str, in_channels: int) -> nn.Module:
    try:
        timm = importlib.import_module("timm")
    except ImportError:
        raise ImportError(
            f"backbone={name!r} names a model of timm, which is not installed: pip install timm, "
            "or give a function that makes the backbone"
        ) from None
    network: nn.Module = timm.create_model(
        name, pretrained=False, in_chans=in_channels, num_classes=0, global_pool=""
    )
    return network


def load_weights(network: nn.Module, path: str | PathLike[str]) -> None:
    """Load a state dict from a local file, strictly; nothing but tensors is unpickled.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that cannot be read, or that does not fit the network; the message names
            the file and what does not fit.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"weights: no such file: {path}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, UnpicklingError, ValueError, KeyError) as error:
        raise ValueError(f"weights: {path} cannot be read as a state dict: {error}") from error
    if not isinstance(state, dict):
        raise ValueError(f"weights: {path} must hold a state dict, got {type(state).__name__}")
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"weights: {path} does not fit the backbone: {reason}") from error
