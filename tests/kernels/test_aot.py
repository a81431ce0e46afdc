"""What the compiler makes of the kernels, for four architectures and without a GPU.

Compilation runs in a fresh process of `bench.compile_report`, since kernels in this one may be
interpreted. Importing what it needs takes seconds, so that all tests of this file share it. One test
compiles and judges all variants of one architecture, so that parallel test workers do not compile
the same twice.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import pytest

pytest.importorskip("triton")

from bench.compile_report import Details, Failure, compile_all, compilers
from bench.disassembly import expressions_at
from bench.variants import Variant, core_set, covering_set
from stn_triton.kernels.maps import units

ARCHS = ("sm_80", "sm_90", "sm_100", "gfx942")
COLUMNS = {
    "name", "direction", "dtype", "flags", "arch", "num_warps", "registers", "spill_bytes",
    "shared_bytes", "global_atomics", "widest_global_load_bits", "instructions",
}  # fmt: skip


FEW_BYTES = {"_cell_backward_kernel": 96}
"""Bytes that a lane may spill: timed on an H100, they cost less than the warps that more registers would leave no room
for. The code for sm_100 needs some registers more at the same limit, and spills 80 bytes at most."""

WITHOUT_PIXELS = ("_sum_kernel", "_product_kernel")
"""Kernels that work on theta alone, before or after those that sample."""


def complaints(found: Details | Failure) -> Iterator[str]:
    """What is wrong with one compiled kernel."""
    if isinstance(found, Failure):
        yield f"{found.arch} {found.variant.name}: {found.message}"
        return
    row = found.row
    narrow = row.dtype != "float64"
    if narrow and row.spill_bytes > FEW_BYTES.get(found.kernel, 0):
        yield f"{row.arch} {row.name}: spills {row.spill_bytes} bytes"
    # `_product_kernel` multiplies by the weights of a spline, which cancel, and needs double precision.
    if narrow and found.uses_float64() and found.kernel != "_product_kernel":
        yield f"{row.arch} {row.name}: computes in double precision"
    if row.global_atomics:
        yield f"{row.arch} {row.name}: {row.global_atomics} global atomics"
    # An AMD wavefront has 64 lanes: tiles made for warps of 32 leave each lane half as much to load.
    least = 64 if row.arch.startswith("gfx") else 128
    wide = found.variant.wide_loads() and "channels_last" in row.flags
    if wide and row.widest_global_load_bits < least:
        yield f"{row.arch} {row.name}: widest load {row.widest_global_load_bits} bits"


@pytest.fixture(scope="module")
def pool() -> Iterator[ProcessPoolExecutor]:
    with compilers(1) as pool:
        yield pool


def judge(found: list[Details | Failure], variants: int) -> None:
    assert len(found) >= variants
    wrong = [complaint for each in found for complaint in complaints(each)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.slow
@pytest.mark.parametrize("arch", ARCHS)
def test_covering_set(arch: str, pool: ProcessPoolExecutor) -> None:
    # One variant in sixteen, others for each architecture: `python -m bench.compile_report` compiles them all.
    variants = covering_set()[4 * ARCHS.index(arch) :: 16]
    judge(list(compile_all(variants, [arch], pool)), len(variants))


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["sm_90", "gfx942"])
def test_control_points_anywhere(arch: str, pool: ProcessPoolExecutor) -> None:
    variants = [v for v in covering_set() if v.control_points]
    judge(list(compile_all(variants, [arch], pool)), len(variants))


@pytest.mark.slow
def test_rows_have_the_columns_of_the_report(pool: ProcessPoolExecutor) -> None:
    variant = Variant(shape=(2, 1, 12, 12), out_size=(12, 12))
    (found,) = compile_all([variant], ["sm_90"], pool)
    assert isinstance(found, Details), found.message
    row = asdict(found.row)
    assert set(row) == COLUMNS
    assert row["direction"] == "fwd"
    assert row["dtype"] == "float32"
    assert row["registers"] > 0
    assert row["instructions"] > 100
    assert row["widest_global_load_bits"] == 32


def lines_of_source() -> range:
    """The lines of `units.linear`, where an output pixel becomes a source coordinate."""
    path = Path(inspect.getfile(units))
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef) and node.name == "linear":
            return range(node.lineno, (node.end_lineno or node.lineno) + 1)
    raise AssertionError("units.linear is gone")


@pytest.mark.slow
@pytest.mark.parametrize("transform", ["affine", "attention"])
def test_core_variants_find_the_same_coordinate(transform: str, pool: ProcessPoolExecutor) -> None:
    variants = sorted({replace(v, transform=transform) for v in core_set()}, key=lambda v: v.name)
    # For affine maps also what the core variants have besides, lattices.
    besides = [v for v in core_set() if v not in variants and transform == "affine"]
    compiled = list(compile_all([*variants, *besides], ["sm_90"], pool))
    judge(compiled, len(variants))
    found: dict[str, set[str]] = {}
    for each in compiled:
        assert isinstance(each, Details), each.message
        if each.variant in besides:
            continue
        if each.kernel in WITHOUT_PIXELS:
            continue
        expressions = expressions_at(each.ptx, "units.py", lines_of_source())
        assert expressions, f"no coordinate in {each.row.name}"
        found[each.row.name] = expressions
    for name, expressions in found.items():
        # The gather by cells selects among candidates, which moves selected coordinates here.
        for expression in expressions - {"selp"}:
            # a dx + (b dy + m): two fused steps and no other sum, so that none is left to contract.
            assert re.match(r"fma\.rn\.f32\(.*, fma\.rn\.f32\(", expression), (name, expression)
            assert 2 <= expression.count("fma.rn.f32(") <= 3, (name, expression)
    # The gather by cells has the dx + 1 of neighbours beside dx.
    same = {
        frozenset(expressions)
        for name, expressions in found.items()
        if not name.startswith("_cell_backward_kernel")
    }
    assert len(same) == 1, found
