"""`st_sample` in plain torch operations: prepare, sample, bring into form.

Two samplers of one shape: `grid_sampler`, and index operations where other derivatives than the first are wanted.
The K results of an image lie one above the other, so that the image is not copied K times.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from stn_triton.formats import (
    compute_dtype,
    is_channels_last,
    like_output,
    outer_shape,
    theta_shape,
)
from stn_triton.ragged import images_of, or_zero
from stn_triton.tracing import (
    is_gradient_wanted,
    is_jit_traced,
    is_transformed,
    is_vectorized,
    may_read_values,
)
from stn_triton.transforms import Options, vector_like

from .antialias import Sampler, mean_of_samples
from .taps import sample_taps, weight_outside

_MODES = {"bilinear": 0, "nearest": 1, "bicubic": 2}
_PADDINGS = {"zeros": 0, "border": 1, "reflection": 2}
_BACKWARDS = {
    2: torch.ops.aten.grid_sampler_2d_backward.default,
    3: torch.ops.aten.grid_sampler_3d_backward.default,
}
_FAR = 1e6
"""A normalised coordinate outside every image, finite in pixel units too."""
_UNFOLDED = 2.0**22
"""So many widths of the image away (bicubic: pixels) a coordinate is not mirrored: in float32 it has no place within a
pixel, and PyTorch's sampler counts its turns in 32 bits."""

_Size = tuple[int, ...]


def st_sample_torch(
    input: Tensor, theta: Tensor, index: Tensor | None, out_size: _Size, options: Options
) -> Tensor:
    """`st_sample` in torch operations, arguments validated."""
    looked_at = is_transformed(input, theta) or is_vectorized(input, theta)
    sampler = _by_taps if looked_at else _by_grid_sampler
    return _sample(input, theta, index, out_size, options, sampler)


def st_sample_taps(
    input: Tensor, theta: Tensor, index: Tensor | None, out_size: _Size, options: Options
) -> Tensor:
    """The same in index operations only: derivatives of any order and mode, on any device."""
    return _sample(input, theta, index, out_size, options, _by_taps)


def _sample(
    input: Tensor, theta: Tensor, index: Tensor | None, out_size: _Size, options: Options,
    sampler: Sampler,
) -> Tensor:  # fmt: skip
    trailing = theta_shape(theta, len(out_size), options)
    outer = outer_shape(theta, len(out_size), options)
    wide = compute_dtype(input, theta)
    theta = theta.to(wide)
    if 0 in input.shape or 0 in outer:
        return like_output(_empty(input, theta, (*outer, input.shape[1], *out_size)), input)
    image, there = _with_formatted_gradient(input).to(wide), None
    in_size = image.shape[2:]
    if index is not None:
        image, there = images_of(image, index)
    theta = theta.reshape(outer[0], -1, *trailing)
    if options.padding_value:
        sampler = partial(_with_weight_outside, sampler=sampler)
    if options.align_corners and options.padding_mode == "zeros" and 1 in in_size:
        sampler = partial(_without_lost, sampler=sampler)
    output = mean_of_samples(image, theta, out_size, options, sampler)
    if (
        options.padding_value
    ):  # times the mean of weights: where all samples lie outside, that is exactly 1
        output = output[:, :-1] + options.padding_value * output[:, -1:]
    output = output.to(input.dtype)
    if len(outer) > 1:
        output = output.unflatten(2, (-1, out_size[0])).movedim(2, 1)
    if there is not None:
        output = or_zero(output, there)
    return like_output(output, input)


def _by_taps(image: Tensor, grid: Tensor, options: Options) -> Tensor:
    return _taps_on_grid(image, _finite(grid, image.shape[2:], options).flatten(1, 2), options)


def _without_lost(image: Tensor, grid: Tensor, options: Options, *, sampler: Sampler) -> Tensor:
    """What a sampler finds, and outside of it samples with a coordinate that is not finite along an axis of one pixel.

    With aligned corners such an axis has no extent: each finite coordinate is that pixel, and no number stands for
    what lies outside. There images are 0, and the weight outside, which may follow their channels, is 1.
    """
    found = sampler(image, grid, options)
    single = [axis for axis, length in enumerate(reversed(image.shape[2:])) if length == 1]
    lost = (~grid[..., single].isfinite()).any(-1).flatten(1, 2).unsqueeze(1)
    outside = (torch.arange(found.shape[1], device=found.device) >= image.shape[1]).to(found.dtype)
    return torch.where(lost, outside.view(-1, *[1] * (found.dim() - 2)), found)


def _with_weight_outside(
    image: Tensor, grid: Tensor, options: Options, *, sampler: Sampler
) -> Tensor:
    """What a sampler finds with 0 outside, and as one channel more the weight of the taps that lie there."""
    if options.mode == "nearest":  # where the parts must not be of two minds about what lies inside
        sampler = _by_taps
    output = sampler(image, grid, options)
    source = _in_pixels(
        _finite(grid, image.shape[2:], options).flatten(1, 2), image.shape[2:], options
    )
    outside = weight_outside(source, tuple(image.shape[2:]), options).unflatten(1, output.shape[2:])
    return torch.cat((output, outside.unsqueeze(1)), 1)


def _taps_on_grid(image: Tensor, grid: Tensor, options: Options) -> Tensor:
    """`grid_sampler` with every derivative, at finite coordinates."""
    source = _in_pixels(grid, image.shape[2:], options)
    return sample_taps(image, source, options).unflatten(2, grid.shape[1:-1])


