"""What a result was made with: the machine, the versions, the commit of the code, and how many data there were."""

from __future__ import annotations

import platform
import subprocess
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import stn_triton

from .batches import DigitData, FileData
from .evaluate import device
from .experiment_data import ExperimentData

_PACKAGES = ("torch", "lightning", "numpy", "triton")


def provenance() -> dict[str, Any]:
    """Device, versions, commit and date, without the names of machines and folders."""
    return {
        "device": device_name(device()),
        "versions": _versions(),
        "commit": commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def device_name(where: torch.device) -> str:
    """The name of a GPU, or of the processor, as far as the system tells it."""
    if where.type == "cuda":
        return torch.cuda.get_device_name(where)
    with suppress(OSError):
        for text in Path("/proc/cpuinfo").read_text().splitlines():
            if text.startswith("model name"):
                return text.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def commit() -> str | None:
    """The commit of this code, with `+` if files differ from it; None where it is no git checkout."""
    here = Path(__file__).parent
    if _git(here, "ls-files", Path(__file__).name) in (None, ""):
        return None  # no repository, or one of another project around the installed package
    head = _git(here, "rev-parse", "--short=12", "HEAD")
    return None if head is None else head + ("+" if _git(here, "status", "--porcelain") else "")


def sizes(data: ExperimentData, *, test: bool = True) -> dict[str, int]:
    """How many digits, or pictures, there are to train on, to validate and to test.

    test: False leaves the pictures of the test set alone, which may take minutes to be read for the first time.

    Raises:
        DataError: data that are missing or broken.
    """
    if isinstance(data, DigitData):
        return {name: len(digits) for name, digits in data.digits.items()}
    assert isinstance(data, FileData)
    return {
        name: len(data._part(name))
        for name in ("train", "validation", "test")
        if test or name != "test"
    }


def _versions() -> dict[str, str]:
    found = {"stn-triton": stn_triton.__version__, "python": platform.python_version()}
    for package in _PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found | {
        "torch": torch.__version__
    }  # with its build, which a wheel may leave out of its metadata


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, check=False
        )
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
