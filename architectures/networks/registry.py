"""The paper's networks by name."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import partial
from inspect import Parameter
from typing import Any

import torch
from torch import Tensor, nn

from architectures.options import annotated_kinds, check_kinds, check_known, free_keywords
from stn_triton.modules import check_at_least

from . import colocalisation, cub, mnist, mnist3d, mnist_addition, svhn

MODELS: dict[str, Callable[..., nn.Module]] = {
    **mnist.MODELS,
    **mnist_addition.MODELS,
    **svhn.MODELS,
    **cub.MODELS,
    **colocalisation.MODELS,
    **mnist3d.MODELS,
}


def list_models(pattern: str = "*") -> list[str]:
    """The names that `create_model` knows and that match a shell pattern, sorted."""
    return sorted(name for name in MODELS if fnmatchcase(name, pattern))


def create_model(name: str, *, pretrained: bool | str | None = None, **options: Any) -> nn.Module:
    """Build one of the paper's networks, with random weights or with trained ones.

    Convention: as in `SpatialTransformer`, theta maps output to source coordinates. Networks with
    transformers are a `ParallelSTN`, `SerialSTN` or `StackedSTN`, whose `forward` takes
    `return_theta=True`; those without are plain sequences of modules and take the images alone.

    Common options: `num_classes` (not for "colocalisation"), `in_channels` and `image_size` (one
    side, in pixels). The other options, such as widths, are the keywords of the network's function
    in `architectures/networks/`, in the file of its experiment.

    Shapes: images (N, in_channels, image_size, image_size), float -> logits (N, num_classes);
    "svhn_*": logits (N, 5, num_classes); "mnist3d_*" reads volumes; "colocalisation" gives (crop,
    theta). `model_input` tells the input's shape; the networks refuse others (ValueError).

    pretrained: None for random weights; an experiment, such as "mnist_tc", for weights that were
    trained on it; True for those of "mnist_rts", or of "mnist_addition" for a network of addition.
    Such a network has the options of its training. The weights come with the package, and need
    safetensors to be read.

    Raises:
        ValueError: a name that `list_models()` does not have, the message names the nearest; a
            number below 1, an image_size that this network cannot read; no trained weights for
            this, the message lists those there are; options that are not those of the training.
        TypeError: an option that this network does not have, the message lists those it has; a
            value of another kind than the option's.
        ModuleNotFoundError: safetensors is missing.

    Source: Jaderberg et al. 2015 (arXiv:1506.02025); the docstring of each experiment's file names
    its section and how what the paper leaves open was settled.
    """
    build, known = _checked(name, options)
    trained = None
    if pretrained is not None and pretrained is not False:
        from architectures.pretrained import find_pretrained  # which imports this file

        trained = find_pretrained(name, pretrained)
        options = trained.options(options, known)
    network = build(**options)
    network.register_forward_pre_hook(partial(_check_input, model_input(name, **options)))
    if trained is not None:
        trained.load_into(network)
    return network


def parameter_count(name: str, **options: Any) -> int:
    """The number of parameters of a network, which needs no memory for them.

    Raises:
        TypeError, ValueError: as `create_model`.
    """
    with torch.device("meta"):
        return sum(each.numel() for each in create_model(name, **options).parameters())


def model_input(name: str, **options: Any) -> tuple[int, ...]:
    """The shape of one input of a network, without the batch: (C, H, W), or (C, D, H, W) for volumes.

    options: those that `create_model` is given; only `in_channels` and `image_size` matter.

    Raises:
        ValueError, TypeError: names, options and numbers as in `create_model`.
    """
    _, known = _checked(name, options)
    channels, side = (
        options.get(option, known[option].default) for option in ("in_channels", "image_size")
    )
    return (channels, *[side] * (3 if name in mnist3d.MODELS else 2))


def _checked(
    name: str, options: dict[str, Any]
) -> tuple[Callable[..., nn.Module], dict[str, Parameter]]:
    """The function that builds a network, and its keywords. Refuses options that it does not have, and wrong values."""
    build = _builder(name)
    known = free_keywords(build)
    check_known(name, options, known)
    check_kinds(build, options)
    kinds = annotated_kinds(build)
    for option, value in options.items():
        if kinds[option] in (int, int | None) and value is not None:
            check_at_least(option, value, 1)
    return build, known


def _builder(name: str) -> Callable[..., nn.Module]:
    if name not in MODELS:
        asked = str(name).lower()
        near = get_close_matches(asked, MODELS, n=3)
        near = near or get_close_matches(asked, MODELS, n=1, cutoff=0.0)
        raise ValueError(
            f"unknown model {name!r}; nearest: {', '.join(map(repr, near))} "
            f"(all {len(MODELS)}: architectures.list_models())"
        )
    return MODELS[name]


def _check_input(wanted: tuple[int, ...], network: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Refuse images that a network was not built for, before one of its layers fails on them."""
    for images in inputs[:1]:
        if not images.is_floating_point():
            raise TypeError(f"this network reads images of a float dtype, got {images.dtype}")
        if tuple(images.shape[1:]) != wanted:
            shape = ", ".join(map(str, wanted))
            raise ValueError(
                f"this network reads images of shape (N, {shape}), got {tuple(images.shape)}: "
                "create_model(..., image_size=, in_channels=) makes one for others"
            )
