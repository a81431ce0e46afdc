"""Made-up data in the official layouts of SVHN and CUB-200-2011, to try training and loading without them.

House numbers are MNIST digits on coloured noise; a bird is an ellipse with a disc for its head, in its species'
colours. They are easy to learn, and errors on them mean nothing.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .digit_struct import FIELDS
from .digits import Digits, load_digits
from .files import TRAIN_EXTRA, DataError, new_folder

if TYPE_CHECKING:
    import h5py

_Array = np.ndarray[Any, np.dtype[Any]]
_Numbers = Sequence[tuple[str, _Array]]


def generate_svhn(
    folder: str | PathLike[str],
    n: int,
    seed: int,
    *,
    splits: Sequence[str] = ("train", "test", "extra"),
    digits: tuple[Digits, Digits] | None = None,
) -> None:
    """Write n pictures of house numbers of one to five digits for each split, with their digitStruct.mat.

    Args:
        folder: the folder to make; it may exist if it is empty.
        n: the number of pictures for each of the splits.
        seed: the same pictures for the same seed.
        digits: (train, test) to write numbers with, the test digits for the split "test"; by default those that
            `load_digits` gives without a folder.

    Raises:
        DataError: the folder has files already, or cannot be written; packages are missing; a digit has no ink.
    """
    for given in digits or ():
        blank = (given.images.flatten(1).amax(1) == 0).nonzero()
        if len(blank):
            raise DataError(f"wanted digits with ink, got a black image as number {int(blank[0])}")
    folder = _vacant(folder)
    train, test = load_digits() if digits is None else digits
    with new_folder(folder) as unfinished:
        for number, split in enumerate(splits):
            (unfinished / split).mkdir()
            rng = np.random.default_rng((seed, number))
            index = []
            for each in range(1, n + 1):
                picture, fields = _house_number(test if split == "test" else train, rng)
                _save(picture, unfinished / split / f"{each}.png")
                index.append((f"{each}.png", fields))
            write_digit_struct(unfinished / split / "digitStruct.mat", index)


def _house_number(digits: Digits, rng: np.random.Generator) -> tuple[_Array, _Array]:
    """A picture (h, w, 3) uint8 and the fields (5, digits) of its index entry."""
    from PIL import Image

    count = rng.choice(5, p=(0.15, 0.35, 0.3, 0.15, 0.05)) + 1
    height = int(rng.integers(14, 40))
    ink = []
    fields = []
    left = start = int(rng.integers(4, height))
    above = int(rng.integers(4, height))
    for chosen in rng.integers(len(digits), size=count):
        image = digits.images[chosen].numpy()
        rows, columns = (np.flatnonzero(image.any(axis)) for axis in (1, 0))
        tight = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        width = max(round(height * tight.shape[1] / tight.shape[0]), 3)
        top = above + int(rng.integers(-2, 3))
        ink.append(np.asarray(Image.fromarray(tight).resize((width, height))))
        fields.append((int(digits.labels[chosen]) or 10, left, top, width, height))
        left += width + int(rng.integers(0, 4))
    h = above + height + int(rng.integers(4, height))
    w = left + start
    mask = np.zeros((h, w, 1))
    for layer, (_, x, y, width, _) in zip(ink, fields, strict=True):
        mask[y : y + height, x : x + width, 0] = layer / 255
    back, front = _contrast(rng)
    picture = back + mask * (front - back) + _noise(h, w, rng)
    return picture.clip(0, 255).astype(np.uint8), np.array(fields, dtype=np.float64).T


def _contrast(rng: np.random.Generator) -> tuple[_Array, _Array]:
    """Two colours, one at least 80 grey levels brighter than the other."""
    dark, bright = rng.uniform(20, 110, 3), rng.uniform(190, 235, 3)
    return (dark, bright) if rng.random() < 0.5 else (bright, dark)


def _noise(h: int, w: int, rng: np.random.Generator) -> _Array:
    """Coloured noise (h, w, 3): grains over a smooth slope."""
    slope = np.linspace(-1, 1, w)[None, :, None] * rng.normal(0, 12, 3)
    return slope + rng.normal(0, 8, (h, w, 3))


def write_digit_struct(path: Path, numbers: _Numbers) -> None:
    """Write SVHN's index as MATLAB 7.3 does: (name, fields (5, digits) in the order of `FIELDS`) of each picture."""
    try:
        import h5py
    except ImportError as error:
        raise DataError(f"{path}: writing it needs the package h5py: {TRAIN_EXTRA}") from error
    with h5py.File(path, "w", userblock_size=512) as file:
        refs, index = file.create_group("#refs#"), file.create_group("digitStruct")
        index.attrs["MATLAB_class"] = np.bytes_("struct")
        for name in ("name", "bbox"):
            index.create_dataset(name, (len(numbers), 1), h5py.ref_dtype)
        for row, (name, fields) in enumerate(numbers):
            letters = np.frombuffer(name.encode("utf-16-le"), "<u2")[:, None]
            index["name"][row, 0] = _referred(refs, letters, "char")
            box = refs.create_group(f"b{row}")
            box.attrs["MATLAB_class"] = np.bytes_("struct")
            for field, values in zip(FIELDS, fields, strict=True):
                # Fields of one digit hold the number itself, those of several hold references to numbers.
                if len(values) == 1:
                    box.create_dataset(field, data=values[:, None])
                    continue
                column = box.create_dataset(field, (len(values), 1), h5py.ref_dtype)
                for digit, value in enumerate(values):
                    column[digit, 0] = _referred(refs, np.full((1, 1), value), "double")
            index["bbox"][row, 0] = box.ref
    with path.open("r+b") as raw:
        raw.write(b"MATLAB 7.3 MAT-file, HDF5 schema 1.00 .".ljust(116) + bytes(8) + b"\0\2IM")


