"""Between theta of a lattice and what multiplies its basis functions: a product with weights that were solved once.

coefficient[m] = sum over points p of weights[m, p] (theta[p] - point[p]); back the same with the weights transposed.
In float64, as a spline's weights cancel: in float32 by 1e-3 pixels at a size of 512.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from stn_triton.control_points import Lattice, Points, lattice_constants

from .launch import launch
from .layout import as_stored

BLOCK = tl.constexpr(16)
"""Points along an edge of a block of weights: those of the usual lattice of 4 x 4."""


@triton.jit(do_not_specialize=["ROWS", "COLUMNS", "row_stride", "column_stride", "out_stride"])
def _product_kernel(
    x_ptr, origin_ptr, weights_ptr, out_ptr,    # (maps, COLUMNS, 2), (COLUMNS, 2), (ROWS, COLUMNS), (maps, ROWS, 2)
    ROWS, COLUMNS, row_stride, column_stride,
    out_stride,                                 # numbers from one map of the result to the next
    FROM_ORIGIN: tl.constexpr, COMPUTE: tl.constexpr,
):  # fmt: skip
    number = tl.program_id(0).to(tl.int64)
    row = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    total_x, total_y = tl.zeros((BLOCK,), tl.float64), tl.zeros((BLOCK,), tl.float64)
    for first in range(0, COLUMNS, BLOCK):
        column = first + tl.arange(0, BLOCK)
        there = column < COLUMNS
        at = x_ptr + number * COLUMNS * 2 + column * 2
        x = tl.load(at, mask=there, other=0.0).to(COMPUTE)
        y = tl.load(at + 1, mask=there, other=0.0).to(COMPUTE)
        if FROM_ORIGIN:  # the difference is exactly 0 for the identity
            x -= tl.load(origin_ptr + column * 2, mask=there, other=0.0)
            y -= tl.load(origin_ptr + column * 2 + 1, mask=there, other=0.0)
        weight = tl.load(
            weights_ptr + row[:, None] * row_stride + column[None, :] * column_stride,
            mask=(row < ROWS)[:, None] & there[None, :],
            other=0.0,
        )
        total_x += tl.sum(weight * x.to(tl.float64)[None, :], 1)
        total_y += tl.sum(weight * y.to(tl.float64)[None, :], 1)
    out = out_ptr + number * out_stride + row * 2
    tl.store(out, as_stored(total_x, out_ptr), mask=row < ROWS)
    tl.store(out + 1, as_stored(total_y, out_ptr), mask=row < ROWS)


def _product(x: Tensor, weights: Tensor, out: Tensor, origin: Tensor | None = None) -> None:
    """Write weights @ (x - origin) for each map: x (maps, columns, 2), out (maps, rows, 2), any step between maps."""
    rows, columns = weights.shape
    launch(
        _product_kernel, (len(x), -(-rows // BLOCK.value)),
        x, x if origin is None else origin, weights, out,
        rows, columns, *weights.stride(), out.stride(0),
        num_warps=1, FROM_ORIGIN=origin is not None,
        COMPUTE=tl.float64 if out.element_size() == 8 else tl.float32,
    )  # fmt: skip


def write_coefficients(
    theta: Tensor, points: Points, lattice: Lattice, out: Tensor, *, from_points: bool
) -> None:
    """theta (maps, P, 2) -> the coefficients, (maps, M, 2), 0 for the identity.

    Not from_points: their change along a tangent of theta.
    """
    at, _ = lattice_constants(lattice.weights, points, out.dtype, theta.device)
    _, weights = lattice_constants(lattice.weights, points, torch.float64, theta.device)
    _product(theta, weights, out, at if from_points else None)


def write_theta_gradient(gradient: Tensor, points: Points, lattice: Lattice, out: Tensor) -> None:
    """The chain from the gradient of the coefficients, (maps, M, 2), back to theta's, (maps, P, 2)."""
    _, weights = lattice_constants(lattice.weights, points, torch.float64, gradient.device)
    _product(gradient, weights.mT, out)
