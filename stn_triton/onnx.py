"""`st_sample` in ONNX: the translation of its operator into standard nodes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from .control_points import Points, coordinates, points_of
from .transforms import AUTO, TRANSFORMS, output_axes

_MODES = {"bilinear": "linear", "nearest": "nearest", "bicubic": "cubic"}
_OUTSIDE = 1e6
"""A normalised coordinate outside every image."""


def onnx_translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """What `torch.onnx.export` needs to know to export models with `st_sample` or `SpatialTransformer`.

    Usage: `torch.onnx.export(model, args, dynamo=True, custom_translation_table=onnx_translations())`, with opset 20
        (the default) or newer. Needs the package onnxscript.

    "affine" and "attention" become AffineGrid and GridSample. For the other transforms elementary nodes compute the
        grid, for "tps" and "piecewise_affine" from constants as large as the output times the number of control points:
        their `out_size` must not be symbolic. K transformers share one GridSample; `antialias=S` ends in AveragePool.

    An index is a Gather of the images, where one outside [0, N) is an error of the runtime.

    Refused while exporting: `antialias=True`, whose number of samples depends on theta's values; "tps" and
        "piecewise_affine" with a symbolic `out_size`.

    onnxruntime 1.31 on a CPU gives the same numbers in every mode, padding mode and alignment, within
        1e-6 max(H, W) max(max|input|, |padding_value|) in float32. It differs at coordinates that are not finite, or
        with "border" and "reflection" beyond about 1e9; with "nearest" beside a tie; with `align_corners=True` where a
        symbolic length turns out as 1. For float64 it has no AveragePool, hence no `antialias=S`.
    """
    return {torch.ops.stn_triton.sample.default: _sample}


def lacks_translation() -> bool:
    """Whether an ONNX export is under way that was not given `onnx_translations`; it gets PyTorch's own operators."""
    if not torch.onnx.is_in_onnx_export():
        return False
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        # The exporter's own functions hand the table on under the name that the user gave it by.
        if frame.f_code.co_name == "export" and "custom_translation_table" in frame.f_locals:
            table = frame.f_locals["custom_translation_table"]
            return torch.ops.stn_triton.sample.default not in (table or {})
        frame = frame.f_back
    return False


def _sample(
    input: Any, theta: Any, index: Any, out_size: Any,
    transform: str, mode: str, padding_mode: str, padding_value: float, align_corners: bool, samples: int,
    control_points: Sequence[float],
) -> Any:  # fmt: skip
    """The operator's own arguments, tensors and symbolic lengths as values of the graph -> the result, such a value."""
    from onnxscript import ir
    from onnxscript import opset20 as op

    if samples == AUTO:
        raise ValueError(
            "antialias=True, as many samples as theta asks for, has no ONNX operator; give an int"
        )
    ndim = len(out_size)
    points = tuple(control_points)
    trailing = TRANSFORMS[transform].trailing_shape(tuple(theta.shape), ndim, points)
    assert trailing is not None
    several = len(theta.shape) == 2 + len(trailing)
    dtype = input.dtype
    double = ir.DataType.DOUBLE in (dtype, theta.dtype)
    wide = ir.DataType.DOUBLE if double else ir.DataType.FLOAT
    size = [
        length * samples if isinstance(length, int) else op.Mul(length, samples)
        for length in out_size
    ]

    if index is not None:  # where a negative number would count from the end
        none = op.Less(index, op.Constant(value_ints=[0]))
        input = op.Gather(input, op.Where(none, op.Shape(input, end=1), index), axis=0)
    theta = op.Cast(theta, to=wide)
    if several:
        theta = op.Reshape(theta, _shape(-1, *trailing))
    grid = _grid(theta, trailing, size, transform, align_corners, points)
    if several:  # K results one above the other, so that the image is not copied K times
        grid = op.Reshape(grid, _shape(op.Shape(input, end=1), -1, *size[1:], ndim))
    sample = partial(
        op.GridSample,
        align_corners=int(align_corners),
        mode=_MODES[mode],
        padding_mode=padding_mode,
    )
    output = sample(op.Cast(input, to=wide), grid)
    if padding_value:  # for the weight of what lies outside
        ones = op.Expand(
            _constant(torch.ones((), device="cpu"), grid),
            _shape(op.Shape(input, end=1), 1, op.Shape(input, start=2)),
        )
        outside = op.Sub(_constant(torch.ones((), device="cpu"), grid), sample(ones, grid))
        value = _constant(torch.tensor(padding_value, dtype=torch.float64, device="cpu"), grid)
        output = op.Add(output, op.Mul(value, outside))
    if samples > 1:
        output = op.AveragePool(output, kernel_shape=[samples] * ndim, strides=[samples] * ndim)
    if several:
        output = op.Reshape(output, _shape(0, 0, -1, *out_size))
        output = op.Transpose(output, perm=[0, 2, 1, *range(3, 3 + ndim)])
    return op.Cast(output, to=dtype)


