"""matplotlib for files alone: figures are drawn by Agg, whatever backend the environment names.

Import matplotlib from here, and this before Lightning, whose torchmetrics imports matplotlib, too.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import Any

import numpy as np

_KNOWN = "matplotlib" in sys.modules
# matplotlib ends at import where this names a backend that is not installed, as the environment of a notebook does for
# a program that another Python runs.
_backend = os.environ.pop("MPLBACKEND", None)
try:
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
finally:
    if _backend is not None:
        os.environ["MPLBACKEND"] = _backend
if _backend and not _KNOWN:
    with suppress(ValueError):
        mpl.rcParams["backend"] = _backend

__all__ = ["Figure", "mpl", "pixels"]


def pixels(figure: Figure) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A figure as RGB, (h, w, 3)."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]
