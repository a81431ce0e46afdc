"""The README's code runs, from top to bottom."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

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
