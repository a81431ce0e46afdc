"""Compiles the native library, for the build hook of the package and for `make native`.

It needs no other module than `sources.py`. The compiler is $CXX, else `c++` or `clang++` if one works, else that of the
package ziglang.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shlex
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

ZIG = "ziglang>=0.13"
FLAGS = (
    "-std=c++17", "-O3", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-fvisibility=hidden",
    "-Wall", "-Wextra",
)  # fmt: skip
# Other systems that a Linux machine with ziglang builds for -> the platform tag of their wheels.
TARGETS = {
    "x86_64-linux-gnu.2.17": "manylinux_2_17_x86_64",
    "aarch64-linux-gnu.2.17": "manylinux_2_17_aarch64",
    "aarch64-macos.11.0": "macosx_11_0_arm64",
    "x86_64-windows-gnu": "win_amd64",
}
_PROBE = """
typedef float V __attribute__((vector_size(16)));
extern "C" V probe(V a, V b) { return a > b ? a : b; }
"""


def _load_sources() -> ModuleType:
    """The module beside this one, without `stn_triton`, which needs torch."""
    path = Path(__file__).with_name("sources.py")
    spec = importlib.util.spec_from_file_location("stn_triton_native_sources", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


sources = _load_sources()


def target() -> str | None:
    """The system that $STN_TRITON_NATIVE names, if it is not this one."""
    wanted = os.environ.get("STN_TRITON_NATIVE", "")
    if wanted in ("", "0", "1"):
        return None
    if wanted not in TARGETS:
        raise ValueError(
            f"STN_TRITON_NATIVE must be 0, 1 or one of {', '.join(TARGETS)}, got {wanted!r}"
        )
    return wanted


def local_compiler() -> list[str] | None:
    """The command of a compiler that is installed and works, or None. If $CXX names one that fails, it raises."""
    if named := os.environ.get("CXX"):
        command = shlex.split(named)
        if failed := _failure(command):
            raise RuntimeError(
                f"the compiler that CXX names does not build the native library: {failed}"
            )
        return command
    for name in ("c++", "clang++"):
        if shutil.which(name) and not _failure([name]):
            return [name]
    return None


def zig_compiler() -> list[str] | None:
    """The command of ziglang, if it is installed in this environment."""
    return [sys.executable, "-m", "ziglang", "c++"] if importlib.util.find_spec("ziglang") else None


def has_zig_wheels() -> bool:
    """Whether the package ziglang can be installed here without being built."""
    if struct.calcsize("P") != 8:
        return False
    known = {
        "linux": ("x86_64", "aarch64"),
        "darwin": ("x86_64", "arm64"),
        "win32": ("AMD64", "ARM64"),
    }
    return platform.machine() in known.get(sys.platform, ())


def compile_library(
    compiler: Sequence[str],
    to: Path,
    zig_target: str | None = None,
    options: Sequence[str] = (),
    main: Path | None = None,
) -> None:
    """Write the library to `to`; with `main` a program that has this file's `main`. A failure leaves no file behind."""
    system = zig_target or f"{platform.machine()}-{sys.platform}"
    windows = "windows" in system or system.endswith("win32")
    flags = [*FLAGS, *([] if windows else ["-fPIC"]), *options]
    if zig_target:
        flags += ["-target", zig_target]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        units = _units(system, sources.digest(), "ziglang" in compiler)
        if main is not None:
            units.append((str(main), ["-I", str(sources.FOLDER)]))
        objects = [f"{folder}/{number}.o" for number in range(len(units))]
        command = [*compiler, *flags]
        running = [
            _start([*command, *own, "-c", f"{sources.FOLDER / unit}", "-o", to_object])
            for (unit, own), to_object in zip(units, objects, strict=True)
        ]
        for each in running:
            _finish(each)
        built = folder / to.name
        how = [] if main else _as_library(system, folder, to.name)
        how += [] if windows else ["-pthread"]
        _finish(_start([*command, *how, "-o", str(built), *objects]))
        beside = to.with_name(f"{to.name}.{os.getpid()}")
        shutil.copy(built, beside)
        beside.replace(to)


def _as_library(system: str, folder: Path, name: str) -> list[str]:
    """How to link a library that exports our functions alone and keeps no path of the machine that built it."""
    if "linux" in system:
        # A C++ runtime that is linked statically would export its `operator new`, too.
        script = folder / "exports"
        script.write_text("{ global: stn_*; local: *; };\n")
        return ["-shared", "-s", f"-Wl,--version-script={script}"]
    if "macos" in system or "darwin" in system:
        return ["-shared", f"-Wl,-install_name,@rpath/{name}"]
    return ["-shared", "-s"]


def _units(system: str, digest: str, by_zig: bool) -> list[tuple[str, list[str]]]:
    """The source files to compile, each with its own options."""
    said = f'-DSTN_DIGEST="{digest}"'
    if not system.startswith(("x86_64", "AMD64")):
        return [("image.cc", ["-DSTN_LEVEL=baseline"]), ("library.cc", [said])]
    family = "x86_64_" if by_zig else "x86-64-"
    levels = [
        ("image.cc", [f"-march={family}{level}", f"-DSTN_LEVEL={level}"]) for level in ("v2", "v3")
    ]
    return [*levels, ("library.cc", ["-DSTN_X86", said])]


def _start(command: Sequence[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def _finish(running: subprocess.Popen[str]) -> None:
    said, _ = running.communicate()
    if running.returncode:
        assert isinstance(running.args, list)
        raise RuntimeError(f"{shlex.join(map(str, running.args))} failed:\n{said}")


def _failure(command: Sequence[str]) -> str | None:
    """Why a compiler does not build three lines with our flags; None if it does."""
    with tempfile.TemporaryDirectory() as name:
        probe = Path(name) / "probe.cc"
        probe.write_text(_PROBE)
        try:
            built = ["-shared", "-fPIC", "-o", f"{name}/probe", str(probe)]
            _finish(_start([*command, *FLAGS, *built]))
        except (OSError, RuntimeError) as error:
            return str(error)
    return None


def main() -> int:
    """Build the library beside the sources."""
    compiler = local_compiler() or zig_compiler()
    if compiler is None:
        print(f"no C++ compiler: install one, or `pip install '{ZIG}'`", file=sys.stderr)
        return 1
    compile_library(compiler, sources.FOLDER / sources.LIBRARY)
    return 0


if __name__ == "__main__":
    sys.exit(main())
