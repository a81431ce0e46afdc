"""Kernels that are wrong on purpose, run in the emulator; its complaints about each are printed as JSON.

A program of its own, since Triton's interpreter must be off: `test_emulate` starts it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from unittest.mock import patch

import torch
import triton
import triton.language as tl
from torch import Tensor

from bench.emulator import verify
from bench.emulator.calls import emulate
from bench.emulator.counting import errors_of
from bench.variants import Variant
from stn_triton.kernels.launch import launch


@triton.jit(do_not_specialize=["count", "shift", "step"])
def copy_kernel(source_ptr, target_ptr, count, shift, step, TWICE: tl.constexpr):
    at = tl.program_id(0) * step + tl.arange(0, 128)
    inside = at < count
    value = tl.load(source_ptr + at + shift, mask=inside, other=0.0)
    tl.store(target_ptr + at, value, mask=inside)
    if TWICE:
        tl.store(target_ptr + at, value + 1, mask=inside)


@triton.jit(do_not_specialize=["count"])
def add_kernel(source_ptr, target_ptr, count):
    """Adds to what it has written before, and reads it back at each turn."""
    at = tl.program_id(0) * 128 + tl.arange(0, 128)
    tl.store(target_ptr + at, at * 0.0, mask=at < count)
    for _ in range(3):
        value = tl.load(target_ptr + at, mask=at < count) + tl.load(
            source_ptr + at, mask=at < count
        )
        tl.store(target_ptr + at, value, mask=at < count)


def copied(
    source: Tensor, count: int, shift: int = 0, step: int = 128, twice: bool = False
) -> Tensor:
    target = torch.empty_like(source)
    grid = (-(-count // step),)
    launch(copy_kernel, grid, source, target, count, shift, step, num_warps=4, TWICE=twice)
    return target * 1  # a torch operation that needs what the kernel wrote


def onto_itself(source: Tensor) -> Tensor:
    launch(copy_kernel, (2,), source, source, 200, 0, 128, num_warps=4, TWICE=False)
    return source


def added(source: Tensor) -> Tensor:
    target = torch.empty_like(source)
    launch(add_kernel, (2,), source, target, 200, num_warps=4)
    return target


def of_unwritten(source: Tensor) -> Tensor:
    return copied(torch.empty_like(source), 200)


def wrong_theta(*arguments: object, **options: object) -> dict[str, Tensor]:
    found = verify_call(*arguments, **options)
    return {name: tensor * 1.01 for name, tensor in found.items()}


verify_call = verify.call
CASES: dict[str, tuple[Callable[[Tensor], Tensor], float | None]] = {
    "right": (partial(copied, count=200), 1.0),
    "added up": (added, 3.0),
    "out of bounds": (partial(copied, count=200, shift=8), None),
    "negative": (partial(copied, count=200, shift=-4), None),
    "unwritten": (partial(copied, count=150), None),
    "by two programs": (partial(copied, count=200, step=64), None),
    "twice": (partial(copied, count=200, twice=True), None),
    "onto the input": (onto_itself, None),
    "of unwritten": (of_unwritten, None),
}


def main() -> None:
    source, said = torch.randn(200), {}
    for name, (function, times) in CASES.items():
        result, runs = emulate(partial(function, source))
        said[name] = errors_of(runs)
        if times is not None:
            torch.testing.assert_close(result, source * times)
    variant = Variant(shape=(2, 3, 12, 12), out_size=(12, 12))
    said["value"] = verify.check_variant(variant)
    with patch.object(verify, "call", wrong_theta):
        said["wrong value"] = verify.check_variant(variant)
    print(json.dumps(said))


if __name__ == "__main__":
    main()
