"""The transformations of the paper: what theta looks like and which map of coordinates it stands for.

One entry of `TRANSFORMS` is all that the host needs to know of a transformation; the kernels' side of the same
entry is in `kernels/coords.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class Options(NamedTuple):
    """How to sample: everything a call says besides its tensors and the output's size."""

    transform: str = "affine"
    mode: str = "bilinear"
    padding_mode: str = "zeros"
    align_corners: bool = False


@dataclass(frozen=True, kw_only=True)
class Transform:
    """theta's shape and identity, and the coordinate map that theta stands for.

    shape: the trailing shape of theta for one image.
    identity: the values of the identity theta, row-major.
    matrix: theta (..., *shape) -> the affine matrix (..., 2, 3) of normalised coordinates.
    source: where the paper defines it.
    """

    shape: tuple[int, ...]
    identity: tuple[float, ...]
    matrix: Callable[[Tensor], Tensor]
    source: str

    def identity_theta(self) -> Tensor:
        """The theta that leaves the image as it is, shape `shape`, float32."""
        return torch.tensor(self.identity).reshape(self.shape)


def _attention_matrix(theta: Tensor) -> Tensor:
    """(..., 3) = (s, tx, ty) -> (..., 2, 3) = [[s, 0, tx], [0, s, ty]]."""
    scale, tx, ty = theta.unbind(-1)
    zero = torch.zeros_like(scale)
    return torch.stack((scale, zero, tx, zero, scale, ty), -1).unflatten(-1, (2, 3))


TRANSFORMS: dict[str, Transform] = {
    "affine": Transform(
        shape=(2, 3),
        identity=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0),
        matrix=lambda theta: theta,
        source="Jaderberg et al. 2015, equation 1",
    ),
    "attention": Transform(
        shape=(3,),
        identity=(1.0, 0.0, 0.0),
        matrix=_attention_matrix,
        source="Jaderberg et al. 2015, equation 2",
    ),
}
