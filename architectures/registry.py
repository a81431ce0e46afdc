"""The paper's networks by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

from torch import nn

from . import mnist_addition

MODELS: dict[str, Callable[..., nn.Module]] = {**mnist_addition.MODELS}


def list_models(pattern: str = "*") -> list[str]:
    """The names that `create_model` knows and that match a shell pattern, sorted."""
    return sorted(name for name in MODELS if fnmatchcase(name, pattern))


def create_model(name: str, **options: Any) -> nn.Module:
    """Build one of the paper's networks.

    Convention: as in `SpatialTransformer`, theta maps output to source coordinates.

    Common options: `num_classes`, `in_channels` and `image_size` (one side, in pixels); the other
    options, such as widths, are the keywords of the network's function in its experiment's file.

    Shapes: images (N, in_channels, image_size, image_size), float -> logits (N, num_classes).

    Raises:
        ValueError: a name that `list_models()` does not have; the message names the nearest.
        TypeError: an option that this network does not have; the message lists those it has.

    Source: Jaderberg et al. 2015 (arXiv:1506.02025); the docstring of each experiment's file names
    its section and how what the paper leaves open was settled.
    """
    if name not in MODELS:
        near = get_close_matches(str(name), MODELS, n=1, cutoff=0.0)
        raise ValueError(
            f"unknown model {name!r}; the nearest is {near[0]!r} "
            f"(all {len(MODELS)}: architectures.list_models())"
        )
    build = MODELS[name]
    known = _options(build)
    for option in options:
        if option not in known:
            raise TypeError(f"{name} has no option {option!r}; it has {', '.join(known)}")
    return build(**options)


def _options(build: Callable[..., nn.Module]) -> list[str]:
    """The keywords that are still free: what `partial` has bound makes the name what it is."""
    bound = build.keywords if isinstance(build, partial) else {}
    return [option for option in inspect.signature(build).parameters if option not in bound]
