"""Cases that differ in one number, to see how the time of an output element grows with it."""

from __future__ import annotations

from .cases import Case

_SIZES = (
    (1, 1, 8), (1, 1, 16), (1, 1, 32), (1, 1, 64), (1, 1, 256), (1, 1, 1024), (1, 1, 2048),
    (8, 3, 8), (8, 3, 32), (8, 3, 128), (8, 3, 512), (8, 3, 1024), (8, 3, 2048),
)  # fmt: skip
_TRANSFORMERS = (1, 2, 4, 8, 16)
_CHANNELS = (1, 2, 3, 4, 7, 8, 16, 31, 32, 64, 128)


def _square(name: str, n: int, channels: int, size: int, k: int | None = None) -> Case:
    return Case(name, (n, channels, size, size), (size, size), k=k)


GROWTH_CASES: tuple[Case, ...] = (
    *(_square(f"size-{n}x{c}x{size}", n, c, size) for n, c, size in _SIZES),
    *(_square(f"k-{k}-16x3x64", 16, 3, 64, k) for k in _TRANSFORMERS),
    *(_square(f"c-{c}-16x{c}x64", 16, c, 64) for c in _CHANNELS),
)
"""They grow in size, in transformers of an image, or in channels."""
