"""`python -m bench.emulate [CASE ...]`: the compiled kernels, executed on a CPU and counted.

For each kernel of each pass: whether its values, bounds and writes are right, and the time that the
counts predict for an H100 and an H200 beside the least time that its memory traffic takes. These
times are predicted, never measured. What the emulator assumes and what it cannot do is written in
`bench.emulator`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .arguments import new_file

if TYPE_CHECKING:
    from .cases import Case
    from .emulator.counting import Counted, Row
    from .launches import Kind

_GOALS = (
    "svhn-128x3x64",
    "svhn-128x48x32",
    "svhn-128x48x32:bf16:channels_last",
    "general-32x256x56:bf16:channels_last",
    "crops-32x3x448-k2",
    "crops-32x3x448-k4",
    "general-8x3x1234x1345",
    "down-512x3x256-224",
    "up-1024x1x28-56",
    "reflection-128x3x64",
    "projective-8x3x512",
    "tps-8x3x512",
    "volume-2x1x64",
    "volume-2x8x32",
)
_KINDS: tuple[Kind, ...] = ("fwd", "theta", "input", "both")


_COLUMNS = """\
columns:
  us, H200    predicted microseconds of the whole pass on an H100 and on an H200; a pass may have several kernels
  floor       the least microseconds in which the bytes of the pass cross DRAM; ratio: us / floor
  binds       what is busy longest: issue slots, a unit of arithmetic (alu, fma, xu: conversions and approximations),
              lsu (loads and stores), l1, l2, fabric (between the halves of L2), dram; latency: warps wait
  SASS/warp   machine instructions that a warp executes on average; regs, spill: registers and spilled bytes of a lane
  earlier     with --against: us / us then, SASS/warp / SASS/warp then; below 1 is less
  CTAs emulated, values unseen
              only some thread blocks ran, those that a fixed number of instructions pays for. With a kernel that was
              changed it is other ones: compare SASS/warp and us only where that is not said.

