"""Files in MNIST's format."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np


def idx(values: np.ndarray) -> bytes:
    """An array as a file: its number of axes, their lengths, one byte for each value."""
    head = bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
    return head + values.astype(np.uint8).tobytes()


def write_part(folder: Path, part: str, images: np.ndarray, labels: np.ndarray) -> None:
    """The two files of a part, "train" or "t10k"."""
    (folder / f"{part}-images-idx3-ubyte").write_bytes(idx(images))
    (folder / f"{part}-labels-idx1-ubyte").write_bytes(idx(labels))
