"""Compiled kernels in the emulator, in fresh processes in which Triton's interpreter is off, and its command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

from bench.aot import tool
from support import ROOT


def fresh(*command: str, status: int = 0) -> str:
    """The output of a Python program in a process of its own: Triton's interpreter, on in this one, is off there."""
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
        "bwd bfloat16 affine bilinear zeros channels_last C=64 grads=both 32x64",
    ),
    "others": (
        "bwd float32 affine bilinear zeros channels_last C=64 grads=theta 32x64",
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
    # Every eightieth row, beginning with another one each time: `python -m bench.emulate --verify` runs them all.
    code = "import sys; from bench.emulator import verify; "
    code += f"sys.exit(verify.verify(every=80, first={40 * turn}))"
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
    then = {
        **key,
        "kind": "fwd",
        "kernel": "_sample_forward_kernel",
        "us": 1e-3,
        "sass_per_warp": 64.0,
    }
    earlier.write_text(json.dumps([then]))
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
    assert f"{rows[0]['us'] / 1e-3:.3f}x {rows[0]['sass_per_warp'] / 64:.3f}x" in shown
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
    key = ("tiny", "fwd", "float32", "contiguous")
    assert emulate._load(path) == {(key, "us"): 2.0, (key, "k"): 3.0}


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
