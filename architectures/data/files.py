"""What all data sets share: their error, paths that stay inside a folder, pictures, folders that are written whole."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.pool import ThreadPool
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from architectures.errors import first_line

if TYPE_CHECKING:
    from PIL import Image

_T = TypeVar("_T")

TRAIN_EXTRA = "pip install 'stn-triton[train]'"


class DataError(RuntimeError):
    """Data that is missing or broken; the message is one line that names the file."""

    def __init__(self, message: str) -> None:
        # A DataLoader raises a worker's error again with the text of its traceback, whose last line has the message.
        if message.startswith("Caught DataError "):
            message = message.strip().splitlines()[-1].partition(": ")[2]
        super().__init__(message)


def check_directory(path: Path) -> None:
    """Refuse what is no directory.

    Raises:
        DataError: nothing is there, or a file.
    """
    if not path.is_dir():
        raise DataError(
            f"{path}: wanted a directory, got a file"
            if path.exists()
            else f"{path}: no such directory"
        )


def find_root(folder: Path, marker: str, *below: str) -> Path:
    """The folder that holds a file or folder named `marker`: this one, or one of those `below` it.

    People name either the folder that they unpacked an archive in or the one that the archive made. If none of them
    holds the file, the folder itself is given, and reading it tells what is missing.
    """
    places = [folder, *(folder / name for name in below)]
    return next((place for place in places if (place / marker).exists()), folder)


def inside(folder: Path, name: str, index: Path) -> Path:
    """The path of a file of `folder` that an index names.

    Raises:
        DataError: a name that leads out of the folder: absolute, with .., or through a symbolic link.
    """
    relative = PurePosixPath(name)
    usable = name not in ("", ".") and "\0" not in name and "\\" not in name
    if not usable or relative.is_absolute() or ".." in relative.parts:
        raise DataError(f"{index}: wanted names of files inside {folder}, got {name!r}")
    path = folder / relative
    try:
        try:
            # Without `strict` Python 3.13 gives a circle of links as it is.
            found = path.resolve(strict=True)
        except (FileNotFoundError, NotADirectoryError):
            found = path.resolve()
        within = found.is_relative_to(folder.resolve())
        path.is_file()
    except (OSError, RuntimeError, ValueError) as error:  # too long, or a circle of links
        raise DataError(
            f"{index}: wanted names of files, got {name!r}: {first_line(error)}"
        ) from error
    if not within:
        raise DataError(f"{index}: wanted names of files inside {folder}, but {name!r} links out")
    return path


def read_lines(path: Path) -> list[str]:
    """The lines of a text file that are not blank.

    Raises:
        DataError: unreadable, or not UTF-8.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: wanted text in UTF-8, got other bytes: {first_line(error)}"
        ) from error
    return [line for line in text.splitlines() if line.strip()]


def open_picture(path: Path) -> Image.Image:
    """A picture in RGB, decoded whole.

    Raises:
        DataError: missing, not a picture, truncated or corrupt; or Pillow is not installed.
    """
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise DataError(
            f"{path}: reading pictures needs the package pillow: {TRAIN_EXTRA}"
        ) from error
    try:
        with Image.open(path) as picture:
            return picture.convert("RGB")
    except MemoryError:
        raise
    except Exception as error:  # every decoder has errors of its own
        reason = getattr(error, "strerror", None) or first_line(error)
        if isinstance(error, UnidentifiedImageError):  # its own message repeats the path
            reason = "a file of another kind" if path.stat().st_size else "an empty file"
        raise DataError(f"{path}: wanted a picture that can be decoded, got: {reason}") from error


def failures(read: Callable[[_T], object], items: Sequence[_T], what: str) -> list[str]:
    """The messages of the `DataError`s that reading these items raises, in their order; several threads read."""

    def failure(item: _T) -> str | None:
        try:
            read(item)
        except DataError as error:
            return str(error)
        return None

    with ThreadPool(min(8, os.cpu_count() or 1)) as pool:  # decoding lets other threads run
        found = pool.imap(failure, items, chunksize=16)
        told = tqdm(found, f"{what}: check", len(items), leave=False, disable=None)
        return [message for message in told if message is not None]


def cropped(
    picture: Image.Image, box: tuple[float, float, float, float], size: tuple[int, int]
) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The box (x0, y0, x1, y1), pixels from the outer edges, of a picture, resized to (h, w): (h, w, 3) uint8.

    By Pillow's bilinear filter, which widens as it shrinks and so does not alias.
    """
    from PIL import Image

    return np.asarray(picture.resize(size[::-1], Image.Resampling.BILINEAR, box=box))


def channels_first(pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> Tensor:
    """(h, w, 3) -> a uint8 tensor (3, h, w) of its own memory."""
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """An empty folder to fill. It becomes `target` if all goes well, and is removed otherwise.

    If another process made `target` in the meantime, that one stays and this one is removed.

    Raises:
        DataError: no folder can be made or written to there.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        unfinished = target.parent / f".{target.name}-{uuid.uuid4().hex}"
        unfinished.mkdir()
    except OSError as error:
        raise DataError(f"{target}: cannot be made: {error.strerror or error}") from error
    try:
        yield unfinished
        if target.is_dir() and not any(target.iterdir()):
            target.rmdir()
        if not target.exists():
            unfinished.rename(target)
    except OSError as error:
        raise DataError(f"{target}: cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