With --details: `block` lines are basic blocks of the PTX: how often a warp runs them, what they issue on which unit,
and the source lines that they come from mostly. FILE:0 is what the compiler ascribes to no line; files are those of
stn_triton/kernels, or of Triton."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.emulate",
        description=__doc__,
        epilog=_COLUMNS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "cases",
        nargs="*",
        metavar="CASE",
        help="NAME[:bf16][:channels_last], NAME as in bench/cases.py (default: a set that shows "
        "every kernel); with --verify a part of the name of a row",
    )
    parser.add_argument(
        "--kind",
        action="append",
        choices=_KINDS,
        help="only this pass; repeatable. fwd: the result; theta, input, both: these gradients",
    )
    parser.add_argument(
        "--json", type=new_file, metavar="FILE", help="write the rows as a JSON list"
    )
    parser.add_argument(
        "--save",
        action="store_true",
        help="write the rows, with commit and versions, to bench/results/predicted/",
    )
    parser.add_argument(
        "--against",
        type=Path,
        metavar="FILE",
        help="show ratios to an earlier JSON file: of the time, and of SASS/warp",
    )
    parser.add_argument(
        "--verify",
        action="store_true",
        help="the verification matrix (half an hour), without counts",
    )
    parser.add_argument(
        "--details",
        action="store_true",
        help="also what binds, PTX blocks, and the source lines with most instructions",
    )
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Command line of the emulator; 1 if a value, a bound or a write was wrong."""
    # Read as Triton is imported, which happens below.
    os.environ.pop("TRITON_INTERPRET", None)
    os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")
    parser = _parser()
    chosen = parser.parse_args(arguments)
    if find_spec("triton") is None:
        parser.error("this needs Triton and numpy: pip install 'stn-triton[triton]'")
    if chosen.verify:
        from .emulator.verify import verify

        return 1 if verify(chosen.cases) else 0
    from .cases import parse_case

    try:
        cases = [parse_case(text) for text in chosen.cases or _GOALS]
        earlier = {} if chosen.against is None else _load(chosen.against)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    status, rows = _count(cases, chosen.kind or _KINDS, earlier, chosen.json, chosen.details)
    if chosen.save:
        print(_save(rows))
    return status


def _save(rows: list[Row]) -> Path:
    """Write what was predicted to the folder of such results."""
    from importlib.metadata import version

    from .emulator.calls import ARCH
    from .results import RESULTS, save_rows

    about = {
        "predicted": "from counts of the compiled code (bench/emulator), never measured",
        "arch": ARCH,
        "triton": version("triton"),
    }
    path = RESULTS / "predicted" / f"{ARCH}-triton{version('triton')}.json"
    return save_rows(path, about, rows)


def _count(
    cases: Iterable[Case],
    kinds: Iterable[Kind],
    earlier: _Earlier,
    path: Path | None,
    details: bool,
) -> tuple[int, list[Row]]:
    """(1 if something was wrong, the rows)."""
    from .emulator.counting import count
    from .results import write_text

    print(_HEADING, flush=True)
    rows: list[Row] = []
    status = 0
    for case in cases:
        try:
            for counted in count(case, kinds):
                rows += counted.rows
                _show(counted, earlier, details)
                if path is not None:
                    write_text(path, json.dumps([asdict(row) for row in rows], indent=1) + "\n")
        except (NotImplementedError, FileNotFoundError) as error:
            # An instruction that the emulator does not know, or a disassembler that is not there.
            print(f"{case.key}: {error}", file=sys.stderr, flush=True)
            status = 1
    return 1 if any(row.errors for row in rows) else status, rows


_Key = tuple[str, str, str, str]


def _key(row: dict[str, Any]) -> _Key:
    return row["case"], row["kind"], row["dtype"], row["memory_format"]


_Earlier = dict[tuple[_Key, str], float]
"""Microseconds of a pass ("us"), and instructions of a warp (the kernel's name)."""


def _load(path: Path) -> _Earlier:
    """An earlier count: a file of --json or of --save."""
    try:
        content = json.loads(path.read_text())
        rows = content["rows"] if isinstance(content, dict) else content
        found = {(_key(row), "us"): float(row["us"]) for row in rows}
        for row in rows:
            if "sass_per_warp" in row:
                found[_key(row), row["kernel"]] = float(row["sass_per_warp"])
        return found
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is no JSON file of this command: {error!r}") from error


_HEADING = (
    f"{'case':24} {'dtype':8} {'layout':13} {'pass':5} {'kernel':26} {'us':>8} {'floor':>7} {'ratio':>6} "
    f"{'H200':>8} {'binds':8}{'SASS/warp':>9} {'regs':>4} {'spill':>5} {'atomics':>7} {'earlier':>15}   "
    "(us: predicted, of the whole pass)"
)


def _show(counted: Counted, earlier: _Earlier, details: bool) -> None:
    for row, cost in zip(counted.rows, counted.costs, strict=True):
        ratio = _ratios(row, earlier)
        part = "" if cost.run.complete else f"  {cost.run.counts.ctas} CTAs emulated, values unseen"
        print(
            f"{row.case:24} {row.dtype:8} {row.memory_format:13} {row.kind:5} {row.kernel:26} "
            f"{row.us:8.2f} {row.floor_us:7.2f} {row.us / row.floor_us:6.2f} {row.h200_us:8.2f} "
            f"{row.binds:8}{row.sass_per_warp:9.1f} {row.registers:4} {row.spill_bytes:5} "
            f"{row.atomics:7} {ratio:>15}{part}",
            flush=True,
        )
        for error in row.errors:
            print(f"    WRONG: {error}", flush=True)
        if details:
            times = ", ".join(f"{name} {1e6 * t:.2f}" for name, t in cost.times().items())
            print(
                f"    {counted.images} images, {cost.run.counts.ctas} CTAs; us of this kernel: {times}"
            )
            print(
                f"    {cost.code.differing} SASS differ between the code counted and the code that would run"
            )
            print(f"    pipes: {_per_warp(cost.pipes, cost.warps)}")
            for line in (*cost.blocks(), *cost.hottest()):
                print(f"    {line}")


def _ratios(row: Row, earlier: _Earlier) -> str:
    """The row's time and its instructions in parts of those before."""
    key = _key(asdict(row))
    now = {"us": row.us, row.kernel: row.sass_per_warp}
    pairs = [(value, earlier[key, what]) for what, value in now.items() if (key, what) in earlier]
    return " ".join(f"{value / before:.3f}x" for value, before in pairs)


def _per_warp(pipes: dict[str, float], warps: float) -> str:
    return ", ".join(f"{name} {count / warps:.1f}" for name, count in pipes.items() if count)


if __name__ == "__main__":
    sys.exit(main())
