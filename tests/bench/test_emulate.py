"""The emulator of compiled kernels, and the compiled kernels in it.

Programs of hand-written PTX run in this process. Compiled kernels run in fresh ones, in which
Triton's interpreter is off.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("triton")

from bench.aot import tool
from bench.emulator import arithmetic, ptx
from bench.emulator.machine import Machine
from bench.emulator.memory import BASE, Arena, Counts

ROOT = Path(__file__).resolve().parents[2]

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
    """(counts, the source, the target) of a program that has a word of each at %rd3 and %rd4."""
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
    assert counts.read_sectors == counts.read_sectors_of_ctas == 16
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


WORDS = [0, 1, 2, 31, 32, 33, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x12345678, 0xDEADBEEF]


@pytest.mark.parametrize("bits", [16, 32, 64])
@pytest.mark.parametrize("sign", ["i", "u"])
def test_upper_half_of_products(bits: int, sign: str) -> None:
    draw = random.Random(0)
    limits = np.iinfo(f"{sign}{bits // 8}")
    edges = [limits.min, limits.max, 0, 1, limits.max // 3]
    x = edges * 5 + [draw.randint(limits.min, limits.max) for _ in range(50)]
    y = [e for e in edges for _ in range(5)] + [
        draw.randint(limits.min, limits.max) for _ in range(50)
    ]
    kind = np.dtype(f"{sign}{bits // 8}")
    with np.errstate(over="ignore"):
        found = arithmetic.mulhi(np.array(x, kind), np.array(y, kind))
    assert found.tolist() == [p * q >> bits for p, q in zip(x, y, strict=True)]


def test_bits() -> None:
    a, b = (
        np.array(w, np.uint32) for w in zip(*[(x, y) for x in WORDS for y in WORDS], strict=True)
    )
    pairs = list(zip(a.tolist(), b.tolist(), strict=True))
    assert arithmetic.clz(a).tolist() == [32 - x.bit_length() for x, _ in pairs]
    assert arithmetic.brev(a).tolist() == [int(f"{x:032b}"[::-1], 2) for x, _ in pairs]
    assert arithmetic.popc(a).tolist() == [x.bit_count() for x, _ in pairs]
    assert arithmetic.lop3(a, b, np.uint32(0xF0F0F0F0), 0x96).tolist() == [
        x ^ y ^ 0xF0F0F0F0 for x, y in pairs
    ]
    for n in (0, 5, 31):
        both = [y << 32 | x for x, y in pairs]
        left, right = (arithmetic.shf(a, b, np.uint32(n), side, True) for side in (True, False))
        assert left.tolist() == [(w << n) % 2**64 >> 32 for w in both]
        assert right.tolist() == [(w >> n) % 2**32 for w in both]
        assert arithmetic.shl(a, np.uint32(n), 32).tolist() == [
            x << n & 0xFFFFFFFF for x, _ in pairs
        ]
    assert not arithmetic.shl(a, np.uint32(32), 32).any()
    assert arithmetic.bfe(a, np.uint32(4), np.uint32(8)).tolist() == [
        x >> 4 & 255 for x, _ in pairs
    ]
    signed = arithmetic.bfe(a.view(np.int32), np.uint32(4), np.uint32(8))
    assert signed.tolist() == [(x >> 4 & 255 ^ 128) - 128 for x, _ in pairs]
    assert arithmetic.bfi(a, b, np.uint32(4), np.uint32(8)).tolist() == [
        y & ~0xFF0 | (x & 255) << 4 for x, y in pairs
    ]
    assert arithmetic.prmt(a, b, np.uint32(0x5410)).tolist() == [
        (y & 0xFFFF) << 16 | x & 0xFFFF for x, y in pairs
    ]


@pytest.mark.parametrize("kind", ["idx", "up", "down", "bfly"])
@pytest.mark.parametrize("width", [32, 8])
def test_shuffles(kind: str, width: int) -> None:
    lanes = np.arange(64)
    by = np.where(lanes < 32, 3, 5)
    clamp = (32 - width) << 8 | (0 if kind == "up" else 31)
    found, inside = arithmetic.shfl(
        lanes.astype(np.uint32) + 100, by.astype(np.uint32), np.uint32(clamp), kind, 64
    )
    for lane in range(64):
        first = lane - lane % width
        source = {
            "idx": first + by[lane] % width, "up": lane - by[lane],
            "down": lane + by[lane], "bfly": lane ^ by[lane],
        }[kind]  # fmt: skip
        good = first <= source < first + width
        assert bool(inside[lane]) == good
        assert found[lane] == 100 + (source if good else lane)


def test_products_of_matrices() -> None:
    a, b, c = (torch.randn(2, *size, dtype=torch.float64) for size in ((8, 4), (4, 8), (8, 8)))
    pairs = c.reshape(2, 32, 2).unbind(-1)
    found = arithmetic.mma_f64(
        a.reshape(-1).numpy(), b.mT.reshape(-1).numpy(), [p.reshape(-1).numpy() for p in pairs], 64
    )
    wanted = (a @ b + c).reshape(64, 2).T
    torch.testing.assert_close(torch.from_numpy(found), wanted)


def test_half_precision_is_rounded_as_by_torch() -> None:
    x = torch.cat([torch.randn(1000), torch.tensor([0.0, -0.0, 1e-40, torch.inf, 65504.0, 7e4])])
    bits = arithmetic.to_bf16(x.numpy())
    assert (torch.from_numpy(bits).view(torch.bfloat16) == x.bfloat16()).all()
    assert (torch.from_numpy(arithmetic.from_bf16(bits)) == x.bfloat16().float()).all()
    with np.errstate(over="ignore"):
        assert (
            torch.from_numpy(arithmetic.to_f16(x.numpy())).view(torch.float16) == x.half()
        ).all()


def test_fused_products_are_rounded_once() -> None:
    x = np.float32(1 + 2**-12)
    assert arithmetic.fma(x, x, np.float32(-1)) == np.float32(2**-11 + 2**-24)
    assert arithmetic.to_int(np.float32([3e9, -3e9, np.nan, -2]), np.int32).tolist() == [
        2**31 - 1, -(2**31), 0, -2,
    ]  # fmt: skip


# In processes of their own


def fresh(*command: str, status: int = 0) -> str:
    """The output of a Python program to which the interpreter of this process is of no concern."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    if command[0] != "-m":
        environment.pop("TRITON_INTERPRET", None)
        environment.setdefault("TRITON_DEFAULT_FP_FUSION", "1")
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environment,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == status, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_broken_kernels_are_found_out() -> None:
    said = json.loads(fresh("tests/support/broken_kernels.py").splitlines()[-1])
    assert said.pop("right") == said.pop("added up") == said.pop("value") == []
    words = {
        "out of bounds": "reads out of bounds",
        "negative": "reads out of bounds",
        "unwritten": "200 of 800 bytes of a tensor are never written",
        "by two programs": "writes twice",
        "twice": "writes twice",
        "onto the input": "writes to an input",
        "of unwritten": "reads what nobody wrote",
        "wrong value": "output: error",
    }
    assert said.keys() == words.keys()
    for name, text in words.items():
        assert any(text in error for error in said[name]), (name, said[name])