def _grid(
    theta: Any, trailing: tuple[int, ...], size: Sequence[Any], transform: str, align_corners: bool,
    points: Points,
) -> Any:  # fmt: skip
    """theta (B, *trailing) -> the sampling grid, (B, *size, ndim)."""
    from onnxscript import opset20 as op

    ndim, entry = len(size), TRANSFORMS[transform]
    if entry.lattice is not None:
        points = points_of(points, trailing[0])
        basis, at, straight = _lattice_constants(points, size, transform, align_corners)
        moved = op.MatMul(_constant(basis, theta), op.Sub(theta, _constant(at, theta)))
        return op.Reshape(op.Add(moved, _constant(straight, theta)), _shape(-1, *size, 2))
    if entry.matrix is not None:
        if transform != "affine":  # the matrix is linear in theta
            entries = entry.matrix(torch.eye(*trailing, device="cpu"), ndim).flatten(1)
            theta = op.MatMul(theta, _constant(entries, theta))
            theta = op.Reshape(theta, _shape(-1, ndim, ndim + 1))
        return _affine_grid(theta, size, align_corners)
    if entry.homography is None:
        raise ValueError(f"ONNX export does not know transform {transform!r}")
    one = _constant(torch.ones((), device="cpu"), theta)
    if trailing == (8,):
        theta = op.Reshape(op.Pad(theta, _shape(0, 0, 0, 1), one), _shape(-1, 3, 3))
    identity = _constant(torch.eye(2, 3, device="cpu").unsqueeze(0), theta)
    pixels = op.Reshape(_affine_grid(identity, size, align_corners), _shape(1, -1, 2))
    pixels = op.Pad(pixels, _shape(0, 0, 0, 0, 0, 1), one)
    sums = op.MatMul(pixels, op.Transpose(theta, perm=[0, 2, 1]))
    above = op.Slice(sums, _shape(0), _shape(2), _shape(2))
    below = op.Slice(sums, _shape(2), _shape(3), _shape(2))
    nowhere = op.Equal(below, _constant(torch.zeros((), device="cpu"), theta))
    source = op.Where(
        nowhere, _constant(torch.tensor(_OUTSIDE, device="cpu"), theta), op.Div(above, below)
    )
    return op.Reshape(source, _shape(-1, *size, 2))


def _affine_grid(theta: Any, size: Sequence[Any], align_corners: bool) -> Any:
    from onnxscript import opset20 as op

    single = [isinstance(length, int) and length == 1 for length in reversed(size)]
    if align_corners and any(single):  # its coordinate is 0 in PyTorch, and whatever else elsewhere
        theta = op.Mul(
            theta,
            _constant(torch.tensor([*(not each for each in single), True], device="cpu"), theta),
        )
    shape = _shape(op.Shape(theta, end=1), 1, *size)
    return op.AffineGrid(theta, shape, align_corners=int(align_corners))


def _lattice_constants(
    points: Points, size: Sequence[Any], transform: str, align_corners: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """basis (h * w, P), the points (P, 2), straight (h * w, 2): the grid is straight + basis (theta - points)."""
    if not all(isinstance(length, int) for length in size):
        raise ValueError(f"ONNX export of {transform!r} needs an out_size of numbers, got {size}")
    entry, at = TRANSFORMS[transform], coordinates(points)
    assert entry.lattice is not None
    x, y = output_axes(tuple(size), align_corners, at)
    basis = entry.lattice.basis(x, y.unsqueeze(-1), points) @ entry.lattice.weights(points)
    return basis.flatten(0, 1), at, entry.grid(at, (x, y), points).flatten(0, 1)


def _constant(tensor: Tensor, like: Any) -> Any:
    """A constant of the graph in the dtype of one of its values."""
    from onnxscript import ir
    from onnxscript import opset20 as op

    return op.CastLike(op.Constant(value=ir.tensor(tensor.numpy())), like)


def _shape(*lengths: Any) -> Any:
    """A shape of ints and of values of the graph; -1 is what is left, 0 what there was."""
    from onnxscript import opset20 as op

    if all(isinstance(length, int) for length in lengths):
        return op.Constant(value_ints=list(lengths))
    parts = (
        op.Constant(value_ints=[length]) if isinstance(length, int) else op.Reshape(length, [-1])
        for length in lengths
    )
    return op.Concat(*parts, axis=0)
