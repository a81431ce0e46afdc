"""What the library is built from. It imports nothing of `stn_triton`, as the build loads it alone."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

FOLDER = Path(__file__).parent
LIBRARY = {"win32": "stn_native.dll", "darwin": "stn_native.dylib"}.get(
    sys.platform, "stn_native.so"
)


def digest(folder: Path = FOLDER) -> str:
    """A digest of all sources, comments included. A library carries that of the sources it was built from."""
    found = hashlib.sha256()
    for path in sorted((*folder.glob("*.h"), *folder.glob("*.cc"))):
        found.update(path.name.encode())
        found.update(path.read_bytes().replace(b"\r\n", b"\n"))
    return found.hexdigest()[:16]
