"""SVHN's full numbers as crops around each number (paper, section 4.2 and appendix A.5).

The official layout: a folder with train/, test/ and extra/, in each a digitStruct.mat and the pictures that it names.
Pictures are decoded once: the crops of a split lie in a cache as one array, which training maps into memory.

Choices that the paper leaves open: the box around all digits is made wider and higher by `margin` of its width and
height, half on each side. What would lie beyond the picture is cut off, and the rest is stretched to a square. (The
preparation that the paper refers to, Goodfellow et al. 2014, arXiv:1312.6082, makes the box 30 % larger and resizes to
64 x 64.) How large the boxes of the 128-pixel crops are is unknown; `margin=1.6` shows digits at the size that they
have in 64 pixels. A fixed seed draws 5,000 images of train for validation; the rest of them is trained on.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing.pool import ThreadPool
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from architectures.errors import first_line

from .digit_struct import HouseNumber, read_digit_struct
from .files import (
    DataError,
    channels_first,
    cropped,
    failures,
    inside,
    new_folder,
    open_picture,
)

MOST_DIGITS = 5
BLANK = 10
"""The class of the places after a number's last digit."""
SPLITS: dict[str, tuple[str, ...]] = {
    "train": ("train",),
    "valid": ("train",),
    "test": ("test",),
    "extra": ("extra",),
    "train+extra": ("train", "extra"),
}
"""Each split and the folders that it is made of."""
_MARGIN = 0.3
_VALID_SIZE = 5000
_VALID_PERCENT = 15
_VALID_SEED = 0
_FORMAT = 1
"""The version of what is in the cache, part of its name: raise it when that changes."""

_Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, kw_only=True)
class _Counts:
    """Counts of an index: all numbers, those with too many digits, those without a picture, and the first of these."""

    named: int
    left_out: int
    missing: int
    first_missing: str | None


class SVHN(Dataset[tuple[Tensor, Tensor]]):
    """Crops around house numbers and their digits.

    Items: a uint8 image (3, image_size, image_size) and int64 labels (5,): the digits as they are read, then `BLANK`
    (10) up to five. Numbers of more than five digits are left out; `left_out` says how many.

    Args:
        root: the folder with train/, test/ and extra/ as they are unpacked.
        split: "train", "valid", "test", "extra" or "train+extra". "valid" are 5,000 images of train (15 % of one with
            less than 33,334), which neither "train" nor "train+extra" contains.
        image_size: the side of the crops, in pixels.
        margin: by how much of its width and height the box around all digits grows.
        cache_dir: where the decoded crops go, 12 kB each at 64 px; by default ~/.cache/stn-triton, or
            $XDG_CACHE_HOME/stn-triton. A changed source, size or margin makes another cache.
        allow_missing: leave out pictures that the index names but that are not there, instead of raising a `DataError`;
            `missing` says how many.

    Raises:
        ValueError: an unknown split, a size below 1, a negative margin, an empty cache_dir.
        DataError: files that are missing or broken; names the file.

    Source: Jaderberg et al. 2015 (arXiv:1506.02025), section 4.2.
    """

    def __init__(
        self,
        root: str | PathLike[str],
        split: str,
        *,
        image_size: int = 64,
        margin: float = _MARGIN,
        cache_dir: str | PathLike[str] | None = None,
        allow_missing: bool = False,
    ) -> None:
        if split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(map(repr, SPLITS))}, got {split!r}")
        if image_size < 1 or not 0 <= margin < float("inf"):
            raise ValueError(
                f"wanted image_size >= 1 and margin >= 0, got {image_size} and {margin}"
            )
        if not isinstance(allow_missing, bool):
            raise TypeError(f"allow_missing must be True or False, got {allow_missing!r}")
        if cache_dir == "":
            raise ValueError("cache_dir must be a path or None, got ''")
        caches = _default_cache_dir() if cache_dir is None else Path(cache_dir)
        parts = [
            _prepared(Path(root) / name, caches, image_size, margin, allow_missing)
            for name in SPLITS[split]
        ]
        self._images = [part / "images.npy" for part in parts]
        self._open: list[_Array] = []
        labels = [_load(part / "labels.npy") for part in parts]
        chosen = [
            _chosen(split, name, len(each))
            for name, each in zip(SPLITS[split], labels, strict=True)
        ]
        self.labels = torch.from_numpy(
            np.concatenate([each[rows] for each, rows in zip(labels, chosen, strict=True)]).astype(
                np.int64
            )
        )
        self._rows = np.concatenate(
            [np.stack((np.full_like(rows, part), rows), 1) for part, rows in enumerate(chosen)]
        )
        counts = [_counts(part) for part in parts]
        self.left_out = sum(each.left_out for each in counts)
        self.missing = sum(each.missing for each in counts)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if not self._open:
            self._open = [_load(path, mmap_mode="r") for path in self._images]
        part, row = self._rows[index]
        return torch.from_numpy(self._open[part][row].copy()), self.labels[index]

    def __getstate__(self) -> dict[str, Any]:
        # A worker of a DataLoader maps the file anew: pickling the array would copy all of it.
        return self.__dict__ | {"_open": []}


