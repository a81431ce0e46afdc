"""The one place where a kernel is started."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import triton

INTERPRET: bool = triton.knobs.runtime.interpret
"""Whether kernels run in Triton's interpreter: read once, as `triton.jit` reads it when a kernel is defined."""

UNSPECIALISED = [
    *("K", "C", "G", "PARAMETERS", "D", "H", "W", "OD", "OH", "OW", "align_corners", "S"),
    *("stride_n", "stride_c", "stride_d", "stride_h", "stride_w"),
]
"""Kernel arguments whose values no kernel is compiled for: a new size is not a new compilation."""


@dataclass(frozen=True)
class Launch:
    """One kernel launch as its launcher asked for it."""

    kernel: Any
    grid: tuple[int, ...]
    args: tuple[Any, ...]
    constexprs: dict[str, Any]
    num_warps: int
    maxnreg: int | None

    @property
    def keywords(self) -> dict[str, Any]:
        """Constants of the kernel and options of the compiler."""
        keywords = {**self.constexprs, "num_warps": self.num_warps}
        if self.maxnreg is not None and torch.version.hip is None:
            keywords["maxnreg"] = self.maxnreg
        return keywords

    def compile(self) -> None:
        """Compile the kernel for the current device as a real launch would; the tensors need no storage."""
        self.kernel.warmup(*self.args, grid=self.grid, **self.keywords)


_recording: list[Launch] | None = None


def launch(
    kernel: Any,
    grid: tuple[int, ...],
    *args: Any,
    num_warps: int,
    maxnreg: int | None = None,
    **constexprs: Any,
) -> None:
    """Run `kernel` over `grid`; an empty grid launches nothing.

    maxnreg: registers of a lane at most, where the compiler takes such a limit (NVIDIA's does).
    """
    if _recording is not None:
        _recording.append(Launch(kernel, grid, args, constexprs, num_warps, maxnreg))
    elif 0 not in grid:
        if maxnreg is not None and torch.version.hip is None:
            constexprs["maxnreg"] = maxnreg
        kernel[grid](*args, num_warps=num_warps, **constexprs)


@contextmanager
def recorded() -> Iterator[list[Launch]]:
    """Collect the launches of the block instead of running them (tensors may then be on the meta device)."""
    global _recording
    outer, _recording = _recording, []
    try:
        yield _recording
    finally:
        _recording = outer
