"""CUB-200-2011's birds (paper, section 4.3 and appendix A.6).

The official layout: a folder with images.txt, image_class_labels.txt, train_test_split.txt, classes.txt and images/.
The paper crops 224 pixels from images with sides of 256. It does not say from what it crops 448; here these are images
with sides of 512, as in another reimplementation. The shorter side is resized to that length and the picture keeps its
proportions; crop and resize are one step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils.data import Dataset

from .files import (
    DataError,
    channels_first,
    cropped,
    failures,
    find_root,
    inside,
    open_picture,
    read_lines,
)

_T = TypeVar("_T")

INDEX = ("images.txt", "image_class_labels.txt", "train_test_split.txt", "classes.txt")


class CUB(Dataset[tuple[Tensor, Tensor]]):
    """Pictures of birds and their species.

    Items: a uint8 image (3, image_size, image_size) and its species, int64 (), 0 to 199 in the official order. The
    images are crops of the picture, resized so that its shorter side is 8/7 of image_size (256 for 224, 512 for 448):
    random crops for training, flipped with a chance of one half, and the middle one for testing.

    Crops and flips are drawn from torch's default generator, which a `DataLoader` seeds for each of its workers.

    Args:
        root: CUB_200_2011, the folder that holds images.txt, or the folder that it lies in.
        train: the training or the test pictures of train_test_split.txt.
        image_size: the side of the crops, in pixels.

    Raises:
        ValueError: an image_size below 1.
        DataError: files that are missing or broken, or that do not fit together; names the file.

    Source: Jaderberg et al. 2015 (arXiv:1506.02025), section 4.3.
    """

    def __init__(self, root: str | PathLike[str], *, train: bool, image_size: int = 224) -> None:
        if image_size < 1:
            raise ValueError(f"wanted image_size >= 1, got {image_size}")
        root = cub_root(Path(root))
        self.train = train
        self.image_size = image_size
        index = _read_index(root)
        self.classes = index.classes
        chosen = [image for image in index.names if index.train[image] == train]
        self._paths = [inside(root / "images", index.names[image], index.path) for image in chosen]
        missing = [path for path in self._paths if not path.is_file()]
        if missing:
            raise DataError(
                f"{missing[0]}: no such file; {len(missing)} of {len(chosen)} pictures that {index.path} names "
                "are missing"
            )
        if not chosen:
            raise DataError(
                f"{index.path}: wanted pictures to {'train' if train else 'test'} on, got none"
            )
        self.labels = torch.tensor([index.labels[image] for image in chosen])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        picture = open_picture(self._paths[index])
        # Everything is in pixels of the picture; `side` of them become image_size.
        side = min(picture.size) * 7 / 8
        room = (picture.width - side, picture.height - side)
        across, down = torch.rand(2).tolist() if self.train else (0.5, 0.5)
        x, y = across * room[0], down * room[1]
        box = (x, y, min(x + side, picture.width), min(y + side, picture.height))
        image = channels_first(cropped(picture, box, (self.image_size, self.image_size)))
        if self.train and torch.rand(()) < 0.5:
            image = image.flip(2)
        return image, self.labels[index]


def cub_root(folder: Path) -> Path:
    """The folder that holds images.txt: this one, or CUB_200_2011 in it."""
    return find_root(folder, "images.txt", "CUB_200_2011")


def check_cub(root: Path) -> tuple[int, list[str]]:
    """How many pictures images.txt names, and a line for each that cannot be read, or for a broken index."""
    root = cub_root(root)
    try:
        index = _read_index(root)
    except DataError as error:
        return 0, [str(error)]
    names = list(index.names.values())

    def read(name: str) -> None:
        open_picture(inside(root / "images", name, index.path))

    return len(names), failures(read, names, str(root))


@dataclass(frozen=True, kw_only=True)
class _Index:
    """For each image, by its id, the file's name, the species from 0 on, and whether it is for training.

    path: of images.txt; classes: the names of all species.
    """

    path: Path
    names: dict[str, str]
    labels: dict[str, int]
    train: dict[str, bool]
    classes: list[str]


def _read_index(root: Path) -> _Index:
    path, labels_path, split_path = (root / name for name in INDEX[:3])
    if not path.is_file():
        raise DataError(
            f"{path}: cannot be read: No such file; wanted CUB_200_2011 or the folder that holds it"
        )
    names = _table(path, str)
    labels = _table(labels_path, int, names)
    split = _table(split_path, int, names)
    species = _table(root / INDEX[3], str)
    numbers = {key: number for number, key in enumerate(species)}
    for image, key in labels.items():
        if str(key) not in numbers:
            raise DataError(
                f"{labels_path}: wanted a class of classes.txt for image {image}, got {key}"
            )
        if split[image] not in (0, 1):
            raise DataError(f"{split_path}: wanted 0 or 1 for image {image}, got {split[image]}")
    return _Index(
        path=path,
        names=names,
        labels={image: numbers[str(key)] for image, key in labels.items()},
        train={image: bool(part) for image, part in split.items()},
        classes=list(species.values()),
    )


def _table(
    path: Path, convert: Callable[[str], _T], wanted: dict[str, str] | None = None
) -> dict[str, _T]:
    """Lines "id value" as a dictionary in the file's order; `wanted`: the ids that it must have, and no others."""
    found: dict[str, _T] = {}
    for line in read_lines(path):
        key, _, value = line.strip().partition(" ")
        try:
            converted = convert(value.strip())
        except ValueError:
            value = ""
        if not key.isdecimal() or not value or key in found:
            raise DataError(f"{path}: wanted lines of a new number and a value, got {line!r}")
        found[key] = converted
    if wanted is not None and found.keys() != wanted.keys():
        example = min(found.keys() ^ wanted.keys(), key=int)
        raise DataError(
            f"{path}: wanted one line for each of {len(wanted)} images in images.txt, got {len(found)}; "
            f"{example} is in one of them only"
        )
    return found