ROWS = {
    "bilinear": (
        "fwd float32 affine bilinear zeros contiguous C=3 32x3x64x64-64x64",
        "bwd float32 affine bilinear zeros channels_last C=64 grads=theta 32x64",
        "bwd bfloat16 affine bilinear zeros channels_last C=64 grads=both 32x64",
    ),
    "others": (
        "bwd float32 affine bilinear reflection contiguous C=3 grads=input 32x3",
        "hard attention float32 contiguous zeros (3x33x29)-(31x38) ulp",
        "sides of kinks affine C=3",
    ),
}


@pytest.mark.parametrize("name", ["bilinear", pytest.param("others", marks=pytest.mark.slow)])
def test_compiled_kernels(name: str) -> None:
    rows = fresh("-m", "bench.emulate", "--verify", *ROWS[name]).splitlines()
    assert [row.split()[0] for row in rows[:-1]] == ["ok"] * len(ROWS[name]), rows
    assert rows[-1] == f"0 of {len(ROWS[name])} rows are wrong"


@pytest.mark.slow
@pytest.mark.parametrize("turn", range(2))
def test_verification_matrix(turn: int) -> None:
    # Two of twenty rows: `python -m bench.emulate --verify` runs them all.
    code = "import sys; from bench.emulator import verify; "
    code += f"sys.exit(verify.verify(every=20, first={10 * turn}))"
    assert fresh("-c", code).splitlines()[-1].startswith("0 of ")


