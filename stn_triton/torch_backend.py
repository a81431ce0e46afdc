"""`st_sample` in plain torch operations: the path of CPU tensors, and of any device with `backend="torch"`.

The sampling grid is built separably: what x gives to a coordinate and what y gives are two small tensors, and one
broadcast sum makes the grid, with its two coordinates in separate planes, which `grid_sampler` reads faster than pairs.
Theta's gradient then is two sums over the grid's, by autograd.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .formats import compute_dtype, is_channels_last, like_output, transformers
from .transforms import TRANSFORMS, Options

_MODES = {"bilinear": 0, "nearest": 1}
_PADDINGS = {"zeros": 0, "border": 1}
_FAR = 1e6
"""A normalised coordinate outside every image, finite in pixel units too."""


def st_sample_torch(
    input: Tensor, theta: Tensor, out_size: tuple[int, int], options: Options
) -> Tensor:
    """`st_sample` by `grid_sampler`, arguments validated."""
    n, channels = input.shape[:2]
    k = transformers(theta, options)
    height, width = out_size
    wide = compute_dtype(input, theta)
    matrix = TRANSFORMS[options.transform].matrix(theta.to(wide))
    if 0 in input.shape or 0 in k:
        output = _empty(input, matrix, (n, *k, channels, height, width))
    else:
        input = _with_formatted_gradient(input)
        # One input's K results lie one above the other in a single output image: the input is not copied.
        grid = _grid(matrix.reshape(n, -1, 2, 3), out_size, options.align_corners)
        output = torch.grid_sampler_2d(
            input.to(wide), grid, _MODES[options.mode], _PADDINGS[options.padding_mode],
            options.align_corners,
        ).to(input.dtype)  # fmt: skip
        output = output.unflatten(2, (-1, height)).movedim(2, 1) if k else output
    return like_output(output, input)


def _with_formatted_gradient(input: Tensor) -> Tensor:
    """The input, whose gradient will come in its own memory format; compilers choose theirs."""
    if not (input.requires_grad and is_channels_last(input)) or _is_traced():
        return input
    view = input.view_as(input)
    view.register_hook(lambda grad: grad.contiguous(memory_format=torch.channels_last))
    return view


def _empty(input: Tensor, matrix: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A result without elements that has gradients."""
    return input.new_empty(shape) + 0 * (input.sum() + matrix.sum().to(input.dtype))


def _grid(matrix: Tensor, out_size: tuple[int, int], align_corners: bool) -> Tensor:
    """(N, K, 2, 3) -> (N, K h, w, 2)."""
    n, k = matrix.shape[:2]
    height, width = out_size
    by_x, by_y, offset = matrix.permute(2, 3, 0, 1).unsqueeze(-1).unbind(1)  # (2, N, K, 1)
    columns = by_x * _base(width, align_corners, matrix)  # (2, N, K, w)
    rows = by_y * _base(height, align_corners, matrix) + offset  # (2, N, K, h)
    grid = (columns.unsqueeze(-2) + rows.unsqueeze(-1)).reshape(2, n, k * height, width)
    if not _tame(matrix):
        grid = grid.nan_to_num(nan=-_FAR, posinf=_FAR, neginf=-_FAR).clamp(-_FAR, _FAR)
    return grid.permute(1, 2, 3, 0)


def _base(length: int, align_corners: bool, like: Tensor) -> Tensor:
    """The normalised output coordinates of one axis."""
    twice = 2 * torch.arange(length, device=like.device, dtype=like.dtype) - (length - 1)
    return twice / max(length - 1 if align_corners else length, 1)


def _tame(matrix: Tensor) -> bool:
    """Whether no coordinate can overflow, where that is known without waiting for a device or breaking a graph."""
    if matrix.device.type != "cpu" or _is_traced():
        return False
    return bool(matrix.detach().abs().amax() < 1e5) if matrix.numel() else True


def _is_traced() -> bool:
    """Whether a compiler or a `torch.func` transform is looking on, so that no value may be read."""
    return torch.compiler.is_compiling() or torch._C._functorch.peek_interpreter_stack() is not None
