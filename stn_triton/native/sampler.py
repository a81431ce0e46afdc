"""`st_sample` and its gradients by the native library, for tensors on the CPU whose arguments were validated.

This is the only place that calls the library. The chain from a call to pixels goes on in `library.cc`; `call.h` has
the order of reading.
"""

from __future__ import annotations

import ctypes
import math
from functools import lru_cache

import torch
from torch import Tensor

from stn_triton.control_points import (
    Lattice,
    Points,
    count_of,
    lattice_coefficients,
    lattice_theta_gradient,
    points_of,
)
from stn_triton.formats import (
    compute_dtype,
    empty_input_gradient,
    empty_output,
    is_channels_last,
    like_output,
    outer_shape,
    theta_shape,
)
from stn_triton.ragged import rows_of_images
from stn_triton.tracing import as_stored, unobserved
from stn_triton.transforms import TRANSFORMS, Options, output_axes

from .library import LIBRARY, Call

_TRANSFORMS = {"affine": 0, "attention": 1, "projective": 2, "tps": 3, "piecewise_affine": 3}
_TAPS = {"nearest": 1, "bilinear": 2, "bicubic": 4}
_PADDINGS = {"zeros": 0, "border": 1, "reflection": 2}
_STORAGES = {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3}
_NS_PER_TAP = 0.3
"""Nanoseconds for one tap of one element, estimated low. `_threads` estimates the time of a call with it."""
_MS_PER_THREAD = 1.0
"""Milliseconds of estimated work for which a thread is started. On an idle core a thread would pay from 0.1 ms on. But
after an operation of PyTorch's the threads of OpenMP keep the cores busy for a while, and ours waits for its turn."""
_LARGEST_KEPT_BASIS = 2**23
"""The largest basis of a lattice that is cached, in numbers: 32 MB in float32. The last four are kept."""
_BASIS_NUMBERS_AT_A_TIME = 2**18
"""Numbers of a basis that are computed together. It bounds the memory of the intermediate results."""

_Size = tuple[int, ...]
_Wanted = tuple[bool, bool]


def can_sample(input: Tensor) -> bool:
    """Whether the pixels of an image can be counted in 32 bits, as the library counts them."""
    return math.prod(input.shape[2:]) < 2**31


def sample_forward(
    input: Tensor, theta: Tensor, index: Tensor | None, out_size: _Size, options: Options
) -> Tensor:
    """The output, S(theta) u: equation (1) of `stn_triton/kernels/__init__.py`."""
    outer = outer_shape(theta, len(out_size), options)
    output = empty_output(input, outer, out_size)
    if not output.numel():
        return output
    stored = _as_read(input, theta)
    wide = _result_like(output, stored)
    _run(stored, theta, index, out_size, options, output=wide)
    return output if wide is output else output.copy_(wide)


def sample_backward(
    grad: Tensor, input: Tensor, theta: Tensor, index: Tensor | None, out_size: _Size, options: Options,
    wanted: _Wanted,
) -> tuple[Tensor | None, Tensor | None]:  # fmt: skip
    """The gradients of (input, theta) as far as they are wanted."""
    input_wanted, theta_wanted = wanted
    of_input = empty_input_gradient(input) if input_wanted else None
    of_theta = None
    if not grad.numel() or (theta_wanted and options.mode == "nearest"):
        of_theta = theta.new_zeros(theta.shape) if theta_wanted else None
        theta_wanted = False
    if not grad.numel():
        return None if of_input is None else of_input.zero_(), of_theta
    if not (input_wanted or theta_wanted):
        return of_input, of_theta
    stored = _as_read(input, theta)
    grad = like_output(as_stored(grad), input).to(stored.dtype)
    wide = None if of_input is None else _result_like(of_input, stored)
    found = _run(
        stored,
        theta,
        index,
        out_size,
        options,
        grad=grad,
        input_gradient=wide,
        theta_wanted=theta_wanted,
    )
    if of_input is not None and wide is not None and wide is not of_input:
        of_input.copy_(wide)
    return of_input, of_theta if found is None else found


def _as_read(input: Tensor, theta: Tensor) -> Tensor:
    """The input in memory as the library reads it: dense, and double if the computation is."""
    input = as_stored(input.detach())
    if compute_dtype(input, theta) == torch.float64:
        input = input.double()
    return input if is_channels_last(input) else input.contiguous()


def _result_like(result: Tensor, stored: Tensor) -> Tensor:
    """Where the library writes `result`: there, or in the wider dtype in which the input is read."""
    return result if result.dtype == stored.dtype else torch.empty_like(result, dtype=stored.dtype)