KEYS = [
    "case", "kind", "dtype", "memory_format", "kernel", "us", "floor_us", "binds", "h200_us",
    "sass_per_warp", "registers", "spill_bytes", "atomics", "errors",
]  # fmt: skip


def has_disassembler() -> bool:
    try:
        return bool(tool("nvdisasm") and tool("cuobjdump"))
    except FileNotFoundError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(not has_disassembler(), reason="needs nvdisasm and cuobjdump")
def test_the_command_counts(tmp_path: Path) -> None:
    found, earlier = tmp_path / "rows.json", tmp_path / "earlier.json"
    key = {"case": "tiny-2x8x9x7", "dtype": "bfloat16", "memory_format": "channels_last"}
    earlier.write_text(json.dumps([{**key, "kind": "fwd", "us": 1e-3}]))
    shown = fresh(
        "-m", "bench.emulate", "tiny-2x8x9x7:bf16:channels_last", "--kind", "fwd", "--kind", "both",
        "--json", str(found), "--against", str(earlier), "--details",
    )  # fmt: skip
    rows = json.loads(found.read_text())
    assert all(list(row) == KEYS for row in rows)
    assert [row["kind"] for row in rows] == ["fwd", "both", "both"]
    assert rows[2]["kernel"] == "_sum_kernel"
    for row in rows:
        assert key.items() <= row.items()
        assert row["errors"] == []
        assert row["atomics"] == 0
        assert 0 < row["floor_us"] <= row["us"]
        assert 0 < row["h200_us"] <= row["us"]
        assert row["sass_per_warp"] > (50 if row["kernel"] == "_sum_kernel" else 100)
        assert row["registers"] > 16
    assert f"{rows[0]['us'] / 1e-3:.3f}x" in shown
    assert "SASS a warp at forward.py" in shown


def test_bad_arguments_are_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from bench import cases, emulate
    from bench.emulator import calls

    for text, said in (("nothing", "no case 'nothing'"), ("tiny-4x1x12:int8", "'int8'")):
        with pytest.raises(ValueError, match=said):
            cases.parse_case(text)
    if os.environ.get("TRITON_INTERPRET") == "1":
        with pytest.raises(RuntimeError, match="TRITON_INTERPRET"):
            calls.emulate(lambda: None)
    bad = tmp_path / "bad.json"
    bad.write_text("[1]")
    for arguments in (["nothing"], ["--against", str(bad)], ["--against", str(tmp_path / "none")]):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "environ", dict(os.environ))
            with pytest.raises(SystemExit, match="2"):
                emulate.main(arguments)
    assert "no case 'nothing'" in capfd.readouterr().err


def test_predictions_are_saved_with_their_origin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bench import emulate, results
    from bench.emulator.counting import Row

    monkeypatch.setattr(results, "RESULTS", tmp_path)
    row = Row(
        case="tiny", kind="fwd", dtype="float32", memory_format="contiguous", kernel="k", us=2.0, floor_us=1.0,
        binds="dram", h200_us=1.5, sass_per_warp=3.0, registers=40, spill_bytes=0, atomics=0, errors=[],
    )  # fmt: skip
    path = emulate._save([row])
    assert path.parent == tmp_path / "predicted"
    content = json.loads(path.read_text())
    assert {"predicted", "commit", "triton", "torch", "date", "rows"} <= set(content)
    assert emulate._load(path) == {("tiny", "fwd", "float32", "contiguous"): 2.0}


@pytest.mark.parametrize("name", ["crops-32x3x448-k2", "svhn-128x48x32", "projective-8x3x512"])
def test_the_images_that_are_counted_have_the_tiles_of_the_batch(name: str) -> None:
    from dataclasses import replace

    from bench.cases import parse_case
    from bench.emulator.calls import ctas_of
    from bench.emulator.counting import _images
    from bench.launches import KINDS, launches, variant_of

    case = parse_case(name)
    images = _images(case, KINDS)
    part = replace(case, shape=(images, *case.shape[1:]))
    for kind in KINDS:
        pairs = zip(launches(variant_of(case, kind)), launches(variant_of(part, kind)), strict=True)
        for whole, some in pairs:
            assert ctas_of(whole) * images == ctas_of(some) * case.shape[0]
