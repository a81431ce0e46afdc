"""Fetch MNIST: four files, each kept only if it has the known checksum."""

from __future__ import annotations

import hashlib
import http.client
import tempfile
import urllib.request
from contextlib import suppress
from os import PathLike
from pathlib import Path

from tqdm import tqdm

from architectures.errors import first_line

from .files import DataError

MNIST_URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"
MNIST_MD5 = {
    "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
}
_CHUNK = 1 << 16
_TIMEOUT_S = 60


def download_mnist(folder: str | PathLike[str], *, base_url: str = MNIST_URL) -> None:
    """Fetch the four files of MNIST, about 12 MB, into a folder. Files with the right checksum are left alone.

    A file gets its name only once its checksum was right, so that no part of a file, and no wrong one, has that name.

    Raises:
        DataError: a file that cannot be fetched or written, or that has another checksum; names the URL.
    """
    folder = Path(folder)
    is_new = not folder.exists()
    try:
        for name, md5 in MNIST_MD5.items():
            path = folder / name
            if not _has_checksum(path, md5):
                _fetch(f"{base_url.rstrip('/')}/{name}", path, md5)
    finally:
        if is_new:
            with suppress(OSError):  # which refuses unless nothing was fetched
                folder.rmdir()


def _has_checksum(path: Path, md5: str) -> bool:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, _md5).hexdigest() == md5
    except OSError:
        return False


def _md5() -> hashlib._Hash:
    return hashlib.md5(usedforsecurity=False)  # this finds damage, not malice


def _fetch(url: str, path: Path, md5: str) -> None:
    digest = _md5()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=path.parent) as unfinished:
            partial = Path(unfinished) / path.name
            with (
                urllib.request.urlopen(url, timeout=_TIMEOUT_S) as reply,
                partial.open("wb") as file,
            ):
                length = int(reply.headers.get("Content-Length") or 0)
                with tqdm(
                    total=length or None, desc=path.name, unit="B", unit_scale=True, disable=None
                ) as bar:
                    while chunk := reply.read(_CHUNK):
                        digest.update(chunk)
                        file.write(chunk)
                        bar.update(len(chunk))
            if digest.hexdigest() != md5:
                raise DataError(
                    f"{url}: wanted a file with MD5 {md5}, got {digest.hexdigest()} "
                    f"({partial.stat().st_size} bytes)"
                )
            partial.replace(path)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise DataError(f"{url}: cannot be fetched to {path}: {first_line(error)}") from error