def _by_grid_sampler(image: Tensor, grid: Tensor, options: Options) -> Tensor:
    return _grid_sampler(image, _finite(grid, image.shape[2:], options).flatten(1, 2), options)


def _finite(grid: Tensor, in_size: _Size, options: Options) -> Tensor:
    """Coordinates that every sampler bears: those that are not finite become constants, as the padding says."""
    if options.padding_mode != "reflection":
        return grid.nan_to_num(nan=-_FAR, posinf=_FAR, neginf=-_FAR).clamp(-_FAR, _FAR)
    align = int(options.align_corners)
    first = [(1 - align) / length - 1 for length in reversed(in_size)]
    spans = [
        1 if options.mode == "bicubic" else max(length - align, 1) for length in reversed(in_size)
    ]
    ends, middle = _pixel_scale(in_size, grid, options)
    known = (grid.detach() * ends + middle).abs() < _UNFOLDED * vector_like(spans, grid)
    return torch.where(known, grid, vector_like(first, grid))


def _pixel_scale(in_size: _Size, like: Tensor, options: Options) -> tuple[Tensor, Tensor]:
    """The pixel coordinates, x first, of the normalised 1 less those of 0, and those of 0."""
    ends = [(length - int(options.align_corners)) / 2 for length in reversed(in_size)]
    middle = [(length - 1) / 2 for length in reversed(in_size)]
    return vector_like(ends, like), vector_like(middle, like)


def _in_pixels(grid: Tensor, in_size: _Size, options: Options) -> Tensor:
    """(N, *out_size, ndim) -> (ndim, N, P)."""
    ends, middle = _pixel_scale(in_size, grid, options)
    return (grid * ends + middle).movedim(-1, 0).flatten(2)


def _grid_sampler(image: Tensor, grid: Tensor, options: Options) -> Tensor:
    if is_jit_traced() or not is_gradient_wanted(
        image, grid
    ):  # a trace must not hang on who wants gradients
        return _native(image, grid, options)
    sampler = _native if torch.compiler.is_compiling() else _GridSampler.apply
    output = sampler(image, grid, options)
    if options.padding_mode == "zeros" and not may_read_values(image, grid):
        # Gradients that are not finite stop here; where values can be read, `_GridSampler` looks at them.
        output = torch.where(_meets(grid, image.shape[2:], options).unsqueeze(1), output, 0.0)
    return output


def _meets(grid: Tensor, in_size: _Size, options: Options) -> Tensor:
    """Whether samples of a grid (N, *out_size, ndim) have a tap inside: (N, *out_size)."""
    ends, middle = _pixel_scale(in_size, grid, options)
    source = grid.detach() * ends + middle
    beyond = {"nearest": 0.5, "bilinear": 1.0, "bicubic": 2.0}[options.mode]
    return ((source >= -beyond) & (source <= 2 * middle + beyond)).all(-1)


def _native(image: Tensor, grid: Tensor, options: Options) -> Tensor:
    return torch.grid_sampler(image, grid, *_native_options(options))


def _native_options(options: Options) -> tuple[int, int, bool]:
    return _MODES[options.mode], _PADDINGS[options.padding_mode], options.align_corners


class _GridSampler(torch.autograd.Function):
    """`grid_sampler` whose derivative has derivatives, in every version of PyTorch."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, grid: Tensor, options: Options) -> Tensor:
        ctx.save_for_backward(image, grid)
        ctx.options = options
        return _native(image, grid, options)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        image, grid = ctx.saved_tensors
        zeros = ctx.options.padding_mode == "zeros"
        # PyTorch's own multiplies by slopes of 0 what is cut off.
        finite = _is_finite(grad) and (zeros or _is_finite(image))
        if torch.is_grad_enabled() or is_transformed(grad, image, grid) or not finite:
            pull = torch.func.vjp(partial(_taps_on_grid, options=ctx.options), image, grid)[1]
            return *pull(grad), None
        backward = _BACKWARDS[grid.shape[-1]]
        wanted = ctx.needs_input_grad[:2]
        return *backward(grad, image, grid, *_native_options(ctx.options), wanted), None


def _with_formatted_gradient(input: Tensor) -> Tensor:
    """The input, whose gradient will come in its own memory format."""
    if not input.requires_grad or is_transformed(input) or is_jit_traced():
        return input
    return _Formatted.apply(input)


class _Formatted(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor) -> Tensor:
        ctx.channels_last = is_channels_last(input)
        return input.view_as(input)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        if ctx.channels_last:
            return grad.movedim(1, -1).contiguous().movedim(-1, 1)
        return grad.contiguous()


def _empty(input: Tensor, theta: Tensor, shape: _Size) -> Tensor:
    """A result of no images or transformations, which has gradients."""
    return input.new_zeros(shape) + 0 * (input.sum() + theta.sum().to(input.dtype))


def _is_finite(tensor: Tensor) -> bool:
    """Whether all values are known to be finite; True where nobody may look. Very large ones may count as infinite."""
    return not may_read_values(tensor) or bool(tensor.sum().isfinite())


def gradients_by_taps(
    grad: Tensor, input: Tensor, theta: Tensor, index: Tensor | None, size: _Size, options: Options
) -> tuple[Tensor, Tensor]:
    """The gradients of <grad, S(theta) u> by (u, theta), differentiable in their turn."""
    run = partial(st_sample_taps, index=index, out_size=size, options=options)
    of_input, of_theta = torch.func.vjp(run, input, theta)[1](grad)
    return of_input, of_theta
