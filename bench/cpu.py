"""`python -m bench.cpu`: ours against PyTorch and other peers on the CPU, timed in turn within one run.

`AIMS` are speeds against eager PyTorch, for the native library on one thread. Other work on the machine slows down both
alike, and what counts is the median ratio of neighbouring calls. JAX keeps the number of threads that it began with, so
that each number of threads needs a run of its own.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from .arguments import new_file, positive_count
from .cases import OPTION_CASES, Case, Grads, expand, pass_name
from .check import expect, run, verdict
from .growth import GROWTH_CASES
from .inputs import make_inputs
from .providers import PROVIDERS, named
from .providers.provider import Provider
from .report import geometric_mean
from .results import RESULTS, as_file_name, as_json, save_rows, without_direction, write_text
from .timing import interleaved, make_steps

ACCEPTANCE_CASES: tuple[Case, ...] = (
    Case("mnist-256x1x42", (256, 1, 42, 42), (42, 42)),
    Case("svhn-128x3x64", (128, 3, 64, 64), (64, 64)),
    Case("svhn-32x48x32", (32, 48, 32, 32), (32, 32)),
    Case("svhn-32x64x32", (32, 64, 32, 32), (32, 32)),
    Case("image-16x3x224", (16, 3, 224, 224), (224, 224)),
    Case("map-16x64x56", (16, 64, 56, 56), (56, 56)),
    Case("crops-32x3x448-k2", (32, 3, 448, 448), (224, 224), k=2),
)
_OPTIONS = ("projective-128x1x60", "tps-128x1x60", "volume-2x8x32", "bicubic-128x3x64")
FURTHER_CASES: tuple[Case, ...] = (
    *(replace(case, grads=("both",)) for case in OPTION_CASES if case.name in _OPTIONS),
    Case("call-4x1x28", (4, 1, 28, 28), (28, 28)),
)
"""Other transformations and modes, and what a call itself costs."""
EAGER = "torch_eager"


@dataclass(frozen=True, kw_only=True)
class Aim:
    """Speeds as multiples of eager PyTorch's: the geometric mean of each kind of pass, and the least of any case."""

    forward: float
    both: float
    theta: float | None = None
    input: float | None = None
    least: float

    def of(self, row: Comparison) -> float | None:
        """The aim of the mean that a row is part of."""
        passes = {None: self.forward, "both": self.both, "theta": self.theta, "input": self.input}
        return passes[row.grads]


AIMS = {
    "float32": Aim(forward=4.8, both=4.2, theta=4.2, input=5.0, least=2.0),
    "bfloat16": Aim(forward=4.0, both=3.5, least=1.5),
}


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One row: the speed of ours as a multiple of a peer's; `wrong` says why there is none."""

    case: str
    dtype: str
    memory_format: str
    grads: Grads | None
    peer: str
    elements: int
    peer_ms: float | None
    ours_ms: float | None
    ratio: float | None
    wrong: str | None


def compare(
    case: Case,
    grads: Grads | None,
    beside: tuple[Provider, ...],
    seconds: float,
) -> Iterator[Comparison]:
    """Check ours and each peer against the definition, then time the two in turn."""
    ours = named("stn_triton")
    inputs = make_inputs(case)
    wrong = _checked(case, grads, (ours, *beside))
    for peer in beside:
        pair, complaint = None, wrong[ours.name] or wrong[peer.name]
        if complaint is None:
            steps = [make_steps(provider, case, grads, [inputs])[0] for provider in (peer, ours)]
            pair = interleaved(*steps, seconds=seconds)
        yield Comparison(
            case=case.name,
            dtype=case.dtype_name,
            memory_format=case.memory_format,
            grads=grads,
            peer=peer.name,
            elements=case.output_elements(),
            peer_ms=pair.first_ms if pair else None,
            ours_ms=pair.second_ms if pair else None,
            ratio=pair.ratio if pair else None,
            wrong=complaint,
        )


_MOST_CHECKED = 2**24
"""Elements that are checked at most: the definition in float64 needs some twenty times as much memory."""


