"""Errors as one line, with which a command ends."""

from __future__ import annotations

import torch

_MEMORY = (
    "can't allocate memory",
    "not enough memory",
    "Storage size calculation overflowed",
    "invalid stride, shape, or storage size",
)
_COMPILERS = ("InvalidCxxCompiler", "No working C++ compiler", "Failed to find C compiler")


def first_line(error: BaseException) -> str:
    """An error as one line: the first line of its message, or the name of its class if there is none."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def missing_package(error: ModuleNotFoundError) -> str:
    """One line for a package that is not installed, and how to get it."""
    extra = "onnx" if (error.name or "").startswith("onnx") else "train"
    return f"{error.name} is not installed: pip install 'stn-triton[{extra}]'"


def machine_trouble(error: BaseException) -> str | None:
    """One line for what this machine lacks, memory or a compiler; None for all other errors.

    PyTorch has no classes for most of these: a CPU without memory is a RuntimeError like any other.
    """
    text = str(error)
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or any(
        part in text for part in _MEMORY
    ):
        return f"out of memory: {first_line(error)}"
    for line in text.splitlines():
        if any(part in line for part in _COMPILERS):
            return f"wanted a C++ compiler to compile with, got: {line.strip()}"
    if "DataLoader worker" in text and ("exited unexpectedly" in text or "killed" in text):
        return (
            f"a process that reads data was ended, perhaps for want of memory: {first_line(error)}"
        )
    return None
