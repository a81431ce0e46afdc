"""Global and shared memory: every access is checked, and counted in sectors, lines and bank passes."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from .arithmetic import Array, fit
from .l1 import Stream
from .ptx import Instruction, Kernel

BASE = 0x7000_0000_0000
"""The address at which the arena begins. Nothing else is near it, so that a stray access is noticed."""
_GUARD = 4096  # unused bytes before and after each buffer
_SECTOR_BITS = 5  # a sector has 32 bytes, four of them are a line
_MOST_ERRORS = 50
_SAMPLED = 16  # of so many CTAs, the loads of one are kept for the simulation of the L1


@dataclass
class Access:
    """What one load or store instruction did over a launch."""

    instruction: Instruction
    issued: int = 0  # warps that reached it, also those of which no lane takes part
    requests: int = 0  # warps of which at least one lane takes part
    lanes: int = 0
    sectors: int = 0
    lines: int = 0
    passes: int = 0  # over 32 banks of 4 bytes

    @property
    def is_load(self) -> bool:
        """Whether it reads."""
        return self.instruction.parts[0] == "ld"


@dataclass
class Counts:
    """What was counted in one launch."""

    ctas: int
    block_warps: Array  # how many warps ran each basic block
    block_lanes: Array  # how many of their lanes took part
    accesses: dict[int, Access] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    issued: list[tuple[Array, Array]] = field(
        default_factory=list
    )  # CTAs, PTX instructions of each
    written_bytes: int = 0
    shared_passes: int = 0
    read_pairs: int = 0  # distinct pairs of sectors of the launch, which DRAM reads together
    streams: list[Stream] = field(default_factory=list)

    def lengths(self) -> Array:
        """The PTX instructions of each CTA that ran, in the order of the grid."""
        ctas, issued = (np.concatenate(each) for each in zip(*self.issued, strict=True))
        return issued[np.argsort(ctas)].astype(float)

    def complain(self, text: str) -> None:
        """Keep an error: each text once, and at most fifty of them."""
        if len(self.errors) < _MOST_ERRORS and text not in self.errors:
            self.errors.append(text)


class Arena:
    """Buffers side by side with gaps between them.

    For each byte there is `readable` and `writable`. For each `grain` of bytes, the smallest store of the
    kernel, there is `writer`, the number of the CTA that wrote it plus 1, and `read_back`, whether that
    CTA has read it since.
    """

    def __init__(self, sizes: list[int], grain: int):
        total = sum(size + 2 * _GUARD for size in sizes) + 2 * _GUARD
        total = -(-total // 256) * 256
        self.grain = grain
        self.bytes = np.zeros(total, np.uint8)
        self.readable = np.zeros(total, np.bool_)
        self.writable = np.zeros(total, np.bool_)
        self.writer = np.zeros(total // grain, np.int32)
        self.read_back = np.zeros(total // grain, np.bool_)
        self.views = {n: self.bytes.view(f"u{n}") for n in (1, 2, 4, 8)}
        self.read_pairs = np.zeros((total >> _SECTOR_BITS + 1) + 1, np.bool_)
        self.buffers: list[tuple[str, int, int]] = []
        self._end = _GUARD

    def add(self, name: str, content: Array, readable: Array | bool, writable: bool) -> int:
        """Add a buffer; returns its place in the arena."""
        start = -(-self._end // 256) * 256
        end = start + content.size
        self.bytes[start:end] = content
        self.readable[start:end] = readable
        self.writable[start:end] = writable
        self._end = end + _GUARD
        self.buffers.append((name, start, end))
        return start

    def written(self, start: int, end: int) -> Array:
        """Which bytes of a buffer were written."""
        first = start // self.grain
        grains = self.writer[first : -(-end // self.grain)] != 0
        return np.repeat(grains, self.grain)[: end - start]

    def name_of(self, place: int) -> str:
        """An address for people: the buffer, and the byte in it."""
        for name, start, end in self.buffers:
            if start - _GUARD <= place < end + _GUARD:
                return f"byte {place - start} of {name}, which has {end - start}"
        return f"address {BASE + place:#x}, far from every buffer"


class Where:
    """Which lanes a batch of CTAs has: their warp, their CTA within the batch and in the launch."""

    def __init__(self, ctas: Array, threads: int):
        lanes = len(ctas) * threads
        self.threads = threads
        self.warp = np.arange(lanes, dtype=np.int64) // 32
        self.number = np.repeat(np.arange(len(ctas), dtype=np.int64), threads)
        self.cta = np.repeat(ctas.astype(np.int64), threads)
        self.active: Array | None = None  # the lanes that run the current block; None: all

    def describe(self, lane: int) -> str:
        """A lane for people: its CTA and thread."""
        return f"CTA {self.cta[lane]}, thread {lane % self.threads}"


class GlobalMemory:
    """The arena as the CTAs of one batch see it."""

    def __init__(self, arena: Arena, where: Where, kernel: Kernel, counts: Counts):
        self.arena, self.where, self.kernel, self.counts = arena, where, kernel, counts
        self._stream: Stream = []
        counts.streams.append(self._stream)

    def load(
        self, index: int, at: Array, size: int, count: int, active: Array | None, lanes: int
    ) -> tuple[Array | None, list[Array]]:
        """Load `count` elements of `size` bytes from `at`: (lanes that read, None for all; the elements)."""
        use, place = self._checked(index, at, size * count, active, lanes, load=True)
        own = use & self.arena.writable[place]
        if own.any():
            self._mark_read(index, place, size * count, own)
        view, first = self.arena.views[size], place // size
        return (None if active is None else use), [view[first + k] for k in range(count)]

    def store(
        self, index: int, at: Array, size: int, values: tuple[Array, ...], active: Array | None, lanes: int,
    ) -> None:  # fmt: skip
        """Store `values`, of `size` bytes each, from `at` on."""
        use, place = self._checked(index, at, size * len(values), active, lanes, load=False)
        self._mark_written(index, place, size * len(values), use)
        view, first = self.arena.views[size], place[use] // size
        for k, value in enumerate(values):
            view[first + k] = value[use]

    def _complain(self, index: int, what: str, lane: int) -> None:
        i = self.kernel.instructions[index]
        place = f"{i.source[0]}:{i.source[1]}"
        self.counts.complain(f"{what} by {self.where.describe(lane)}: {i} ({place})")

    def _checked(
        self, index: int, at: Array, span: int, active: Array | None, lanes: int, *, load: bool
    ) -> tuple[Array, Array]:
        """(lanes whose access is right, places of their first bytes in the arena, 0 for the others)."""
        arena = self.arena
        place = (fit(at, np.uint64, lanes) - np.uint64(BASE)).view(np.int64)
        wanted = np.ones(lanes, np.bool_) if active is None else active
        allowed = arena.readable if load else arena.writable
        safe = np.where(wanted & (place >= 0) & (place + span <= arena.bytes.size), place, 0)
        good = allowed[safe] & allowed[safe + span - 1]
        if (bad := wanted & ~good).any():
            lane = int(np.flatnonzero(bad)[0])
            inside = arena.writable[safe[lane]] or arena.readable[safe[lane]]
            what = "reads what nobody wrote" if load else "writes to an input"
            what = what if inside else f"{'reads' if load else 'writes'} out of bounds"
            self._complain(index, f"{what}: {arena.name_of(int(place[lane]))}", lane)
        if (odd := wanted & (place & (span - 1) != 0)).any():
            self._complain(index, f"misaligned, {span} bytes", int(np.flatnonzero(odd)[0]))
        use = wanted & good & ~odd
        place = np.where(use, place, 0)
        self._count(index, place, span, use, load)
        return use, place

    def _grains(self, place: Array, span: int) -> Array:
        """The grains of each access, one row each."""
        step = self.arena.grain
        return place[:, None] // step + np.arange(max(span // step, 1))

    def _mark_read(self, index: int, place: Array, span: int, own: Array) -> None:
        lanes = np.flatnonzero(own)
        grains = self._grains(place[own], span)
        writer = self.arena.writer[grains]
        if (foreign := (writer != 0) & (writer != self.where.cta[own][:, None] + 1)).any():
            lane = int(lanes[np.flatnonzero(foreign.any(1))[0]])
            self._complain(index, "reads what another CTA of this launch wrote", lane)
        self.arena.read_back[grains] = True

    def _mark_written(self, index: int, place: Array, span: int, use: Array) -> None:
        arena, lanes = self.arena, np.flatnonzero(use)
        grains = self._grains(place[use], span)
        token = (self.where.cta[use] + 1).astype(np.int32)[:, None]
        before = arena.writer[grains]
        again = (before != 0) & ((before != token) | ~arena.read_back[grains])
        if again.any():
            row = int(np.flatnonzero(again.any(1))[0])
            where = arena.name_of(int(place[lanes[row]]))
            self._complain(index, f"writes twice: {where}", int(lanes[row]))
        elif len(np.unique(grains[:, 0])) != len(grains):
            self._complain(index, "writes twice, several lanes to one place", int(lanes[0]))
        arena.writer[grains] = token
        arena.read_back[grains] = False
        for byte in range(span):
            arena.readable[place[use] + byte] = True

    def _count(self, index: int, place: Array, span: int, use: Array, load: bool) -> None:
        i = self.kernel.instructions[index]
        access = self.counts.accesses.setdefault(index, Access(i))
        active = self.where.active
        whole = len(place) // 32
        access.issued += whole if active is None else int(active.reshape(-1, 32).any(1).sum())
        lanes = int(use.sum())
        if not lanes:
            return
        some = lanes < len(use)
        warp, place = (self.where.warp[use], place[use]) if some else (self.where.warp, place)
        access.lanes += lanes
        access.requests += len(np.unique(warp)) if some else whole
        key = np.unique(warp << 40 | place >> _SECTOR_BITS)
        line = key >> 2
        access.sectors += len(key)
        access.lines += int((line[1:] != line[:-1]).sum()) + 1
        access.passes += _bank_passes(np.flatnonzero(use), place, span)
        if load:
            self.arena.read_pairs[(key & ((1 << 40) - 1)) >> 1] = True
            sampled = (key >> 40) // (self.where.threads // 32) % _SAMPLED == 0
            if sampled.any():
                self._stream.append((index, key[sampled]))


class SharedMemory:
    """The shared memory of the CTAs of one batch; each CTA has its own."""

    def __init__(self, size: int, where: Where, kernel: Kernel, counts: Counts):
        self.size = -(-max(size, 16) // 16) * 16
        self.where, self.kernel, self.counts = where, kernel, counts
        ctas = int(where.number[-1]) + 1
        content = np.full(ctas * self.size, 0xC1, np.uint8)
        self._views = {n: content.view(f"u{n}") for n in (1, 2, 4, 8)}
        self._base = where.number * self.size

    def load(
        self, index: int, at: Array, size: int, count: int, active: Array | None, lanes: int
    ) -> tuple[Array | None, list[Array]]:
        """As `GlobalMemory` does."""
        use, first = self._checked(index, at, size, count, active, lanes)
        view = self._views[size]
        return (None if active is None else use), [view[first + k] for k in range(count)]

    def store(
        self, index: int, at: Array, size: int, values: tuple[Array, ...], active: Array | None, lanes: int,
    ) -> None:  # fmt: skip
        """As `GlobalMemory` does."""
        use, first = self._checked(index, at, size, len(values), active, lanes)
        for k, value in enumerate(values):
            self._views[size][first[use] + k] = value[use]

    def _checked(
        self, index: int, at: Array, size: int, count: int, active: Array | None, lanes: int
    ) -> tuple[Array, Array]:
        """(lanes whose access is right, their first elements of `size` bytes)."""
        place = fit(at, np.uint32, lanes).astype(np.int64)
        active = self.where.active if active is None else active
        wanted = np.ones(lanes, np.bool_) if active is None else active
        bad = wanted & ((place + size * count > self.size) | (place % (size * count) != 0))
        if bad.any():
            lane = int(np.flatnonzero(bad)[0])
            self.counts.complain(
                f"byte {place[lane]} of {self.size} of shared memory, out of bounds or misaligned, "
                f"by {self.where.describe(lane)}: {self.kernel.instructions[index]}"
            )
        use = wanted & ~bad
        chosen = np.flatnonzero(use)
        self.counts.shared_passes += _bank_passes(chosen, place[chosen], size * count)
        return use, (np.where(use, place, 0) + self._base) // size


def _bank_passes(lanes: Array, place: Array, span: int) -> int:
    """Passes over 32 banks of 4 bytes that the accesses of these lanes take, `span` bytes each."""
    if not len(lanes):
        return 0
    words = max(span // 4, 1)
    together = max(32 // words, 1)  # lanes of one pass at most
    word = np.unique(lanes // together << 34 | (place >> 2) // words)
    bank = (word >> 34) * together + (word & (together - 1))
    tall = np.bincount(bank.astype(np.int64))
    rows = np.pad(tall, (0, -len(tall) % together)).reshape(-1, together)
    return int(rows.max(1).sum())