def check_svhn(root: Path) -> tuple[int, list[str]]:
    """How many pictures the indices name, and a line for each that cannot be read or cropped, or for a broken index."""
    count, bad = 0, list[str]()
    for folder in (root / name for name in ("train", "test", "extra")):
        if not folder.is_dir():
            continue
        index = folder / "digitStruct.mat"
        try:
            numbers = read_digit_struct(index)
        except DataError as error:
            bad.append(str(error))
            continue

        def read(number: HouseNumber, folder: Path = folder, index: Path = index) -> None:
            _crop(1, _MARGIN, (number, inside(folder, number.name, index)))

        used = [number for number in numbers if len(number.digits) <= MOST_DIGITS]
        count += len(used)
        bad += failures(read, used, str(folder))
    return count, bad


def _chosen(split: str, folder: str, count: int) -> _Array:
    """Which rows of a folder's crops belong to a split, in the folder's order."""
    if folder != "train":
        return np.arange(count)
    valid = min(_VALID_SIZE, count * _VALID_PERCENT // 100)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(_VALID_SEED)).numpy()
    return np.sort(order[:valid] if split == "valid" else order[valid:])


def _default_cache_dir() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "stn-triton"


def _prepared(
    folder: Path, caches: Path, image_size: int, margin: float, allow_missing: bool
) -> Path:
    """The cache of one folder's crops, made if it is not there."""
    target = caches / f"svhn-{folder.name}-{image_size}-{_key(folder, image_size, margin)}"
    if not target.is_dir():
        with new_folder(target) as unfinished:
            _prepare(folder, unfinished, image_size, margin, allow_missing)
    _check_missing(_counts(target), folder, allow_missing)
    return target


def _key(folder: Path, image_size: int, margin: float) -> str:
    """A digest of what the crops are made from: the name, size and time of every file, and the options."""
    index = folder / "digitStruct.mat"
    if not index.is_file():
        raise DataError(
            f"{index}: no such file; wanted the folder that holds train/, test/ and extra/"
        )
    digest = hashlib.sha256(f"{_FORMAT} {image_size} {float(margin)!r}".encode())
    try:
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda each: each.name):
                # Links are not followed: they may not lead out of the folder, and what is inside is listed anyway.
                status = (
                    index.stat() if entry.name == index.name else entry.stat(follow_symlinks=False)
                )
                line = f"\n{entry.name} {status.st_size} {status.st_mtime_ns}"
                digest.update(line.encode(errors="surrogateescape"))
    except OSError as error:
        raise DataError(f"{folder}: cannot be read: {error.strerror or error}") from error
    return digest.hexdigest()[:16]


