"""The native library as a file and as a backend: missing or damaged, the default on a CPU, in compiled graphs."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from stn_triton import functional, show_config, st_sample
from stn_triton.native import library, sampler, sources
from support.checks import needs_native
from support.native import native

pytestmark = needs_native


def test_a_missing_library(tmp_path: Path) -> None:
    loaded, missing = library.load(tmp_path / "stn_native.so")
    assert loaded is None
    assert missing is not None
    assert "without its native library" in missing


def test_a_damaged_library(tmp_path: Path) -> None:
    path = tmp_path / "stn_native.so"
    path.write_bytes(b"no library")
    assert "cannot be loaded" in str(library.load(path)[1])


@pytest.mark.skipif(sys.platform != "linux", reason="how to make one is known for Linux")
def test_a_library_of_other_sources(tmp_path: Path) -> None:
    built = (sources.FOLDER / sources.LIBRARY).read_bytes()
    path = tmp_path / "stn_native.so"
    path.write_bytes(built.replace(sources.digest().encode(), b"0" * 16))
    assert "make native" in str(library.load(path)[1])


def test_a_call_is_as_long_here_as_there() -> None:
    assert library.LIBRARY.stn_call_size() == ctypes.sizeof(library.Call)


WITHOUT = """
import torch
from stn_triton import show_config, st_sample
u, theta = torch.rand(1, 2, 3, 3), torch.eye(2, 3)[None]
print(st_sample(u, theta, (3, 3)).shape)
try:
    st_sample(u, theta, (3, 3), backend="native")
except RuntimeError as error:
    print(error)
print(show_config())
"""


@pytest.mark.slow
def test_without_the_library(tmp_path: Path) -> None:
    """A wheel without the library samples by the torch backend, and backend="native" says what is missing."""
    package = Path(functional.__file__).parent
    shutil.copytree(
        package,
        tmp_path / "stn_triton",
        ignore=shutil.ignore_patterns("stn_native.*", "__pycache__"),
    )
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT], capture_output=True, text=True, check=True, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)}, timeout=300,
    )  # fmt: skip
    shape, error, *config = done.stdout.splitlines()
    assert shape == "torch.Size([1, 2, 3, 3])"
    assert "backend='native' is not there" in error
    assert "without its native library" in error
    (why,) = (line for line in config if line.startswith("native: not there"))
    assert "pip install -e ." not in why
    # Python started in a clone imports the clone, where `pip install .` has built nothing.
    (tmp_path / "hatch_build.py").touch()
    done = subprocess.run(
        [sys.executable, "-c", "from stn_triton import show_config; print(show_config())"],
        capture_output=True, text=True, check=True, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)}, timeout=300,
    )  # fmt: skip
    (why,) = (line for line in done.stdout.splitlines() if line.startswith("native: not there"))
    assert "pip install -e ." in why and str(tmp_path) in why


def test_another_device() -> None:
    with pytest.raises(RuntimeError, match="needs a tensor on a CPU, got one on meta"):
        native(torch.empty(1, 1, 2, 2, device="meta"), torch.empty(1, 2, 3, device="meta"), (2, 2))


def test_show_config() -> None:
    text = show_config()
    assert f"native: there, {library.level()}" in text
    assert torch.__version__ in text
    assert "native on a CPU" in text


def test_the_default_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    library_call = sampler._run
    monkeypatch.setattr(sampler, "_run", lambda *a, **k: calls.append(k) or library_call(*a, **k))
    u, theta = torch.rand(2, 3, 5, 5).requires_grad_(), torch.eye(2, 3).repeat(2, 1, 1)
    st_sample(u, theta, (4, 4)).sum().backward()
    assert len(calls) == 2
    with torch.no_grad():
        st_sample(u, theta, (4, 4), backend="torch")
    assert len(calls) == 2


COMPILED = """
import torch
from stn_triton import st_sample
from stn_triton.native import sampler
calls, run = [], sampler._run
sampler._run = lambda *a, **k: calls.append(k) or run(*a, **k)
compiled = torch.compile(st_sample, fullgraph=True, backend="aot_eager")
u = torch.rand(2, 3, 5, 5).requires_grad_()
theta = torch.eye(2, 3).repeat(2, 1, 1)
for backend in (None, "native"):
    compiled(u, theta, (4, 4), backend=backend).sum().backward()
print(len(calls), u.grad.shape)
"""


@pytest.mark.slow
def test_compiled() -> None:
    """The operator inside a compiled graph calls the library where Triton's interpreter is off."""
    root = Path(functional.__file__).parents[1]
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", COMPILED], capture_output=True, text=True, check=False, timeout=300,
        env={**environment, "PYTHONPATH": str(root)},
    )  # fmt: skip
    assert done.stdout.strip() == "4 torch.Size([2, 3, 5, 5])", done.stderr
