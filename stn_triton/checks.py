"""What a call may be: every argument validated, and refused by a message that says what was wanted and what came."""

from __future__ import annotations

import math
import operator
from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from .control_points import ControlPoints, Points, checked_points, count_of, described
from .formats import compute_dtype
from .ragged import check_range
from .tracing import is_jit_traced, under_transforms
from .transforms import AUTO, TRANSFORMS, Options

MODES = ("bilinear", "nearest", "bicubic")
PADDING_MODES = ("zeros", "border", "reflection")
BACKENDS = ("triton", "native", "torch")
_TOO_MANY = 2**48
"""Pixels that no memory holds, however few bytes each has."""
_MOST_SAMPLES = 2**15 - 1
"""Along an axis of an output pixel: those of a pixel are counted in 32 bits."""
_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def checked(
    input: Tensor, theta: Tensor, index: Tensor | None, out_size: Sequence[int] | None, transform: str,
    mode: str, padding_mode: str, padding_value: float, align_corners: bool, antialias: bool | int,
    control_points: ControlPoints = None, backend: str | None = None,
) -> tuple[tuple[int, ...], Options]:  # fmt: skip
    """The output's size and the options of a call; refuses what `st_sample` cannot do."""
    _check_images(input)
    size = tuple(input.shape[2:]) if out_size is None else checked_size(out_size)
    _check_length(size, input)
    options = checked_options(
        len(size), transform, mode, padding_mode, padding_value, align_corners, antialias, control_points, backend
    )  # fmt: skip
    _check_thetas(input, theta, index, options)
    _check_range(options.padding_value, compute_dtype(input, theta))
    return size, options


def checked_options(
    ndim: int, transform: str, mode: str, padding_mode: str, padding_value: float, align_corners: bool,
    antialias: bool | int, control_points: ControlPoints = None, backend: str | None = None,
) -> Options:  # fmt: skip
    """The options of a call for images of `ndim` spatial axes; refuses what excludes each other."""
    _check_names(transform, mode, padding_mode, backend)
    if not isinstance(align_corners, bool):
        raise TypeError(f"align_corners must be a bool, got {type(align_corners).__name__}")
    if mode == "bicubic" and ndim != 2:
        raise ValueError("mode 'bicubic' is for input (N, C, H, W), not (N, C, D, H, W)")
    outside = _checked_padding_value(padding_value, padding_mode)
    samples = _checked_samples(antialias, transform, align_corners)
    points = checked_points(control_points, transform, TRANSFORMS[transform].lattice)
    return Options(transform, mode, padding_mode, outside, align_corners, samples, points)


def checked_size(
    out_size: Sequence[int], name: str = "out_size", *, of_images: bool = False
) -> tuple[int, ...]:
    """A size as a tuple; refuses what is not 2 or 3 positive ints by an error that begins with `name`.

    of_images: the size must have 2 entries, since it cannot be that of a volume.
    """
    if not isinstance(out_size, Sequence) or isinstance(out_size, str | bytes | bytearray):
        raise _not_a_size(out_size, name, of_images)
    if any(isinstance(length, (bool, float)) for length in out_size):
        raise _not_a_size(out_size, name, of_images)
    if len(out_size) not in ((2,) if of_images else (2, 3)):
        wanted = "2 entries, (h, w)" if of_images else "2 or 3 entries, (h, w) or (d, h, w)"
        raise ValueError(f"{name} must have {wanted}, got {len(out_size)}: {out_size!r}")
    # `torch.jit.trace` gives the lengths of a shape as tensors, whose origin it records.
    kept = (int, torch.SymInt, Tensor) if is_jit_traced() else (int, torch.SymInt)
    try:
        size = tuple(
            length if isinstance(length, kept) else operator.index(length) for length in out_size
        )
    except TypeError:
        raise _not_a_size(out_size, name, of_images) from None
    if any(length < 1 for length in size):
        raise ValueError(f"{name} must be positive, got {size!r}")
    if all(type(length) is int for length in size) and math.prod(size) >= _TOO_MANY:
        raise ValueError(f"{name} must have fewer than 2**48 pixels in all, got {size!r}")
    return size


def _not_a_size(got: object, name: str, of_images: bool) -> TypeError:
    wanted = "2 ints, (h, w)" if of_images else "2 or 3 ints, (h, w) or (d, h, w)"
    return TypeError(f"{name} must be a sequence of {wanted}, got {got!r}")


def _check_names(transform: str, mode: str, padding_mode: str, backend: str | None) -> None:
    for name, value, allowed in (
        ("transform", transform, tuple(TRANSFORMS)),
        ("mode", mode, MODES),
        ("padding_mode", padding_mode, PADDING_MODES),
        ("backend", backend, (*BACKENDS, None)),
    ):
        check_name(name, value, allowed)


def check_name(name: str, value: object, allowed: Collection[object]) -> None:
    """Refuse a value that is not one of those allowed: names, whole numbers or None."""
    # An array compares with each of them entry by entry, and 2.0 and True are equal to whole numbers.
    named = value is None or (isinstance(value, str | int) and not isinstance(value, bool))
    if not named or value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}")