def _referred(refs: h5py.Group, values: _Array, kind: str) -> Any:
    dataset = refs.create_dataset(f"v{len(refs)}", data=values)
    dataset.attrs["MATLAB_class"] = np.bytes_(kind)
    return dataset.ref


def generate_cub(
    folder: str | PathLike[str], classes: int, images_per_class: int, seed: int
) -> None:
    """Write pictures of birds in the layout of CUB-200-2011. Every second picture of a species is for training.

    Args:
        folder: the folder to make; it may exist if it is empty.
        classes: the number of species; beyond about 20 their colours are hard to tell apart.
        images_per_class: the number of pictures of each species, at least 2 to have some for training and for testing.
        seed: the same pictures for the same seed.

    Raises:
        DataError: the folder has files already, or cannot be written; Pillow is missing.
    """
    folder = _vacant(folder)
    rng = np.random.default_rng(seed)
    tables: dict[str, list[str]] = {
        name: [] for name in ("images", "image_class_labels", "train_test_split", "classes")
    }
    with new_folder(folder) as unfinished:
        number = 0
        for species in range(1, classes + 1):
            name = f"{species:03d}.Species_{species}"
            tables["classes"].append(f"{species} {name}")
            (unfinished / "images" / name).mkdir(parents=True)
            for each in range(images_per_class):
                number += 1
                path = f"{name}/Species_{species}_{each + 1:04d}.jpg"
                _save(_bird(species - 1, classes, rng), unfinished / "images" / path)
                tables["images"].append(f"{number} {path}")
                tables["image_class_labels"].append(f"{number} {species}")
                tables["train_test_split"].append(f"{number} {1 - each % 2}")
        for name, lines in tables.items():
            (unfinished / f"{name}.txt").write_text("\n".join(lines) + "\n")


def _bird(species: int, classes: int, rng: np.random.Generator) -> _Array:
    """A picture (h, w, 3) uint8 of a bird somewhere in it."""
    h, w = (int(length) for length in rng.integers(120, 200, 2))
    y, x = np.mgrid[:h, :w]
    size = rng.uniform(0.18, 0.3) * min(h, w)
    side = rng.choice((-1, 1))  # where it looks
    middle_y, middle_x = rng.uniform(0.35, 0.65) * h, rng.uniform(0.35, 0.65) * w
    body = ((x - middle_x) / (1.5 * size)) ** 2 + ((y - middle_y) / size) ** 2 < 1
    head_x, head_y = middle_x + side * 1.5 * size, middle_y - 0.8 * size
    head = (x - head_x) ** 2 + (y - head_y) ** 2 < (0.6 * size) ** 2
    picture = np.full((h, w, 3), rng.uniform(90, 160, 3)) + _noise(h, w, rng)
    # Body and head run through the hues at unlike speeds, so that both are needed to tell all species.
    hues = species / classes, 2.618 * species % 1
    for part, hue in zip((body, head), hues, strict=True):
        picture[part] = np.array(colorsys.hsv_to_rgb(hue, 0.8, 0.9)) * 255 + rng.normal(0, 6, 3)
    return picture.clip(0, 255).astype(np.uint8)


def _save(picture: _Array, path: Path) -> None:
    try:
        from PIL import Image
    except ImportError as error:
        raise DataError(
            f"{path}: writing pictures needs the package pillow: {TRAIN_EXTRA}"
        ) from error
    Image.fromarray(picture).save(path)


def _vacant(folder: str | PathLike[str]) -> Path:
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder}: wanted a new or empty folder, got one with something in it")
    return folder
