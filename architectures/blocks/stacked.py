"""Transformers between the layers of a network (Jaderberg et al. 2015, arXiv:1506.02025, section 3.4).

The paper puts transformers at increasing depth, where they transform more abstract features and
their localisations see richer ones. For house numbers one stands before each of the first four
convolutions (section 4.2, appendix A.5).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, overload

from torch import Tensor, nn

from stn_triton.modules import SpatialTransformer

from .serial import as_list, check_transformers, checked_module, composed


class StackedSTN(nn.Module):
    """The stages of a network with transformers between them, and a head.

    Convention: as in `SpatialTransformer`: each theta maps coordinates of the transformer's output
    to coordinates of the feature map that it reads, both normalised to [-1, 1] in (x, y[, z])
    order; `composed_theta` turns them into thetas that map to the input.

    Arguments:
        stages: the parts of the network, one after the other: a list of modules or a Sequential.
        head: reads what the last stage gives.
        transformers: for each stage the `SpatialTransformer` that stands before it, or None.

    The attribute `transformers` holds the entries that are not None, and `before` the index of the
    stage that each of them stands before.

    Shapes: x (N, C, H, W) -> what `head` makes of the last stage's map; a list of one theta
    (N, *theta shape) for each transformer, in float32. Volumes (N, C, D, H, W) likewise.

    Raises:
        TypeError: stages or a head that are not modules, an entry of `transformers` that is neither a
            `SpatialTransformer` nor None.
        ValueError: another number of transformers than stages, a transformer with
            `num_transformers`, some for images and some for volumes.

    Source: Jaderberg et al. 2015, section 3.4.
    """

    def __init__(
        self,
        stages: Iterable[nn.Module],
        head: nn.Module,
        *,
        transformers: Iterable[SpatialTransformer | None],
    ) -> None:
        super().__init__()
        parts = as_list("stages", stages)
        entries = as_list("transformers", transformers)
        if len(entries) != len(parts):
            raise ValueError(
                f"transformers must have an entry, or None, for each of {len(parts)} stages, "
                f"got {len(entries)}"
            )
        check_transformers(entries, or_none=True)
        self.stages = nn.ModuleList(
            checked_module(f"stages[{number}]", stage) for number, stage in enumerate(parts)
        )
        self.head = checked_module("head", head)
        self.before = tuple(number for number, entry in enumerate(entries) if entry is not None)
        self.transformers = nn.ModuleList(entries[number] for number in self.before)

    def composed_theta(self, thetas: Sequence[Tensor]) -> list[Tensor]:
        """For each transformer the affine theta (N, 2, 3) from its output to the network's input.

        thetas are those of `forward`. Volumes: (N, 3, 4). For affine and attention transformers,
        and stages that leave normalised coordinates alone: convolutions and poolings that keep the
        edges of the image where they are. The frame of the k-th is what the network from there on
        sees of the input, apart from its receptive field.

        Raises:
            ValueError: a transform without a matrix; another number of thetas than transformers.

        Source: Jaderberg et al. 2015, section 4.2, table 2: the product of the four matrices.
        """
        return composed(self.transformers, thetas)

    @overload
    def forward(self, x: Tensor, return_theta: Literal[False] = False) -> Tensor: ...

    @overload
    def forward(self, x: Tensor, return_theta: Literal[True]) -> tuple[Tensor, list[Tensor]]: ...

    def forward(
        self, x: Tensor, return_theta: bool = False
    ) -> Tensor | tuple[Tensor, list[Tensor]]:
        """Logits, or (logits, list of thetas (N, *theta shape))."""
        transformers = dict(zip(self.before, self.transformers, strict=True))
        thetas: list[Tensor] = []
        for number, stage in enumerate(self.stages):
            if number in transformers:
                x, theta = transformers[number](x, return_theta=True)
                thetas.append(theta)
            x = stage(x)
        logits: Tensor = self.head(x)
        return (logits, thetas) if return_theta else logits
