"""What the loads of a launch fetch from L2: an L1 is simulated for some of its CTAs.

Neighbouring CTAs run on different SMs, so that those of one SM seldom read the same lines. Each
CTA therefore gets an L1 of its own, as large as its share of that of an SM. Lines leave it in the
order in which they were last used. Sectors of a line are fetched one by one, but L2 looks up each
line of a request once, however many of its sectors are wanted. Stores go through without a trace.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from dataclasses import dataclass

import numpy as np

from .arithmetic import Array

Stream = list[tuple[int, Array]]
"""Loads of the sampled CTAs of a batch in order: the instruction, and `warp << 40 | sector`, ascending."""

_BITS = 38  # of the number of a line, below its warp


@dataclass
class Fetched:
    """What a load instruction asked the L1 for, and what this asked L2 for."""

    requests: int = 0
    lines: int = 0
    sectors: int = 0
    missed_requests: int = 0  # of which at least one sector came from L2
    missed_lines: int = 0
    missed_sectors: int = 0


def simulate(streams: list[Stream], warps: int, lines: int) -> dict[int, Fetched]:
    """What each load fetched, by its index. warps: of a CTA. lines: of the L1, as many as are the share of a CTA."""
    found: dict[int, Fetched] = defaultdict(Fetched)
    for stream in streams:
        caches: dict[int, OrderedDict[int, int]] = defaultdict(OrderedDict)
        for index, sectors in stream:
            line = sectors >> 2
            first = np.flatnonzero(np.diff(line, prepend=-1))
            line, wanted = line[first], np.bitwise_or.reduceat(1 << (sectors & 3), first)
            load = found[index]
            load.requests += len(np.unique(line >> _BITS))
            load.lines += len(first)
            load.sectors += len(sectors)
            _request(load, caches, line.tolist(), wanted.tolist(), warps, lines)
    return dict(found)


def _request(
    load: Fetched,
    caches: dict[int, OrderedDict[int, int]],
    places: list[int],
    wanted: list[int],
    warps: int,
    lines: int,
) -> None:
    """Look up each line of a load, whose bits `wanted` say which of its sectors are read."""
    waits = -1  # the last warp that missed
    for place, bits in zip(places, wanted, strict=True):
        warp = place >> _BITS
        cache = caches[warp // warps]
        line = place & ((1 << _BITS) - 1)
        held = cache.pop(line, 0)
        cache[line] = held | bits
        if len(cache) > lines:
            cache.popitem(last=False)
        if fresh := bits & ~held:
            load.missed_lines += 1
            load.missed_sectors += fresh.bit_count()
            load.missed_requests += warp != waits
            waits = warp
