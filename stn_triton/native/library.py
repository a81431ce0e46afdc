"""Finds the shared library of the native sampler, checks it and loads it once; or says why it is not there."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

from . import sources

_POINTERS = (
    "input", "grad", "output", "input_gradient", "theta", "theta_gradient", "basis",
)  # fmt: skip
_NUMBERS = (
    "images", "transformers", "channels", "in_x", "in_y", "in_z", "out_x", "out_y", "out_z", "dimensions", "transform",
    "taps", "padding", "align_corners", "samples", "channels_last", "storage", "parameters", "functions",
    "row_parts",
)  # fmt: skip


class Call(ctypes.Structure):
    """The arguments of a call: the fields of `Call` in `call.h`, in the same order. They are explained there."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in _POINTERS),
        *((name, ctypes.c_int64) for name in _NUMBERS),
        *((name, ctypes.c_void_p) for name in ("order", "starts")),
        ("padding_value", ctypes.c_double),
    )


def load(path: Path) -> tuple[Any, str | None]:
    """(the library at `path`, None), or (None, why it cannot be used).

    A library is used only if it was built from the sources that lie beside this file.
    """
    if not path.is_file():
        return (
            None,
            f"this stn_triton is without its native library ({path.name}){_how_to_build()}",
        )
    try:
        library = ctypes.CDLL(str(path))
        library.stn_digest.restype = library.stn_level.restype = ctypes.c_char_p
        library.stn_call_size.restype = ctypes.c_int64
        library.stn_sample.argtypes = (ctypes.POINTER(Call), ctypes.c_int64)
        built_from = library.stn_digest().decode()
    except (OSError, AttributeError) as error:
        return (None, f"the native library {path} cannot be loaded: {error}")
    if built_from != sources.digest() or library.stn_call_size() != ctypes.sizeof(Call):
        return (
            None,
            f"the native library {path} was built from other sources: run `make native`, or install stn_triton again",
        )
    return library, None


def _how_to_build() -> str:
    """What helps where a clone is imported instead of an installation, as by a Python that is started in its folder."""
    clone = sources.FOLDER.parents[1]
    if not (clone / "hatch_build.py").is_file():
        return ""
    return (
        f"; it was imported from the clone {clone}, where `pip install -e .` builds the library, "
        "while `pip install .` builds it for Pythons that are started elsewhere"
    )


LIBRARY, MISSING = load(sources.FOLDER / sources.LIBRARY)
"""LIBRARY is the library beside the sources, or None. MISSING then says why."""


def level() -> str | None:
    """The instruction set that the library uses here."""
    return None if MISSING else str(LIBRARY.stn_level().decode())