def _checked(
    case: Case, grads: Grads | None, providers: tuple[Provider, ...]
) -> dict[str, str | None]:
    """What is wrong with each provider on a case, of which only the first images are sampled if they are large."""
    images = max(1, case.shape[0] * _MOST_CHECKED // max(case.output_elements(), _MOST_CHECKED))
    case = replace(case, shape=(images, *case.shape[1:]))
    inputs = make_inputs(case)
    expected = expect(case, inputs, grads)
    found: dict[str, str | None] = {}
    for provider in providers:
        try:
            actual = run(provider.on_theta(case), inputs, grads)
        except Exception as error:  # whatever a peer raises is said in its row
            found[provider.name] = f"{provider.name} failed: {type(error).__name__}: {error}"
            continue
        complaint = verdict(case, actual, expected, provider.rounding)
        found[provider.name] = complaint and f"{provider.name}: {complaint}"
    return found


def peers() -> tuple[Provider, ...]:
    """All that can run on this CPU beside ours; torch.compile can, wherever Inductor finds a compiler."""
    others = (each for each in PROVIDERS if each.name != "stn_triton")
    return tuple(peer for peer in others if peer.name == "torch_compile" or peer.available("cpu"))


def comparisons(
    cases: tuple[Case, ...] = ACCEPTANCE_CASES,
    dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.bfloat16),
    *,
    beside: tuple[Provider, ...] | None = None,
    seconds: float = 0.5,
) -> Iterator[Comparison]:
    """Every pass of every case, in both memory formats, beside every peer that takes it (None: eager PyTorch)."""
    present = (named(EAGER),) if beside is None else beside
    for case in expand(cases, dtypes):
        for grads in case.passes:
            able = tuple(peer for peer in present if peer.can(case, grads))
            yield from compare(case, grads, able, seconds)


def summary(rows: list[Comparison], dtype: str = "float32", peer: str = EAGER) -> str:
    """Smallest ratio and geometric means of the rows of one dtype beside a peer, against the aims if that is eager."""
    of = [row for row in rows if row.dtype == dtype and row.peer == peer]
    timed = [row for row in of if row.ratio is not None]
    unchecked = len(of) - len(timed)
    start = f"{dtype}, {peer}"
    if not timed:
        return f"{start}: nothing timed, {unchecked} not passing the check"
    aim = AIMS.get(dtype) if peer == EAGER else None
    parts, reached = [], not unchecked
    for grads in dict.fromkeys(row.grads for row in timed):
        group = [row for row in timed if row.grads == grads]
        mean = geometric_mean([row.ratio for row in group if row.ratio])
        wanted = aim.of(group[0]) if aim else None
        reached &= wanted is None or mean >= wanted
        aimed = f" (aim {wanted}x)" if wanted else ""
        parts.append(f"{pass_name(grads)} {mean:.2f}x in the geometric mean{aimed}")
    lowest = min(row.ratio for row in timed if row.ratio)
    reached &= aim is None or lowest >= aim.least
    parts.append(
        f"lowest {lowest:.2f}x of {len(timed)} cases{f' (aim {aim.least}x)' if aim else ''}"
    )
    parts += [f"{unchecked} not passing the check"] if unchecked else []
    end = f": {'reached' if reached else 'missed'}" if aim else ""
    return f"{start}: {', '.join(parts)}{end}"


def save(rows: list[Comparison], threads: int, kind: str = "") -> Path:
    """Write the rows, with processor, versions and commit, to the folder of such results."""
    processor = _processor()
    torch_version = torch.__version__.split("+")[0]
    name = f"{as_file_name(processor)}-{threads}-torch{torch_version}{kind}.json"
    about = {"processor": processor, "threads": threads, "versions": _versions(rows)}
    return save_rows(RESULTS / "cpu" / name, about, rows)


def load(path: Path) -> tuple[dict[str, Any], list[Comparison]]:
    """(what a saved file is about, its rows). The oldest files know eager PyTorch alone, and gradients of both."""
    about: dict[str, Any] = json.loads(path.read_text())
    sizes = {case.name: case.output_elements() for case in ACCEPTANCE_CASES}
    rows = []
    for row in about.pop("rows"):
        if "eager_ms" in row:
            row["peer"], row["peer_ms"] = EAGER, row.pop("eager_ms")
            row["grads"] = None if row["direction"] == "fwd" else "both"
            row["elements"] = sizes[row["case"]]
        rows.append(Comparison(**without_direction(row)))
    return about, rows


