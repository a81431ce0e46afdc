"""From a variant to the launches it makes: the only place here that knows the launchers'
signatures.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stn_triton.kernels.backward_gather import gather_backward
from stn_triton.kernels.backward_theta import theta_backward
from stn_triton.kernels.forward import sample_forward
from stn_triton.kernels.launch import Launch, recorded
from stn_triton.transforms import TRANSFORMS, Options

from .variants import Variant


def _meta(shape: tuple[int, ...], dtype: torch.dtype, memory_format: str) -> Tensor:
    """(..., C, h, w) without storage, its channels last in memory if asked for."""
    if memory_format == "contiguous":
        return torch.empty(shape, dtype=dtype, device="meta")
    *lead, channels, height, width = shape
    return torch.empty((*lead, height, width, channels), dtype=dtype, device="meta").movedim(-1, -3)


def launches(variant: Variant) -> list[Launch]:
    """What the launcher of this variant would start, recorded on tensors without storage."""
    lead = (variant.shape[0],) if variant.k is None else (variant.shape[0], variant.k)
    x = _meta(variant.shape, variant.dtype, variant.memory_format)
    wide = torch.promote_types(variant.dtype, torch.float32)
    theta = torch.empty((*lead, *TRANSFORMS[variant.transform].shape), dtype=wide, device="meta")
    options = Options(variant.transform, variant.mode, variant.padding_mode, False)
    height, width = variant.out_size
    grad = _meta((*lead, variant.shape[1], height, width), variant.dtype, variant.memory_format)
    with recorded() as found:
        if variant.grads is None:
            sample_forward(x, theta, (height, width), options)
        elif variant.grads == "theta":
            theta_backward(grad, x, theta, (height, width), options)
        else:
            gather_backward(
                grad, x, theta, (height, width), options, with_theta=variant.grads == "both"
            )
    return found
