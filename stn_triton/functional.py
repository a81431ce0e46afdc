"""The public operation: validate, choose the backend, call it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_variadic

from . import native
from .checks import checked
from .control_points import ControlPoints
from .ops import (
    HAS_TRITON,
    INTERPRET,
    st_sample_native,
    st_sample_registered,
    st_sample_triton,
    takes_operators,
)
from .torch_backend import st_sample_torch
from .tracing import comparing_shapes, is_jit_traced, is_transformed


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
    given = (
        input, theta, index, out_size, transform, mode, padding_mode, padding_value, align_corners,
        antialias, control_points, backend,
    )  # fmt: skip
    if is_jit_traced():
        with comparing_shapes():
            size, options = checked(*given)
            _chosen(backend, input)
            return st_sample_torch(input, theta, index, size, options)
    size, options = checked(*given)
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
