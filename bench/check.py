"""The gate before every timing: results and gradients against the definition in float64, within an
error budget.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .budget import beyond_budget, roundings_of_truth
from .cases import Case, Grads
from .grids import defined_grid, parameters
from .inputs import Inputs
from .sampling import native

Sample = Callable[[Tensor, Tensor], Tensor]

OF_FEW_IMAGES = 4.0
"""How many times PyTorch's own error another result's may be on a batch of few images: the largest error of so few
numbers, theta's gradients above all, differs by as much from one seed to another."""


def reference(case: Case, x: Tensor, theta: Tensor) -> Tensor:
    """PyTorch's sampler on the grid of the definition, in the dtype of the arguments: (N, [K,] C, *out_size)."""
    out = native(case, x, parameters(case, theta), defined_grid)
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
    wide = Inputs(inputs.input.double(), inputs.theta.double(), inputs.grad.double(), inputs.index)
    compute = torch.promote_types(case.dtype, torch.float32)

    def low(x: Tensor, theta: Tensor) -> Tensor:
        return reference(case, x.to(compute), theta.to(compute)).to(case.dtype)

    return Expectation(
        run(lambda x, theta: reference(case, x, theta), wide, grads),
        run(low, inputs, grads),
    )


def verdict(
    case: Case, actual: Results, expected: Expectation, rounding: float = 2.0
) -> str | None:
    """None if everything that was computed is right: dtype, layout and every value; else the first
    thing that is not.
    """
    if actual.output.dtype != case.dtype:
        return f"result in {actual.output.dtype}, not {case.dtype}"
    flat = actual.output if case.k is None else actual.output.flatten(0, 1)
    if case.memory_format == "channels_last":
        flat = flat.movedim(1, -1)
    if not flat.is_contiguous():
        return f"result not in {case.memory_format} order"
    found = {name: getattr(actual, name) for name in ("output", "grad_input", "grad_theta")}
    named = {name: tensor for name, tensor in found.items() if tensor is not None}
    return next(iter(wrong_values(case, named, expected, rounding)), None)


def wrong_values(
    case: Case, found: dict[str, Tensor], expected: Expectation, rounding: float = 2.0
) -> list[str]:
    """What is wrong with the values of results, each under its name in `Results`.

    rounding: how often PyTorch's own error is allowed; the roundings beside it grow alike, from 4 on.
    """
    sizes = (*case.shape[2:], *case.out_size)
    of_truth = roundings_of_truth(sizes, transform=case.transform, mode=case.mode)
    complaints = []
    for name, got in found.items():
        exact, pytorch = (getattr(results, name) for results in (expected.exact, expected.pytorch))
        wrong = beyond_budget(
            got, pytorch, exact, times=rounding, roundings=2 * rounding, of_truth=of_truth
        )
        complaints += [f"{name}: {wrong}"] if wrong is not None else []
    return complaints
