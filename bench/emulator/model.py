"""What a launch costs: its counts, and the time that a model of a GPU predicts from them.

Each warp occupies resources: issue slots and arithmetic pipes, the load-store unit, L1, L2, the fabric
between the halves of L2, and DRAM. It also waits by itself, for the results of its loads and of its
arithmetic. The warps of an SM queue for the resources (`waiting.together`), SMs take CTAs until none is
left (`waiting.until_all_end`), and a launch itself takes some time.

Left out are: cold caches of instructions and addresses, what L2 still holds from the launch before or
has not written yet at the end, rows and banks of DRAM, CTAs that take longer than others though they
issue as much, resources that are free once some SMs have nothing left to do, barriers of a CTA, and
lines in an L1 that several CTAs share.

The figures are of an H100 SXM: from NVIDIA's data sheet and programming guide for compute capability
9.0; latencies from "Benchmarking and Dissecting the Nvidia Hopper GPU Architecture" (Luo et al., 2024);
those with "counted" from what Nsight Compute counted in 24 launches of our kernels.
`bench/results/NOTES.md` compares predicted times with measured ones.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from . import sass, waiting
from .calls import Run
from .l1 import Fetched, simulate

SMS, CLOCK = 132, 1.98e9  # the highest clock, which was counted
SCHEDULERS, REGISTERS = 4, 65536  # in an SM; each issues one warp instruction per clock

LINE, LINES = 128, 4  # bytes of a line; how many of them L1 looks up per clock
L1_BYTES = 256 * 1024  # with shared memory
SHARED_BYTES = tuple(1024 * size for size in (0, 8, 16, 32, 64, 100, 132, 164, 196, 228))
L1_SHARES = 2
"""How many shares of the L1 a CTA uses: while some CTAs of an SM load, the others compute and leave theirs
unused. With one share, a volume of 32 channels would miss 80 % of its sectors. 23 % were counted, as with two."""

L2_BYTES, L2_RATE = 50 * 2**20, 5.5e12
L2_LOOKUPS = 80 * 1.7e9  # lines per second: one in each slice and clock; 0.88 of it were counted
LOOKUPS_OF_LINE = 1.6
"""How often L2 looks up a line that is asked for, since half of its lines belong to the other half of
it, and those that come from DRAM are entered. Counted: 1.3 to 1.9."""
FABRIC_RATE = 2.8e12
"""Bytes per second that come from DRAM into L2 or from SMs, half of which must cross to the other half
of L2. Nsight Compute says how busy L2 is without a name for this; its figures in eleven launches are
those of this rate, to a quarter."""

DRAM_RATE = {"H100": 0.9 * 3.35e12, "H200": 0.9 * 4.8e12}  # bytes per second; copies reach 0.9
DRAM_PAIR = 64  # bytes that it reads at least, two sectors
LATENCY_L1, LATENCY_L2, LATENCY_DRAM = 41, 263, 479  # clocks
LAUNCH = 2.5e-6  # seconds; 2 to 3 in which no SM was at work were counted


@dataclass
class Cost:
    """The cost of a launch `scale` times as large as the one that ran."""

    run: Run
    code: sass.Code
    scale: float

    @property
    def ctas(self) -> int:
        """How many CTAs the launch has."""
        return round(self.run.counts.ctas * self.scale)

    @property
    def warps_of_cta(self) -> int:
        """How many warps a CTA has."""
        return self.run.kernel.threads // 32

    @property
    def warps(self) -> int:
        """How many warps the launch has."""
        return self.ctas * self.warps_of_cta

    @cached_property
    def issues(self) -> list[float]:
        """How often each machine instruction is issued in the launch."""
        ran = self.run.counts.block_warps * self.scale
        return sass.issues(self.run.kernel, self.code, ran)

    @cached_property
    def pipes(self) -> dict[str, float]:
        """Machine instructions of the launch, by pipe."""
        total = dict.fromkeys(sass.PIPES, 0.0)
        for each, count in zip(self.code.instructions, self.issues, strict=True):
            total[sass.pipe(each.opcode)] += count
        return total

    @property
    def sass_per_warp(self) -> float:
        """Machine instructions that a warp issues."""
        return sum(self.pipes.values()) / self.warps

    @property
    def resident(self) -> int:
        """How many CTAs one SM holds at a time."""
        of_warp = math.ceil(self.code.facts.registers * 32 / 256) * 256
        warps = REGISTERS // SCHEDULERS // of_warp * SCHEDULERS  # each scheduler has a part of them
        by_shared = SHARED_BYTES[-1] // self._shared_of_cta
        most = min(warps // self.warps_of_cta, 64 // self.warps_of_cta, 32, by_shared)
        return max(1, most)

    @property
    def _shared_of_cta(self) -> int:
        return int(self.run.compiled.metadata.shared) + 1024

    @cached_property
    def fetched(self) -> dict[int, Fetched]:
        """What some of the CTAs fetched from L2, by load."""
        shared = next(s for s in SHARED_BYTES if s >= self.resident * self._shared_of_cta)
        lines = L1_SHARES * (L1_BYTES - shared) // LINE // self.resident
        return simulate(self.run.counts.streams, self.warps_of_cta, lines)

    def _missed(self, what: str) -> float:
        """Lines or sectors of all loads that come from L2."""
        total = 0.0
        for index, access in self.run.counts.accesses.items():
            if access.is_load:
                some = self.fetched.get(index)
                part = (
                    1.0 if some is None else getattr(some, f"missed_{what}") / getattr(some, what)
                )
                total += part * getattr(access, what)
        return total * self.scale

    def _stored(self, what: str) -> float:
        """Lines or sectors of all stores."""
        accesses = self.run.counts.accesses.values()
        return self.scale * sum(getattr(a, what) for a in accesses if not a.is_load)

    @property
    def _read_bytes(self) -> float:
        """Bytes that DRAM must read, each once."""
        return DRAM_PAIR * self.run.counts.read_pairs * self.scale

    @property
    def _written_bytes(self) -> float:
        return self.run.counts.written_bytes * self.scale

    def floor(self, gpu: str = "H100") -> float:
        """Seconds in which DRAM reads and writes each byte once."""
        return (self._read_bytes + self._written_bytes) / DRAM_RATE[gpu]

    @cached_property
    def _filled_bytes(self) -> float:
        """Bytes that L2 gets from DRAM: some again where it cannot hold what the running CTAs read."""
        held = L2_BYTES * max(1.0, self.ctas / (SMS * self.resident)) / max(self._read_bytes, 1)
        asked = max(DRAM_PAIR * self._missed("lines"), 32 * self._missed("sectors"))
        again = max(0.0, asked - self._read_bytes) * max(0.0, 1 - held)
        return self._read_bytes + again

    @cached_property
    def _l1_clocks(self) -> float:
        """Clocks of all L1s together. In each an L1 looks up four lines, or reads a word of each bank."""
        counts = self.run.counts
        accesses = counts.accesses.values()
        clocks = sum(a.lines / LINES + a.passes for a in accesses)
        shared = max(counts.shared_passes * self.scale, self.pipes["shared"])  # shuffles, too
        return clocks * self.scale + shared + self.pipes["spill"]

    def times(self, gpu: str = "H100") -> dict[str, float]:
        """Seconds for which each resource is busy; `latency`: the seconds that warps take if they never queue."""
        p, clock = self.pipes, 1 / (SMS * CLOCK)
        arithmetic = max(2 * p["imad"], p["fma"] + p["imad"])
        spills = sum(
            n for i, n in zip(self.code.instructions, self.issues, strict=True) if i.opcode == "STL"
        )
        lines = self._missed("lines") + self._stored("lines") + spills
        sectors = self._missed("sectors") + self._stored("sectors") + 4 * spills
        filled = self._filled_bytes
        return {
            "issue": sum(p.values()) / SCHEDULERS * clock,
            "alu": 2 * p["alu"] / SCHEDULERS * clock,
            "fma": arithmetic / SCHEDULERS * clock,
            "xu": 8 * p["xu"] / SCHEDULERS * clock,
            "lsu": (p["global"] + p["spill"] + p["shared"]) * clock,
            "l1": self._l1_clocks * clock,
            "l2": max(LOOKUPS_OF_LINE * lines / L2_LOOKUPS, 32 * sectors / L2_RATE),
            "fabric": (filled + 32 * self._stored("sectors")) / FABRIC_RATE,
            "dram": (filled + self._written_bytes) / DRAM_RATE[gpu],
            "latency": self.warps * self._alone / self._most_warps * clock,
        }

    @property
    def _most_warps(self) -> int:
        """The most warps that an SM holds in this launch."""
        return min(self.resident, math.ceil(self.ctas / SMS)) * self.warps_of_cta

    @cached_property
    def _alone(self) -> float:
        """Clocks of a warp that runs by itself."""
        dram = min(1.0, self._filled_bytes / max(32 * self._missed("sectors"), 1))
        l2 = LATENCY_L2 + dram * (LATENCY_DRAM - LATENCY_L2)
        loads = {
            index: LATENCY_L1 + (l2 - LATENCY_L1) * some.missed_requests / some.requests
            for index, some in self.fetched.items()
        }
        clocks = waiting.alone(self.code.instructions, loads)
        total = sum(each * count for each, count in zip(clocks, self.issues, strict=True))
        return total / self.warps

    def seconds(self, gpu: str = "H100") -> float:
        """The predicted time of the launch."""
        times = self.times(gpu)
        core = max(times[name] for name in ("issue", "alu", "fma", "xu", "lsu"))
        queues = [core, *(times[name] for name in ("l1", "l2", "fabric", "dram"))]
        most = self._most_warps
        busy = [each * SMS * CLOCK / self.warps for each in queues]
        clocks = waiting.together(most, self._alone, busy)
        lengths = np.resize(self.run.counts.lengths(), self.ctas)
        ends = waiting.until_all_end(
            lengths / lengths.mean(),
            SMS,
            self.resident,
            clocks[self.warps_of_cta - 1 :: self.warps_of_cta],
        )
        return LAUNCH + ends / CLOCK

    def binds(self, gpu: str = "H100") -> str:
        """The resource that is busy longest."""
        times = self.times(gpu)
        return max(times, key=lambda each: times[each])

    def blocks(self) -> list[str]:
        """A line for each PTX block: how often a warp runs it, and what it issues there."""
        kernel, counts = self.run.kernel, self.run.counts
        block_of, sizes = kernel.block_of(), [dict.fromkeys(sass.PIPES, 0.0) for _ in kernel.blocks]
        for each, count in zip(self.code.instructions, self.issues, strict=True):
            sizes[block_of.get(each.origin, 0)][sass.pipe(each.opcode)] += count / self.warps
        lines = []
        for number, block in enumerate(kernel.blocks):
            if not any(sizes[number].values()):
                continue
            where = Counter(f"{i.source[0]}:{i.source[1]}" for i in block.instructions)
            runs = counts.block_warps[number] * self.scale / self.warps
            lines.append(
                f"block {number:3}: {runs:8.2f} runs a warp, "
                f"{len(block.instructions):4} PTX, {sum(sizes[number].values()):8.1f} SASS a warp "
                + " ".join(f"{pipe} {count:.1f}" for pipe, count in sizes[number].items() if count)
                + " at "
                + " ".join(place for place, _ in where.most_common(3))
            )
        return lines

    def hottest(self, most: int = 20) -> list[str]:
        """The source lines that issue most machine instructions, with their number per warp."""
        instructions, by_line = self.run.kernel.instructions, dict[str, float]()
        for each, count in zip(self.code.instructions, self.issues, strict=True):
            place = instructions[each.origin].source if each.origin >= 0 else ("?", 0)
            line = f"{place[0]}:{place[1]}"
            by_line[line] = by_line.get(line, 0.0) + count / self.warps
        order = sorted(by_line.items(), key=lambda item: -item[1])[:most]
        return [f"{count:8.1f} SASS a warp at {line}" for line, count in order]


def cost(run: Run, scale: float = 1.0) -> Cost:
    """What a launch costs that is `scale` times as large as the one that ran."""
    return Cost(run, sass.machine_code(run.kernel, run.compiled), scale)
