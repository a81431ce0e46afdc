"""What a data folder holds, and a check that all of it can be read, to be made before a training that takes days."""

from __future__ import annotations

from collections.abc import Callable
from os import PathLike
from pathlib import Path

from .cub import check_cub, cub_root
from .digits import MNIST_FILES, check_mnist, find_idx
from .files import DataError, check_directory
from .svhn import check_svhn

MNIST, SVHN, CUB = "MNIST", "SVHN", "CUB-200-2011"
_KINDS: dict[str, Callable[[Path], bool]] = {
    CUB: lambda folder: (cub_root(folder) / "images.txt").exists(),
    SVHN: lambda folder: any(
        (folder / part / "digitStruct.mat").exists() for part in ("train", "test", "extra")
    ),
    MNIST: lambda folder: any(find_idx(folder, name) for name in MNIST_FILES),
}
"""Data sets, and how to know the folder of each."""


def kinds_of(folder: Path) -> list[str]:
    """The data sets that a folder holds."""
    return [kind for kind, holds in _KINDS.items() if holds(folder)]


def check_holds(folder: Path, kind: str) -> None:
    """Refuse a folder that holds other data sets than the one that is wanted.

    A folder that holds none of them is not refused: whoever reads it tells which file is missing.

    Raises:
        DataError: no folder, or one of another kind.
    """
    check_directory(folder)
    found = kinds_of(folder)
    if found and kind not in found:
        raise DataError(f"{folder}: wanted the folder of {kind}, got that of {' and '.join(found)}")


def check_folder(folder: str | PathLike[str]) -> tuple[str, list[str]]:
    """What a folder holds, and a line for each picture or file in it that cannot be read.

    Raises:
        DataError: no folder, or neither MNIST's files nor SVHN's nor those of CUB-200-2011.
    """
    folder = Path(folder)
    check_directory(folder)
    kind = next(iter(kinds_of(folder)), None)
    if kind == MNIST:
        return f"{kind}, 4 files", check_mnist(folder)
    if kind is not None:
        count, bad = check_cub(folder) if kind == CUB else check_svhn(folder)
        return f"{kind}, {count:,} pictures", bad
    raise DataError(
        f"{folder}: wanted the folder of CUB-200-2011 (images.txt), of SVHN (train/digitStruct.mat) "
        "or of MNIST's IDX files, got none of them"
    )