def _versions(rows: list[Comparison]) -> dict[str, str]:
    """The versions of the peers that the rows name."""
    found: dict[str, str] = {}
    for peer in dict.fromkeys(row.peer for row in rows):
        for package in named(peer).packages:
            with suppress(PackageNotFoundError):
                found.setdefault(peer, version(package))
    return found


def _processor() -> str:
    """The name of the processor, as far as the system tells it."""
    with suppress(OSError):
        for text in Path("/proc/cpuinfo").read_text().splitlines():
            if text.startswith("model name"):
                return text.partition(":")[2].strip()
    return platform.processor() or platform.machine()


HEADING = (
    f"{'case':20} {'dtype':9} {'memory format':14} {'pass':16} {'peer':14}"
    f" {'peer ms':>9} {'ours ms':>9} {'ns/element':>10} {'speed':>7}"
)


def line(row: Comparison) -> str:
    """One row of the table; the time for each element of the result is ours."""
    what = pass_name(row.grads)
    start = f"{row.case:20} {row.dtype:9} {row.memory_format:14} {what:16} {row.peer:14}"
    if row.ratio is None or row.peer_ms is None or row.ours_ms is None:
        return f"{start} not timed: {row.wrong}"
    each = row.ours_ms * 1e6 / row.elements
    return f"{start} {row.peer_ms:9.3f} {row.ours_ms:9.3f} {each:10.2f} {row.ratio:6.2f}x"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.cpu", description=__doc__)
    parser.add_argument("--json", type=new_file, metavar="FILE")
    parser.add_argument(
        "--save", action="store_true", help="write the rows to bench/results/cpu/, too"
    )
    parser.add_argument("--seconds", type=float, default=0.5, help="for each row (default 0.5)")
    parser.add_argument(
        "--threads", type=positive_count, help="of every peer; 1 is steadier on a busy machine"
    )
    parser.add_argument("--float32", action="store_true", help="leave out bfloat16")
    parser.add_argument(
        "--peers", action="store_true", help="beside every peer that is installed, not eager alone"
    )
    parser.add_argument(
        "--grads", nargs="+", choices=("both", "theta", "input"), default=["both"],
        help="which gradients the backward passes compute (default both)",
    )  # fmt: skip
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--further", action="store_true", help="other transformations and modes")
    which.add_argument("--growth", action="store_true", help="from 8² to 2048², and over K and C")
    parser.add_argument("--cases", default="*", metavar="PATTERN", help="names, as in 'svhn-*'")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Command line: print the table, write it as JSON if asked to; never fails for being slow."""
    parser = _parser()
    chosen = parser.parse_args(arguments)
    kind = "-growth" if chosen.growth else "-further" if chosen.further else ""
    every = {"": ACCEPTANCE_CASES, "-further": FURTHER_CASES, "-growth": GROWTH_CASES}[kind]
    cases = tuple(
        replace(case, grads=tuple(chosen.grads))
        for case in every
        if fnmatch(case.name, chosen.cases)
    )
    if not cases:
        parser.error(f"no case {chosen.cases!r}; there are {', '.join(c.name for c in every)}")
    if chosen.threads is not None:
        torch.set_num_threads(chosen.threads)
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}")
    print(HEADING)
    rows: list[Comparison] = []
    dtypes = (torch.float32,) if chosen.float32 else (torch.float32, torch.bfloat16)
    beside = peers() if chosen.peers else None
    for row in comparisons(cases, dtypes, beside=beside, seconds=chosen.seconds):
        rows.append(row)
        print(line(row), flush=True)
    for dtype, peer in dict.fromkeys((row.dtype, row.peer) for row in rows if not kind):
        print(summary(rows, dtype, peer))
    if chosen.json is not None:
        write_text(chosen.json, json.dumps([as_json(row) for row in rows], indent=1) + "\n")
    if chosen.save:
        print(save(rows, torch.get_num_threads(), kind))
    return 0


if __name__ == "__main__":
    sys.exit(main())
