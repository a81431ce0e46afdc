"""The result files: one JSON per GPU and torch version, written whole after every measurement,
never by hand.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from .cases import Case, Grads, direction
from .timing import Timing
from .traffic import least_peak_bytes, min_bytes

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"

Key = tuple[str, str, Grads | None]


@dataclass(frozen=True, kw_only=True)
class Record:
    """One provider in one pass of a case. `checked` is false, and there is no time, if its result was wrong or it
    could not run.
    """

    case: str
    provider: str
    grads: Grads | None
    transform: str
    mode: str
    padding_mode: str
    shape: list[int]
    out_size: list[int]
    k: int | None
    dtype: str
    memory_format: str
    checked: bool
    ms: float | None
    ms_p20: float | None
    ms_p80: float | None
    host_us: float | None
    launches: int | None
    min_bytes: int
    gb_s: float | None
    fraction_of_copy: float | None
    peak_bytes: int | None
    least_peak_bytes: int

    @property
    def key(self) -> Key:
        """Unique among the records of a file: what has a record is not measured again."""
        return f"{self.case}/{self.dtype}/{self.memory_format}", self.provider, self.grads


def key_of(case: Case, provider: str, grads: Grads | None) -> Key:
    """The key that a record of these will have."""
    return case.key, provider, grads


def make_record(
    case: Case,
    provider: str,
    grads: Grads | None,
    timing: Timing | None,
    copy: float,
    device: str,
) -> Record:
    """A record from a timing, or from None where there is nothing to time."""
    least = min_bytes(case, grads, device)
    speed = least / timing.ms / 1e6 if timing else None
    return Record(
        case=case.name,
        provider=provider,
        grads=grads,
        transform=case.transform,
        mode=case.mode,
        padding_mode=case.padding_mode,
        shape=list(case.shape),
        out_size=list(case.out_size),
        k=case.k,
        dtype=case.dtype_name,
        memory_format=case.memory_format,
        checked=timing is not None,
        ms=timing.ms if timing else None,
        ms_p20=timing.ms_p20 if timing else None,
        ms_p80=timing.ms_p80 if timing else None,
        host_us=timing.host_us if timing else None,
        launches=timing.launches if timing else None,
        min_bytes=least,
        gb_s=speed,
        fraction_of_copy=speed / copy if speed is not None else None,
        peak_bytes=timing.peak_bytes if timing else None,
        least_peak_bytes=least_peak_bytes(case, grads),
    )


@dataclass(frozen=True, kw_only=True)
class Network:
    """One training step of a whole network; `sampler_share` is the part of it spent in grid and
    sampler.
    """

    name: str
    image_size: int
    batch: int
    dtype: str
    provider: str
    ms: float
    images_s: float
    sampler_share: float


@dataclass(kw_only=True)
class Results:
    """The content of one result file."""

    gpu: str | None
    torch: str
    triton: str | None
    commit: str | None
    date: str
    copy_gb_s: float
    records: list[Record] = field(default_factory=list)
    networks: list[Network] = field(default_factory=list)

    def keys(self) -> set[Key]:
        """What has been measured."""
        return {record.key for record in self.records}


def _git(*arguments: str) -> str | None:
    done = subprocess.run(
        ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() if done.returncode == 0 else None


def commit() -> str | None:
    """The commit that is measured, with `+` if files differ from it; None outside a repository."""
    head = _git("rev-parse", "--short=12", "HEAD")
    return None if head is None else head + ("+" if _git("status", "--porcelain") else "")


def _triton_version() -> str | None:
    try:
        return version("triton")
    except PackageNotFoundError:
        return None


def environment(copy: float, revision: str | None = None) -> Results:
    """An empty result file for this machine; `revision` where there is no repository to ask."""
    return Results(
        gpu=torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        torch=torch.__version__,
        triton=_triton_version(),
        commit=revision or commit(),
        date=_now(),
        copy_gb_s=copy,
    )


def file_name(gpu: str | None) -> str:
    """`nvidia-h200-torch2.13.0.json`; `cpu-…` for a dry run."""
    return f"{as_file_name(gpu or 'cpu')}-torch{torch.__version__.split('+')[0]}.json"


def as_file_name(name: str) -> str:
    """The name of a processor in the form that it has in names of files."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def write_text(path: Path, text: str) -> None:
    """Replace a file in one step, so that a reader, or a crash, never meets half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".part")
    aside.write_text(text)
    aside.replace(path)


def as_json(row: Any) -> dict[str, Any]:
    """A row, a dataclass, as files have it: where it has `grads`, the direction that follows stands before them."""
    found: dict[str, Any] = {}
    for name, value in asdict(row).items():
        if name == "grads":
            found["direction"] = direction(value)
        found[name] = value
    return found


def without_direction(row: dict[str, Any]) -> dict[str, Any]:
    """A row of a file by its own fields; `ValueError` if its direction is not the one that follows from `grads`."""
    found = dict(row)
    stated = found.pop("direction", None)
    if stated not in (None, direction(row["grads"])):
        raise ValueError(f"direction {stated!r} beside grads {row['grads']!r}")
    return found


def save_rows(path: Path, about: dict[str, Any], rows: list[Any]) -> Path:
    """Write rows, dataclasses, with what they are about, torch, commit and date; returns the path."""
    content = {
        **about,
        "torch": torch.__version__,
        "commit": commit(),
        "date": _now(),
        "rows": [as_json(row) for row in rows],
    }
    write_text(path, json.dumps(content, indent=1) + "\n")
    return path


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def save(results: Results, path: Path) -> None:
    """Write the file whole."""
    content = {**asdict(results), "records": [as_json(record) for record in results.records]}
    write_text(path, json.dumps(content, indent=1) + "\n")


def load(path: Path) -> Results:
    """Read a file back; `ValueError` if it is not of this form."""
    content: dict[str, Any] = json.loads(path.read_text())
    try:
        records = [Record(**without_direction(record)) for record in content.pop("records")]
        networks = [Network(**network) for network in content.pop("networks")]
        return Results(**content, records=records, networks=networks)
    except (KeyError, TypeError, ValueError) as error:
        names = [f.name for f in fields(Results)]
        raise ValueError(
            f"{path} is not a result file (an object with {names}): {error}"
        ) from error


def result_files(folder: Path = RESULTS) -> Iterator[Path]:
    """The committed results."""
    yield from sorted(folder.glob("*.json"))
