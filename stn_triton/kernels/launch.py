"""The one place where a kernel is started."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import triton

if TYPE_CHECKING:
    from .config import Blocks

INTERPRET: bool = triton.knobs.runtime.interpret
"""Whether kernels run in Triton's interpreter: read once, as `triton.jit` reads it when a kernel is defined."""

UNSPECIALISED = [
    *("K", "C", "G", "PARAMETERS", "D", "H", "W", "OD", "OH", "OW", "align_corners", "S"),
    *("stride_n", "stride_c", "stride_d", "stride_h", "stride_w"),
    *("x_by_x", "x_by_y", "y_by_x", "y_by_y", "first_row", "first_image"),
]
"""Kernel arguments whose values no kernel is compiled for: a new size is not a new compilation."""

MOST_PROGRAMS = 65535
"""CUDA's limit along the second and the third axis of a launch."""


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


_recording: ContextVar[list[Launch] | None] = ContextVar("recording", default=None)
"""The list that this thread's launches go to instead of a device."""


def launch(
    kernel: Any,
    grid: tuple[int, ...],
    *args: Any,
    num_warps: int,
    maxnreg: int | None = None,
    **constexprs: Any,
) -> None:
    """Run `kernel` over `grid` on the device of its first argument, a tensor; an empty grid launches nothing.

    maxnreg: registers of a lane at most, where the compiler takes such a limit (NVIDIA's does).
    """
    recording = _recording.get()
    if recording is not None:
        recording.append(Launch(kernel, grid, args, constexprs, num_warps, maxnreg))
    elif 0 not in grid:
        if maxnreg is not None and torch.version.hip is None:
            constexprs["maxnreg"] = maxnreg
        device = args[0].device
        # Triton starts kernels on the current device and its stream, wherever the tensors are.
        if device.type == "cuda" and device.index != torch.cuda.current_device():
            with torch.cuda.device(device):
                kernel[grid](*args, num_warps=num_warps, **constexprs)
        else:
            kernel[grid](*args, num_warps=num_warps, **constexprs)


def launch_tiles(
    kernel: Any,
    images: int,
    size: tuple[int, ...],
    channels: int,
    blocks: Blocks,
    *args: Any,
    **constexprs: Any,
) -> None:
    """Run `kernel` over the tiles and channel blocks of `images` images of `size` (depth, height, width).

    Tiles across lie along the first axis of the grid, rows of tiles along the second, slice after slice, and images
    with their channel blocks along the third: a program finds its place without division. Where an axis is too long
    several launches share it.
    """
    depth, height, width = size
    rows = -(-height // blocks.TILE_Y) * depth
    planes = images * -(-channels // blocks.BLOCK_C)
    if channels <= blocks.BLOCK_C:
        existing = channels
    else:
        existing = 0 if channels % blocks.BLOCK_C else blocks.BLOCK_C
    for first_plane in range(0, planes, MOST_PROGRAMS):
        for first_row in range(0, rows, MOST_PROGRAMS):
            grid = (
                -(-width // blocks.TILE_X),
                min(rows - first_row, MOST_PROGRAMS),
                min(planes - first_plane, MOST_PROGRAMS),
            )
            launch(
                kernel, grid, *args, first_row, first_plane, **constexprs, **blocks._asdict(),
                EXISTING=existing, ONE_BLOCK=channels <= blocks.BLOCK_C,
            )  # fmt: skip


@contextmanager
def recorded() -> Iterator[list[Launch]]:
    """Collect this thread's launches in the block instead of running them (tensors may then be on the meta device)."""
    launches: list[Launch] = []
    outer = _recording.set(launches)
    try:
        yield launches
    finally:
        _recording.reset(outer)
