"""What a launch costs: its counts, and the time that a simple model of a GPU predicts from them.

Each resource is busy for some time: issue slots, arithmetic pipes, the load-store unit, L1, L2, DRAM,
and, where too few warps are resident, the latency of one warp after the other. The predicted time is
the longest of these. The cost of a launch, the tail of the last CTAs and issue slots that stay empty
are left out, so that it is a lower bound. The figures of the GPUs are from NVIDIA's data sheets and
programming guide for compute capability 9.0, or assumed where these give none.
`bench/results/NOTES.md` compares predicted times with measured ones.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from . import sass
from .calls import Run

SMS, CLOCK = 132, 1.755e9
SCHEDULERS = 4  # in an SM; each issues one warp instruction per clock
DRAM_RATE = {"H100": 0.92 * 3.35e12, "H200": 0.92 * 4.8e12}  # bytes per second that are reachable
L2_RATE = 5.5e12
LINES = 4  # that L1 serves per clock
LATENCY_L1, LATENCY_L2, LATENCY_DRAM = 35, 270, 600  # clocks
DEPENDENT = 4.5  # clocks from an arithmetic instruction to one that uses its result
CHAINS, MOST_PIXELS = (
    2.0,
    3.0,
)  # independent chains for each pixel of a lane; how many pixels add chains


@dataclass
class Cost:
    """The cost of a launch `scale` times as large as the one that ran."""

    run: Run
    code: sass.Code
    scale: float

    @property
    def warps(self) -> float:
        """How many warps the launch has."""
        return self.run.counts.ctas * self.run.kernel.threads / 32 * self.scale

    @cached_property
    def by_block(self) -> list[dict[str, float]]:
        """How many machine instructions of each pipe were issued in each PTX block."""
        return sass.issued(self.run.kernel, self.code, self.run.counts.block_warps)

    @cached_property
    def pipes(self) -> dict[str, float]:
        """Machine instructions of the launch, by pipe."""
        total = dict.fromkeys(sass.PIPES, 0.0)
        for counts in self.by_block:
            for pipe, count in counts.items():
                total[pipe] += count * self.scale
        return total

    @property
    def sass_per_warp(self) -> float:
        """Machine instructions that a warp issues."""
        return sum(self.pipes.values()) / self.warps

    def total(self, what: str, *, loads: bool) -> float:
        """A count of `memory.Access`, summed over all loads or all stores."""
        accesses = self.run.counts.accesses.values()
        return self.scale * sum(getattr(a, what) for a in accesses if a.is_load == loads)

    @property
    def dram_bytes(self) -> float:
        """Bytes that DRAM must read and write: each sector once."""
        counts = self.run.counts
        return (32.0 * counts.read_sectors + counts.written_bytes) * self.scale

    @property
    def l2_bytes(self) -> float:
        """Bytes between L2 and the SMs: each sector once for each CTA."""
        counts = self.run.counts
        return 32.0 * (counts.read_sectors_of_ctas + counts.write_sectors_of_ctas) * self.scale

    def floor(self, gpu: str = "H100") -> float:
        """Seconds that the traffic of DRAM alone takes."""
        return self.dram_bytes / DRAM_RATE[gpu]

    def times(self, gpu: str = "H100") -> dict[str, float]:
        """Seconds that each resource is busy."""
        p, clock = self.pipes, 1 / (SMS * CLOCK)
        arithmetic = max(2 * p["imad"], p["fma"] + p["imad"])
        loads = max(
            self.total("lines", loads=True) / LINES,
            self.total("passes", loads=True),
            self.total("requests", loads=True),
        )
        l1 = loads + self.total("sectors", loads=False) / LINES
        return {
            "issue": sum(p.values()) / SCHEDULERS * clock,
            "alu": 2 * p["alu"] / SCHEDULERS * clock,
            "fma": arithmetic / SCHEDULERS * clock,
            "xu": 8 * p["xu"] / SCHEDULERS * clock,
            "lsu": (p["global"] + p["shared"]) * clock,
            "l1": (l1 + self.run.counts.shared_passes * self.scale) * clock,
            "l2": self.l2_bytes / L2_RATE,
            "dram": self.floor(gpu),
            "latency": self._latency(),
        }

    def slowest(self, gpu: str = "H100") -> tuple[str, float]:
        """The resource that is busy longest, and its seconds."""
        times = self.times(gpu)
        name = max(times, key=lambda each: times[each])
        return name, times[name]

    @property
    def resident(self) -> int:
        """How many CTAs one SM holds at a time."""
        warps = self.run.kernel.threads // 32
        by_registers = 65536 // (math.ceil(self.code.facts.registers * 32 / 256) * 256 * warps)
        by_shared = 228 * 1024 // (int(self.run.compiled.metadata.shared) + 1024)
        return max(1, min(by_registers, 64 // warps, 32, by_shared))

    @property
    def rounds(self) -> float:
        """How often a warp waits for loads, if it does so once in each PTX block that has some."""
        counts, block_of = self.run.counts, self.run.kernel.block_of()
        blocks = {block_of[k] for k, access in counts.accesses.items() if access.is_load}
        return self.scale * sum(float(counts.block_warps[n]) for n in blocks) / self.warps

    def _latency(self) -> float:
        """Seconds until the last warp is done, if each waits for its own results and for nothing else."""
        sectors = self.total("sectors", loads=True) + self.total("sectors", loads=False)
        missed = min(1.0, self.l2_bytes / 32 / max(sectors, 1))
        load = (1 - missed) * LATENCY_L1 + missed * (LATENCY_L2 + LATENCY_DRAM) / 2
        chains = CHAINS * min(max(_pixels_of_a_lane(self.run), 1.0), MOST_PIXELS)
        warp = self.sass_per_warp * DEPENDENT / chains + self.rounds * load
        waves = max(1.0, self.run.counts.ctas * self.scale / (SMS * self.resident))
        return waves * warp / CLOCK

    @property
    def imbalance(self) -> float:
        """The instructions of the longest CTA, divided by those of the mean CTA."""
        issued = np.concatenate(self.run.counts.issued)
        return float(issued.max() / issued.mean())

    def blocks(self) -> list[str]:
        """A line for each PTX block: how often a warp runs it, and what it issues there."""
        kernel, counts = self.run.kernel, self.run.counts
        lines, warps = [], counts.ctas * kernel.threads / 32
        for number, block in enumerate(kernel.blocks):
            sizes = self.by_block[number]
            if not any(sizes.values()):
                continue
            where = Counter(f"{i.source[0]}:{i.source[1]}" for i in block.instructions)
            lines.append(
                f"block {number:3}: {counts.block_warps[number] / warps:8.2f} runs a warp, "
                f"{len(block.instructions):4} PTX, {sum(sizes.values()) / warps:8.1f} SASS a warp "
                + " ".join(f"{pipe} {count / warps:.1f}" for pipe, count in sizes.items() if count)
                + " at "
                + " ".join(place for place, _ in where.most_common(3))
            )
        return lines

    def hottest(self, most: int = 20) -> list[str]:
        """The source lines that issue most machine instructions, with their number per warp."""
        kernel, counts = self.run.kernel, self.run.counts
        block_of, times = kernel.block_of(), sass.copies(kernel, self.code)
        by_line: dict[str, float] = {}
        for index, opcodes in self.code.by_ptx.items():
            block = block_of.get(index, 0)
            place = kernel.instructions[index].source if index >= 0 else ("?", 0)
            line = f"{place[0]}:{place[1]}"
            issued = sum(opcodes.values()) * float(counts.block_warps[block]) / times[block]
            by_line[line] = by_line.get(line, 0.0) + issued
        warps = counts.ctas * kernel.threads / 32
        order = sorted(by_line.items(), key=lambda item: -item[1])[:most]
        return [f"{count / warps:8.1f} SASS a warp at {line}" for line, count in order]


def cost(run: Run, scale: float = 1.0) -> Cost:
    """What a launch costs that is `scale` times as large as the one that ran."""
    return Cost(run, sass.machine_code(run.kernel, run.compiled), scale)


def _pixels_of_a_lane(run: Run) -> float:
    """How many pixels, or vectors of channels, a lane works on at once. Where the constants of the
    kernel name no tile the answer is 1, the cautious one.
    """
    constants = dict(run.launch.constexprs)
    for value in run.launch.constexprs.values():  # constants may travel together in named tuples
        constants |= value._asdict() if hasattr(value, "_asdict") else {}
    if not {"TILE_X", "TILE_Y"} <= constants.keys():
        return 1.0
    lanes = 1
    if constants.get("CHANNEL_LANES"):
        lanes = constants["BLOCK_C"] / constants["VECTOR"]
    return float(constants["TILE_X"] * constants["TILE_Y"] * lanes / run.kernel.threads)
