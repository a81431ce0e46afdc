"""Compiling the kernels before the first call."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .checks import checked
from .control_points import ControlPoints, as_given, points_or_usual
from .modules import check_at_least
from .ops import HAS_TRITON, INTERPRET
from .transforms import TRANSFORMS


def warmup(
    input_shape: Sequence[int], out_size: Sequence[int] | None = None, *,
    num_transformers: int | None = None, num_crops: int | None = None,
    control_points: ControlPoints = 4, dtype: torch.dtype = torch.float32,
    theta_dtype: torch.dtype = torch.float32, channels_last: bool = False,
    gradients: Sequence[str] = ("input", "theta"), device: torch.device | str | int | None = None,
    transform: str = "affine", mode: str = "bilinear", padding_mode: str = "zeros",
    padding_value: float = 0.0, align_corners: bool = False, antialias: bool | int = False,
) -> int:  # fmt: skip
    """Compile the Triton kernels that calls of `st_sample` will need, without running them.

    Kernels are compiled for dtypes, memory format, options, and block sizes, which follow from the number of channels
    and roughly from the sizes; other sizes usually need no other kernel. Triton keeps them on disk, too.

    Args:
        input_shape: (N, C, H, W) or (N, C, D, H, W).
        out_size: (h, w), or (d, h, w); None: that of the input.
        num_transformers: K, or None for a theta without that axis.
        num_crops: M of calls with an index; None: without.
        control_points: of "tps" and "piecewise_affine", as in `st_sample` (None: 4); the others ignore them.
        dtype, theta_dtype, channels_last: of the tensors that will come.
        gradients: those that will be asked for: "input", "theta", both, or none for the forward pass alone.
        device: the GPU to compile for; None is the current one.
        transform, mode, padding_mode, padding_value, align_corners, antialias: as in `st_sample`.

    Returns the number of kernels; 0 where there is nothing to compile: on a CPU, or without Triton.

    Raises as `st_sample` does, and ValueError for other names in `gradients`.
    """
    _check_arguments(input_shape, dtype, theta_dtype, channels_last, gradients)
    lead, index = _leading(input_shape[0], num_transformers, num_crops)
    x = torch.empty(tuple(input_shape), dtype=dtype, device="meta")
    if channels_last:
        x = x.to(memory_format=torch.channels_last if x.dim() == 4 else torch.channels_last_3d)
    entry = TRANSFORMS.get(transform, TRANSFORMS["affine"])
    points = points_or_usual(control_points, transform, entry.lattice)
    theta = torch.empty(
        (*lead, *entry.identity(x.dim() - 2, points).shape), dtype=theta_dtype, device="meta"
    )
    size, options = checked(
        x, theta, index, out_size, transform, mode, padding_mode, padding_value, align_corners, antialias,
        as_given(points) if points else None,
    )  # fmt: skip
    where = torch.device("cuda" if device is None else device)
    if not HAS_TRITON or INTERPRET or where.type != "cuda" or not torch.cuda.is_available():
        return 0
    from .kernels.backward import sample_backward
    from .kernels.forward import sample_forward
    from .kernels.launch import recorded

    with recorded() as launches:
        output = sample_forward(x, theta, index, size, options)
        if gradients:
            wanted = "input" in gradients, "theta" in gradients
            sample_backward(output, x, theta, index, size, options, wanted)
    with torch.cuda.device(where):
        for launch in launches:
            launch.compile()
    return len(launches)


def _check_arguments(
    input_shape: Sequence[int], dtype: object, theta_dtype: object, channels_last: object, gradients: Sequence[str],
) -> None:  # fmt: skip
    if isinstance(gradients, str):
        raise TypeError(f"gradients must be a sequence of names, got {gradients!r}")
    if not set(gradients) <= {"input", "theta"}:
        raise ValueError(f"gradients must be among 'input' and 'theta', got {gradients!r}")
    if not isinstance(input_shape, Sequence):
        raise TypeError(
            f"input_shape must be a sequence of 4 or 5 ints, got {type(input_shape).__name__}"
        )
    if len(input_shape) not in (4, 5):
        raise ValueError(
            f"input_shape must be (N, C, H, W) or (N, C, D, H, W), got {tuple(input_shape)}"
        )
    for name, value in (("dtype", dtype), ("theta_dtype", theta_dtype)):
        if not isinstance(value, torch.dtype) or not value.is_floating_point:
            raise TypeError(f"{name} must be a float dtype, got {value!r}")
    if not isinstance(channels_last, bool):
        raise TypeError(f"channels_last must be a bool, got {channels_last!r}")


def _leading(
    images: int, num_transformers: int | None, num_crops: int | None
) -> tuple[tuple[int, ...], torch.Tensor | None]:
    """The axes of theta before those of one transformation, and the index of ragged crops."""
    if num_transformers is not None:
        check_at_least("num_transformers", num_transformers, 1)
    if num_crops is None:
        return (images,) if num_transformers is None else (images, num_transformers), None
    check_at_least("num_crops", num_crops, 1)
    if num_transformers is not None:
        raise ValueError("num_crops is for a theta without an axis K, got num_transformers too")
    return (num_crops,), torch.empty(num_crops, dtype=torch.int64, device="meta")
