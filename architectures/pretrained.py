"""Trained weights that come with the package: files weights/NAME-EXPERIMENT.safetensors, each with its provenance.

A file's metadata has, under `about`, JSON with the network's options, licence, data, seed, schedule and errors, and the
commit that made it. `python -m architectures export CHECKPOINT --weights` writes such files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from inspect import Parameter
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from .checkpoint import CheckpointError, load_weights

WEIGHTS = Path(__file__).parent / "weights"
_ABOUT = "about"
_USUAL = {"mnist_addition_": "mnist_addition", "mnist_": "mnist_rts"}
"""The experiment that `pretrained=True` stands for, by what the network's name begins with; the first that fits."""


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """What a file of weights holds. about: its provenance, with the network's options under `model_options`."""

    path: Path
    about: dict[str, Any]
    tensors: dict[str, Tensor]

    def options(self, given: Mapping[str, Any], known: Mapping[str, Parameter]) -> dict[str, Any]:
        """The options of the trained network. Those that are given must be the same.

        Raises:
            ValueError: one is not.
        """
        trained: dict[str, Any] = self.about["model_options"]
        for option, value in given.items():
            own = trained.get(option, known[option].default)
            if value != own:
                raise ValueError(
                    f"the weights {self.path.stem} are of a network with {option}={own!r}, got {value!r}"
                )
        return trained

    def load_into(self, network: nn.Module) -> None:
        """Load the weights into a network of these options.

        Raises:
            CheckpointError: a file that does not fit the network that it names.
        """
        load_weights(network, self.tensors, self.about["model"], self.path)


def find_pretrained(name: str, pretrained: bool | str) -> Pretrained:
    """The weights of a network, of its usual experiment (True) or of the one that is named.

    Raises:
        TypeError: `pretrained` is neither True nor a string.
        ValueError: there are none, the message lists those there are; a file that is damaged.
        ModuleNotFoundError: the package safetensors is missing.
    """
    if pretrained is not True and not isinstance(pretrained, str):
        raise TypeError(f"pretrained must be None, True or an experiment, got {pretrained!r}")
    if pretrained is True:
        usual = (exp for prefix, exp in _USUAL.items() if name.startswith(prefix))
        experiment = next(usual, None)
    else:
        experiment = pretrained
    there = list_weights()
    if experiment is None or (name, experiment) not in there:
        own = [known for network, known in there if network == name]
        if own:
            raise ValueError(
                f"no weights of {name} for pretrained={pretrained!r}; wanted one of {', '.join(map(repr, own))}"
            )
        others = ", ".join(f"{network} ({known})" for network, known in there)
        raise ValueError(f"no weights of {name}; there are those of {others or 'no network'}")
    return read_weights(weights_path(name, experiment))


def list_weights() -> list[tuple[str, str]]:
    """(network, experiment) of the weights that there are, sorted."""
    names = (path.stem.partition("-") for path in WEIGHTS.glob("*-*.safetensors"))
    return sorted((name, experiment) for name, _, experiment in names)


def weights_path(name: str, experiment: str, folder: Path | None = None) -> Path:
    """Where the weights of a network and an experiment lie, or would."""
    return (folder or WEIGHTS) / f"{name}-{experiment}.safetensors"


def read_weights(path: Path) -> Pretrained:
    """Read a file of weights.

    Raises:
        CheckpointError: it is no such file, or it is damaged.
        ModuleNotFoundError: the package safetensors is missing.
    """
    safetensors = _safetensors()
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            about = json.loads(file.metadata()[_ABOUT])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        missing = {"model", "model_options"} - about.keys()
        if missing:
            raise KeyError(*missing)
    except (KeyError, OSError, TypeError, ValueError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{path}: not a file of weights that export wrote") from error
    return Pretrained(path=path, about=about, tensors=tensors)


def weights_bytes(tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> bytes:
    """The content of a file of weights.

    Raises:
        ModuleNotFoundError: the package safetensors is missing.
    """
    _safetensors()
    from safetensors.torch import save

    whole = {name: value.contiguous() for name, value in tensors.items()}
    return save(whole, metadata={"format": "pt", _ABOUT: json.dumps(about)})


def _safetensors() -> Any:
    try:
        import safetensors
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "trained weights need the package safetensors: pip install 'stn-triton[train]'",
            name="safetensors",
        ) from error
    return safetensors
