"""Builds the native library into wheels, and beside the sources of an editable installation.

The package is pure Python, and `st_sample` on a CPU takes the torch backend, if STN_TRITON_NATIVE=0 is set, or if there
is neither a compiler here nor one to install for the platform.
"""

from __future__ import annotations

import importlib.util
import os
import sysconfig
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


def _load_build() -> ModuleType:
    path = Path(__file__).parent / "stn_triton" / "native" / "build.py"
    spec = importlib.util.spec_from_file_location("stn_triton_native_build", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class NativeLibrary(BuildHookInterface[Any]):
    """The hook that hatchling runs before and after it builds a wheel."""

    PLUGIN_NAME = "custom"

    def dependencies(self) -> list[str]:
        """The packages of a compiler, where none is installed and a package index has one."""
        build = _load_build()
        if not self._is_wanted() or (build.target() is None and build.local_compiler()):
            return []
        return [build.ZIG] if build.has_zig_wheels() else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile the library, add it to the wheel, and name the platform in the wheel's tag."""
        build = _load_build()
        target = build.target() if self._is_wanted() else None
        compiler = self._compiler(build, target)
        if compiler is None:
            self.app.display_info("stn_triton is built without its native library")
            return
        name = build.sources.LIBRARY
        if version == "editable":
            build.compile_library(compiler, build.sources.FOLDER / name)
            return
        if target is not None:
            name = {"win": "stn_native.dll", "mac": "stn_native.dylib"}.get(
                build.TARGETS[target][:3], "stn_native.so"
            )
        self._folder = tempfile.TemporaryDirectory()
        library = Path(self._folder.name) / name
        build.compile_library(compiler, library, target)
        build_data["force_include"][str(library)] = f"stn_triton/native/{name}"
        build_data["pure_python"] = False
        platform = build.TARGETS[target] if target else sysconfig.get_platform()
        build_data["tag"] = f"py3-none-{platform.replace('-', '_').replace('.', '_')}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove the compiled library after it was put into the wheel."""
        if hasattr(self, "_folder"):
            self._folder.cleanup()

    def _is_wanted(self) -> bool:
        return os.environ.get("STN_TRITON_NATIVE") != "0"

    def _compiler(self, build: ModuleType, target: str | None) -> list[str] | None:
        if not self._is_wanted():
            return None
        found = None if target else build.local_compiler()
        return found or build.zig_compiler()
