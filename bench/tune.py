"""`python -m bench.tune --out FILE [CASE ...]`: the kernels of a case with other blocks than their own, timed on a GPU.

For each pass of each case every candidate is compiled (in `--jobs` processes at once), compared with the pass as it
is, and timed by graph replay. Nothing is chosen here: what is learnt goes into `stn_triton/kernels/blocks.py`, with its
reason. CASE is NAME[:bf16][:channels_last] with NAME from bench/cases.py.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from stn_triton.kernels import backward_cells, backward_pixels, backward_theta, forward
from stn_triton.kernels.blocks import (
    Blocks,
    cell_blocks,
    forward_blocks,
    pixel_blocks,
    theta_blocks,
)
from stn_triton.kernels.geometry import Geometry, geometry
from stn_triton.kernels.launch import Registers

from .budget import beyond_budget
from .cases import Case, parse_case
from .inputs import Inputs, make_inputs
from .launches import KINDS, Kind, call, options_of, variant_of, without_storage
from .results import save_rows
from .timing import copy_gb_s, device_ms, rotating_inputs
from .workers import DEFAULT_JOBS, in_processes

DEFAULT_CASES = (
    "svhn-128x3x64",
    "svhn-128x48x32",
    "svhn-128x48x32:bf16:channels_last",
    "general-32x256x56:bf16:channels_last",
    "general-8x3x1234x1345",
    "crops-32x3x448-k2",
    "up-1024x1x28-56",
    "reflection-128x3x64",
)
_FIRST_TILES = ((32, 8), (16, 16), (32, 4), (16, 8), (8, 8))
_LAST_TILES = ((8, 4), (8, 8), (8, 16), (16, 4), (32, 1), (8, 2))


@dataclass(frozen=True)
class Candidate:
    """One way to launch a pass: the block sizes that are changed, by name; no changes mean the pass as it is."""

    changes: tuple[tuple[str, int], ...] = ()

    def __str__(self) -> str:
        return " ".join(f"{name}={value}" for name, value in self.changes) or "as it is"


@dataclass(frozen=True)
class Row:
    """One candidate's time; `error` says why there is none: it did not compile, or gave another result."""

    case: str
    kind: Kind
    candidate: str
    us: float | None
    error: str | None


def _candidate(**changes: int) -> Candidate:
    return Candidate(tuple(changes.items()))


def _parsed(text: str) -> Candidate:
    """A candidate from its name."""
    changes = dict(word.split("=", 1) for word in text.split())
    return _candidate(**{name: int(value) for name, value in changes.items()})


