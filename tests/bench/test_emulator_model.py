"""What the emulator's model makes of counts: a simulated L1, waiting warps, CTAs that end one after the other."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("triton")

from test_emulator import COPY, HEAD

from bench.disassembly import CodeFacts
from bench.emulator import model, ptx, sass, waiting
from bench.emulator.l1 import simulate
from bench.emulator.machine import Machine
from bench.emulator.memory import BASE, Arena
from bench.emulator.sass import MachineInstruction

NONE = 7  # no barrier


def keys(*places: tuple[int, int]) -> np.ndarray:
    """Pairs of a warp and a sector, as the streams have them."""
    return np.array([warp << 40 | sector for warp, sector in places])


def test_l1_fetches_missing_sectors_and_forgets_the_oldest_line() -> None:
    stream = [
        (0, keys((0, 0), (0, 1), (0, 8), (1, 0))),  # lines 0 and 2; the other warp finds line 0
        (1, keys((0, 1), (0, 2))),  # a sector of line 0 is new
        (
            2,
            keys(
                (0, 4),
            ),
        ),  # line 1 displaces line 2 of a cache of two lines
        (
            3,
            keys(
                (0, 8),
            ),
        ),
    ]
    found = simulate([stream, [(3, keys((0, 8)))]], warps=2, lines=2)
    first = found[0]
    assert (first.requests, first.lines, first.sectors) == (2, 3, 4)
    assert (first.missed_requests, first.missed_lines, first.missed_sectors) == (1, 2, 3)
    assert (found[1].lines, found[1].missed_lines, found[1].missed_sectors) == (1, 1, 1)
    assert found[3].missed_lines == 2  # displaced, and in another batch
    roomy = simulate([stream], warps=2, lines=3)
    assert roomy[3].missed_lines == 0
    alone = simulate([stream], warps=1, lines=3)  # each warp is a CTA with an L1 of its own
    assert alone[0].missed_requests == 2


def instruction(opcode: str, origin: int = 0, **facts: int) -> MachineInstruction:
    return MachineInstruction(
        origin, opcode, **{"stall": 1, "result": NONE, "operands": NONE, "waits": 0, **facts}
    )


def test_a_warp_waits_for_its_loads_once() -> None:
    code = [
        instruction("LDG", 5, result=0, stall=2),
        instruction("LDG", 6, result=1, stall=2),
        instruction("FADD", stall=4, waits=0b01),
        instruction("FADD", stall=4, waits=0b11),
    ]
    assert waiting.alone(code, {5: 100.0, 6: 300.0}) == [2, 2, 102, 202]
    assert waiting.alone(code[2:], {}) == [4, 4]


def test_warps_that_share_a_unit_queue_for_it() -> None:
    clocks = waiting.together(64, 100.0, [10.0, 1.0])
    assert clocks[0] == 111
    assert (np.diff(clocks) > 0).all()
    rate = np.arange(1, 65) / clocks
    assert (np.diff(rate) > -1e-12).all()
    assert rate[-1] == pytest.approx(1 / 10, rel=1e-3)


@pytest.mark.parametrize(
    ("lengths", "clocks", "ends"),
    [
        ([1, 1, 1, 1], [10, 16], 16),  # two on each of two SMs
        ([1, 1, 1], [10, 16], 16),
        ([1, 1, 1, 1, 1], [10, 10], 20),  # one is left for later
        ([1] * 6, [10, 16], 26),  # the last two go to different SMs
        ([1, 3, 1, 1], [10, 16], 16 + 2 * 10),  # a long one goes on by itself
        ([2], [10, 16], 20),
    ],
)
def test_a_launch_ends_with_its_last_cta(
    lengths: list[float], clocks: list[float], ends: float
) -> None:
    found = waiting.until_all_end(np.array(lengths, float), 2, 2, np.array(clocks, float))
    assert found == pytest.approx(ends)


def test_what_the_assembler_wrote_about_waiting_is_read() -> None:
    text = """
        //## File "kernel.ptx", line 53
        /*02c0*/                   LDG.E R6, desc[UR8][R4.64+0x8] ;      /* 0x0000080804067981 */
                                                                         /* 0x000ea8000c1e1900 */
        //## File "kernel.ptx", line 45
        /*02d0*/              @!P0 LEA R4, P0, R2.reuse, R8, 0x2 ;       /* 0x0000000802047211 */
                                                                         /* 0x044fe200078010ff */
        /*02e0*/                   NOP ;                                 /* 0x0000000802047211 */
                                                                         /* 0x044fe200078010ff */
        .L_x_0: $__internal_0_$__cuda_sm3x_div_rn_noftz_f32_slowpath:
        /*02f0*/                   LEA R4, P0, R2, R8, 0x2 ;             /* 0x0000000802047211 */
                                                                         /* 0x044fe200078010ff */
    """
    assert sass._instructions(text) == [
        MachineInstruction(52, "LDG", stall=4, result=2, operands=NONE, waits=0),
        MachineInstruction(44, "LEA", stall=1, result=NONE, operands=NONE, waits=1 << 2),
    ]


def cost(registers: int, scale: float = 1.0, fmas: int = 0) -> model.Cost:
    """Of a copy of 64 words by each CTA, with made-up machine code."""
    kernel = ptx.parse(f"{HEAD}{COPY}    ret;\n}}\n")
    machine = Machine(kernel, shared_bytes=0)
    words = 128 * 64
    source = np.arange(words, dtype=np.uint32)
    arena = Arena([4 * words, 4 * words], machine.grain)
    starts = [
        arena.add("source", source.view(np.uint8), True, False),
        arena.add("target", np.zeros(4 * words, np.uint8), False, True),
    ]
    counts = machine.run(arena, [BASE + start for start in starts], (128,))
    run: Any = SimpleNamespace(
        kernel=kernel, counts=counts, compiled=SimpleNamespace(metadata=SimpleNamespace(shared=0))
    )
    load, store = counts.accesses
    code = [
        instruction("LDG", load, result=0),
        instruction("STG", store, waits=1),
        *[instruction("FFMA", load)] * fmas,
    ]
    return model.Cost(run, sass.Code(CodeFacts(registers, 0, 0, 32, 2), code, 0), scale)


def test_a_copy_costs_its_bytes() -> None:
    one, many = cost(32), cost(32, scale=4096)
    assert one.fetched[next(iter(one.fetched))].missed_lines > 0
    assert one.warps == 256
    assert many.resident == 32
    assert many.times()["dram"] == pytest.approx(2 * 4096 * 128 * 256 / model.DRAM_RATE["H100"])
    assert many.times()["dram"] == many.floor()
    assert many.binds() in ("dram", "fabric")
    longest = max(many.times().values())
    assert longest < many.seconds() - model.LAUNCH < 1.5 * longest
    assert many.seconds("H200") <= many.seconds()
    assert model.LAUNCH < one.seconds() < model.LAUNCH + 1e-6


def test_few_warps_wait_and_many_instructions_bind() -> None:
    roomy, crowded, busy = cost(32, 4096), cost(255, 4096), cost(32, 4096, fmas=3000)
    assert crowded.resident == 4
    assert crowded.seconds() > 1.5 * roomy.seconds()
    assert crowded.binds() == "latency"
    assert busy.binds() in ("issue", "fma")
    assert busy.seconds() > busy.times()["issue"]


@pytest.mark.parametrize(
    ("registers", "ctas"), [(32, 32), (60, 16), (64, 16), (96, 10), (98, 8), (128, 8), (163, 6)]
)
def test_registers_limit_the_warps_of_each_scheduler(registers: int, ctas: int) -> None:
    # Of CTAs with two warps; Nsight Compute says so of these numbers of registers.
    assert cost(registers).resident == ctas


def test_copies_of_an_unrolled_loop_are_told_by_its_products() -> None:
    body = """
    $L__again:
        ld.global.b32 %r3, [%rd3];
        setp.eq.s32 %p0, %r3, 0;
        @%p0 bra $L__done;
        fma.rn.f32 %r4, %r3, %r3, %r4;
        bra.uni $L__again;
    $L__done:
    """
    kernel = ptx.parse(f"{HEAD}{body}    ret;\n}}\n")
    places = {i.parts[0]: i.index for i in kernel.instructions}
    load = next(i.index for i in kernel.instructions if i.is_access("global"))
    code = [instruction("LDG", load), instruction("FFMA", places["fma"])] * 8
    facts = CodeFacts(32, 0, 0, 32, 16)
    block_of = kernel.block_of()
    found = sass.copies(kernel, sass.Code(facts, code, 0))
    assert found[block_of[load]] == found[block_of[places["fma"]]] == 8