def _prepare(
    folder: Path, target: Path, image_size: int, margin: float, allow_missing: bool
) -> None:
    """Write images.npy (N, 3, s, s) and labels.npy (N, 5), uint8, and counts.json."""
    index = folder / "digitStruct.mat"
    everything = read_digit_struct(index)
    numbers = [number for number in everything if len(number.digits) <= MOST_DIGITS]
    pairs = [(number, inside(folder, number.name, index)) for number in numbers]
    present = [pair for pair in pairs if pair[1].is_file()]
    counts = _Counts(
        named=len(everything),
        left_out=len(everything) - len(numbers),
        missing=len(pairs) - len(present),
        first_missing=next((number.name for number, path in pairs if not path.is_file()), None),
    )
    _check_missing(counts, folder, allow_missing)
    if not present:
        raise DataError(
            f"{index}: wanted pictures of numbers, got none of the {len(everything)} it names"
        )

    labels = np.full((len(present), MOST_DIGITS), BLANK, np.uint8)
    for row, (number, _) in zip(labels, present, strict=True):
        row[: len(number.digits)] = number.digits
    np.save(target / "labels.npy", labels)
    header = {
        "descr": "|u1",
        "fortran_order": False,
        "shape": (len(present), 3, image_size, image_size),
    }
    crop: Callable[[tuple[HouseNumber, Path]], Tensor] = partial(_crop, image_size, margin)
    # Decoding lets other threads run. The array is written, since a full disk then raises an error; writing into mapped
    # memory would end the process by a signal.
    with (
        (target / "images.npy").open("wb") as file,
        ThreadPool(min(8, os.cpu_count() or 1)) as pool,
    ):
        np.lib.format.write_array_header_1_0(file, header)
        crops = pool.imap(crop, present, chunksize=16)
        for image in tqdm(crops, f"{folder}: decode", len(present), leave=False, disable=None):
            file.write(image.numpy().tobytes())
    (target / "counts.json").write_text(json.dumps(asdict(counts)))


def _check_missing(counts: _Counts, folder: Path, allow_missing: bool) -> None:
    if counts.missing and not allow_missing:
        raise DataError(
            f"{folder / str(counts.first_missing)}: no such file; {counts.missing} of {counts.named} pictures that "
            f"{folder / 'digitStruct.mat'} names are missing "
            "(allow_missing=True leaves them out; on the command line: --data-option allow_missing=True)"
        )


def _counts(cache: Path) -> _Counts:
    path = cache / "counts.json"
    try:
        return _Counts(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise _broken_cache(path, error) from error


def _crop(image_size: int, margin: float, pair: tuple[HouseNumber, Path]) -> Tensor:
    number, path = pair
    picture = open_picture(path)
    box = grown(number.box, margin, (picture.height, picture.width))
    if box[2] - box[0] <= 0 or box[3] - box[1] <= 0:
        raise DataError(
            f"{path}: wanted a box inside the {picture.width} x {picture.height} picture, got {number.box}"
        )
    return channels_first(cropped(picture, box, (image_size, image_size)))


def grown(
    box: tuple[float, float, float, float], margin: float, image_size: tuple[int, int]
) -> tuple[float, float, float, float]:
    """A box (x0, y0, x1, y1) wider and higher by the share `margin`, about its middle, and cut at an image (H, W)."""
    x0, y0, x1, y1 = box
    more_x, more_y = margin * (x1 - x0) / 2, margin * (y1 - y0) / 2
    h, w = image_size
    return max(x0 - more_x, 0), max(y0 - more_y, 0), min(x1 + more_x, w), min(y1 + more_y, h)


def _load(path: Path, mmap_mode: Any = None) -> _Array:
    try:
        return np.load(path, mmap_mode=mmap_mode)
    except (OSError, ValueError, EOFError) as error:
        raise _broken_cache(path, error) from error


def _broken_cache(path: Path, error: Exception) -> DataError:
    return DataError(f"{path}: the cache cannot be read, delete {path.parent}: {first_line(error)}")
