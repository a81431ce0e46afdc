"""Fetching MNIST: checked, whole or not at all, from a server of the test's own."""

from __future__ import annotations

import gzip
import hashlib
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from architectures.data import DataError, download, download_mnist, load_mnist
from support.mnist import idx

NAMES = list(download.MNIST_MD5)


class Handler(SimpleHTTPRequestHandler):
    """Serves a folder and notes what was asked for; a file "cut" is announced longer than it is."""

    asked: list[str]

    def __init__(self, *args: Any, asked: list[str], **options: Any) -> None:
        self.asked = asked
        super().__init__(*args, **options)

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.asked.append(self.path.rsplit("/", 1)[-1])
        super().do_GET()

    def send_header(self, keyword: str, value: str) -> None:
        if keyword == "Content-Length" and (Path(self.directory) / "cut").exists():
            value = str(int(value) + 100)
        super().send_header(keyword, value)


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four small files in MNIST's format, whose checksums are taken for the right ones."""
    folder = tmp_path / "source"
    folder.mkdir()
    for name in NAMES:
        values = np.zeros((3, 28, 28)) if "images" in name else np.arange(3)
        (folder / name).write_bytes(gzip.compress(idx(values), mtime=0))
    sums = {name: hashlib.md5((folder / name).read_bytes()).hexdigest() for name in NAMES}
    monkeypatch.setattr(download, "MNIST_MD5", sums)
    return folder


@pytest.fixture
def server(source: Path) -> Iterator[tuple[str, list[str]]]:
    asked: list[str] = []
    handler = partial(Handler, directory=str(source), asked=asked)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}", asked
        httpd.shutdown()
        thread.join()


def test_the_real_checksums() -> None:
    assert len(NAMES) == 4
    assert all(len(md5) == 32 for md5 in download.MNIST_MD5.values())


@pytest.mark.parametrize("slash", ["", "/"])
def test_download(slash: str, server: tuple[str, list[str]], tmp_path: Path) -> None:
    url, asked = server
    folder = tmp_path / "made" / "mnist"
    download_mnist(folder, base_url=url + slash)
    assert sorted(path.name for path in folder.iterdir()) == sorted(NAMES)
    assert sorted(asked) == sorted(NAMES)
    for train in (True, False):
        assert load_mnist(folder, train=train).labels.tolist() == [0, 1, 2]


def test_what_is_there_and_right_stays(server: tuple[str, list[str]], tmp_path: Path) -> None:
    url, asked = server
    folder = tmp_path / "mnist"
    download_mnist(folder, base_url=url)
    (folder / NAMES[1]).write_bytes(b"half of it")
    (folder / NAMES[2]).unlink()
    (folder / "mine.txt").write_text("stays")
    asked.clear()
    download_mnist(folder, base_url=url)
    assert asked == NAMES[1:3], "only the wrong one and the missing one"
    assert (folder / "mine.txt").read_text() == "stays"
    asked.clear()
    download_mnist(folder, base_url="http://127.0.0.1:9/never-asked")


def test_download_from_files(source: Path, tmp_path: Path) -> None:
    download_mnist(tmp_path / "mnist", base_url=source.as_uri())
    assert len(load_mnist(tmp_path / "mnist", train=True)) == 3


def refused(folder: Path, url: str, *wanted: str) -> None:
    with pytest.raises(DataError) as raised:
        download_mnist(folder, base_url=url)
    message = str(raised.value)
    assert message.startswith(f"{url.rstrip('/')}/{NAMES[0]}: "), message
    assert "\n" not in message
    for part in wanted:
        assert part in message
    assert not folder.exists()


def test_wrong_checksum(source: Path, server: tuple[str, list[str]], tmp_path: Path) -> None:
    (source / NAMES[0]).write_bytes(b"something else")
    got = hashlib.md5(b"something else").hexdigest()
    refused(tmp_path / "mnist", server[0], "wanted a file with MD5", got, "14 bytes")


def test_a_wrong_file_is_not_replaced_by_another(
    source: Path, server: tuple[str, list[str]], tmp_path: Path
) -> None:
    folder = tmp_path / "mnist"
    folder.mkdir()
    (folder / NAMES[0]).write_bytes(b"old")
    (source / NAMES[0]).write_bytes(b"new and wrong")
    with pytest.raises(DataError, match="MD5"):
        download_mnist(folder, base_url=server[0])
    assert [path.read_bytes() for path in folder.iterdir()] == [b"old"]


def test_not_found(source: Path, server: tuple[str, list[str]], tmp_path: Path) -> None:
    (source / NAMES[0]).unlink()
    refused(tmp_path / "mnist", server[0], "cannot be fetched", "404")


def test_cut_off(source: Path, server: tuple[str, list[str]], tmp_path: Path) -> None:
    (source / "cut").touch()
    whole = (source / NAMES[0]).read_bytes()
    (source / NAMES[0]).write_bytes(whole[:20])
    refused(tmp_path / "mnist", server[0], "MD5", "20 bytes")


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:9",
        "nonsense",
        "file:///nowhere/at/all",
        "gopher://a",
        "http://[",
        "http://a b",
    ],
)
def test_no_server(url: str, source: Path, tmp_path: Path) -> None:
    refused(tmp_path / "mnist", url, "cannot be fetched")


def test_folder_is_a_file(source: Path, tmp_path: Path) -> None:
    (tmp_path / "mnist").write_text("a file")
    with pytest.raises(DataError, match="cannot be fetched"):
        download_mnist(tmp_path / "mnist", base_url=source.as_uri())
    assert (tmp_path / "mnist").read_text() == "a file"
