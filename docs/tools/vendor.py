"""Third-party scripts that the site contains, so that it works from a folder; npm fetches them once."""

from __future__ import annotations

import hashlib
import io
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

CACHE = Path(__file__).parents[2] / "build" / "docs"


@dataclass(frozen=True)
class Script:
    """One file of an npm package, with its checksum."""

    package: str
    member: str
    sha256: str
    path: str  # in the site

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
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run(
                [npm, "pack", "--silent", self.package], cwd=folder, check=True, capture_output=True
            )
            (archive,) = Path(folder).glob("*.tgz")
            with tarfile.open(fileobj=io.BytesIO(archive.read_bytes())) as opened:
                member = opened.extractfile(f"package/{self.member}")
                content = member.read() if member else b""
        found = hashlib.sha256(content).hexdigest()
        if found != self.sha256:
            raise RuntimeError(
                f"{self.member} of {self.package} has the checksum {found}, not {self.sha256}"
            )
        return content


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
