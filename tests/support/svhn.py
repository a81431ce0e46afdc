"""Folders in SVHN's layout, and every way to break one."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from architectures.data import Digits
from architectures.data.generated import write_digit_struct

_SQUARES = Digits(images=torch.full((10, 28, 28), 255, dtype=torch.uint8), labels=torch.arange(10))
WHITE = _SQUARES, _SQUARES
"""Digits that are filled squares, so that a number's boxes are where its paint is."""


def rows(*digits: tuple[float, ...]) -> np.ndarray:
    """(label, left, top, width, height) of each digit -> the fields of an index entry."""
    return np.array(digits, dtype=np.float64).T


def broken_index(folder: Path, *entries: tuple[str, np.ndarray]) -> None:
    write_digit_struct(folder / "digitStruct.mat", list(entries))


def cut(path: Path, share: float) -> None:
    raw = path.read_bytes()
    path.write_bytes(raw[: int(len(raw) * share)])


def link_out(folder: Path) -> None:
    (folder / "1.png").rename(folder.parent / "elsewhere.png")
    (folder / "1.png").symlink_to(folder.parent / "elsewhere.png")


def change(folder: Path, edit: Callable[[h5py.File], None]) -> None:
    with h5py.File(folder / "digitStruct.mat", "r+") as file:
        edit(file)


def replaced(file: h5py.File, name: str, values: Any) -> None:
    del file[name]
    file[name] = values


def without_label(file: h5py.File) -> None:
    del file[file["digitStruct/bbox"][0, 0]]["label"]


def elsewhere(folder: Path) -> str:
    """An index outside the folder that could be read."""
    path = folder.parent / "elsewhere.mat"
    write_digit_struct(path, [(f"{number}.png", rows(GOOD)) for number in range(1, 21)])
    return str(path)


def box_elsewhere(file: h5py.File, other: str) -> None:
    box = file[file["digitStruct/bbox"][0, 0]]
    del box["label"]
    box["label"] = h5py.ExternalLink(other, "digitStruct/name")


def name_in(file: h5py.File, dataset: h5py.Dataset) -> None:
    names = file["digitStruct/name"][()]
    names[0, 0] = dataset.ref
    file["digitStruct/name"][...] = names


def name_of_other_bytes(file: h5py.File, other: str) -> None:
    name_in(file, file.create_dataset("taken", (5, 1), "<u2", external=[(other, 0, 10)]))


def name_mapped(file: h5py.File, other: str) -> None:
    layout = h5py.VirtualLayout((5, 1), "<u2")
    layout[...] = h5py.VirtualSource(other, "name", (5, 1), "<u2")
    name_in(file, file.create_virtual_dataset("taken", layout))


