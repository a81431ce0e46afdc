"""From a variant to the launches it makes: the only place here that knows the launchers'
signatures.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stn_triton.autograd import sample_backward
from stn_triton.kernels.backward_boxes import box_backward
from stn_triton.kernels.backward_theta import theta_backward
from stn_triton.kernels.forward import sample_forward
from stn_triton.kernels.launch import Launch, recorded
from stn_triton.transforms import TRANSFORMS, Options

from .variants import Variant


def _meta(shape: tuple[int, ...], dtype: torch.dtype, ndim: int, memory_format: str) -> Tensor:
    """(..., C, *size) without storage, its channels last in memory if asked for."""
    if memory_format == "contiguous":
        return torch.empty(shape, dtype=dtype, device="meta")
    lead, channels, size = shape[: -ndim - 1], shape[-ndim - 1], shape[-ndim:]
    last = torch.empty((*lead, *size, channels), dtype=dtype, device="meta")
    return last.movedim(-1, -ndim - 1)


def launches(variant: Variant) -> list[Launch]:
    """What the launchers of this variant would start, recorded on tensors without storage."""
    lead = (variant.shape[0],) if variant.k is None else (variant.shape[0], variant.k)
    ndim = len(variant.out_size)
    x = _meta(variant.shape, variant.dtype, ndim, variant.memory_format)
    wide = torch.promote_types(variant.dtype, torch.float32)
    identity = TRANSFORMS[variant.transform].identity(ndim, 4)
    theta = torch.empty((*lead, *identity.shape), dtype=wide, device="meta")
    options = Options(variant.transform, variant.mode, variant.padding_mode, False, variant.samples)
    with recorded() as found:
        tangent = theta if variant.tangent else None
        shape = (*lead, variant.shape[1], *variant.out_size)
        grad = _meta(shape, variant.dtype, ndim, variant.memory_format)
        if variant.grads is None:
            sample_forward(x, theta, variant.out_size, options, tangent)
        elif variant.tangent:
            backward = box_backward if variant.grads == "input" else theta_backward
            backward(grad, x, theta, variant.out_size, options, tangent)
        else:
            wanted = variant.grads != "theta", variant.grads != "input"
            sample_backward(grad, x, theta, variant.out_size, options, wanted)
    return found
