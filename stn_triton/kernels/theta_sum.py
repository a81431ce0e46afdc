"""Theta's gradient from what the programs of a backward kernel found: added up in fixed order, rounded once.

Tiling: one program adds up the parts of one transformer, many rows of them at a time, so that their loads
wait for memory together.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from stn_triton.transforms import TRANSFORMS

from .coefficients import write_theta_gradient
from .geometry import Geometry
from .launch import launch
from .layout import as_stored

_ROWS = (8, 64, 512)
"""Few, since each is a compilation."""
_MOST_COLUMNS = 16


@triton.jit(do_not_specialize=["PARTS", "NUMBERS"])
def _sum_kernel(
    partial_ptr, total_ptr,     # (maps, PARTS, NUMBERS), (maps, NUMBERS)
    PARTS, NUMBERS, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    map_ = tl.program_id(0).to(tl.int64)
    number = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    row = tl.arange(0, ROWS)
    total = tl.zeros((ROWS, COLUMNS), partial_ptr.dtype.element_ty)
    for first in range(0, PARTS, ROWS):
        part = first + row
        at = partial_ptr + map_ * PARTS * NUMBERS + (part[:, None] * NUMBERS + number[None, :])
        there = (part < PARTS)[:, None] & (number < NUMBERS)[None, :]
        total += tl.load(at, mask=there, other=0.0)
    found = as_stored(tl.sum(total, 0), total_ptr)
    tl.store(total_ptr + map_ * NUMBERS + number, found, mask=number < NUMBERS)


def new_partial(g: Geometry, theta: Tensor, parts: int) -> Tensor:
    """Room for the gradient of the map's numbers as each of `parts` programs of each transformation finds it."""
    return theta.new_empty((g.maps, parts, g.parameters), dtype=g.dtype)


def sum_partial(g: Geometry, partial: Tensor, theta: Tensor) -> Tensor:
    """Theta's gradient from its parts."""
    gradient = torch.empty_like(theta, memory_format=torch.contiguous_format)
    maps, parts, numbers = partial.shape
    lattice = TRANSFORMS[g.spec.TRANSFORM].lattice
    # Of a lattice these are the gradients of the coefficients.
    total = gradient if lattice is None else partial.new_empty((maps, numbers))
    rows = next((rows for rows in _ROWS if parts <= rows), _ROWS[-1])
    columns = min(triton.next_power_of_2(numbers), _MOST_COLUMNS)
    launch(
        _sum_kernel, (maps, -(-numbers // columns)), partial, total, parts, numbers,
        num_warps=min(max(rows * columns // 512, 1), 8), ROWS=rows, COLUMNS=columns,
    )  # fmt: skip
    if lattice is not None:
        write_theta_gradient(
            total.view(maps, numbers // 2, 2),
            g.points,
            lattice,
            gradient.view(maps, *theta.shape[-2:]),
        )
    return gradient
