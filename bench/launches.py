"""Calls of the library's launchers, for tensors and for variants: the only place here that knows
their signatures.
"""

from __future__ import annotations

from itertools import chain
from typing import Literal

import torch
from torch import Tensor

from stn_triton.kernels.backward import input_backward, sample_backward
from stn_triton.kernels.backward_theta import theta_backward
from stn_triton.kernels.forward import sample_forward
from stn_triton.kernels.launch import Launch, recorded
from stn_triton.transforms import AUTO, TRANSFORMS, Options

from .cases import Case, Grads
from .inputs import Inputs
from .variants import Variant

Kind = Literal["fwd", "theta", "input", "both"]
KINDS: tuple[Kind, ...] = ("fwd", "theta", "input", "both")


def options_of(case: Case) -> Options:
    """The options of a case as the launchers take them."""
    samples = AUTO if case.antialias is True else case.antialias or 1
    points = tuple(chain.from_iterable(case.control_points or ()))
    return Options(
        case.transform, case.mode, case.padding_mode, case.padding_value, case.align_corners, samples, points
    )  # fmt: skip


def variant_of(case: Case, kind: Kind) -> Variant:
    """One pass of a case without its tensors."""
    return Variant(
        shape=case.shape,
        out_size=case.out_size,
        k=case.k,
        crops=case.crops,
        transform=case.transform,
        mode=case.mode,
        padding_mode=case.padding_mode,
        padding_value=case.padding_value,
        samples=options_of(case).samples,
        control_points=options_of(case).control_points,
        dtype=case.dtype,
        memory_format=case.memory_format,
        grads=None if kind == "fwd" else kind,
    )


def call(
    kind: Kind,
    inputs: Inputs,
    out_size: tuple[int, ...],
    options: Options,
    tangent: Tensor | None = None,
) -> dict[str, Tensor]:
    """What the launchers give in one pass: the output, or the gradients of the input and of theta.

    tangent: the change of these along a change of theta instead (not of both gradients at once).
    """
    x, theta, index, grad = inputs.input, inputs.theta, inputs.index, inputs.grad
    if kind == "fwd":
        return {"output": sample_forward(x, theta, index, out_size, options, tangent)}
    found: tuple[Tensor | None, Tensor | None]
    if tangent is None:
        wanted = kind != "theta", kind != "input"
        found = sample_backward(grad, x, theta, index, out_size, options, wanted)
    elif kind == "input":
        found = input_backward(grad, x, theta, index, out_size, options, tangent), None
    else:
        found = None, theta_backward(grad, x, theta, index, out_size, options, tangent)
    named = zip(("grad_input", "grad_theta"), found, strict=True)
    return {name: tensor for name, tensor in named if tensor is not None}


def _meta(shape: tuple[int, ...], dtype: torch.dtype, ndim: int, memory_format: str) -> Tensor:
    """(..., C, *size) without storage, its channels last in memory if asked for."""
    if memory_format == "contiguous":
        return torch.empty(shape, dtype=dtype, device="meta")
    lead, channels, size = shape[: -ndim - 1], shape[-ndim - 1], shape[-ndim:]
    last = torch.empty((*lead, *size, channels), dtype=dtype, device="meta")
    return last.movedim(-1, -ndim - 1)


def without_storage(variant: Variant) -> Inputs:
    """Tensors like those of a variant, on the meta device."""
    lead = (variant.shape[0],) if variant.k is None else (variant.shape[0], variant.k)
    index = None
    if variant.crops is not None:
        lead = (variant.crops,)
        index = torch.empty(variant.crops, dtype=torch.int64, device="meta")
    ndim = len(variant.out_size)
    wide = torch.promote_types(variant.dtype, torch.float32)
    identity = TRANSFORMS[variant.transform].identity(ndim, variant.control_points or 4)
    shape = (*lead, variant.shape[1], *variant.out_size)
    return Inputs(
        _meta(variant.shape, variant.dtype, ndim, variant.memory_format),
        torch.empty((*lead, *identity.shape), dtype=wide, device="meta"),
        _meta(shape, variant.dtype, ndim, variant.memory_format),
        index,
    )


def launches(variant: Variant) -> list[Launch]:
    """What the launchers of this variant would start, recorded on tensors without storage."""
    inputs = without_storage(variant)
    options = Options(
        variant.transform, variant.mode, variant.padding_mode, variant.padding_value, False, variant.samples,
        variant.control_points,
    )  # fmt: skip
    kind: Grads | Literal["fwd"] = variant.grads or "fwd"
    with recorded() as found:
        call(kind, inputs, variant.out_size, options, inputs.theta if variant.tangent else None)
    return found
