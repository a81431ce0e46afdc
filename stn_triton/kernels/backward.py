"""Which kernels give the gradients of a call."""

from __future__ import annotations

import torch
from torch import Tensor

from stn_triton.transforms import TRANSFORMS, Options

from .backward_boxes import box_backward
from .backward_cells import cell_backward
from .backward_pixels import pixel_backward
from .backward_theta import theta_backward
from .coordinates import source_coordinates
from .geometry import geometry

_Size = tuple[int, ...]


def sample_backward(
    grad: Tensor, input: Tensor, theta: Tensor, index: Tensor | None, size: _Size, options: Options,
    wanted: tuple[bool, bool],
) -> tuple[Tensor | None, Tensor | None]:  # fmt: skip
    """The gradients of (input, theta) as far as they are wanted, by the kernels that do no more than that."""
    arguments = grad, input, theta, index, size, options
    input_wanted, theta_wanted = wanted
    if input_wanted and _has_cells(input, options):
        g = geometry(*arguments[1:])
        if not (g.sparse and options.mode == "bilinear" and options.padding_mode == "zeros"):
            return cell_backward(*arguments, with_theta=theta_wanted)
        apart = input.new_empty(len(input), dtype=torch.int32)
        grad_input, _ = cell_backward(*arguments, with_theta=False, apart=apart)
        grad_theta = theta_backward(*arguments, apart=(apart, grad_input))
        return grad_input, grad_theta if theta_wanted else None
    coordinates = source_coordinates(*arguments[1:]) if input_wanted else None
    return (
        input_backward(*arguments, coordinates=coordinates) if input_wanted else None,
        theta_backward(*arguments, coordinates=coordinates) if theta_wanted else None,
    )


def _has_cells(input: Tensor, options: Options) -> bool:
    """Whether outputs share cells of four taps or one, so that one kernel gathers both gradients."""
    return (
        input.dim() == 4
        and TRANSFORMS[options.transform].matrix is not None
        and options.padding_mode != "reflection"
        and options.mode != "bicubic"
    )


def input_backward(
    grad: Tensor, input: Tensor, theta: Tensor, index: Tensor | None, size: _Size, options: Options,
    tangent: Tensor | None = None, coordinates: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """The gradient of the input, or its change along a tangent; by pixels where the map has an inverse."""
    invertible = TRANSFORMS[options.transform].matrix is not None or (
        # A horizon reflects without end.
        options.transform == "projective" and options.padding_mode != "reflection"
    )
    arguments = grad, input, theta, index, size, options, tangent
    return pixel_backward(*arguments) if invertible else box_backward(*arguments, coordinates)