GOOD = (1, 2, 2, 8, 8)
NAN = float("nan")
BROKEN: dict[str, tuple[str, Callable[[Path], object], list[str]]] = {
    # what is wrong: the file to be named, how it is broken, what the message says besides
    "no folder": ("digitStruct.mat", shutil.rmtree, ["no such file"]),
    "no index": (
        "digitStruct.mat",
        lambda d: (d / "digitStruct.mat").unlink(),
        ["no such file"],
    ),
    "an index cut off": ("digitStruct.mat", lambda d: cut(d / "digitStruct.mat", 0.5), ["HDF5"]),
    "an empty index": ("digitStruct.mat", lambda d: cut(d / "digitStruct.mat", 0), ["HDF5"]),
    "text for an index": (
        "digitStruct.mat",
        lambda d: (d / "digitStruct.mat").write_text("number"),
        ["HDF5"],
    ),
    "no names": (
        "digitStruct.mat",
        lambda d: change(d, lambda f: f["digitStruct"].__delitem__("name")),
        ["digitStruct/name", "after 0 entries"],
    ),
    "fewer boxes than names": (
        "digitStruct.mat",
        lambda d: change(d, lambda f: replaced(f, "digitStruct/bbox", f["digitStruct/bbox"][:5])),
        ["(20, 1) and (5, 1)"],
    ),
    "names that are numbers": (
        "digitStruct.mat",
        lambda d: change(d, lambda f: replaced(f, "digitStruct/name", np.ones((20, 1)))),
        ["after 0 entries"],
    ),
    "a group for names": (
        "digitStruct.mat",
        lambda d: change(
            d,
            lambda f: (f["digitStruct"].__delitem__("name"), f.create_group("digitStruct/name")),
        ),
        ["digitStruct/name"],
    ),
    "a box without label": (
        "digitStruct.mat",
        lambda d: change(d, without_label),
        ["after 0 entries"],
    ),
    "label 11": (
        "digitStruct.mat",
        lambda d: broken_index(d, ("1.png", rows(GOOD)), ("2.png", rows((11, 2, 2, 8, 8)))),
        ["labels 1 to 10 for 2.png", "[11.0]"],
    ),
    "label 0": (
        "digitStruct.mat",
        lambda d: broken_index(d, ("1.png", rows((0, 2, 2, 8, 8)))),
        ["labels 1 to 10", "[0.0]"],
    ),
    "a box of no width": (
        "digitStruct.mat",
        lambda d: broken_index(d, ("1.png", rows((1, 2, 2, 0, 8)))),
        ["boxes with an area for 1.png", "width [0.0]"],
    ),
    "a box that is nowhere": (
        "digitStruct.mat",
        lambda d: broken_index(d, ("1.png", rows((1, NAN, 2, 8, 8)))),
        ["boxes with an area", "left [nan]"],
    ),
    "an infinite box": (
        "digitStruct.mat",
        lambda d: broken_index(d, ("1.png", rows((1, 2, 2, 8, float("inf"))))),
        ["boxes with an area", "height [inf]"],
    ),
    "no numbers": ("digitStruct.mat", lambda d: broken_index(d), ["got none of the 0"]),
    "a box beside the picture": (
        "1.png",
        lambda d: broken_index(d, ("1.png", rows((1, 5000, 2, 8, 8)))),
        ["a box inside the", "5000.0"],
    ),
    "a picture above": (
        "digitStruct.mat",
        lambda d: broken_index(d, ("../train/1.png", rows(GOOD))),
        ["files inside", "'../train/1.png'"],
    ),
    "an absolute picture": (
        "digitStruct.mat",
        lambda d: broken_index(d, (str(d / "1.png"), rows(GOOD))),
        ["files inside", "1.png'"],
    ),
    "a picture by Windows' path": (
        "digitStruct.mat",
        lambda d: broken_index(d, ("..\\1.png", rows(GOOD))),
        ["files inside"],
    ),
    "a picture with a name too long": (
        "digitStruct.mat",
        lambda d: broken_index(d, ("1" * 300, rows(GOOD))),
        ["wanted names of files", "too long"],
    ),
    "links in a circle": (
        "digitStruct.mat",
        lambda d: ((d / "1.png").unlink(), (d / "1.png").symlink_to("1.png")),
        ["wanted names of files"],
    ),
    "a picture with no name": (
        "digitStruct.mat",
        lambda d: broken_index(d, (".", rows(GOOD))),
        ["files inside", "'.'"],
    ),
    "an index in another file": (
        "digitStruct.mat",
        lambda d: change(
            d,
            lambda f: replaced(f, "digitStruct", h5py.ExternalLink(elsewhere(d), "digitStruct")),
        ),
        ["after 0 entries: a link in place of digitStruct"],
    ),
    "a box in another file": (
        "digitStruct.mat",
        lambda d: change(d, lambda f: box_elsewhere(f, elsewhere(d))),
        ["after 0 entries: a link in place of label"],
    ),
    "a name of another file's bytes": (
        "digitStruct.mat",
        lambda d: change(d, lambda f: name_of_other_bytes(f, elsewhere(d))),
        ["after 0 entries: values that lie in another file"],
    ),
    "a name mapped from another file": (
        "digitStruct.mat",
        lambda d: change(d, lambda f: name_mapped(f, elsewhere(d))),
        ["after 0 entries: values that lie in another file"],
    ),
    "a link out": ("digitStruct.mat", link_out, ["files inside", "'1.png' links out"]),
    "a picture cut off": ("5.png", lambda d: cut(d / "5.png", 0.7), ["can be decoded"]),
    "an empty picture": ("5.png", lambda d: cut(d / "5.png", 0), ["can be decoded"]),
    "text for a picture": (
        "5.png",
        lambda d: (d / "5.png").write_text("a house"),
        ["can be decoded"],
    ),
}
