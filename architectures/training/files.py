"""Files that are written whole: a reader finds the old content or the new one, never a part of it."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path in the same folder to write to. Unless that fails, the file then takes the place of `path`.

    Raises:
        OSError: the file cannot be written; the message names it.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield part
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise OSError(f"{path}: cannot be written: {error.strerror or error}") from error


def remove_parts(folder: Path, suffix: str) -> None:
    """Remove the temporary files of `replacing` that killed processes left in a folder, for files of this suffix.

    No other process may be writing such files there.
    """
    for path in folder.glob(f".*{suffix}.*.part"):
        with suppress(OSError):  # it takes room, and does no other harm
            path.unlink()


def check_writable(folder: Path) -> None:
    """Try to make a file in a folder, or in the nearest folder above that exists, and remove it again.

    Permissions do not tell whether that works: root has all of them, even where no file can be made.

    Raises:
        OSError: no file can be made there; the message names the folder.
    """
    path = folder.absolute()
    try:
        there = next(each for each in (path, *path.parents) if each.exists())
    except OSError as error:  # a name that is too long, for one
        raise OSError(f"{folder}: {error.strerror or error}") from error
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise OSError(f"{there} is no writable folder") from error


def write_text(path: Path, text: str) -> None:
    """Write a text file."""
    with replacing(path) as part:
        part.write_text(text)


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file."""
    write_text(path, json.dumps(content, indent=2) + "\n")
