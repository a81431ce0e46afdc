"""The gate before every timing: results and gradients against the definition in float64, within an
error budget.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .cases import Case, Grads, Inputs, affine_matrix

Sample = Callable[[Tensor, Tensor], Tensor]


def per_map(case: Case, x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N * K, C, H, W): every image once per transformer, in the same memory
    format.
    """
    return x if case.k is None else x.repeat_interleave(case.k, 0)


_MODES = {"bilinear": 0, "nearest": 1, "bicubic": 2}
_PADDINGS = {"zeros": 0, "border": 1, "reflection": 2}


def affine_grid(case: Case, matrix: Tensor) -> Tensor:
    """PyTorch's sampling grid (N * K, h, w, 2)."""
    size = [case.maps, case.shape[1], *case.out_size]
    return F.affine_grid(matrix, size, align_corners=case.align_corners)


def native(case: Case, x: Tensor, matrix: Tensor) -> Tensor:
    """PyTorch's own kernels, (N * K, C, h, w): what `grid_sample` calls, except that with aligned
    corners on a GPU it goes to cuDNN.
    """
    mode, padding = _MODES[case.mode], _PADDINGS[case.padding_mode]
    grid = affine_grid(case, matrix)
    return torch.grid_sampler_2d(per_map(case, x), grid, mode, padding, case.align_corners)


def definition(case: Case, x: Tensor, theta: Tensor) -> Tensor:
    """What the operation means: `affine_grid`, then `grid_sample`, in the dtype of the arguments;
    (N, [K,] C, h, w).
    """
    out = native(case, x, affine_matrix(case, theta))
    return out if case.k is None else out.unflatten(0, (case.shape[0], case.k))


@dataclass(frozen=True)
class Results:
    """A forward result and the gradients that were asked for."""

    output: Tensor
    grad_input: Tensor | None = None
    grad_theta: Tensor | None = None


def run(sample: Sample, inputs: Inputs, grads: Grads | None) -> Results:
    """One pass of `sample`, with the gradients of `input` and `theta` as `grads` says."""
    x = inputs.input.detach().requires_grad_(grads in ("both", "input"))
    theta = inputs.theta.detach().requires_grad_(grads in ("both", "theta"))
    with torch.set_grad_enabled(grads is not None):
        output = sample(x, theta)
    if grads is None:
        return Results(output)
    wanted = [t for t in (x, theta) if t.requires_grad]
    found = list(torch.autograd.grad(output, wanted, inputs.grad.to(output.dtype)))
    return Results(
        output.detach(),
        found.pop(0) if x.requires_grad else None,
        found.pop(0) if theta.requires_grad else None,
    )


@dataclass(frozen=True)
class Expectation:
    """The exact results of one case, and what PyTorch itself makes of them in the dtype of the
    case.
    """

    exact: Results
    pytorch: Results


def expect(case: Case, inputs: Inputs, grads: Grads | None) -> Expectation:
    """Both references on the same (already rounded) tensors; PyTorch's computes in float32 and
    rounds once.
    """
    wide = Inputs(inputs.input.double(), inputs.theta.double(), inputs.grad.double())
    compute = torch.promote_types(case.dtype, torch.float32)

    def low(x: Tensor, theta: Tensor) -> Tensor:
        return definition(case, x.to(compute), theta.to(compute)).to(case.dtype)

    return Expectation(
        run(lambda x, theta: definition(case, x, theta), wide, grads),
        run(low, inputs, grads),
    )


def within_budget(actual: Tensor, pytorch: Tensor, exact: Tensor) -> str | None:
    """None if the largest error is at most twice PyTorch's own plus 8 eps of the largest value;
    else what is wrong.

    In float64 PyTorch's own error is nothing, since it is the definition: there 1e-10 of the
    largest value is allowed.
    """
    if actual.shape != exact.shape:
        return f"shape {tuple(actual.shape)}, not {tuple(exact.shape)}"
    if not torch.isfinite(actual).all():
        return "not finite"
    if actual.numel() == 0:
        return None
    largest = float(exact.abs().max().clamp(min=1))
    slack = largest * (
        1e-10 if actual.dtype == torch.float64 else 8 * torch.finfo(actual.dtype).eps
    )
    ours = float((actual.double() - exact).abs().max())
    theirs = float((pytorch.double() - exact).abs().max())
    if ours <= 2 * theirs + slack:
        return None
    return f"error {ours:.3g}; PyTorch's own is {theirs:.3g}, and {slack:.3g} more is allowed"


def verdict(case: Case, actual: Results, expected: Expectation) -> str | None:
    """None if everything that was computed is right: dtype, layout and every value; else the first
    thing that is not.
    """
    if actual.output.dtype != case.dtype:
        return f"result in {actual.output.dtype}, not {case.dtype}"
    flat = actual.output if case.k is None else actual.output.flatten(0, 1)
    layout = (
        torch.channels_last if case.memory_format == "channels_last" else torch.contiguous_format
    )
    if not flat.is_contiguous(memory_format=layout):
        return f"result not in {case.memory_format} order"
    for name in ("output", "grad_input", "grad_theta"):
        got = getattr(actual, name)
        if got is not None:
            exact, pytorch = (getattr(r, name) for r in (expected.exact, expected.pytorch))
            wrong = within_budget(got, pytorch, exact)
            if wrong is not None:
                return f"{name}: {wrong}"
    return None
