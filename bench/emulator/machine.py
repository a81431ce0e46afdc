"""Runs a translated kernel, many CTAs at a time, and counts what it does.

The lanes of a batch of CTAs lie along one axis. Where their program counters differ, the lanes with
the lowest one run first, under a mask, until all lanes are at one place again.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .arithmetic import Array, Blur
from .memory import Arena, Counts, GlobalMemory, SharedMemory, Where
from .ptx import Block, Kernel
from .translate import Translator

_LANES = 16384  # in a batch
_PIECES = 16  # into which a batch is cut where CTAs are sampled
_GOLDEN = 0.6180339887498949  # its multiples modulo 1 are spread evenly, however many are taken
_MOST_STEPS = 2_000_000
_GARBAGE: dict[Any, int] = {
    np.bool_: 1, np.uint16: 0x7FC1, np.uint32: 0x7FC12345, np.uint64: 0x7FF812345,
}  # fmt: skip
"""What registers hold before they are set. Read as a float, it is NaN."""


class Batch:
    """Special registers, parameters and memory of the CTAs that run together."""

    def __init__(
        self,
        machine: Machine,
        arena: Arena,
        arguments: dict[str, int],
        ctas: Array,
        grid: tuple[int, ...],
        counts: Counts,
    ):
        threads = machine.kernel.threads
        self.blur, self.counts, self.kernel = machine.blur, counts, machine.kernel
        self.ctas = ctas
        self.where = Where(ctas, threads)
        self.thread = np.tile(np.arange(threads, dtype=np.uint32), len(ctas))
        self.threads = np.full_like(self.thread, threads)
        self.lane = self.thread % np.uint32(32)
        self.zero = np.zeros_like(self.thread)
        across, down, _ = (*grid, 1, 1)[:3]
        cta = self.where.cta.astype(np.uint32)
        self.cta_x = cta % np.uint32(across)
        self.cta_y = cta // np.uint32(across) % np.uint32(down)
        self.cta_z = cta // np.uint32(across * down)
        self.global_memory = GlobalMemory(arena, self.where, machine.kernel, counts)
        self.shared_memory = SharedMemory(machine.shared_bytes, self.where, machine.kernel, counts)
        self._arguments = arguments

    def parameter(self, name: str, kind: Any) -> Any:
        """An argument of the kernel, as bits of that type."""
        dtype = np.dtype(kind)
        return dtype.type(self._arguments[name] & ((1 << 8 * dtype.itemsize) - 1))

    def whole_warps(self, index: int, active: Array | None) -> None:
        """Complain if some lanes of a warp take part in an exchange and others do not."""
        if active is None:
            return
        rows = active.reshape(-1, 32)
        if (rows.any(1) & ~rows.all(1)).any():
            i = self.kernel.instructions[index]
            self.counts.complain(
                f"a part of a warp at {i} ({i.source[0]}:{i.source[1]}), which needs all of it"
            )


class Machine:
    """One kernel, ready to run."""

    def __init__(self, kernel: Kernel, shared_bytes: int, *, ulp: float = 0.0):
        self.kernel, self.shared_bytes, self.blur = kernel, shared_bytes, Blur(ulp)
        translator = Translator(kernel)
        self._functions, self._dtypes = translator.functions, translator.dtypes
        stores = [i for i in kernel.instructions if i.parts[0] == "st" and i.is_access("global")]
        self.grain = min((i.access_bytes for i in stores), default=4)

    @np.errstate(all="ignore")
    def run(
        self, arena: Arena, arguments: list[int], grid: tuple[int, ...], *, budget: float = math.inf
    ) -> Counts:
        """Run a launch; `arguments` in the order of the kernel's parameters, as bits.

        budget: the most warp instructions. Of a launch that would need more, only some CTAs run, spread
        evenly over it; they take a quarter of the budget.
        """
        named = dict(zip(self.kernel.parameters, arguments, strict=True))
        blocks = len(self.kernel.blocks)
        counts = Counts(0, np.zeros(blocks, np.int64), np.zeros(blocks, np.int64))
        total = math.prod(grid)
        few = max(1, _LANES // _PIECES // self.kernel.threads)
        pieces = [np.arange(at, min(at + few, total)) for at in range(0, total, few)]
        done: set[int] = set()
        spent = 0.0
        for number in sorted(range(len(pieces)), key=lambda number: number * _GOLDEN % 1):
            if number in done:
                continue
            too_large = spent * total > budget * counts.ctas
            if too_large and spent > budget / 4:
                break
            chosen = {number}  # the first one shows how large the launch is
            if done and not too_large:  # many at once run faster, but neighbours are alike
                first = number - number % _PIECES
                chosen = set(range(first, min(first + _PIECES, len(pieces)))) - done
            done |= chosen
            ctas = np.concatenate([pieces[piece] for piece in sorted(chosen)])
            batch = Batch(self, arena, named, ctas, grid, counts)
            spent += self._run_batch(batch)
            counts.ctas += len(ctas)
        counts.read_pairs = int(arena.read_pairs.sum())
        counts.written_bytes = int(np.count_nonzero(arena.writer)) * arena.grain
        return counts

    def _run_batch(self, batch: Batch) -> float:
        """Run blocks until every lane has returned; the warp instructions that it took, masked ones included."""
        blocks, lanes = self.kernel.blocks, len(batch.thread)
        registers = [np.full(lanes, _GARBAGE[kind], kind) for kind in self._dtypes]
        issued = np.zeros(len(batch.thread) // self.kernel.threads, np.int64)
        pc = np.zeros(lanes, np.int32)
        place: int | None = 0  # the block of all lanes; None where they differ
        work = 0
        for _ in range(_MOST_STEPS):
            mask = None
            number = int(pc.min()) if place is None else place
            if number >= len(blocks):
                break
            if place is None:
                mask = pc == number
                mask = None if mask.all() else mask
            self._account(batch, number, mask, pc, issued)
            batch.where.active = mask
            work += len(blocks[number].instructions)
            function = self._functions[number][mask is not None]
            taken = function(registers, batch, mask, lanes)
            goto, fall = _successors(blocks[number], number, len(blocks))
            if taken is None and blocks[number].branch is not None:
                fall = goto
            if taken is None or goto == fall:
                place = self._advance(pc, mask, fall)
            else:
                place = self._advance(pc, mask, np.where(taken, goto, fall).astype(np.int32))
        else:
            batch.counts.complain(f"{self.kernel.name} does not end")
        batch.counts.issued.append((batch.ctas, issued))
        return work * lanes / 32

    @staticmethod
    def _advance(pc: Array, mask: Array | None, to: Any) -> int | None:
        """Set program counters; returns the new place if all lanes are there, else None."""
        if mask is None and isinstance(to, int):
            pc[:] = to
            return to
        pc[...] = to if mask is None else np.where(mask, to, pc)
        return int(pc[0]) if (pc == pc[0]).all() else None

    def _account(
        self, batch: Batch, number: int, mask: Array | None, pc: Array, issued: Array
    ) -> None:
        """Count a block that is about to run, and check that whole CTAs meet at its barrier."""
        counts, block = batch.counts, self.kernel.blocks[number]
        size, warps = len(block.instructions), self.kernel.threads // 32
        if mask is None:
            counts.block_warps[number] += len(pc) // 32
            counts.block_lanes[number] += len(pc)
            issued += size * warps
            return
        by_warp = mask.reshape(-1, 32).any(1)
        counts.block_warps[number] += int(by_warp.sum())
        counts.block_lanes[number] += int(mask.sum())
        issued += size * by_warp.reshape(-1, warps).sum(1)
        if block.barrier:
            here = mask.reshape(len(issued), -1)
            alive = (pc < len(self.kernel.blocks)).reshape(len(issued), -1)
            if (here.any(1) & (here != alive).any(1)).any():
                i = block.instructions[-1]
                counts.complain(f"a part of a CTA at {i} ({i.source[0]}:{i.source[1]})")


def _successors(block: Block, number: int, end: int) -> tuple[int, int]:
    """Which blocks follow: (if the branch is taken, if it is not)."""
    if block.returns:
        return end, end if block.branch is None else number + 1
    return number + 1 if block.target is None else block.target, number + 1
