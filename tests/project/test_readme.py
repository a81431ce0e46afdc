"""The README's code runs, from top to bottom, and its figures are those in bench/results."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import stn_triton
from support import ROOT

README = ROOT / "README.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_code_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("einops", "onnxscript"):
        pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    assert len(BLOCKS) > 4
    names: dict[str, object] = {}
    for block in BLOCKS:
        exec(compile(block, str(README), "exec"), names)
    assert (tmp_path / "stn.onnx").stat().st_size > 1000


def test_speeds_of_the_readme_are_those_measured() -> None:
    pytest.importorskip("triton")
    from bench import cpu, report
    from bench.results import load
    from docs.tools.tables import CPU_RESULTS, GPU_RESULTS

    _, others = cpu.load(CPU_RESULTS.with_name(f"{CPU_RESULTS.stem}-further.json"))
    forward, both = (
        report.geometric_mean(
            [row.ratio for row in others if row.ratio is not None
             and (row.peer, row.dtype, row.grads) == (cpu.EAGER, "float32", grads)]
        )
        for grads in (None, "both")
    )  # fmt: skip
    assert f"{forward:.1f}x forward and {both:.1f}x with both gradients" in " ".join(
        README.read_text().split()
    )
    about, rows = cpu.load(CPU_RESULTS)
    results = load(GPU_RESULTS)
    speeds: dict[str, dict[bool, list[float]]] = {"float32": {}, "bfloat16": {}}
    for row in rows:
        if row.peer == cpu.EAGER and row.grads in (None, "both") and row.ratio is not None:
            speeds[row.dtype].setdefault(row.grads is None, []).append(row.ratio)
    lines = [*speeds.values(), {}]
    for forward in (True, False):
        records = [record for record in results.records if (record.grads is None) == forward]
        lines[-1][forward] = report.speedups(records, "torch_eager")
    names = (
        f"CPU: {about['processor']}, one thread, torch {about['torch'].split('+')[0]}, float32",
        "the same, bfloat16",
        f"GPU: {results.gpu}, torch {results.torch[:4]}, Triton {results.triton[:3]}, float32, "
        f"commit `{results.commit}`",
    )
    for name, line in zip(names, lines, strict=True):
        means = [f"{report.geometric_mean(line[forward]):.1f}x" for forward in (True, False)]
        assert f"| {name} | {means[0]} | {means[1]} |" in README.read_text(), (name, means)


def test_the_citation_is_of_this_version() -> None:
    assert f"\nversion: {stn_triton.__version__}\n" in (ROOT / "CITATION.cff").read_text()
