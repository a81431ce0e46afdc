"""The site's tables, made from the files in bench/results while it is built."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from bench import cpu, report
from bench.cases import pass_name
from bench.results import RESULTS, Record, load
from docs.tools import accuracy

CPU_RESULTS = RESULTS / "cpu" / "amd-epyc-1-torch2.13.0.json"
GPU_RESULTS = RESULTS / "nvidia-h100-80gb-hbm3-torch2.11.0.json"
_PREDICTED = RESULTS / "predicted" / "sm_90-triton3.9.0.json"


def _table(heading: list[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [heading, ["---"] + ["---:"] * (len(heading) - 1), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines) + "\n"


def _cpu(path: Path = CPU_RESULTS) -> str:
    about, rows = cpu.load(path)
    cases: dict[tuple[str, ...], dict[str | None, cpu.Comparison]] = {}
    for row in rows:
        if row.peer == cpu.EAGER:
            cases.setdefault((row.case, row.dtype, row.memory_format), {})[row.grads] = row
    lines = (
        [", ".join(names), *_times(passes.get(None)), *_times(passes.get("both"))]
        for names, passes in cases.items()
    )
    columns = ("eager", "ours", "speed")
    heading = ["ms"] + [
        f"{which}: {c}" for which in ("forward", "forward + backward") for c in columns
    ]
    where = (
        f"Measured: {about['processor']}, {about['threads']} thread, torch {about['torch']}, "
        f"commit `{about['commit']}`, {about['date'][:10]}."
    )
    return f"{where}\n\n{_cpu_means(rows)}\n{_table(heading, lines)}"


def _times(row: cpu.Comparison | None) -> list[str]:
    if row is None or row.peer_ms is None or row.ours_ms is None or row.ratio is None:
        return ["", "", "not timed"]
    return [f"{row.peer_ms:.2f}", f"{row.ours_ms:.2f}", f"{row.ratio:.2f}x"]


def _cpu_means(rows: list[cpu.Comparison]) -> str:
    groups: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        if row.peer == cpu.EAGER and row.ratio is not None:
            groups.setdefault((row.dtype, pass_name(row.grads)), []).append(row.ratio)
    lines = (
        [
            ", ".join(names),
            *(
                f"{value:.2f}x"
                for value in (report.geometric_mean(speeds), min(speeds), max(speeds))
            ),
            str(len(speeds)),
        ]
        for names, speeds in groups.items()
    )
    return _table(["faster than eager", "geometric mean", "least", "most", "cases"], lines)


def _gpu_summary() -> str:
    results = load(GPU_RESULTS)
    return (
        f"Measured: {results.gpu}, torch {results.torch}, Triton {results.triton}, commit "
        f"`{results.commit}`, {results.date[:10]}; a plain copy moves {results.copy_gb_s:,.0f} GB/s.\n\n"
        f"{report.summary_table(results.records)}"
    )


def _pairs(records: list[Record]) -> Iterable[tuple[str, Record, Record]]:
    for names, group in report.by_measurement(records).items():
        ours, eager = group.get("stn_triton"), group.get("torch_eager")
        if ours and eager and ours.ms and eager.ms:
            yield ", ".join(names), eager, ours


def _gpu_rows(keep: Callable[[Record, Record], bool]) -> str:
    def rows() -> Iterable[list[str]]:
        for name, eager, ours in _pairs(load(GPU_RESULTS).records):
            if keep(eager, ours):
                times = [f"{1000 * (record.ms or math.nan):,.1f}" for record in (eager, ours)]
                share = f"{ours.fraction_of_copy:.0%}" if ours.fraction_of_copy else ""
                yield [name, *times, f"{(eager.ms or 0) / (ours.ms or 1):.2f}x", share]

    return _table(["µs of device time", "eager", "ours", "speed", "of copy speed"], rows())


def _gpu_host() -> str:
    def rows() -> Iterable[list[str]]:
        for name, eager, ours in _pairs(load(GPU_RESULTS).records):
            if eager.host_us is not None and ours.host_us is not None:
                cells = [eager.launches, ours.launches, eager.host_us, ours.host_us]
                yield [name, *("" if cell is None else f"{cell:.0f}" for cell in cells)]

    return _table(["", "launches: eager", "ours", "host time, µs: eager", "ours"], rows())


def _gpu_networks() -> str:
    return report.networks_table(load(GPU_RESULTS))


def _predicted() -> str:
    found: dict[str, Any] = json.loads(_PREDICTED.read_text())
    results = load(GPU_RESULTS)
    measured: dict[tuple[str | None, ...], float | None] = {
        (r.case, r.dtype, r.memory_format, r.grads): r.ms
        for r in results.records
        if r.provider == "stn_triton"
    }

    def rows() -> Iterable[list[str]]:
        seen: dict[tuple[str, ...], Any] = {}
        for row in found["rows"]:
            seen.setdefault((row["case"], row["dtype"], row["memory_format"], row["kind"]), row)
        for (case, dtype, layout, kind), row in seen.items():
            forward = measured.get((case, dtype, layout, None))
            whole = measured.get((case, dtype, layout, kind))
            took = forward if kind == "fwd" else whole and forward and whole - forward
            cells = [f"{row['us']:.1f}", f"{1000 * took:.1f}" if took else ""]
            name = "forward" if kind == "fwd" else f"backward, {kind}"
            yield [f"{case}, {dtype}, {layout}", name, *cells]

    return (
        f"**Predicted** at commit `{found['commit']}` ({found['predicted']}); **measured** on an "
        f"{results.gpu} at commit `{results.commit}`: the kernels have changed in between. A backward pass is the "
        "measured time of both passes less that of the forward pass.\n\n"
        + _table(["", "pass", "predicted, µs", "measured, µs"], rows())
    )


def _paper() -> str:
    """The tables that `reproduce` wrote, each with what it was made with."""
    parts = []
    for folder in sorted((RESULTS / "paper").iterdir()):
        found: dict[str, Any] = json.loads((folder / "results.json").read_text())
        name = found["table"].replace("table", "Table ")
        steps = f", --max-steps {found['max_steps']}" if found["max_steps"] else ""
        parts.append(
            f"**{name}**, schedule {found['schedule']}{steps}; {found['device']}, torch {found['versions']['torch']}, "
            f"commit `{found['commit']}`, {found['date'][:10]} "
            f"(`bench/results/paper/{folder.name}`).\n\n{(folder / 'table.md').read_text()}"
        )
    return "\n".join(parts)


TABLES: dict[str, Callable[[], str]] = {
    "cpu": _cpu,
    "cpu_further": lambda: _cpu(CPU_RESULTS.with_name(f"{CPU_RESULTS.stem}-further.json")),
    "cpu_growth": lambda: _cpu(CPU_RESULTS.with_name(f"{CPU_RESULTS.stem}-growth.json")),
    "gpu_summary": _gpu_summary,
    "gpu": lambda: _gpu_rows(lambda eager, ours: True),
    "gpu_losses": lambda: _gpu_rows(lambda eager, ours: (eager.ms or 0) < (ours.ms or 0)),
    "gpu_host": _gpu_host,
    "gpu_networks": _gpu_networks,
    "predicted": _predicted,
    "paper": _paper,
    "accuracy": accuracy.markdown,
}
"""What `<!-- table: NAME -->` on a page stands for."""
