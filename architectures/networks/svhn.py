"""House numbers (Jaderberg et al. 2015, arXiv:1506.02025, section 4.2 and appendix A.5, table 2).

Up to five digits are in one image of 64 or 128 pixels, and five softmaxes over ten digits and "none" read them. There
are eleven hidden layers: eight convolutions 5x5 and three fully connected layers. The baseline has 32.8 million
parameters at 64 pixels and 61.1 at 128. One transformer at the input adds 1.1 and 4.2 million, four before the first
convolutions add 5.1 and 20.5.

Choices that the paper leaves open:

- There are three layers of 3072 units, since the text counts eleven layers. Likewise the localisation at the input has
  two of 32, since the text calls it a network of four layers.
- Every transformer keeps the size of its map, at 128 pixels, too.
- Dropout of 0.5 is on all layers but the first convolution and the localisations, as in the paper. Here it acts on what
  a stage gives, behind its ReLU and pooling; the softmaxes have none.
- Initialisation: see `layers.initialise`. Regression layers start at the identity.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import NamedTuple

from einops.layers.torch import Rearrange
from torch import nn

from architectures.blocks.serial import SerialSTN
from architectures.blocks.stacked import StackedSTN
from stn_triton.modules import SpatialTransformer, check_at_least

from . import layers


class Stage(NamedTuple):
    """A convolution 5x5 with its ReLU, and what stands before and behind it."""

    transformer: bool  # before it, in `st_cnn_multi`
    filters: int
    pooling: bool  # behind it, the maximum of 2x2
    dropout: bool  # behind that


STAGES = (
    #     transformer, filters, pooling, dropout
    Stage(       True,      48,    True,   False),
    Stage(       True,      64,   False,    True),
    Stage(       True,     128,    True,    True),
    Stage(       True,     160,   False,    True),
    Stage(      False,     192,    True,    True),
    Stage(      False,     192,   False,    True),
    Stage(      False,     192,    True,    True),
    Stage(      False,     192,   False,    True),
)  # fmt: skip
HIDDEN = (3072, 3072, 3072)
"""Units of the fully connected layers behind the last stage; each of them has dropout, too."""


def cnn(
    *, num_classes: int = 11, in_channels: int = 3, image_size: int = 64, num_digits: int = 5,
    width: float = 1.0, dropout: float = 0.5,
) -> nn.Sequential:  # fmt: skip
    """(N, in_channels, s, s) -> logits (N, num_digits, num_classes): the baseline.

    width: multiplies filters and units of every layer.
    dropout: the share that is dropped.

    Raises:
        ValueError: images below 16 pixels, which four poolings reduce to nothing.
    """
    stages = _stages(in_channels, width, dropout)
    return nn.Sequential(*stages, _head(image_size, num_digits, num_classes, width, dropout))


def st_cnn_single(
    *, num_classes: int = 11, in_channels: int = 3, image_size: int = 64, num_digits: int = 5,
    width: float = 1.0, dropout: float = 0.5, localisation_width: int = 32, padding_mode: str = "zeros",
) -> SerialSTN:  # fmt: skip
    """(N, in_channels, s, s) -> logits (N, num_digits, num_classes): one transformer, at the input.

    Its localisation: conv 5x5, maximum of 2x2, conv 5x5, two fully connected layers.

    width, dropout: as in `cnn`, of the classifier.
    localisation_width: filters and units of each of the localisation's layers.
    padding_mode: of the transformer.
    """
    localisation = nn.Sequential(
        _convolution(in_channels, localisation_width),
        nn.ReLU(),
        nn.MaxPool2d(2),
        _convolution(localisation_width, localisation_width),
        nn.ReLU(),
        *layers.fcn_localisation(
            localisation_width * (image_size // 2) ** 2, localisation_width, layers=2
        ),
    )
    transformer = _transformer(localisation, localisation_width, padding_mode)
    stages = _stages(in_channels, width, dropout)
    head = _head(image_size, num_digits, num_classes, width, dropout)
    return SerialSTN([transformer], nn.Sequential(*stages, head))


def st_cnn_multi(
    *, num_classes: int = 11, in_channels: int = 3, image_size: int = 64, num_digits: int = 5,
    width: float = 1.0, dropout: float = 0.5, localisation_width: int = 32, padding_mode: str = "zeros",
) -> StackedSTN:  # fmt: skip
    """(N, in_channels, s, s) -> logits (N, num_digits, num_classes): four transformers at increasing depth.

    They stand before the first four convolutions; their localisations are two fully connected
    layers on the map that the transformer reads.

    width, dropout: as in `cnn`, of the classifier.
    localisation_width: units in each of a localisation's layers.
    padding_mode: of the transformers.
    """
    head = _head(image_size, num_digits, num_classes, width, dropout)
    transformers: list[SpatialTransformer | None] = []
    for stage, channels, side in zip(
        STAGES, _channels(in_channels, width), _sides(image_size), strict=False
    ):
        if not stage.transformer:
            transformers.append(None)
            continue
        localisation = layers.fcn_localisation(channels * side**2, localisation_width, layers=2)
        transformers.append(_transformer(localisation, localisation_width, padding_mode))
    return StackedSTN(_stages(in_channels, width, dropout), head, transformers=transformers)


def _channels(in_channels: int, width: float) -> tuple[int, ...]:
    """Channels of the map that each stage reads, and of the one that the last stage gives."""
    return in_channels, *_scaled([stage.filters for stage in STAGES], width)


def _sides(image_size: int) -> list[int]:
    """Pixels of a side of the map that each stage reads, and of the one that the last stage gives."""
    halvings = accumulate((stage.pooling for stage in STAGES), initial=0)
    return [image_size // 2**number for number in halvings]


def _stages(in_channels: int, width: float, dropout: float) -> list[nn.Module]:
    """The eight convolutions, each with its ReLU and, where `STAGES` says so, pooling and dropout."""
    channels = _channels(in_channels, width)
    stages: list[nn.Module] = []
    dropped = 0.0  # the share that dropout takes of what the next stage reads
    for stage, before, after in zip(STAGES, channels, channels[1:], strict=False):
        parts: list[nn.Module] = [_convolution(before, after), nn.ReLU()]
        if stage.pooling:
            parts.append(nn.MaxPool2d(2))
        if stage.dropout:
            parts.append(nn.Dropout(dropout))
        stages.append(layers.initialise(nn.Sequential(*parts), dropped=dropped))
        dropped = dropout if stage.dropout else 0.0
    return stages


def _head(
    image_size: int, num_digits: int, num_classes: int, width: float, dropout: float
) -> nn.Sequential:
    """(N, C, h, w) -> logits (N, num_digits, num_classes): three hidden layers, then a classifier for each digit."""
    check_at_least("image_size", image_size, 2 ** sum(stage.pooling for stage in STAGES))
    side, hidden = _sides(image_size)[-1], _scaled(HIDDEN, width)
    features = _scaled([STAGES[-1].filters], width)[0] * side**2
    parts: list[nn.Module] = [layers.flatten()]
    for before, after in zip((features, *hidden), hidden, strict=False):
        parts += [nn.Linear(before, after), nn.ReLU(), nn.Dropout(dropout)]
    parts += [
        nn.Linear(hidden[-1], num_digits * num_classes),
        Rearrange("n (digit k) -> n digit k", k=num_classes),
    ]
    return layers.initialise(nn.Sequential(*parts), dropped=dropout)


def _transformer(localisation: nn.Sequential, width: int, padding_mode: str) -> SpatialTransformer:
    return SpatialTransformer(
        layers.initialise(localisation), None, in_features=width, padding_mode=padding_mode
    )


def _convolution(in_channels: int, filters: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, filters, 5, padding=2)


def _scaled(widths: Sequence[int], factor: float) -> tuple[int, ...]:
    if not factor > 0:
        raise ValueError(f"width must be above 0, got {factor}")
    return tuple(max(1, round(factor * width)) for width in widths)


MODELS: dict[str, Callable[..., nn.Module]] = {
    "svhn_cnn": cnn,
    "svhn_st_cnn_single": st_cnn_single,
    "svhn_st_cnn_multi": st_cnn_multi,
}