def _run(
    input: Tensor, theta: Tensor, index: Tensor | None, out_size: _Size, options: Options, *,
    output: Tensor | None = None, grad: Tensor | None = None, input_gradient: Tensor | None = None,
    theta_wanted: bool = False,
) -> Tensor | None:  # fmt: skip
    """One call of the library; returns theta's gradient if that is wanted."""
    trailing = theta_shape(theta, len(out_size), options)
    lattice = TRANSFORMS[options.transform].lattice
    dtype = torch.float64 if input.dtype == torch.float64 else torch.float32
    numbers = theta.detach().to(dtype)
    points: Points = ()
    if lattice is not None:
        points = points_of(options.control_points, trailing[0])
        numbers = lattice_coefficients(numbers, lattice, points)
    numbers = as_stored(numbers).contiguous()
    call = Call.from_buffer_copy(
        _arguments(tuple(input.shape), tuple(theta.shape), trailing, out_size, options)
    )
    call.channels_last = is_channels_last(input)
    call.storage = _STORAGES[input.dtype]
    call.input, call.theta = input.data_ptr(), numbers.data_ptr()
    rows = None  # kept until the call is over
    if index is not None:
        rows = rows_of_images(index, input.shape[0])
        call.order, call.starts = (each.data_ptr() for each in rows)
        # The mean of an image, for `_threads` alone.
        call.transformers = -(-len(theta) // call.images)
    basis = of_theta = None
    if lattice is not None:
        basis = _basis(lattice, points, out_size, options, dtype)
        call.functions, call.basis = len(basis), basis.data_ptr()
    if output is not None:
        call.output = output.data_ptr()
    if grad is not None:
        call.grad = grad.data_ptr()
    if input_gradient is not None:
        call.input_gradient = input_gradient.data_ptr()
    if theta_wanted:
        of_theta = torch.empty_like(numbers)
        call.theta_gradient = of_theta.data_ptr()
    threads = _threads(call)
    call.row_parts = _row_parts(call, threads)
    if LIBRARY.stn_sample(ctypes.byref(call), threads):
        raise MemoryError("the native sampler found no memory for a copy of one image")
    if of_theta is None:
        return None
    if lattice is not None:
        of_theta = lattice_theta_gradient(of_theta, lattice, points)
    return of_theta.view(theta.shape).to(theta.dtype)


@lru_cache(maxsize=256)
def _arguments(
    input: _Size, theta: _Size, trailing: _Size, out_size: _Size, options: Options
) -> bytes:
    """The fields of a call that depend on shapes and options alone, as bytes of a Call."""
    in_x, in_y, in_z = (*reversed(input[2:]), 1)[:3]
    out_x, out_y, out_z = (*reversed(out_size), 1)[:3]
    return bytes(
        Call(
            images=input[0],
            transformers=math.prod(theta[1 : len(theta) - len(trailing)]),
            channels=input[1],
            in_x=in_x,
            in_y=in_y,
            in_z=in_z,
            out_x=out_x,
            out_y=out_y,
            out_z=out_z,
            dimensions=len(out_size),
            transform=_TRANSFORMS[options.transform],
            taps=_TAPS[options.mode],
            padding=_PADDINGS[options.padding_mode],
            align_corners=options.align_corners,
            samples=options.samples,
            parameters=math.prod(trailing),
            row_parts=1,
            padding_value=options.padding_value,
        )
    )


def _row_parts(call: Call, threads: int) -> int:
    """How many parts the output rows of an image are divided into, so that every thread has one; backward it is 1."""
    if not call.output:
        return 1
    rows: int = call.out_y * call.out_z
    return min(rows, -(-threads // call.images))


def _threads(call: Call) -> int:
    """How many threads to use: each must have enough work, and a unit of its own.

    Backward a unit is an image. Forward it is an output row of an image, as an image can be divided into parts.
    """
    units = call.images * (call.out_y * call.out_z if call.output else 1)
    if units == 1:
        return 1
    results = call.images * call.transformers * call.out_x * call.out_y * call.out_z
    taps = call.taps**call.dimensions * max(call.samples, 1) ** call.dimensions
    directions = 1 if call.output else 2
    milliseconds = results * call.channels * taps * directions * _NS_PER_TAP / 1e6
    return max(1, min(torch.get_num_threads(), units, int(milliseconds / _MS_PER_THREAD)))


def _basis(
    lattice: Lattice, points: Points, out_size: _Size, options: Options, dtype: torch.dtype
) -> Tensor:
    """The basis functions of a lattice at every sample of the output: (functions, h, w)."""
    finer = tuple(options.samples * length for length in out_size)
    arguments = lattice, points, finer, options.align_corners, dtype
    if (count_of(points) + lattice.extra) * math.prod(finer) > _LARGEST_KEPT_BASIS:
        return _computed_basis(*arguments)
    return _kept_basis(*arguments)


def _computed_basis(
    lattice: Lattice, points: Points, finer: _Size, align_corners: bool, dtype: torch.dtype
) -> Tensor:
    with unobserved():
        start = torch.empty(0, dtype=torch.float64, device="cpu")
        x, y = output_axes(finer, align_corners, start)
        functions = count_of(points) + lattice.extra
        together = max(1, _BASIS_NUMBERS_AT_A_TIME // (functions * len(x)))
        basis = x.new_empty((functions, len(y), len(x)), dtype=dtype)
        for first in range(0, len(y), together):
            rows = lattice.basis(
                x, y[first : first + together].unsqueeze(-1), points
            )  # (rows, w, M)
            basis[:, first : first + together] = rows.movedim(-1, 0)
        return basis


_kept_basis = lru_cache(maxsize=4)(_computed_basis)
