"""What the tests of the kernels share: thetas that are hard to gather by, and small sizes."""

from __future__ import annotations

import math

import pytest

from stn_triton.kernels.launch import INTERPRET

interpreted = pytest.mark.skipif(not INTERPRET, reason="looks into interpreted kernels")
IN_SIZE, OUT_SIZE = (4, 5), (5, 4)


def turn(degrees: float, scale: float, tx: float = 0.0, ty: float = 0.0) -> list[list[float]]:
    c, s = scale * math.cos(math.radians(degrees)), scale * math.sin(math.radians(degrees))
    return [[c, -s, tx], [s, c, ty]]


HOSTILE = {
    "turn": turn(33, 1.1),
    "zoom in": turn(20, 0.15, 0.1),
    "zoom out": turn(-70, 3.3),
    "mirrored": [[-0.7, 0.4, 0.11], [0.5, 0.9, -0.07]],
    "sheared": [[1.0, 6.0, 0.013], [0.0, 1.0, 0.017]],
    "rank 1 at 45 degrees": [[0.8, 0.8, 0.013], [0.8, 0.8, -0.029]],
    "rank 1, columns alone": [[0.9, 0.0, 0.013], [0.9, 0.0, -0.029]],
    "rank 1, rows alone": [[0.0, 0.9, 0.013], [0.0, 0.9, -0.029]],
    "nearly singular": [[0.8, 0.8, 0.013], [0.8, 0.8 + 1e-7, -0.029]],
    "almost a point": turn(45, 1e-6, 0.11, 0.13),
    "a point": [[0.0, 0.0, 0.11], [0.0, 0.0, -0.13]],
    "all zero": [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]],
    "a column only": [[0.0, 0.0, 0.11], [0.0, 1.0, 0.0]],
    "far shift": [[1.0, 0.1, 50.0], [0.1, 1.0, 0.0]],
    "far shift to a corner": [[1.0, 0.0, -30.0], [0.0, 1.0, 40.0]],
    "half outside": [[1.0, 0.21, 0.9], [-0.23, 1.0, -0.93]],
    "huge": [[1e6, 3.0, 0.1], [-5.0, 1e6, 0.2]],
    "huge turn": turn(45, 1e6),
    "huge shift": [[1.0, 0.0, 1e6], [0.0, 1.0, -1e6]],
    "huge and tiny": [[1e6, 0.0, 0.1], [0.0, 1e-6, 0.1]],
}
