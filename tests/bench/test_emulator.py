"""The emulator's machine, on programs of hand-written PTX: what it counts and what it complains about."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("triton")

from bench.emulator import ptx
from bench.emulator.machine import Machine
from bench.emulator.memory import BASE, Arena, Counts

HEAD = """
.version 8.7
.target sm_90a
.address_size 64
.visible .entry kernel(
    .param .u64 .ptr .global .align 1 kernel_param_0,
    .param .u64 .ptr .global .align 1 kernel_param_1
)
.reqntid 64
{
    .reg .pred %p<8>;
    .reg .b16 %rs<8>;
    .reg .b32 %r<32>;
    .reg .b64 %rd<16>;
    ld.param.b64 %rd0, [kernel_param_0];
    ld.param.b64 %rd1, [kernel_param_1];
    mov.u32 %r0, %tid.x;
    mov.u32 %r1, %ctaid.x;
    mad.lo.s32 %r2, %r1, 64, %r0;
    mul.wide.s32 %rd2, %r2, 4;
    add.s64 %rd3, %rd0, %rd2;
    add.s64 %rd4, %rd1, %rd2;
"""
COPY = "ld.global.b32 %r3, [%rd3];\nst.global.b32 [%rd4], %r3;\n"


def run(body: str, ctas: int = 2, words: int = 128) -> tuple[Counts, np.ndarray, np.ndarray]:
    """Runs a program whose threads have their word of the source at %rd3 and that of the target at %rd4.

    Returns the counts, the source and the target.
    """
    kernel = ptx.parse(f"{HEAD}{body}\n    ret;\n}}\n")
    machine = Machine(kernel, shared_bytes=256)
    source = np.arange(words, dtype=np.uint32) * 3
    arena = Arena([4 * words, 4 * words], machine.grain)
    starts = [
        arena.add("source", source.view(np.uint8), True, False),
        arena.add("target", np.zeros(4 * words, np.uint8), False, True),
    ]
    counts = machine.run(arena, [BASE + start for start in starts], (ctas,))
    target = arena.bytes[starts[1] : starts[1] + 4 * words].view(np.uint32)
    return counts, source, target


def test_a_copy_is_counted() -> None:
    counts, source, target = run(COPY)
    assert not counts.errors
    assert (target == source).all()
    load, store = counts.accesses.values()
    assert load.is_load and not store.is_load
    for access in (load, store):
        assert (access.requests, access.lanes, access.sectors, access.lines) == (4, 128, 16, 4)
        assert access.passes == 4
    assert counts.read_pairs == 8
    assert counts.written_bytes == 512
    assert counts.block_warps.tolist()[0] == 4


@pytest.mark.parametrize(
    ("body", "words", "said"),
    [
        (COPY, 100, "reads out of bounds"),
        ("st.global.b32 [%rd4+4], %r0;", 128, "writes out of bounds"),
        ("ld.global.b32 %r3, [%rd3+2];", 128, "misaligned"),
        ("st.global.b32 [%rd3], %r0;", 128, "writes to an input"),
        ("ld.global.b32 %r3, [%rd4];", 128, "reads what nobody wrote"),
        (COPY + "st.global.b32 [%rd4], %r0;", 128, "writes twice"),
        ("st.global.b32 [%rd1], %r0;", 128, "several lanes to one place"),
        ("setp.eq.s32 %p0, %r1, 0;\n@%p0 st.global.b32 [%rd4], %r0;\nmul.wide.s32 %rd5, %r0, 4;\n"
         "add.s64 %rd5, %rd1, %rd5;\nld.global.b32 %r3, [%rd5];", 128, "another CTA"),
        ("setp.lt.u32 %p0, %r0, 40;\n@%p0 bra $L__skip;\nbar.sync 0;\n$L__skip:", 128, "a part of a CTA"),
        ("setp.lt.u32 %p0, %r0, 40;\n@%p0 bra $L__skip;\n"
         "shfl.sync.bfly.b32 %r3, %r0, 1, 31, -1;\n$L__skip:", 128, "a part of a warp"),
        ("st.shared.b32 [%r0+256], %r0;", 128, "shared memory"),
        ("$L__again:\nbra.uni $L__again;", 128, "does not end"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(
    body: str, words: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.emulator.machine._MOST_STEPS", 50)
    counts, _, _ = run(body, words=words)
    assert any(said in error for error in counts.errors), counts.errors


def test_what_a_program_wrote_it_may_read_and_write_again() -> None:
    again = "ld.global.b32 %r5, [%rd4];\nadd.s32 %r5, %r5, 7;\nst.global.b32 [%rd4], %r5;\n"
    counts, source, target = run(COPY + again + again)
    assert not counts.errors
    assert (target == source + 14).all()


def test_lanes_part_and_meet() -> None:
    # Each lane adds its number of turns; odd lanes go another way first.
    body = """
        mov.b32 %r5, 0;
        and.b32 %r6, %r0, 3;
        and.b32 %r7, %r0, 1;
        setp.eq.s32 %p0, %r7, 0;
        @%p0 bra $L__loop;
        add.s32 %r5, %r5, 100;
    $L__loop:
        add.s32 %r5, %r5, 1;
        sub.s32 %r6, %r6, 1;
        setp.ge.s32 %p1, %r6, 0;
        @%p1 bra $L__loop;
        bar.sync 0;
        st.global.b32 [%rd4], %r5;
    """
    counts, _, target = run(body)
    assert not counts.errors
    lane = np.arange(128) % 64
    assert (target == lane % 4 + 1 + 100 * (lane % 2)).all()
    assert counts.block_warps.max() == 16  # the loop: four turns of four warps
    assert counts.block_lanes.max() == 128 * 2.5


def test_shared_memory_is_of_one_program() -> None:
    body = """
        shl.b32 %r5, %r0, 2;
        st.shared.b32 [%r5], %r2;
        bar.sync 0;
        xor.b32 %r5, %r5, 252;
        ld.shared.b32 %r6, [%r5];
        st.global.b32 [%rd4], %r6;
    """
    counts, _, target = run(body)
    assert not counts.errors
    assert (target == np.arange(128).reshape(2, 64)[:, ::-1].reshape(-1)).all()
    assert counts.shared_passes == 8


def test_an_unused_frame_is_dropped_and_a_used_one_is_refused() -> None:
    frame = ".local .align 1 .b8 __local_depot0[2];\n.reg .b64 %SP;\nmov.b64 %SP, __local_depot0;\n"
    assert not run(frame + COPY)[0].errors
    with pytest.raises(NotImplementedError, match=r"line \d+ .*st.local"):
        run(frame + "st.local.b8 [%SP], %rs0;")


@pytest.mark.parametrize(
    "line", ["atom.global.add.f32 %r3, [%rd4], %r0;", "fma.rn.bf16x2 %r3, %r4, %r5, %r6;"]
)
def test_what_it_cannot_do_is_refused(line: str) -> None:
    with pytest.raises(NotImplementedError, match=line.split()[0]):
        run(line)
    with pytest.raises(ValueError, match="cannot parse"):
        run("neither here nor there")
