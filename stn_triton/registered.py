"""The registered operator's gradients, for the Functions that `ops` itself imports."""

from __future__ import annotations

import torch
from torch import Tensor

from .transforms import Options


def registered_gradients(
    grad: Tensor,
    input: Tensor,
    theta: Tensor,
    index: Tensor | None,
    size: tuple[int, ...],
    options: Options,
    wanted: tuple[bool, bool],
) -> tuple[Tensor | None, ...]:
    """The gradients of (input, theta) as one node for whoever dispatches these tensors; None where not wanted."""
    both = torch.ops.stn_triton.sample_backward.default(
        grad, input, theta, index, size, *options, *wanted
    )
    return tuple(
        found if is_wanted else None for found, is_wanted in zip(both, wanted, strict=True)
    )
