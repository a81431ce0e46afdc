"""`python -m bench.report FILE`: the tables of a result file, as Markdown."""

from __future__ import annotations

import argparse
import math
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

from .cases import direction, pass_name
from .results import Record, Results, load

OURS = "stn_triton"


def _table(heading: list[str], rows: Iterable[list[str]]) -> str:
    lines = [heading, ["---"] + ["---:"] * (len(heading) - 1), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines) + "\n"


def geometric_mean(values: list[float]) -> float:
    """The geometric mean; of no values it is NaN."""
    return math.exp(sum(map(math.log, values)) / len(values)) if values else math.nan


Group = dict[str, Record]


def by_measurement(records: Iterable[Record]) -> dict[tuple[str, str, str, str], Group]:
    """(case, dtype, memory format, name of the pass) -> provider -> its record."""
    groups: dict[tuple[str, str, str, str], Group] = defaultdict(dict)
    for r in records:
        groups[r.case, r.dtype, r.memory_format, pass_name(r.grads)][r.provider] = r
    return dict(groups)


def speedups(records: Iterable[Record], peer: str) -> list[float]:
    """The peer's time divided by ours, wherever both were measured."""
    found = []
    for group in by_measurement(records).values():
        ours, theirs = (group[name].ms if name in group else None for name in (OURS, peer))
        if ours is not None and theirs is not None:
            found.append(theirs / ours)
    return found


def _peers(records: Iterable[Record]) -> list[str]:
    return [name for name in dict.fromkeys(r.provider for r in records) if name != OURS]


def summary_table(records: list[Record]) -> str:
    """One row for each peer: how much faster ours is."""

    def rows() -> Iterable[list[str]]:
        for peer in _peers(records):
            for each in ("fwd", "fwd+bwd"):
                found = speedups([r for r in records if direction(r.grads) == each], peer)
                if found:
                    mean = geometric_mean(found)
                    cells = [
                        f"{mean:.2f}x",
                        f"{min(found):.2f}x",
                        f"{max(found):.2f}x",
                        str(len(found)),
                    ]
                    yield [f"`{peer}`, {each}", *cells]

    return _table(["faster than", "geometric mean", "least", "most", "cases"], rows())


def _milliseconds(record: Record | None) -> str:
    if record is None:
        return ""
    return "wrong" if record.ms is None else f"{record.ms:.3g}"


def _cell(value: float | None, form: Callable[[float], str]) -> str:
    return "" if value is None else form(value)


def times_table(records: list[Record]) -> str:
    """One row for each pass of a case, in milliseconds, and how near ours is to the speed of a plain copy."""
    peers = _peers(records)

    def rows() -> Iterable[list[str]]:
        for (case, dtype, layout, what), group in by_measurement(records).items():
            ours = group.get(OURS)
            share = ours.fraction_of_copy if ours else None
            times = [_milliseconds(group.get(name)) for name in (OURS, *peers)]
            yield [
                f"{case} {dtype} {layout} {what}",
                *times,
                _cell(share, lambda x: f"{x:.0%}"),
            ]

    return _table(["case, ms", *(f"`{name}`" for name in (OURS, *peers)), "of copy speed"], rows())


def memory_table(records: list[Record]) -> str:
    """Launches, host time and memory of ours and of eager PyTorch."""
    shown = (OURS, "torch_eager")

    def rows() -> Iterable[list[str]]:
        for (case, dtype, layout, what), group in by_measurement(records).items():
            if not any(name in group and group[name].peak_bytes is not None for name in shown):
                continue
            cells = []
            for name in shown:
                record = group.get(name)
                beyond = (
                    record.peak_bytes / record.least_peak_bytes - 1
                    if record and record.peak_bytes
                    else None
                )
                cells += [
                    _cell(record.launches if record else None, "{:.0f}".format),
                    _cell(record.host_us if record else None, "{:.0f}".format),
                    _cell(beyond, lambda x: f"{x:+.0%}"),
                ]
            yield [f"{case} {dtype} {layout} {what}", *cells]

    columns = [f"`{name}` {what}" for name in shown for what in ("launches", "host µs", "memory")]
    return _table(["case", *columns], rows())


def networks_table(results: Results) -> str:
    """One row for each network and sampler."""
    rows = (
        [
            f"{n.name} {n.image_size} {n.dtype}, batch {n.batch}",
            f"`{n.provider}`",
            f"{n.ms:.2f}",
            f"{n.images_s:.0f}",
            f"{n.sampler_share:.1%}",
        ]
        for n in results.networks
    )
    return _table(["network, training step", "with", "ms", "images/s", "in grid and sampler"], rows)


def markdown(results: Results) -> str:
    """The whole report."""
    machine = results.gpu or "CPU dry run: these are no figures"
    parts = [
        f"{machine}, torch {results.torch}, Triton {results.triton}, "
        f"commit {results.commit}, {results.date}; "
        f"a plain copy moves {results.copy_gb_s:.0f} GB/s.\n",
        summary_table(results.records),
        times_table(results.records),
        memory_table(results.records),
    ]
    if results.networks:
        parts.append(networks_table(results))
    return "\n".join(parts)


def main(arguments: list[str] | None = None) -> int:
    """Command line: print the report of one file."""
    parser = argparse.ArgumentParser(prog="python -m bench.report", description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--summary", action="store_true", help="only the comparison with each peer")
    chosen = parser.parse_args(arguments)
    try:
        results = load(chosen.file)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    print(summary_table(results.records) if chosen.summary else markdown(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
