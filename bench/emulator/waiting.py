"""How long warps take: one alone, several that share an SM, and all CTAs of a launch.

A warp alone waits as the machine code tells it to. `ptxas` writes into each instruction for how many
clocks the next one must wait, which barriers its own result opens, and at which it stops.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from itertools import count

import numpy as np

from .arithmetic import Array
from .sass import MachineInstruction

RESULT = 29  # clocks until shared memory answers; about those of shuffles, roots, conversions


def alone(instructions: Sequence[MachineInstruction], loads: Mapping[int, float]) -> list[float]:
    """The clocks that each machine instruction adds to the time of a warp that runs by itself.

    `loads` has the clocks from a load of global memory to its result, by the index of its PTX
    instruction. The code is walked from its first line to its last, so that a loop waits at its top
    for what was asked for before it.
    """
    clock, added = 0.0, []
    opens = [0.0] * 6
    for each in instructions:
        ready = max([clock, *(opens[n] for n in range(6) if each.waits >> n & 1)])
        after = ready + max(each.stall, 1)
        added.append(after - clock)
        clock = after
        result = loads.get(each.origin, RESULT) if each.opcode in ("LDG", "LD") else RESULT
        for barrier, wait in ((each.result, result), (each.operands, RESULT)):
            if barrier < len(opens):
                opens[barrier] = max(opens[barrier], clock + wait)
    return added


def together(most: int, lone: float, busy: Sequence[float]) -> Array:
    """The clocks that a warp takes if 1, 2, ... `most` warps share an SM, each followed by one like it.

    `lone` are the clocks of a warp alone, `busy` those for which it occupies each resource, at
    which warps queue. This is mean value analysis of a closed network of queues: a warp that comes
    to a resource finds as many before it as are there on average if it is left out.
    """
    service = np.array(busy)
    waiting = np.zeros(len(service))
    found = []
    for warps in range(1, most + 1):
        each = service * (1 + waiting)
        clocks = lone + each.sum()
        waiting = each * warps / clocks
        found.append(clocks)
    return np.array(found)


def until_all_end(lengths: Array, sms: int, resident: int, clocks: Array) -> float:
    """The clocks from the start of a launch until its last CTA ends.

    lengths: of its CTAs in order, in parts of a mean one. At first each of the SMs takes one after the
    other, `resident` in all; later the next CTA goes where one has ended.
    clocks: that a CTA of mean length takes if 1, 2, ... run on its SM; all of them advance alike.
    """
    first, later = lengths[: sms * resident].tolist(), iter(lengths[sms * resident :].tolist())
    running = [sorted(first[sm::sms]) for sm in range(min(sms, len(first)))]
    # An end is told by the work that each CTA of its SM has done until then.
    events = [(ends[0] * clocks[len(ends) - 1], sm, sm) for sm, ends in enumerate(running)]
    heapq.heapify(events)
    now = 0.0
    for turn in count(sms):  # of several that end at once, SMs take turns
        if not events:
            break
        now, _, sm = heapq.heappop(events)
        ends = running[sm]
        work = heapq.heappop(ends)
        if (length := next(later, None)) is not None:
            heapq.heappush(ends, work + length)
        if ends:
            heapq.heappush(events, (now + (ends[0] - work) * clocks[len(ends) - 1], turn, sm))
    return float(now)
