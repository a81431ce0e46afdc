"""`st_sample` in plain torch operations: the path of CPU tensors, and of any device with `backend="torch"`.

The sampling grid is built separably: what x gives to a coordinate and what y gives are two small tensors, and one
broadcast sum makes the grid. Theta's gradient then is two sums over the grid's, by autograd.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .formats import compute_dtype, is_channels_last, like_output, transformers
from .transforms import TRANSFORMS, Options
from .weighted_rows import FEWEST_CHANNELS, FEWEST_CHANNELS_TO_TURN, sample_rows

_MODES = {"bilinear": 0, "nearest": 1}
_PADDINGS = {"zeros": 0, "border": 1}
_FAR = 1e6
"""A normalised coordinate outside every image, finite in pixel units too."""


def st_sample_torch(
    input: Tensor, theta: Tensor, out_size: tuple[int, int], options: Options
) -> Tensor:
    """`st_sample` in torch operations, arguments validated."""
    n, channels = input.shape[:2]
    k = transformers(theta, options)
    wide = compute_dtype(input, theta)
    matrix = TRANSFORMS[options.transform].matrix(theta.to(wide))
    if 0 in input.shape or 0 in k:
        return like_output(_empty(input, matrix, (n, *k, channels, *out_size)), input)
    matrix = matrix.reshape(n, -1, 2, 3)
    image = _with_formatted_gradient(input).to(wide)
    if _by_rows(image) and _tame(matrix):
        output = _sample_by_rows(image, matrix, out_size, options)
    else:
        output = _sample_by_grid(image, matrix, out_size, options)
    return like_output(output.to(input.dtype) if k else output[:, 0].to(input.dtype), input)


def _sample_by_grid(
    image: Tensor, matrix: Tensor, out_size: tuple[int, int], options: Options
) -> Tensor:
    """(N, K, C, h, w) by `grid_sampler`: K results one above the other, so that the image is not copied K times."""
    columns, rows = _separate(matrix, out_size, options.align_corners)
    if _tame(matrix):
        # As complex numbers x + iy, the sum and the two sums of its derivative run over whole rows of memory.
        columns, rows = torch.view_as_complex(columns), torch.view_as_complex(rows)
        grid = torch.view_as_real(columns.unsqueeze(2) + rows.unsqueeze(3))  # (N, K, h, w, 2)
    else:
        grid = columns.unsqueeze(2) + rows.unsqueeze(3)
        grid = grid.nan_to_num(nan=-_FAR, posinf=_FAR, neginf=-_FAR).clamp(-_FAR, _FAR)
    output = torch.grid_sampler_2d(
        image, grid.flatten(1, 2),
        _MODES[options.mode], _PADDINGS[options.padding_mode], options.align_corners,
    )  # fmt: skip
    return output.unflatten(2, (-1, out_size[0])).movedim(2, 1)


def _sample_by_rows(
    image: Tensor, matrix: Tensor, out_size: tuple[int, int], options: Options
) -> Tensor:
    """(N, K, C, h, w) by weighted rows, with coordinates in pixels."""
    n, k = matrix.shape[:2]
    columns, rows = _separate(matrix, out_size, options.align_corners)
    height, width = image.shape[2:]
    corners = float(options.align_corners)
    ends = matrix.new_tensor([width - corners, height - corners]) / 2
    middle = matrix.new_tensor([width - 1.0, height - 1.0]) / 2
    columns, rows = (columns * ends).movedim(-1, 0), (rows * ends + middle).movedim(-1, 0)
    source = (columns.unsqueeze(3) + rows.unsqueeze(4)).flatten(2)  # (2, N, K h w)
    output = sample_rows(image, source, options.mode, options.padding_mode)
    return output.view(n, k, *out_size, -1).movedim(-1, -3)


def _by_rows(image: Tensor) -> bool:
    """Whether to sample whole pixels instead of channel by channel (on a CPU; `_tame` says so)."""
    fewest = FEWEST_CHANNELS if is_channels_last(image) else FEWEST_CHANNELS_TO_TURN
    return image.shape[1] >= fewest and image.dtype == torch.float32


def _separate(
    matrix: Tensor, out_size: tuple[int, int], align_corners: bool
) -> tuple[Tensor, Tensor]:
    """(N, K, 2, 3) -> what x and what y give to the normalised source (x, y): (N, K, w, 2) and (N, K, h, 2)."""
    height, width = out_size
    by_x, by_y, offset = matrix.unsqueeze(2).unbind(-1)  # (N, K, 1, 2)
    return (
        by_x * _base(width, align_corners, matrix),
        torch.addcmul(offset, by_y, _base(height, align_corners, matrix)),
    )


def _base(length: int, align_corners: bool, like: Tensor) -> Tensor:
    """The normalised output coordinates of one axis, (length, 1)."""
    twice = torch.arange(1 - length, length, 2, dtype=like.dtype, device=like.device)
    return (twice / max(length - 1 if align_corners else length, 1)).unsqueeze(1)


def _with_formatted_gradient(input: Tensor) -> Tensor:
    """The input, whose gradient will come in its own memory format; compilers choose theirs."""
    if not input.requires_grad or _is_traced():
        return input
    layout = torch.channels_last if is_channels_last(input) else torch.contiguous_format
    view = input.view_as(input)
    view.register_hook(lambda grad: grad.contiguous(memory_format=layout))
    return view


def _empty(input: Tensor, matrix: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A result without elements that has gradients."""
    return input.new_empty(shape) + 0 * (input.sum() + matrix.sum().to(input.dtype))


def _tame(matrix: Tensor) -> bool:
    """Whether no coordinate can overflow, where that is known without waiting for a device or breaking a graph."""
    if matrix.device.type != "cpu" or _is_traced():
        return False
    least, most = torch.aminmax(matrix.detach())
    return least.item() > -1e5 and most.item() < 1e5  # False if NaN


def _is_traced() -> bool:
    """Whether a compiler or a `torch.func` transform is looking on, so that no value may be read."""
    return torch.compiler.is_compiling() or torch._C._functorch.peek_interpreter_stack() is not None