def _tiles(own: Blocks, *, channels_last: bool) -> Iterator[Candidate]:
    """Other tiles, channel blocks and warps of a kernel over output pixels."""
    blocks = sorted({own.BLOCK_C, max(own.BLOCK_C // 2, 1)})
    tiles = _LAST_TILES if channels_last else _FIRST_TILES
    for (width, height), block, warps in product(tiles, blocks, (1, 2, 4)):
        lanes = 32 * warps
        if width * height * block >= 2 * lanes and width * height <= 8 * lanes:
            yield _candidate(TILE_X=width, TILE_Y=height, BLOCK_C=block, num_warps=warps)


def _others(g: Geometry, kind: Kind) -> Iterator[Candidate]:
    if kind in ("fwd", "theta"):
        own = forward_blocks(g) if kind == "fwd" else theta_blocks(g)
        yield from _tiles(own, channels_last=g.spec.CHANNEL_LANES)
    elif g.spec.PADDING != "reflection":
        cells = cell_blocks(g, with_theta=kind == "both")[0].CELLS
        most = sorted({min(rows, cells - 1) for rows in (8, 16)})
        for rows, registers in product(most, (80, 96, 112, 128, 144, 168)):
            yield _candidate(rows=rows, maxnreg=registers)
    else:
        for high, registers in product((1, 2, 4), (80, 96, 112, 128)):
            yield _candidate(high=high, maxnreg=registers)


def planned(
    texts: tuple[str, ...], kinds: tuple[Kind, ...], given: tuple[Candidate, ...] = ()
) -> Iterator[tuple[str, Kind, Candidate]]:
    """What to time; each pass of a case as it is first. given: the candidates, instead of those that are usual."""
    for text in texts:
        case = parse_case(text)
        for kind in kinds:
            inputs = without_storage(variant_of(case, kind))
            g = geometry(inputs.input, inputs.theta, inputs.index, case.out_size, options_of(case))
            for candidate in (Candidate(), *(given or _others(g, kind))):
                yield text, kind, candidate


@contextmanager
def applied(candidate: Candidate) -> Iterator[None]:
    """The launchers use the candidate's blocks."""
    changes: dict[str, Any] = dict(candidate.changes)
    if "maxnreg" in changes:
        changes["maxnreg"] = Registers(changes["maxnreg"], changes["maxnreg"])
    high, ahead = changes.pop("high", None), changes.pop("AHEAD", None)

    def tiles(own: Any, g: Geometry) -> Blocks:
        blocks: Blocks = own(g)._replace(**changes)
        return blocks

    def cells(g: Geometry, *, with_theta: bool) -> Any:
        spec, blocks = cell_blocks(g, with_theta=with_theta)
        if ahead is not None:
            spec = spec._replace(AHEAD=bool(ahead))
        return spec, blocks._replace(**changes)

    def pixels(g: Geometry) -> tuple[Blocks, int]:
        blocks, rows = pixel_blocks(g)
        return blocks._replace(TILE_Y=rows * high if high else blocks.TILE_Y, **changes), rows

    with ExitStack() as stack:
        if candidate.changes:
            for module, name, other in (
                (forward, "forward_blocks", partial(tiles, forward_blocks)),
                (backward_theta, "theta_blocks", partial(tiles, theta_blocks)),
                (backward_cells, "cell_blocks", cells),
                (backward_pixels, "pixel_blocks", pixels),
            ):
                stack.enter_context(patch.object(module, name, other))
        yield


def _run(case: Case, kind: Kind, inputs: Inputs) -> dict[str, Tensor]:
    return call(kind, inputs, case.out_size, options_of(case))


@cache
def _plan(
    texts: tuple[str, ...], kinds: tuple[Kind, ...], given: tuple[Candidate, ...]
) -> list[tuple[str, Kind, Candidate]]:
    return list(planned(texts, kinds, given))


def _compile(
    texts: tuple[str, ...], kinds: tuple[Kind, ...], given: tuple[Candidate, ...], number: str
) -> str | None:
    """Run a candidate once; the timing, in another process, then finds its kernels compiled."""
    text, kind, candidate = _plan(texts, kinds, given)[int(number)]
    case = parse_case(text)
    try:
        with applied(candidate):
            _run(case, kind, make_inputs(case, "cuda"))
        torch.cuda.synchronize()
    except Exception as error:  # a candidate that does not compile is passed over
        return f"{type(error).__name__}: {error}"
    finally:
        torch.cuda.empty_cache()
    return None


def _time(case: Case, kind: Kind, sets: list[Inputs], expected: dict[str, Tensor]) -> float | str:
    """Microseconds, or how the results differ from those of the pass as it is."""
    found = _run(case, kind, sets[0])
    for name, tensor in found.items():
        wrong = beyond_budget(tensor, expected[name], expected[name], times=0, roundings=8)
        if wrong is not None:
            return f"{name}: {wrong}"
    return 1e3 * device_ms([partial(_run, case, kind, each) for each in sets])[0]


def tune(
    texts: tuple[str, ...],
    kinds: tuple[Kind, ...],
    given: tuple[Candidate, ...],
    jobs: int,
    seconds: float,
) -> Iterator[Row]:
    """Every candidate that there was time for."""
    plan, start = _plan(texts, kinds, given), time.monotonic()
    work = partial(_compile, texts, kinds, given)
    names = [str(number) for number in range(len(plan))]
    until = start + seconds / 2
    wrong = dict(in_processes(work, names, jobs=jobs, device="cuda", until=until))
    print(f"{len(wrong)} of {len(plan)} compiled", flush=True)
    sets: list[Inputs] = []
    expected: dict[str, Tensor] = {}
    before = ""
    for number, (text, kind, candidate) in enumerate(plan):
        if time.monotonic() > start + seconds:
            return
        case = parse_case(text)
        if text != before:
            sets, before = rotating_inputs(case, "cuda"), text
        if not candidate.changes:
            expected = _run(case, kind, sets[0])
        found: float | str | None = wrong.get(str(number), "there was no time to compile it")
        if found is None:
            with applied(candidate):
                found = _time(case, kind, sets, expected)
        us, error = (None, found) if isinstance(found, str) else (found, None)
        yield Row(text, kind, str(candidate), us, error)


def _summary(rows: list[Row]) -> str:
    """The pass as it is and the four best, one line a pass."""
    lines = []
    for case, kind in dict.fromkeys((row.case, row.kind) for row in rows):
        timed = [(r.us, r.candidate) for r in rows if (r.case, r.kind) == (case, kind) and r.us]
        own = next((us for us, candidate in timed if candidate == str(Candidate())), None)
        best = ", ".join(f"{us:.2f} ({candidate})" for us, candidate in sorted(timed)[:4])
        lines.append(f"{case} {kind}: {own or math.nan:.2f} us as it is; best {best}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Command line; 2 for bad arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.tune",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("cases", nargs="*", metavar="CASE")
    parser.add_argument("--kind", action="append", choices=KINDS, help="only this pass; repeatable")
    parser.add_argument(
        "--with",
        dest="given",
        action="append",
        type=_parsed,
        default=[],
        metavar="'NAME=NUMBER ...'",
        help="only this candidate, written as in the results; repeatable",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    parser.add_argument("--jobs", type=int, default=DEFAULT_JOBS, metavar="N")
    parser.add_argument("--minutes", type=float, default=10.0, metavar="M")
    chosen = parser.parse_args(arguments)
    texts = tuple(chosen.cases or DEFAULT_CASES)
    try:
        for text in texts:
            parse_case(text)
    except ValueError as error:
        parser.error(str(error))
    if not torch.cuda.is_available():
        parser.error("no GPU is visible")
    kinds = tuple(chosen.kind or KINDS)
    rows = list(tune(texts, kinds, tuple(chosen.given), chosen.jobs, 60 * chosen.minutes))
    about = {"gpu": torch.cuda.get_device_name(), "copy_gb_s": copy_gb_s("cuda")}
    save_rows(chosen.out, about, rows)
    print(_summary(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
