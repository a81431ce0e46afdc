"""`python -m bench.cpu`: ours against eager PyTorch on the CPU, timed in turn within one run.

The aims are those of `AIMS`, for the native library on one thread. Other work on the machine meets
both alike, and what counts is the median ratio of neighbouring calls.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from .cases import Case, Direction, Grads, expand
from .check import expect, run, verdict
from .inputs import make_inputs
from .providers import PROVIDERS
from .results import RESULTS, as_file_name, save_rows
from .timing import interleaved, make_steps

ACCEPTANCE_CASES: tuple[Case, ...] = (
    Case(name="mnist-256x1x42", shape=(256, 1, 42, 42), out_size=(42, 42)),
    Case(name="svhn-128x3x64", shape=(128, 3, 64, 64), out_size=(64, 64)),
    Case(name="svhn-32x48x32", shape=(32, 48, 32, 32), out_size=(32, 32)),
    Case(name="svhn-32x64x32", shape=(32, 64, 32, 32), out_size=(32, 32)),
    Case(name="image-16x3x224", shape=(16, 3, 224, 224), out_size=(224, 224)),
    Case(name="map-16x64x56", shape=(16, 64, 56, 56), out_size=(56, 56)),
    Case(name="crops-32x3x448-k2", shape=(32, 3, 448, 448), out_size=(224, 224), k=2),
)


@dataclass(frozen=True, kw_only=True)
class Aim:
    """Times eager's speed: in the geometric mean of each direction, and in every case."""

    forward: float
    both: float
    least: float


AIMS = {
    "float32": Aim(forward=4.8, both=4.2, least=2.0),
    "bfloat16": Aim(forward=4.0, both=3.5, least=1.5),
}


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One row: the speed of ours as a multiple of eager's; `wrong` says why there is none."""

    case: str
    dtype: str
    memory_format: str
    direction: Direction
    eager_ms: float | None
    ours_ms: float | None
    ratio: float | None
    wrong: str | None


def compare(case: Case, direction: Direction, grads: Grads | None, seconds: float) -> Comparison:
    """Check ours against the definition, then time it and eager in turn."""
    ours, eager = (
        next(p for p in PROVIDERS if p.name == name) for name in ("stn_triton", "torch_eager")
    )
    inputs = make_inputs(case)
    wrong = verdict(case, run(ours.on_theta(case), inputs, grads), expect(case, inputs, grads))
    pair = None
    if wrong is None:
        steps = [make_steps(provider, case, grads, [inputs])[0] for provider in (eager, ours)]
        pair = interleaved(*steps, seconds=seconds)
    return Comparison(
        case=case.name,
        dtype=case.dtype_name,
        memory_format=case.memory_format,
        direction=direction,
        eager_ms=pair.first_ms if pair else None,
        ours_ms=pair.second_ms if pair else None,
        ratio=pair.ratio if pair else None,
        wrong=wrong,
    )


def comparisons(
    cases: tuple[Case, ...] = ACCEPTANCE_CASES,
    dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.bfloat16),
    *,
    seconds: float = 0.5,
) -> Iterator[Comparison]:
    """Every case, forward and forward + backward, in both memory formats."""
    for case in expand(cases, dtypes):
        for direction, grads in case.directions():
            yield compare(case, direction, grads, seconds)


def summary(rows: list[Comparison], dtype: str = "float32") -> str:
    """Smallest ratio and geometric means of the rows of one dtype, against the aims."""
    timed = [row for row in rows if row.dtype == dtype and row.ratio is not None]
    unchecked = sum(row.dtype == dtype and row.ratio is None for row in rows)
    if not timed:
        return f"{dtype}: nothing timed, {unchecked} not passing the check"
    aim = AIMS[dtype]
    parts, reached = [], not unchecked
    for direction, wanted in (("fwd", aim.forward), ("fwd+bwd", aim.both)):
        ratios = [row.ratio for row in timed if row.direction == direction and row.ratio]
        if ratios:
            mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
            reached &= mean >= wanted
            parts.append(f"{direction} {mean:.2f}x in the geometric mean (aim {wanted}x)")
    lowest = min(row.ratio for row in timed if row.ratio)
    reached &= lowest >= aim.least
    parts.append(f"lowest {lowest:.2f}x of {len(timed)} cases (aim {aim.least}x)")
    parts += [f"{unchecked} not passing the check"] if unchecked else []
    return f"{dtype}: {', '.join(parts)}: {'reached' if reached else 'missed'}"


def save(rows: list[Comparison], threads: int) -> Path:
    """Write the rows, with processor, versions and commit, to the folder of such results."""
    processor = _processor()
    version = torch.__version__.split("+")[0]
    path = RESULTS / "cpu" / f"{as_file_name(processor)}-{threads}-torch{version}.json"
    return save_rows(path, {"processor": processor, "threads": threads}, rows)


def _processor() -> str:
    """What the processor calls itself, where the system says it."""
    with suppress(OSError):
        for text in Path("/proc/cpuinfo").read_text().splitlines():
            if text.startswith("model name"):
                return text.partition(":")[2].strip()
    return platform.processor() or platform.machine()


HEADING = (
    f"{'case':16} {'dtype':9} {'memory format':14} {'direction':8}"
    f" {'eager ms':>9} {'ours ms':>9} {'speed':>7}"
)


def line(row: Comparison) -> str:
    """One row of the table."""
    start = f"{row.case:16} {row.dtype:9} {row.memory_format:14} {row.direction:8}"
    if row.ratio is None or row.eager_ms is None or row.ours_ms is None:
        return f"{start} not timed: {row.wrong}"
    return f"{start} {row.eager_ms:9.3f} {row.ours_ms:9.3f} {row.ratio:6.2f}x"


def main(arguments: list[str] | None = None) -> int:
    """Command line: print the table, write it as JSON if asked to; never fails for being slow."""
    parser = argparse.ArgumentParser(prog="python -m bench.cpu", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument(
        "--save", action="store_true", help="write the rows to bench/results/cpu/, too"
    )
    parser.add_argument("--seconds", type=float, default=0.5, help="for each case (default 0.5)")
    parser.add_argument("--threads", type=int, help="of PyTorch; 1 is steadier on a busy machine")
    parser.add_argument("--float32", action="store_true", help="leave out bfloat16")
    chosen = parser.parse_args(arguments)
    if chosen.threads is not None:
        torch.set_num_threads(chosen.threads)
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}")
    print(HEADING)
    rows: list[Comparison] = []
    dtypes = (torch.float32,) if chosen.float32 else (torch.float32, torch.bfloat16)
    for row in comparisons(dtypes=dtypes, seconds=chosen.seconds):
        rows.append(row)
        print(line(row), flush=True)
    for dtype in dtypes:
        print(summary(rows, str(dtype).removeprefix("torch.")))
    if chosen.json is not None:
        chosen.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    if chosen.save:
        print(save(rows, torch.get_num_threads()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
