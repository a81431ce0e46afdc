"""Third-party scripts that the site contains, so that it works from a folder; npm fetches them once."""

from __future__ import annotations

import hashlib
import io
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

CACHE = Path(__file__).parents[2] / "build" / "docs"


@dataclass(frozen=True)
class Script:
    """One file of an npm package, with its checksum."""

    package: str
    member: str
    sha256: str
    path: str  # in the site; its name is also that in the cache

    def content(self) -> bytes:
        """The file from the cache or from npm; refuses bytes whose checksum is another."""
        cached = CACHE / Path(self.path).name
        content = cached.read_bytes() if cached.is_file() else None
        if content is None or hashlib.sha256(content).hexdigest() != self.sha256:
            content = self._fetched()
            CACHE.mkdir(parents=True, exist_ok=True)
            cached.write_bytes(content)
        return content

    def _fetched(self) -> bytes:
        npm = shutil.which("npm")
        if npm is None:
            raise RuntimeError(f"the site needs npm, to fetch {self.package}; none is installed")
        with tarfile.open(fileobj=io.BytesIO(_packed(npm, self.package))) as opened:
            member = opened.extractfile(f"package/{self.member}")
            content = member.read() if member else b""
        found = hashlib.sha256(content).hexdigest()
        if found != self.sha256:
            raise RuntimeError(
                f"{self.member} of {self.package} has the checksum {found}, not {self.sha256}"
            )
        return content


@cache
def _packed(npm: str, package: str) -> bytes:
    """The archive of an npm package, fetched once for all of its files."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [npm, "pack", "--silent", package], cwd=folder, check=True, capture_output=True
        )
        (archive,) = Path(folder).glob("*.tgz")
        return archive.read_bytes()


SCRIPTS = (
    Script(
        "mathjax@3.2.2",
        "es5/tex-svg.js",
        "d4295dc33744836935c1399feece5159577b34c5c8ffb9f1c6324cd82e03a882",
        "assets/mathjax.js",
    ),
    # This one makes the search work in a page that was opened from a folder.
    Script(
        "iframe-worker@1.0.4",
        "shim/index.js",
        "e8e412dbcfea9b7e31b5ffa288d7b6035915e714c542f4176a0cdbe262fc9609",
        "assets/iframe-worker.js",
    ),
)
"""What every page loads."""

_RUNTIME = "onnxruntime-web@1.30.0"
RUNTIME = Script(
    _RUNTIME,
    "dist/ort.wasm.min.js",
    "faece07e84faa9001f5104bbe4e5c70861d06cb2376a0dea1fa0ad33a67adc81",
    "try/onnxruntime.js",
)
"""onnxruntime for browsers; it needs the next two."""
RUNTIME_LOADER = Script(
    _RUNTIME,
    "dist/ort-wasm-simd-threaded.mjs",
    "e13f7f94fc51b4ca72b12faeb1ee95f4ace6dfbc8939bc718aabdc0a27c4299b",
    "try/onnxruntime-loader.mjs",
)
RUNTIME_WASM = Script(
    _RUNTIME,
    "dist/ort-wasm-simd-threaded.wasm",
    "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
    "try/onnxruntime.wasm",
)
