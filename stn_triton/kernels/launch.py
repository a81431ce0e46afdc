"""The one place where a kernel is started."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import triton

from . import interpreted
from .layout import Tiling

if TYPE_CHECKING:
    from .blocks import Blocks

INTERPRET: bool = triton.knobs.runtime.interpret
"""Whether kernels run in Triton's interpreter: read once, as `triton.jit` reads it when a kernel is defined."""
if INTERPRET:
    interpreted.mend()

UNSPECIALISED = [
    *("K", "C", "G", "ROWS", "PARAMETERS", "D", "H", "W", "OD", "OH", "OW", "align_corners", "S"),
    *("stride_n", "stride_c", "stride_d", "stride_h", "stride_w"),
    *("x_by_x", "x_by_y", "y_by_x", "y_by_y", "padding_value", "first_row", "first_image"),
]
"""Kernel arguments whose values no kernel is compiled for: a new size is not a new compilation.

C and the strides, those of the input, are in vectors (`geometry.Spec`); align_corners is 0 or 1. x_by_x to y_by_y are
source pixels per output pixel of the identity (`geometry.Geometry.ratios`). first_row and first_image say where a
launch begins among the rows of tiles, and among the channel blocks of all images (`launch_tiles`).
"""

MOST_PROGRAMS = 65535
"""CUDA's limit along the second and the third axis of a launch."""


class Registers(NamedTuple):
    """Registers of a lane at most: on NVIDIA GPUs before Hopper, and from there on, whose code needs fewer."""

    before_9: int
    from_9: int

    def keywords(self, capability: int) -> dict[str, int]:
        """The compiler's option for a GPU of that compute capability (its first digit)."""
        return {"maxnreg": self.from_9 if capability >= 9 else self.before_9}


@dataclass(frozen=True)
class Launch:
    """One kernel launch as its launcher asked for it."""

    kernel: Any
    grid: tuple[int, ...]
    args: tuple[Any, ...]
    constexprs: dict[str, Any]
    num_warps: int
    maxnreg: Registers | None

    def keywords(self, capability: int | None) -> dict[str, Any]:
        """Constants of the kernel and options of the compiler; None: for a GPU that is not NVIDIA's."""
        keywords = {**self.constexprs, "num_warps": self.num_warps}
        if self.maxnreg is not None and capability is not None:
            keywords |= self.maxnreg.keywords(capability)
        return keywords

    def compile(self) -> None:
        """Compile the kernel for the current device as a real launch would; the tensors need no storage."""
        capability = _capability(torch.cuda.current_device())
        self.kernel.warmup(*self.args, grid=self.grid, **self.keywords(capability))


_recording: ContextVar[list[Launch] | None] = ContextVar("recording", default=None)
"""The list that this thread's launches go to instead of a device."""


@cache
def _capability(index: int) -> int | None:
    """The first digit of a GPU's compute capability; None if it is not NVIDIA's."""
    return None if torch.version.hip else torch.cuda.get_device_capability(index)[0]


def launch(
    kernel: Any,
    grid: tuple[int, ...],
    *args: Any,
    num_warps: int,
    maxnreg: Registers | None = None,
    **constexprs: Any,
) -> None:
    """Run `kernel` over `grid` on the device of its first argument, a tensor; an empty grid launches nothing.

    maxnreg: registers of a lane at most, where the compiler takes such a limit (NVIDIA's does).
    """
    recording = _recording.get()
    if recording is not None:
        recording.append(Launch(kernel, grid, args, constexprs, num_warps, maxnreg))
        return
    if 0 in grid:
        return
    device = args[0].device
    if device.type != "cuda":  # interpreted
        kernel[grid](*args, num_warps=num_warps, **constexprs)
        return
    # Triton starts kernels on the current device and its stream, wherever the tensors are.
    if device.index == torch.cuda.current_device():
        _start(kernel, grid, args, num_warps, maxnreg, constexprs)
    else:
        with torch.cuda.device(device):
            _start(kernel, grid, args, num_warps, maxnreg, constexprs)


_MOST_STARTED = 4096
_started: dict[tuple[Any, ...], tuple[Any, tuple[Any, ...]]] = {}
"""What was started before, by all that Triton compiles or launches by: (the compiled kernel, its constants)."""


def _start(
    kernel: Any,
    grid: tuple[int, ...],
    args: tuple[Any, ...],
    num_warps: int,
    maxnreg: Registers | None,
    constexprs: dict[str, Any],
) -> None:
    """Run a kernel on the current device.

    Triton takes longer to find out which compiled kernel a call needs than a GPU to run a small one. So it does that
    once for all calls with the same numbers, constants, dtypes and alignments.
    """
    index = args[0].device.index
    tensors, numbers = _split(args)
    key = (kernel, index, num_warps, maxnreg, *constexprs.values(), numbers, *map(_trait, tensors))
    if (started := _started.get(key)) is not None:
        compiled, constants = started
        compiled[(*grid, 1, 1)[:3]](*args, *constants)
        return
    limit = {}
    if maxnreg is not None and (capability := _capability(index)) is not None:
        limit = maxnreg.keywords(capability)
    compiled = kernel[grid](*args, num_warps=num_warps, **constexprs, **limit)
    if len(_started) >= _MOST_STARTED:  # sizes without end, such as those of a detector's crops
        _started.clear()
    _started[key] = compiled, tuple(constexprs[name] for name in kernel.arg_names[len(args) :])


def _split(args: tuple[Any, ...]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """The tensors among a kernel's arguments, which come first, and the numbers after them."""
    count = 1
    while count < len(args) and isinstance(args[count], torch.Tensor):
        count += 1
    return args[:count], args[count:]


def _trait(tensor: torch.Tensor) -> tuple[torch.dtype, int]:
    """What Triton compiles for of a tensor: its dtype, and whether it begins at a multiple of 16 bytes."""
    return tensor.dtype, tensor.data_ptr() % 16


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
    tiling = Tiling(
        blocks.TILE_X,
        blocks.TILE_Y,
        min(blocks.LINE, blocks.TILE_X, 32),
        blocks.BLOCK_C,
        existing,
        channels <= blocks.BLOCK_C,
    )
    for first_plane in range(0, planes, MOST_PROGRAMS):
        for first_row in range(0, rows, MOST_PROGRAMS):
            grid = (
                -(-width // blocks.TILE_X),
                min(rows - first_row, MOST_PROGRAMS),
                min(planes - first_plane, MOST_PROGRAMS),
            )
            launch(
                kernel, grid, *args, first_row, first_plane, **constexprs, TILING=tiling,
                num_warps=blocks.num_warps, maxnreg=blocks.maxnreg,
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
