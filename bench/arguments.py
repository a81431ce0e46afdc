"""Kinds of arguments of the commands: a wrong one is refused before minutes of measuring, and not after them."""

from __future__ import annotations

import tempfile
from argparse import ArgumentTypeError
from pathlib import Path


def positive_count(text: str) -> int:
    """A whole number, at least 1."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise ArgumentTypeError(f"must be a whole number, at least 1, got {text!r}")
    return value


def new_file(text: str) -> Path:
    """A file that can be written; folders above it that are missing can be made."""
    path = Path(text)
    if not text or path.is_dir():
        raise ArgumentTypeError(f"must be a file, got the folder {text or '.'!r}")
    there = next(folder for folder in path.absolute().parents if folder.exists())
    try:  # permissions do not tell: root has all of them, even where no file can be made
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise ArgumentTypeError(
            f"{text!r} cannot be written: {there} is no writable folder"
        ) from error
    return path
