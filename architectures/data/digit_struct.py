"""The index of SVHN's full numbers: digitStruct.mat, a MATLAB 7.3 file, which is HDF5 with references.

`digitStruct/name` and `digitStruct/bbox` hold a reference for each picture: to its name, characters in uint16, and to
a group with `label`, `left`, `top`, `width` and `height`. Where there is one digit each of these is a number, (1, 1);
where there are several it is a column of references to numbers. Label 10 is the digit 0. All lengths are in pixels;
`left` and `top` are the distances of the box from the picture's outer edges.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from architectures.errors import first_line

from .files import TRAIN_EXTRA, DataError

if TYPE_CHECKING:
    import h5py

_Array = np.ndarray[Any, np.dtype[Any]]

FIELDS = ("label", "left", "top", "width", "height")


@dataclass(frozen=True, kw_only=True)
class HouseNumber:
    """One picture of the index: its file's name, its digits as they are read, the box (x0, y0, x1, y1) around all."""

    name: str
    digits: tuple[int, ...]
    box: tuple[float, float, float, float]


def read_digit_struct(path: Path) -> list[HouseNumber]:
    """Read a digitStruct.mat.

    Raises:
        DataError: missing, not HDF5, truncated, not laid out as above; labels other than 1 to 10, boxes that are not
            finite or empty; a part that lies in another file; or h5py is not installed.
    """
    try:
        import h5py
    except ImportError as error:
        raise DataError(f"{path}: reading it needs the package h5py: {TRAIN_EXTRA}") from error
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    done = 0
    try:
        with h5py.File(path, "r") as file:
            top = _own(file.id, b"digitStruct")
            names, boxes = (
                _values(_own(top, name), h5py.ref_dtype, flat=False) for name in (b"name", b"bbox")
            )
            if names.shape != boxes.shape or names.shape[1:] != (1,):
                raise DataError(
                    f"{path}: wanted a column of names and one as long of boxes, "
                    f"got {names.shape} and {boxes.shape}"
                )
            pairs = zip(names[:, 0], boxes[:, 0], strict=True)
            found = []
            for name, box in tqdm(pairs, str(path), len(names), leave=False, disable=None):
                text = _values(h5py.h5r.dereference(name, file.id), np.dtype("<u2"))
                fields = _fields(file.id, h5py.h5r.dereference(box, file.id))
                found.append(_house_number(text.tobytes().decode("utf-16-le"), fields, path))
                done += 1
            return found
    except DataError:
        raise
    except (OSError, LookupError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise DataError(
            f"{path}: wanted MATLAB 7.3's HDF5 with digitStruct/name and digitStruct/bbox, "
            f"got after {done} entries: {first_line(error)}"
        ) from error


# The functions below use h5py's low-level interface: the file holds millions of single numbers, which it reads five
# times as fast as the usual one.


def _fields(file: h5py.h5f.FileID, group: h5py.h5g.GroupID) -> _Array:
    """(5, digits), in the order of FIELDS."""
    from h5py import h5r, h5t, ref_dtype

    columns = []
    for field in FIELDS:
        dataset = _own(group, field.encode())
        if dataset.get_type().get_class() == h5t.REFERENCE:
            references = _values(dataset, ref_dtype)
            digits = [_values(h5r.dereference(each, file), np.dtype(float)) for each in references]
            columns.append(np.concatenate(digits))
        else:
            columns.append(_values(dataset, np.dtype(float)))
    return np.stack(columns)


def _own(group: h5py.h5g.GroupID, name: bytes) -> Any:
    """A group or dataset of a group, which lies in this file: HDF5 would follow a link to any file of this machine.

    Raises:
        ValueError: a link to another file, or to another name.
    """
    from h5py import h5l, h5o

    if group.links.get_info(name).type != h5l.TYPE_HARD:
        raise ValueError(f"a link in place of {name.decode()}")
    return h5o.open(group, name)


def _values(dataset: h5py.h5d.DatasetID, dtype: np.dtype[Any], *, flat: bool = True) -> _Array:
    """The values of a dataset, which may name another file that holds them.

    Raises:
        ValueError: it does.
    """
    from h5py import h5d, h5s

    if dataset.get_offset() is None:  # they are not one block of this file
        layout = dataset.get_create_plist()
        if layout.get_layout() == h5d.VIRTUAL or layout.get_external_count():
            raise ValueError("values that lie in another file")
    values = np.empty(dataset.shape, dtype)
    dataset.read(h5s.ALL, h5s.ALL, values)
    return values.reshape(-1) if flat else values


def _house_number(name: str, fields: _Array, path: Path) -> HouseNumber:
    labels, left, top, width, height = fields
    if not len(labels) or not np.isin(labels, np.arange(1, 11)).all():
        raise DataError(f"{path}: wanted labels 1 to 10 for {name}, got {labels.tolist()}")
    box = (left.min(), top.min(), (left + width).max(), (top + height).max())
    if not all(map(math.isfinite, box)) or (width <= 0).any() or (height <= 0).any():
        raise DataError(
            f"{path}: wanted boxes with an area for {name}, got width {width.tolist()}, "
            f"height {height.tolist()} at left {left.tolist()}, top {top.tolist()}"
        )
    x0, y0, x1, y1 = map(float, box)
    digits = tuple(int(label) % 10 for label in labels)
    return HouseNumber(name=name, digits=digits, box=(x0, y0, x1, y1))
