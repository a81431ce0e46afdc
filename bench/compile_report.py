"""`python -m bench.compile_report`: registers, spills, shared memory, atomics and load widths of
every kernel variant.

Needs no GPU: kernels are compiled ahead of time, in fresh processes in which Triton's interpreter
is off.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from unittest.mock import patch

from .arguments import new_file
from .disassembly import uses_float64
from .variants import Variant, core_set, covering_set, every_variant


@dataclass(frozen=True, kw_only=True)
class Row:
    """One compiled kernel of one variant, as the JSON has it; a backward pass may have several."""

    name: str
    direction: str
    dtype: str
    flags: str
    arch: str
    num_warps: int
    registers: int
    spill_bytes: int
    shared_bytes: int
    global_atomics: int
    widest_global_load_bits: int
    instructions: int


@dataclass(frozen=True)
class Details:
    """A row with what only tests ask for: its variant, and the kernel's PTX (empty for AMD)."""

    row: Row
    variant: Variant
    kernel: str
    ptx: str

    def uses_float64(self) -> bool:
        """Whether double precision appears in the PTX."""
        return uses_float64(self.ptx)


@dataclass(frozen=True)
class Failure:
    """A variant that does not compile, and what the compiler said."""

    variant: Variant
    arch: str
    message: str


def _compile(job: tuple[Variant, str]) -> list[Details] | Failure:
    variant, arch = job
    try:
        return _rows(variant, arch)
    except (
        Exception
    ) as error:  # whatever the compiler raises: the other variants are still worth a look
        return Failure(variant, arch, f"{type(error).__name__}: {error}")


def _rows(variant: Variant, arch: str) -> list[Details]:
    # Imported here: these define kernels, and only this process has the interpreter off.
    from .aot import compile_launch, facts
    from .launches import launches

    found = []
    for launch in launches(variant):
        compiled = compile_launch(launch, arch)
        flags, name = variant.flags, variant.name
        if not {"input_ptr", "grad_output_ptr"} & set(launch.kernel.arg_names):  # it reads no image
            flags, name = (text.replace(f" {variant.memory_format}", "") for text in (flags, name))
        row = Row(
            name=f"{launch.kernel.__name__}: {name}",
            direction=variant.direction,
            dtype=variant.dtype_name,
            flags=flags,
            arch=arch,
            num_warps=launch.num_warps,
            shared_bytes=compiled.metadata.shared,
            **asdict(facts(compiled)),
        )
        found.append(Details(row, variant, launch.kernel.__name__, compiled.asm.get("ptx", "")))
    return found


def compilers(processes: int = 2) -> ProcessPoolExecutor:
    """Fresh processes that compile; they are started by the first `compile_all`."""
    return ProcessPoolExecutor(processes, mp_context=get_context("spawn"))


def compile_all(
    variants: Iterable[Variant], archs: Iterable[str], pool: ProcessPoolExecutor | None = None
) -> Iterator[Details | Failure]:
    """Compile each variant for each architecture; results in the order of the arguments.

    pool: from `compilers`, and left open; None: one for this call.
    """
    jobs = [(variant, arch) for arch in archs for variant in variants]
    with compilers() if pool is None else nullcontext(pool) as running:
        with patch.dict(os.environ):  # which the processes, started by `map`, inherit
            os.environ.pop("TRITON_INTERPRET", None)
            os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")
            every = running.map(_compile, jobs)
        for found in every:
            yield from [found] if isinstance(found, Failure) else found


_TABLE = (
    "num_warps",
    "registers",
    "spill_bytes",
    "shared_bytes",
    "global_atomics",
    "widest_global_load_bits",
    "instructions",
)
_HEADINGS = ("warps", "regs", "spill", "shared", "atomics", "load", "instr")


def _line(row: Row) -> str:
    values = asdict(row)
    return f"{row.arch:7}" + "".join(f"{values[name]:>8}" for name in _TABLE) + f"  {row.name}"


def main(arguments: list[str] | None = None) -> int:
    """Command line of the report."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.compile_report",
        description=__doc__,
        epilog="Columns: warps of a program; registers of a lane; spill: bytes of a lane; shared: bytes of a program; "
        "atomics: instructions on global memory; load: bits of the widest load of global memory; instr: machine "
        "instructions in the code, whether they run or not (`python -m bench.emulate` counts those that run).",
    )
    parser.add_argument(
        "--arch",
        action="append",
        metavar="ARCH",
        help="sm_80, sm_90 (default), sm_100, gfx942, …; repeatable",
    )
    parser.add_argument(
        "--json", type=new_file, metavar="FILE", help="write the rows as a JSON list"
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--all", action="store_true", help="every combination instead of the covering set"
    )
    which.add_argument(
        "--core", action="store_true", help="only the few that the quick test compiles"
    )
    chosen = parser.parse_args(arguments)
    variants = every_variant() if chosen.all else core_set() if chosen.core else covering_set()
    print(f"{'arch':7}" + "".join(f"{heading:>8}" for heading in _HEADINGS) + "  kernel: variant")
    rows, failures = [], 0
    for found in compile_all(variants, chosen.arch or ["sm_90"]):
        if isinstance(found, Failure):
            failures += 1
            print(
                f"{found.arch:7} {found.variant.name}: {found.message}", file=sys.stderr, flush=True
            )
        else:
            rows.append(found.row)
            print(_line(found.row), flush=True)
    if chosen.json is not None:
        from .results import write_text

        write_text(chosen.json, json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
