"""Checks wheels that cannot run here: what their native library is for, exports and links. Needs the package lief.

Usage: wheels.py FOLDER, as `make wheels` calls it. Status 1, with a line for each complaint, if something is wrong.
"""

from __future__ import annotations

import re
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import lief

EXPORTS = {"stn_digest", "stn_level", "stn_call_size", "stn_choose", "stn_sample"}
# Platform of the wheel -> the file inside, its machine, and the libraries of the system that it may link.
PLATFORMS = {
    "manylinux_2_17_x86_64": (
        "stn_native.so",
        "X86_64",
        r"lib(c|m|dl|pthread)\.so\.\d|ld-linux-x86-64\.so\.2",
    ),
    "manylinux_2_17_aarch64": (
        "stn_native.so",
        "AARCH64",
        r"lib(c|m|dl|pthread)\.so\.\d|ld-linux-aarch64\.so\.1",
    ),
    "macosx_11_0_arm64": (
        "stn_native.dylib",
        "ARM64",
        r"@rpath/stn_native\.dylib|/usr/lib/libSystem\.B\.dylib",
    ),
    "win_amd64": ("stn_native.dll", "AMD64", r"(?i)api-ms-win-crt-[a-z0-9-]+\.dll|kernel32\.dll"),
}
_OLDEST_GLIBC = (2, 17)


def complaints(path: Path, platform: str) -> Iterator[str]:
    """What is wrong with a native library for a platform."""
    _, machine, allowed = PLATFORMS[platform]
    binary = lief.parse(str(path))
    if binary is None:
        yield "no library that can be read"
        return
    found = _machine(binary)
    if found != machine:
        yield f"is for {found}, not {machine}"
    exported = set(exports(binary))
    if exported != EXPORTS:
        yield f"exports {sorted(exported)}, not {sorted(EXPORTS)}"
    for library in binary.libraries:
        name = library if isinstance(library, str) else library.name
        if not re.fullmatch(allowed, name):
            yield f"links {name}"
    if isinstance(binary, lief.ELF.Binary):
        for needed in binary.symbols_version_requirement:
            for version in needed.get_auxiliary_symbols():
                numbers = re.fullmatch(r"GLIBC_(\d+)\.(\d+)(?:\.\d+)?", version.name)
                if not numbers or tuple(map(int, numbers.groups())) > _OLDEST_GLIBC:
                    yield f"needs {version.name} of {needed.name}"
    if isinstance(binary, lief.MachO.Binary):
        if not binary.has_code_signature:
            yield "is not signed, without which macOS on arm64 does not load it"
        if binary.build_version.minos[0] > 11:
            yield f"needs macOS {binary.build_version.minos}"


def _machine(binary: lief.Binary) -> str:
    header = binary.header
    kind = header.cpu_type if isinstance(binary, lief.MachO.Binary) else None
    kind = kind or (header.machine_type if isinstance(binary, lief.ELF.Binary) else header.machine)
    return str(kind.name)


def exports(binary: lief.Binary) -> Iterator[str]:
    """What a library defines for others."""
    if isinstance(binary, lief.PE.Binary):
        yield from (entry.name for entry in binary.get_export().entries)
    elif isinstance(binary, lief.ELF.Binary):
        yield from (symbol.name for symbol in binary.dynamic_symbols if symbol.exported)
    else:
        for symbol in binary.exported_symbols:
            name = symbol.name.removeprefix("_")
            # ziglang's linker for macOS exports the header, and what replaces `operator new` and `delete`, as any
            # program's would; two-level names keep others from meeting these.
            if not re.match(r"_Z(n[aw]|d[al])|_(mh_dylib_header|_dso_handle)$", name):
                yield name


def check(wheel: Path) -> list[str]:
    """What is wrong with a wheel."""
    platform = wheel.stem.split("-")[-1]
    with zipfile.ZipFile(wheel) as archive, tempfile.TemporaryDirectory() as folder:
        inside = [name for name in archive.namelist() if "/native/stn_native." in name]
        wanted = [] if platform == "any" else [f"stn_triton/native/{PLATFORMS[platform][0]}"]
        if inside != wanted:
            return [f"holds the libraries {inside}, not {wanted}"]
        return [
            complaint
            for name in inside
            for complaint in complaints(Path(archive.extract(name, folder)), platform)
        ]


def main(folder: Path) -> int:
    """Every platform must be there, and right."""
    wheels = sorted(folder.glob("*.whl"))
    found = {wheel.stem.split("-")[-1]: wheel for wheel in wheels}
    wrong = [f"no wheel for {name}" for name in (*PLATFORMS, "any") if name not in found]
    for name, wheel in found.items():
        said = check(wheel) if name in PLATFORMS or name == "any" else ["of an unknown platform"]
        wrong += [f"{wheel.name}: {complaint}" for complaint in said]
        print(f"{wheel.name}: {'wrong' if said else 'right'}, {wheel.stat().st_size / 1e6:.1f} MB")
    for complaint in wrong:
        print(complaint, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
