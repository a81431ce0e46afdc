"""A check that all of a data folder can be read, to be made before a training that takes days."""

from __future__ import annotations

from pathlib import Path

from .cub import check_cub, cub_root
from .digits import MNIST_FILES, check_mnist, find_idx
from .files import DataError, check_directory
from .svhn import check_svhn


def check_folder(folder: Path) -> tuple[str, list[str]]:
    """What a folder holds, and a line for each picture or file in it that cannot be read.

    Raises:
        DataError: no folder, or neither MNIST's files nor SVHN's nor those of CUB-200-2011.
    """
    check_directory(folder)
    if (cub_root(folder) / "images.txt").exists():
        count, bad = check_cub(folder)
        return f"CUB-200-2011, {count:,} pictures", bad
    if any((folder / part / "digitStruct.mat").exists() for part in ("train", "test", "extra")):
        count, bad = check_svhn(folder)
        return f"SVHN, {count:,} pictures", bad
    if any(find_idx(folder, name) for name in MNIST_FILES):
        return "MNIST, 4 files", check_mnist(folder)
    raise DataError(
        f"{folder}: wanted the folder of CUB-200-2011 (images.txt), of SVHN (train/digitStruct.mat) "
        "or of MNIST's IDX files, got none of them"
    )
