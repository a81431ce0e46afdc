"""The public operation: validate, choose the backend, call it."""

from __future__ import annotations

import math
import operator
from collections.abc import Collection, Sequence

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_variadic

from . import native
from .control_points import ControlPoints, Points, checked_points, count_of, described
from .formats import compute_dtype
from .ops import (
    HAS_TRITON,
    INTERPRET,
    st_sample_native,
    st_sample_registered,
    st_sample_triton,
    takes_operators,
)
from .ragged import check_range
from .torch_backend import st_sample_torch
from .tracing import comparing_shapes, is_jit_traced, is_transformed, under_transforms
from .transforms import AUTO, TRANSFORMS, Options

MODES = ("bilinear", "nearest", "bicubic")
PADDING_MODES = ("zeros", "border", "reflection")
BACKENDS = ("triton", "native", "torch")
_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def st_sample(
    input: Tensor,
    theta: Tensor,
    out_size: Sequence[int] | None = None,
    *,
    transform: str = "affine",
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    padding_value: float = 0.0,
    align_corners: bool = False,
    antialias: bool | int = False,
    control_points: ControlPoints = None,
    index: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """Resample images by the transformations theta: grid and sampling in one operation.

    Convention:
        theta maps OUTPUT coordinates to SOURCE coordinates, both normalised to [-1, 1] in (x, y) order, as
        `affine_grid` followed by `grid_sample` does: a theta that shrinks coordinates zooms in. -1 and 1 are the outer
        edges of the corner pixels, or with `align_corners=True` their centres. At an exactly whole source coordinate
        the derivative is the one to the right.

    Shapes:
        input: (N, C, H, W) or (N, C, D, H, W), float16, bfloat16, float32 or float64, any strides.
        theta: any of the dtypes above, whatever the input's. With an axis K after N, (N, K, ...), K transformers read
            the same input: a theta of shape (N, 2, 3) is K = 2 for "attention".
            "affine": (N, 2, 3), for 5-D input (N, 3, 4).
            "attention": (N, 3) = (s, tx, ty), for 5-D input (N, 4) = (s, tx, ty, tz).
            "projective": (N, 8), row-major with h33 = 1, or (N, 3, 3) of any scale; divided by the third coordinate
                whatever its sign; where that is 0, outside, as +inf in x and y.
            "tps", "piecewise_affine": (N, P, 2), the source (x, y) of P control points of the output, by default with
                P = G * G those of a regular G x G lattice over it, y slow; the points themselves are the identity. In
                between a thin-plate spline, or linear in the two triangles of each cell, split from its (x0, y0) to its
                (x1, y1) corner.
        index: (M,) int64, ragged crops: theta is then (M, ...), without K, and theta m reads image index[m].
        out_size: (h, w) of the result, or (d, h, w); None: the size of input.
        Returns (N, C, *out_size), or (N, K, C, *out_size), with index (M, C, *out_size); the input's dtype;
        channels_last if the input is that and not also contiguous, else contiguous. Coordinates, weights and sums are
        float32, float64 if input or theta is. Gradients for input and theta, each in its tensor's dtype.

    Args:
        mode: "bilinear" (trilinear for 5-D input), "nearest" (ties to even; theta's gradient is 0) or "bicubic" (4-D).
        padding_mode: what lies outside the input: "zeros", its edge pixels ("border"), or the mirrored input
            ("reflection").
        padding_value: with "zeros" what lies outside instead of 0: every tap outside counts as this number, and a
            sample that lies outside altogether, or nowhere, is this number.
        antialias: False: one sample an output pixel. An int S: the mean of S x S samples inside it (S x S x S for 5-D
            input). True, for affine and attention: S = 1 to 8 as theta shrinks the input, chosen for each theta.
            Needs align_corners=False.
        control_points: of "tps" and "piecewise_affine", in the output: G, or (rows, columns) of a regular lattice over
            [-1, 1]², y slow; for "tps" also points (x, y) anywhere, at least three and not all on one line, as a nested
            sequence or a CPU tensor (P, 2). They are a constant without gradient, in recorded graphs too. None: G x G.
        backend: "triton", "native" or "torch"; None takes Triton for tensors on a GPU, the native library for those on
            a CPU where it was built (see `show_config`), else torch.

    Raises:
        TypeError: input or theta not a tensor of a float dtype; out_size not a sequence of ints.
        ValueError: wrong shapes or sizes, unknown names, different devices, options that exclude each other.
        IndexError: an index outside [0, N), on a CPU; on a GPU, which nobody waits for, its crop is 0 without gradient.
        RuntimeError: backend="triton" where no Triton kernel can run, "native" where the library is not there.

    Deterministic: bitwise the same result and gradients on every run, but for backend="torch" on a GPU, whose gradient
    of input PyTorch adds up in any order.

    Derivatives: of any order in eager mode, backward, forward and under `torch.func` transforms; inside
    `torch.compile` the gradients.

    Source: Jaderberg et al. 2015, section 3.2 (equations 1, 2) and 3.3 (equations 3 to 7).
    """
    if has_torch_function_variadic(input, theta, index):  # of `torch.fx` or of a tensor subclass
        return handle_torch_function(
            st_sample, (input, theta, index), input, theta, out_size, transform=transform, mode=mode,
            padding_mode=padding_mode, padding_value=padding_value, align_corners=align_corners,
            antialias=antialias, control_points=control_points, index=index, backend=backend,
        )  # fmt: skip
    if is_jit_traced():
        with comparing_shapes():
            size, options = checked(
                input, theta, index, out_size, transform, mode, padding_mode, padding_value, align_corners,
                antialias, control_points, backend,
            )  # fmt: skip
            _chosen(backend, input)
            return st_sample_torch(input, theta, index, size, options)
    size, options = checked(
        input, theta, index, out_size, transform, mode, padding_mode, padding_value, align_corners,
        antialias, control_points, backend,
    )  # fmt: skip
    if backend is None and _is_a_node(input, theta):
        return st_sample_registered(input, theta, index, size, options)
    run = _RUNS[_chosen(backend, input)]
    return run(input, theta, index, size, options)


_RUNS = {"triton": st_sample_triton, "native": st_sample_native, "torch": st_sample_torch}


def _is_a_node(input: Tensor, theta: Tensor) -> bool:
    """Whether a graph that is being recorded gets the registered operator, where the backend is left open.

    On a CPU the operator samples as in eager mode, several times faster than what Inductor makes of its parts; and an
    exported program runs on every device.
    """
    if not torch.compiler.is_compiling() or is_transformed(input, theta):
        return False
    if input.device.type != "cpu" and not torch.compiler.is_exporting():
        return False
    return takes_operators()


def checked(
    input: Tensor,
    theta: Tensor,
    index: Tensor | None,
    out_size: Sequence[int] | None,
    transform: str,
    mode: str,
    padding_mode: str,
    padding_value: float,
    align_corners: bool,
    antialias: bool | int,
    control_points: ControlPoints = None,
    backend: str | None = None,
) -> tuple[tuple[int, ...], Options]:
    """The output's size and the options of a call; refuses what `st_sample` cannot do."""
    size = _size_of(input) if out_size is None else checked_size(out_size)
    options = checked_options(
        len(size), transform, mode, padding_mode, padding_value, align_corners, antialias, control_points, backend
    )  # fmt: skip
    _check_tensors(input, theta, index, size, options)
    _check_range(options.padding_value, compute_dtype(input, theta))
    return size, options


def _size_of(input: Tensor) -> tuple[int, ...]:
    check_float("input", input)
    _check_images(input)
    return tuple(input.shape[2:])


def checked_options(
    ndim: int,
    transform: str,
    mode: str,
    padding_mode: str,
    padding_value: float,
    align_corners: bool,
    antialias: bool | int,
    control_points: ControlPoints = None,
    backend: str | None = None,
) -> Options:
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


def checked_size(out_size: Sequence[int], name: str = "out_size") -> tuple[int, ...]:
    """A size as a tuple; refuses what is not 2 or 3 positive ints by an error that begins with `name`."""
    if not isinstance(out_size, Sequence) or isinstance(out_size, str):
        raise _not_a_size(out_size, name)
    if any(isinstance(length, (bool, float)) for length in out_size):
        raise _not_a_size(out_size, name)
    if len(out_size) not in (2, 3):
        raise ValueError(
            f"{name} must have 2 or 3 entries, (h, w) or (d, h, w), got {len(out_size)}: {out_size!r}"
        )
    # `torch.jit.trace` gives the lengths of a shape as tensors, whose origin it records.
    kept = (int, torch.SymInt, Tensor) if is_jit_traced() else (int, torch.SymInt)
    try:
        size = tuple(
            length if isinstance(length, kept) else operator.index(length) for length in out_size
        )
    except TypeError:
        raise _not_a_size(out_size, name) from None
    if any(length < 1 for length in size):
        raise ValueError(f"{name} must be positive, got {size!r}")
    return size


def _not_a_size(got: object, name: str) -> TypeError:
    return TypeError(f"{name} must be a sequence of 2 or 3 ints, (h, w) or (d, h, w), got {got!r}")


def _check_names(transform: str, mode: str, padding_mode: str, backend: str | None) -> None:
    for name, value, allowed in (
        ("transform", transform, tuple(TRANSFORMS)),
        ("mode", mode, MODES),
        ("padding_mode", padding_mode, PADDING_MODES),
        ("backend", backend, (*BACKENDS, None)),
    ):
        check_name(name, value, allowed)


def check_name(name: str, value: object, allowed: Collection[object]) -> None:
    """Refuse a value that is not one of those allowed."""
    if value not in allowed:
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
    if antialias is True and TRANSFORMS[transform].matrix is None:
        raise ValueError(
            f"antialias=True is for transform 'affine' or 'attention', got {transform!r}; give an int"
        )
    if align_corners:
        raise ValueError(f"antialias needs align_corners=False, got {antialias!r} and True")
    return AUTO if antialias is True else samples


def _check_tensors(
    input: Tensor, theta: Tensor, index: Tensor | None, size: tuple[int, ...], options: Options
) -> None:
    for name, tensor in (("input", input), ("theta", theta)):
        check_float(name, tensor)
    _check_images(input)
    ndim = input.dim() - 2
    if len(size) != ndim:
        wanted = "2 entries, (h, w)," if ndim == 2 else "3 entries, (d, h, w),"
        raise ValueError(
            f"out_size must have {wanted} for input of shape {tuple(input.shape)}, got {len(size)}: {size!r}"
        )
    check_theta(theta, options.transform, ndim, options.control_points)
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


def _chosen(backend: str | None, input: Tensor) -> str:
    """The backend that runs; refuses one that cannot."""
    device = input.device
    if backend is None:
        if device.type == "cuda":
            return "triton" if HAS_TRITON else "torch"
        return "torch" if _lacks_native(input) else "native"
    missing = {
        "triton": _lacks_triton(device),
        "native": backend == "native" and _lacks_native(input),
    }
    if why := missing.get(backend):
        raise RuntimeError(f"backend={backend!r} {why}")
    return backend


def _lacks_triton(device: torch.device) -> str | None:
    """Why the kernels cannot run on a device."""
    if not HAS_TRITON:
        return "needs the package triton, which is not installed"
    if device.type != "cuda" and not INTERPRET:
        return (
            f"needs a tensor on a GPU, got one on {device.type}; elsewhere its kernels run only in "
            "Triton's interpreter, with TRITON_INTERPRET=1 set before stn_triton is imported"
        )
    return None


def _lacks_native(input: Tensor) -> str | None:
    """Why the native library cannot sample an input."""
    if input.device.type != "cpu":
        return f"needs a tensor on a CPU, got one on {input.device.type}"
    if native.library.MISSING:
        return f"is not there: {native.library.MISSING}"
    if not torch.compiler.is_compiling() and not native.sampler.can_sample(input):
        return f"needs fewer than 2**31 pixels in an image, got shape {tuple(input.shape)}"
    return None
