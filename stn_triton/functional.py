"""The public operation: validate, choose the backend, call it."""

from __future__ import annotations

import importlib.util
import operator
from collections.abc import Sequence

import torch
from torch import Tensor

from .torch_backend import st_sample_torch
from .transforms import TRANSFORMS, Options

_HAS_TRITON = importlib.util.find_spec("triton") is not None
if _HAS_TRITON:
    from .kernels.launch import INTERPRET
    from .ops import st_sample_triton

MODES = ("bilinear", "nearest")
PADDING_MODES = ("zeros", "border")
BACKENDS = ("triton", "torch")
_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def st_sample(
    input: Tensor,
    theta: Tensor,
    out_size: Sequence[int],
    *,
    transform: str = "affine",
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool = False,
    antialias: bool | int = False,
    backend: str | None = None,
) -> Tensor:
    """Resample images by the transformations theta: grid and sampling in one operation.

    Convention:
        theta maps OUTPUT coordinates to SOURCE coordinates, both normalised to [-1, 1] in (x, y) order, as
        `affine_grid` followed by `grid_sample` does: a theta that shrinks coordinates zooms in. -1 and 1 are the outer
        edges of the corner pixels, or with `align_corners=True` their centres. At an exactly whole source coordinate
        the derivative is the one to the right.

    Shapes:
        input: (N, C, H, W), float16, bfloat16, float32 or float64, any strides.
        theta: (N, 2, 3) for transform "affine"; (N, 3) = (s, tx, ty) for "attention". With an axis K after N, K
            transformers read the same input. Any of the dtypes above, whatever the input's.
        out_size: (h, w) of the result.
        Returns (N, C, h, w), or (N, K, C, h, w); the input's dtype; channels_last if the input is that and not also
        contiguous, else contiguous. Coordinates, weights and sums are float32, float64 if input or theta is.
        Gradients for input and theta, each in its tensor's dtype.

    Args:
        mode: "bilinear" or "nearest" (ties to even; theta's gradient is 0).
        padding_mode: what lies outside the input: "zeros", or "border" for its edge pixels.
        antialias: False (or 1): one sample an output pixel. Other values are not available in this version.
        backend: "triton" or "torch"; None takes Triton for tensors on a GPU, else torch.

    Raises:
        TypeError: input or theta not a tensor of a float dtype; out_size not a sequence of ints.
        ValueError: wrong shapes or sizes, unknown names, different devices.
        RuntimeError: backend="triton" where no Triton kernel can run.

    Deterministic: bitwise the same result and gradients on every run.

    Source: Jaderberg et al. 2015, section 3.2 (equations 1, 2) and 3.3 (equations 3 to 7).
    """
    size = _checked_size(out_size)
    _check_names(transform, mode, padding_mode, backend)
    _check_tensors(input, theta, transform)
    if not isinstance(align_corners, bool):
        raise TypeError(f"align_corners must be a bool, got {type(align_corners).__name__}")
    if antialias is True or (antialias != 1 and antialias is not False):
        raise ValueError(f"antialias must be False (or 1) in this version, got {antialias!r}")
    options = Options(transform, mode, padding_mode, align_corners)
    if _use_triton(backend, input.device):
        return st_sample_triton(input, theta, size, options)
    return st_sample_torch(input, theta, size, options)


def _checked_size(out_size: Sequence[int]) -> tuple[int, int]:
    if not isinstance(out_size, Sequence) or isinstance(out_size, str):
        raise TypeError(f"out_size must be a sequence of 2 ints, (h, w), got {out_size!r}")
    if any(isinstance(length, (bool, float)) for length in out_size):
        raise TypeError(f"out_size must be a sequence of 2 ints, (h, w), got {out_size!r}")
    if len(out_size) != 2:
        raise ValueError(f"out_size must have 2 entries, (h, w), got {len(out_size)}: {out_size!r}")
    try:
        height, width = (
            length if isinstance(length, (int, torch.SymInt)) else operator.index(length)
            for length in out_size
        )
    except TypeError:
        raise TypeError(
            f"out_size must be a sequence of 2 ints, (h, w), got {out_size!r}"
        ) from None
    if height < 1 or width < 1:
        raise ValueError(f"out_size must be positive, got {tuple(out_size)!r}")
    return height, width


def _check_names(transform: str, mode: str, padding_mode: str, backend: str | None) -> None:
    for name, value, allowed in (
        ("transform", transform, tuple(TRANSFORMS)),
        ("mode", mode, MODES),
        ("padding_mode", padding_mode, PADDING_MODES),
        ("backend", backend, (*BACKENDS, None)),
    ):
        if value not in allowed:
            raise ValueError(
                f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}"
            )


def _check_tensors(input: Tensor, theta: Tensor, transform: str) -> None:
    for name, tensor in (("input", input), ("theta", theta)):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} must be a tensor, got {type(tensor).__name__}")
        if tensor.dtype not in _DTYPES:
            raise TypeError(
                f"{name} must be float16, bfloat16, float32 or float64, got {tensor.dtype}"
            )
    if input.dim() != 4:
        raise ValueError(f"input must be (N, C, H, W), got shape {tuple(input.shape)}")
    if input.shape[2] < 1 or input.shape[3] < 1:
        raise ValueError(f"input must have positive H and W, got shape {tuple(input.shape)}")
    shape = TRANSFORMS[transform].shape
    outer = theta.dim() - len(shape)
    if outer not in (1, 2) or tuple(theta.shape[outer:]) != shape:
        wanted = ", ".join(map(str, shape))
        raise ValueError(
            f"theta must be (N, {wanted}) or (N, K, {wanted}) for transform {transform!r}, "
            f"got shape {tuple(theta.shape)}"
        )
    if theta.shape[0] != input.shape[0]:
        raise ValueError(
            f"theta must have the batch size of input, N = {input.shape[0]}, got {theta.shape[0]}; "
            "for several transformers on one image give theta an axis K, (N, K, ...); "
            "for one theta on a whole batch use theta.expand(N, ...)"
        )
    if theta.device != input.device:
        raise ValueError(
            f"input and theta must be on one device, got {input.device} and {theta.device}"
        )


def _use_triton(backend: str | None, device: torch.device) -> bool:
    if backend is None:
        return device.type == "cuda" and _HAS_TRITON
    if backend == "torch":
        return False
    if not _HAS_TRITON:
        raise RuntimeError("backend='triton' needs the package triton, which is not installed")
    if device.type != "cuda" and not INTERPRET:
        raise RuntimeError(
            f"backend='triton' needs a tensor on a GPU, got one on {device.type}; elsewhere its kernels run only in "
            "Triton's interpreter, with TRITON_INTERPRET=1 set before stn_triton is imported"
        )
    return True
