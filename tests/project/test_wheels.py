"""How the native library is built and shipped: what a build needs, what it exports, and that ziglang's build runs."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from stn_triton.native import library, sources
from support import ROOT

pytestmark = pytest.mark.skipif(
    not (ROOT / "hatch_build.py").is_file(), reason="an installed package has no build hook"
)


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def build() -> ModuleType:
    return load(ROOT / "stn_triton" / "native" / "build.py")


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Any:
    pytest.importorskip("hatchling")
    for name in ("CXX", "STN_TRITON_NATIVE"):
        monkeypatch.delenv(name, raising=False)
    kind = load(ROOT / "hatch_build.py").NativeLibrary
    return kind(str(ROOT), {}, None, None, str(ROOT), "wheel", None)


def asked_for(hook: Any) -> list[str]:
    return [dependency.split(">")[0] for dependency in hook.dependencies()]


def test_ziglang_is_asked_for_where_there_is_no_compiler(
    hook: Any, build: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = ["ziglang"] if build.has_zig_wheels() else []
    monkeypatch.setenv("PATH", str(tmp_path))
    assert asked_for(hook) == expected
    broken = tmp_path / "c++"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    assert asked_for(hook) == expected
    monkeypatch.setenv("STN_TRITON_NATIVE", "0")
    assert asked_for(hook) == []


def test_a_compiler_that_is_there_is_taken(
    hook: Any, build: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    if build.local_compiler() is None:
        pytest.skip("no compiler here")
    assert asked_for(hook) == []
    # A local compiler does not build for another system.
    monkeypatch.setenv("STN_TRITON_NATIVE", "aarch64-macos.11.0")
    assert asked_for(hook) == (["ziglang"] if build.has_zig_wheels() else [])


def test_what_the_environment_names_must_be_right(
    hook: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(RuntimeError, match="CXX names does not build"):
        hook.dependencies()
    monkeypatch.setenv("STN_TRITON_NATIVE", "sparc")
    with pytest.raises(ValueError, match="must be 0, 1 or one of"):
        hook.dependencies()


def test_wheels_of_every_target_are_checked(build: ModuleType) -> None:
    pytest.importorskip("lief")
    from support import wheels

    assert set(build.TARGETS.values()) == set(wheels.PLATFORMS)


@pytest.mark.skipif(sys.platform != "linux", reason="read as an ELF file")
@pytest.mark.skipif(library.MISSING is not None, reason=f"{library.MISSING}")
def test_the_library_here_exports_its_functions_alone() -> None:
    lief = pytest.importorskip("lief")
    from support import wheels

    binary = lief.parse(str(sources.FOLDER / sources.LIBRARY))
    assert set(wheels.exports(binary)) == wheels.EXPORTS


@pytest.mark.slow
def test_ziglang_builds_a_library_that_takes_the_best_instructions(
    build: ModuleType, tmp_path: Path
) -> None:
    compiler = build.zig_compiler()
    if compiler is None:
        pytest.skip("ziglang is not installed")
    path = tmp_path / sources.LIBRARY
    build.compile_library(compiler, path)
    loaded, missing = library.load(path)
    assert missing is None
    has_v3 = Path("/proc/cpuinfo").is_file() and " avx2 " in Path("/proc/cpuinfo").read_text()
    if has_v3:
        assert loaded.stn_level() == b"x86-64-v3"


@pytest.mark.slow
def test_wrong_wheels_are_found(tmp_path: Path) -> None:
    pytest.importorskip("lief")
    wheel = tmp_path / "stn_triton-0.1.0-py3-none-any.whl"
    import zipfile

    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("stn_triton/native/stn_native.so", "no library")
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "support" / "wheels.py"), str(tmp_path)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "holds the libraries" in done.stderr
    assert "no wheel for win_amd64" in done.stderr