def _checked_padding_value(value: float, padding_mode: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(
            f"padding_value must be an int or a float, got {value!r}, a {type(value).__name__}"
        )
    try:
        value = float(value)
    except OverflowError:
        value = math.inf
    if not abs(value) < math.inf:
        raise ValueError(f"padding_value must be finite, got {value}")
    if value != 0 and padding_mode != "zeros":
        raise ValueError(
            f"padding_value is for padding_mode 'zeros', got {value} and {padding_mode!r}"
        )
    return value + 0.0  # of -0.0 that makes 0.0


def _check_range(padding_value: float, dtype: torch.dtype) -> None:
    """Refuse what would not be finite where sums are made."""
    most = torch.finfo(dtype).max
    if not -most <= padding_value <= most:
        raise ValueError(
            f"padding_value must be finite in {dtype}, in which these tensors are sampled, "
            f"got {padding_value}"
        )


def _checked_samples(antialias: bool | int, transform: str, align_corners: bool) -> int:
    if antialias is False:
        return 1
    try:
        samples = operator.index(antialias)
    except TypeError:
        raise TypeError(
            f"antialias must be a bool or an int, got {antialias!r}, a {type(antialias).__name__}"
        ) from None
    if samples < 1:
        raise ValueError(f"antialias must be False, True or an int of at least 1, got {antialias}")
    if samples > _MOST_SAMPLES:
        raise ValueError(f"antialias must be at most {_MOST_SAMPLES}, got {antialias}")
    if antialias is True and TRANSFORMS[transform].matrix is None:
        raise ValueError(
            f"antialias=True is for transform 'affine' or 'attention', got {transform!r}; give an int"
        )
    if align_corners:
        raise ValueError(f"antialias needs align_corners=False, got {antialias!r} and True")
    return AUTO if antialias is True else samples


def _check_length(size: tuple[int, ...], input: Tensor) -> None:
    ndim = input.dim() - 2
    if len(size) != ndim:
        wanted = "2 entries, (h, w)," if ndim == 2 else "3 entries, (d, h, w),"
        raise ValueError(
            f"out_size must have {wanted} for input of shape {tuple(input.shape)}, got {len(size)}: {size!r}"
        )


def _check_thetas(input: Tensor, theta: Tensor, index: Tensor | None, options: Options) -> None:
    """Refuse thetas that are not those of the transformation, one for each image or entry of index."""
    check_float("theta", theta)
    check_theta(theta, options.transform, input.dim() - 2, options.control_points)
    if index is not None:
        _check_index(index, input, theta, options)
    elif theta.shape[0] != input.shape[0]:
        raise ValueError(
            f"theta must have the batch size of input, N = {input.shape[0]}, got {theta.shape[0]}; "
            "for several transformers on one image give theta an axis K, (N, K, ...); "
            "for one theta on a whole batch use theta.expand(N, ...)"
        )
    if theta.device != input.device:
        raise ValueError(
            f"input and theta must be on one device, got {input.device} and {theta.device}"
        )


def _check_images(input: Tensor) -> None:
    check_float("input", input)
    if input.dim() not in (4, 5):
        raise ValueError(
            f"input must be (N, C, H, W) or (N, C, D, H, W), got shape {tuple(input.shape)}"
        )
    if 0 in input.shape[2:]:
        names = "D, H and W" if input.dim() == 5 else "H and W"
        raise ValueError(f"input must have positive {names}, got shape {tuple(input.shape)}")


def _check_index(index: Tensor, input: Tensor, theta: Tensor, options: Options) -> None:
    """Refuse what is not the number of an image for each theta."""
    if not isinstance(index, Tensor):
        raise TypeError(f"index must be a tensor, got {type(index).__name__}")
    if index.dtype != torch.int64:
        raise TypeError(f"index must be int64, got {index.dtype}")
    if index.dim() != 1:
        raise ValueError(f"index must be (M,), got shape {tuple(index.shape)}")
    trailing = TRANSFORMS[options.transform].trailing_shape(
        tuple(theta.shape), input.dim() - 2, options.control_points
    )
    assert trailing is not None
    if theta.dim() != 1 + len(trailing):
        raise ValueError(
            "with index theta must be (M, ...), one for each entry and without the axis K, "
            f"got shape {tuple(theta.shape)}"
        )
    if theta.shape[0] != index.shape[0]:
        raise ValueError(
            f"theta must have as many transformations as index has entries, M = {index.shape[0]}, "
            f"got {theta.shape[0]}"
        )
    if index.device != input.device:
        raise ValueError(
            f"input and index must be on one device, got {input.device} and {index.device}"
        )
    numbers = under_transforms(index)
    if numbers is not None:
        check_range(numbers, input.shape[0])


def check_float(name: str, tensor: Tensor) -> None:
    """Refuse what is not a tensor of a float dtype."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(tensor).__name__}")
    if tensor.dtype not in _DTYPES:
        raise TypeError(f"{name} must be float16, bfloat16, float32 or float64, got {tensor.dtype}")
    if tensor.layout is not torch.strided or tensor.is_nested:
        what = "nested" if tensor.is_nested else tensor.layout
        raise TypeError(f"{name} must be a dense tensor, got one that is {what}")


def check_theta(theta: Tensor, transform: str, ndim: int, points: Points = ()) -> None:
    """Refuse a theta that is not (N, [K,] *shape) for `transform` over `ndim` spatial axes."""
    entry = TRANSFORMS[transform]
    if ndim not in entry.ndims:
        raise ValueError(f"transform {transform!r} is for input (N, C, H, W), not (N, C, D, H, W)")
    if entry.trailing_shape(tuple(theta.shape), ndim, points) is not None:
        return
    count = count_of(points) or "P"
    shapes = [
        ", ".join(str(count if each == "P" else each) for each in shape)
        for shape in entry.shapes(ndim)
    ]
    wanted = " or ".join(f"({lead}, {shape})" for shape in shapes for lead in ("N", "N, K"))
    squared = " with P = G * G, G >= 2," if entry.lattice and not points else ""
    raise ValueError(
        f"theta must be {wanted}{squared} for transform {transform!r}{described(points)}, "
        f"got shape {tuple(theta.shape)}"
    )
