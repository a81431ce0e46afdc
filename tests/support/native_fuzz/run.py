"""`make sanitize`: random calls of the native library under AddressSanitizer and UBSan.

Usage: run.py [number of calls] [seed]. Status 77: the compiler has no sanitizers.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
SOURCES = HERE.parents[2] / "stn_triton" / "native"
SANITIZE = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-O0")


def main() -> int:
    """Build and run."""
    spec = importlib.util.spec_from_file_location("build", SOURCES / "build.py")
    assert spec is not None
    assert spec.loader is not None
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    compiler = build.local_compiler()
    if compiler is None:
        print("no C++ compiler")
        return 77
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        probe = folder / "probe.cc"
        probe.write_text("int main() {}\n")
        tried = [*compiler, *SANITIZE, str(probe), "-o", str(folder / "probe")]
        if subprocess.run(tried, capture_output=True, check=False).returncode:
            print("the compiler has no sanitizers")
            return 77
        program = folder / "fuzz"
        build.compile_library(compiler, program, options=SANITIZE, main=HERE / "fuzz.cc")
        strict = {"ASAN_OPTIONS": "detect_stack_use_after_return=1", **os.environ}
        return subprocess.run([program, *sys.argv[1:]], env=strict, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
