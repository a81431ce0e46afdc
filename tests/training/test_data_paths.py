"""Every public function that takes a path takes it as text, too, or as anything that names a path."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from architectures.data import (
    CUB,
    SVHN,
    check_folder,
    download,
    download_mnist,
    generate_cub,
    generate_svhn,
    load_digits,
    load_mnist,
    read_idx,
)
from architectures.networks.cub import cnn
from architectures.options import check_kinds
from support.mnist import write_part


class Named:
    """An `os.PathLike` that is no `Path`, as an entry of `os.scandir` is."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __fspath__(self) -> str:
        return str(self._path)


FORMS = pytest.mark.parametrize("form", [str, Named, Path])


@FORMS
def test_digits(form: Callable[[Path], Any], tmp_path: Path) -> None:
    for part in ("train", "t10k"):
        write_part(tmp_path, part, np.ones((3, 28, 28), np.uint8), np.arange(3, dtype=np.uint8))
    folder = form(tmp_path)
    assert len(load_mnist(folder, train=True)) == 3
    train, test = load_digits(folder)
    assert len(train) == len(test) == 3
    assert read_idx(form(tmp_path / "t10k-labels-idx1-ubyte")).tolist() == [0, 1, 2]
    assert check_folder(folder) == ("MNIST, 4 files", [])
    generate_svhn(form(tmp_path / "numbers"), 2, 0, splits=("test",), digits=(train, test))
    numbers = SVHN(form(tmp_path / "numbers"), "test", cache_dir=form(tmp_path / "cache"))
    assert len(numbers) == 2 and (tmp_path / "cache").is_dir()


@FORMS
def test_birds(form: Callable[[Path], Any], tmp_path: Path) -> None:
    folder = form(tmp_path / "birds")
    generate_cub(folder, 1, 2, 0)
    assert len(CUB(folder, train=True)) == 1
    assert check_folder(folder) == ("CUB-200-2011, 2 pictures", [])


@FORMS
def test_download(
    form: Callable[[Path], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").touch()
    monkeypatch.setattr(download, "MNIST_MD5", {"empty": hashlib.md5(b"").hexdigest()})
    download_mnist(form(tmp_path / "there"), base_url=tmp_path.as_uri())
    assert [each.name for each in (tmp_path / "there").iterdir()] == ["empty"]


@FORMS
def test_an_option_that_is_a_path(form: Callable[[Path], Any], tmp_path: Path) -> None:
    check_kinds(cnn, {"weights": form(tmp_path)})
    check_kinds(SVHN, {"cache_dir": form(tmp_path)})
    with pytest.raises(TypeError, match="cache_dir must be a string or a path or None, got 3"):
        check_kinds(SVHN, {"cache_dir": 3})
