"""What this installation can do, in words."""

from __future__ import annotations

import platform

import torch

from . import native
from .ops import HAS_TRITON, INTERPRET


def show_config() -> str:
    """Which backends are there and why, as text to print or to put into a report of a bug.

    One line for each backend, in the order in which `st_sample` prefers them; before these the versions, after them
    what `backend=None` takes on a GPU and on a CPU.
    """
    from . import __version__

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    system = f"{platform.system()} {platform.machine()}"
    return "\n".join((
        f"stn_triton {__version__}, torch {torch.__version__}, Python {platform.python_version()}, {system}, {gpu}",
        f"triton: {_triton()}",
        f"native: {_native()}",
        "torch: there",
        f"backend=None: {'triton' if HAS_TRITON else 'torch'} on a GPU, "
        f"{'torch' if native.library.MISSING else 'native'} on a CPU",
    ))  # fmt: skip


def _triton() -> str:
    if not HAS_TRITON:
        return "not there: the package triton is not installed"
    import triton

    where = "on a GPU, and interpreted on a CPU (TRITON_INTERPRET=1)" if INTERPRET else "on a GPU"
    return f"there, version {triton.__version__}, {where}"


def _native() -> str:
    if native.library.MISSING:
        return f"not there: {native.library.MISSING}"
    threads = torch.get_num_threads()
    return f"there, {native.library.level()}, at most {threads} thread{'s' if threads > 1 else ''}"
