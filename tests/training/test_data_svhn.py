"""SVHN's full numbers: generated in the official layout, read back, cut out, cached; and every way to be broken."""

from __future__ import annotations

import os
import pickle
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader

from architectures.data import SVHN, DataError
from architectures.data.digit_struct import read_digit_struct
from architectures.data.generated import write_digit_struct
from architectures.data.svhn import grown
from support.svhn import BROKEN, cut, rows


@pytest.fixture
def root(generated_svhn: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(generated_svhn, tmp_path / "svhn"))


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


# Crops

finite = st.floats(-1e4, 1e4)


@given(finite, finite, st.floats(0.1, 1e4), st.floats(0.1, 1e4), st.floats(0, 3))
def test_grown_boxes(x: float, y: float, w: float, h: float, margin: float) -> None:
    huge = 1 << 20
    x0, y0, x1, y1 = grown((x, y, x + w, y + h), margin, (huge, huge))
    free = (x - margin * w, y - margin * h)  # what the cut at 0 leaves alone
    if min(free) >= 0:
        assert x1 - x0 == pytest.approx(w * (1 + margin), abs=1e-6)
        assert y1 - y0 == pytest.approx(h * (1 + margin), abs=1e-6)
        assert (x0 + x1) / 2 == pytest.approx(x + w / 2, abs=1e-6)
    assert min(x0, y0) >= 0
    cut = grown((x, y, x + w, y + h), margin, (100, 50))
    assert cut[2] <= 50
    assert cut[3] <= 100


# The data set


def test_items(root: Path, cache: Path) -> None:
    data = SVHN(root, "train", cache_dir=cache)
    assert len(data) == 17
    assert (data.left_out, data.missing) == (0, 0)
    for image, labels in (data[0], data[16], data[-1]):
        assert (image.shape, image.dtype) == ((3, 64, 64), torch.uint8)
        assert (labels.shape, labels.dtype) == ((5,), torch.int64)
    assert data.labels.shape == (17, 5)
    for row in data.labels.tolist():
        blank = row.index(10) if 10 in row else 5
        assert blank >= 1
        assert set(row[blank:]) <= {10}, "blanks come last"
        assert all(0 <= digit <= 9 for digit in row[:blank])
    with pytest.raises(IndexError):
        data[17]


def test_splits(root: Path, cache: Path) -> None:
    sets = {
        split: SVHN(root, split, image_size=16, cache_dir=cache)
        for split in ("train", "valid", "test", "extra", "train+extra")
    }
    sizes = {split: len(data) for split, data in sets.items()}
    assert sizes == {"train": 17, "valid": 3, "test": 20, "extra": 20, "train+extra": 37}
    pictures = {
        split: [image.numpy().tobytes() for image, _ in map(data.__getitem__, range(len(data)))]
        for split, data in sets.items()
    }
    assert not set(pictures["train"]) & set(pictures["valid"])
    assert pictures["train+extra"] == pictures["train"] + pictures["extra"]
    assert torch.equal(
        sets["train+extra"].labels, torch.cat((sets["train"].labels, sets["extra"].labels))
    )
    again = SVHN(root, "valid", image_size=16, cache_dir=cache)
    assert [image.numpy().tobytes() for image, _ in map(again.__getitem__, range(3))] == pictures[
        "valid"
    ], "the same validation images every time"
    assert len(list(cache.iterdir())) == 3, "one cache a folder, whatever the split"


def one_picture(root: Path, size: tuple[int, int], *digits: tuple[float, ...]) -> None:
    """Writes a test split of one picture, in which red tells the column and green the row of each pixel."""
    folder = root / "test"
    folder.mkdir(parents=True)
    y, x = np.mgrid[: size[0], : size[1]]
    Image.fromarray(np.stack((x, y, 0 * x), -1).astype(np.uint8)).save(folder / "1.png")
    write_digit_struct(folder / "digitStruct.mat", [("1.png", rows(*digits))])


@pytest.mark.parametrize("margin", [0.0, 0.3, 1.6])
def test_crop_is_the_grown_box(margin: float, tmp_path: Path) -> None:
    one_picture(tmp_path / "one", (120, 200), (1, 80, 40, 16, 20), (2, 100, 44, 20, 24))
    data = SVHN(tmp_path / "one", "test", margin=margin, cache_dir=tmp_path / "cache")
    image, labels = data[0]
    assert labels.tolist() == [1, 2, 10, 10, 10]
    # All digits: x from 80 to 120, y from 40 to 68.
    centres = (torch.arange(64) + 0.5) / 64 - 0.5
    columns = 100 + centres * 40 * (1 + margin) - 0.5
    lines = 54 + centres * 28 * (1 + margin) - 0.5
    inner = slice(2, -2)  # at the crop's edge the filter has pixels on one side only
    torch.testing.assert_close(image[0, 30, inner].float(), columns[inner], rtol=0, atol=1.1)
    torch.testing.assert_close(image[1, inner, 30].float(), lines[inner], rtol=0, atol=1.1)


def test_crop_is_cut_at_the_picture(tmp_path: Path) -> None:
    one_picture(tmp_path / "one", (40, 60), (3, -2, 1, 30, 60))
    image, _ = SVHN(tmp_path / "one", "test", image_size=32, cache_dir=tmp_path / "cache")[0]
    assert image[0, 16, 0] < 3
    assert image[1, -1, 16] > 37
    assert image[0, 16, -1] == pytest.approx(32, abs=1.5)


def test_crops_hold_the_digits(root: Path, cache: Path) -> None:
    """The painted squares of a generated number reach as far as the margin says, on each side."""
    data = SVHN(root, "test", cache_dir=cache, margin=0.3, image_size=64)
    for index in range(len(data)):
        image, _ = data[index]
        grey = image.float().mean(0)
        inside, outside = grey[15:49, 12], grey[:, 1]
        assert (inside.median() - outside.median()).abs() > 40, "paint begins 7.4 pixels in"


def test_one_sees_the_picture_once(
    root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    SVHN(root, "test", cache_dir=cache)
    monkeypatch.setattr("architectures.data.svhn.open_picture", None)
    monkeypatch.setattr("architectures.data.svhn.read_digit_struct", None)
    assert len(SVHN(root, "test", cache_dir=cache)) == 20


def test_what_makes_another_cache(root: Path, cache: Path) -> None:
    def caches(**options: Any) -> int:
        SVHN(root, "test", cache_dir=cache, **options)
        return len(list(cache.iterdir()))

    assert caches() == 1
    assert caches() == 1
    assert caches(image_size=32) == 2
    assert caches(margin=0.5) == 3
    assert caches(margin=1) == caches(margin=1.0) == 4
    assert caches(allow_missing=True) == 4, "the same where nothing is missing"
    os.utime(root / "test" / "3.png", ns=(1, 1))
    assert caches() == 5
    Image.new("RGB", (400, 400)).save(root / "test" / "4.png")
    assert caches() == 6


def test_default_cache(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    SVHN(root, "test", image_size=8)
    assert list((tmp_path / "xdg" / "stn-triton").iterdir())
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    SVHN(str(root), "test", image_size=8)
    assert list((tmp_path / "home" / ".cache" / "stn-triton").iterdir())


def test_loader(root: Path, cache: Path) -> None:
    data = SVHN(root, "train+extra", image_size=16, cache_dir=cache)
    data[0]
    images, labels = next(iter(DataLoader(data, batch_size=37)))
    assert images.shape == (37, 3, 16, 16)
    assert torch.equal(labels, data.labels)
    packed = pickle.dumps(data)
    assert len(packed) < 10_000, "a worker maps the file; it is not sent"
    assert torch.equal(pickle.loads(packed)[5][0], data[5][0])


def test_long_numbers_are_left_out(root: Path, cache: Path) -> None:
    folder = root / "test"
    six = [(digit + 1, 10 * digit, 0, 10, 20) for digit in range(6)]
    entries = [("1.png", rows(*six)), ("2.png", rows(*six[:5])), ("3.png", rows(six[0]))]
    write_digit_struct(folder / "digitStruct.mat", entries)
    data = SVHN(root, "test", cache_dir=cache)
    assert data.left_out == 1
    assert data.labels.tolist() == [[1, 2, 3, 4, 5], [1, 10, 10, 10, 10]]


def test_missing_pictures(root: Path, cache: Path) -> None:
    for name in ("3.png", "7.png"):
        (root / "test" / name).unlink()
    for _ in range(2):
        with pytest.raises(DataError) as raised:
            SVHN(root, "test", cache_dir=cache)
        message = str(raised.value)
        assert message.startswith(f"{root / 'test' / '3.png'}: no such file; 2 of 20 pictures")
        assert "--data-option allow_missing=True" in message
        assert "\n" not in message
        # The second time there is a cache.
        data = SVHN(root, "test", cache_dir=cache, allow_missing=True)
        assert (len(data), data.missing) == (18, 2)


@pytest.mark.parametrize("what", BROKEN)
def test_broken(what: str, root: Path, cache: Path) -> None:
    name, break_it, wanted = BROKEN[what]
    folder = root / "test"
    break_it(folder)
    with pytest.raises(DataError) as raised:
        SVHN(root, "test", cache_dir=cache)
    message = str(raised.value)
    assert message.startswith(f"{folder / name}: "), message
    assert "\n" not in message
    for part in wanted:
        assert part in message, message
    assert not cache.exists() or not list(cache.iterdir()), "nothing half written"


def test_flipped_bits_never_crash(root: Path, cache: Path) -> None:
    """Whatever is damaged in an index, it is read or refused with its name."""
    path = root / "test" / "digitStruct.mat"
    raw = path.read_bytes()
    rng = np.random.default_rng(0)
    for at in rng.integers(512, len(raw), 25):
        path.write_bytes(raw[:at] + bytes([raw[at] ^ 0xFF]) + raw[at + 1 :])
        try:
            read_digit_struct(path)
        except DataError as error:
            assert str(error).startswith(str(path))  # noqa: PT017


@pytest.mark.parametrize("name", ["images.npy", "labels.npy", "counts.json"])
@pytest.mark.parametrize("share", [0, 0.5])
def test_broken_cache(name: str, share: float, root: Path, cache: Path) -> None:
    SVHN(root, "test", cache_dir=cache)
    (folder,) = cache.iterdir()
    cut(folder / name, share)
    with pytest.raises(DataError, match="the cache cannot be read, delete") as raised:
        SVHN(root, "test", cache_dir=cache)[0]
    assert str(raised.value).startswith(f"{folder / name}: ")
    assert "\n" not in str(raised.value)


def test_cache_that_cannot_be_written(root: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match=r"file/svhn-test-64-\w+: cannot be made"):
        SVHN(root, "test", cache_dir=tmp_path / "file")


def test_another_process_may_be_faster(
    root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(path: Path) -> Any:
        monkeypatch.undo()
        SVHN(root, "test", cache_dir=cache, image_size=8)
        return read_digit_struct(path)

    monkeypatch.setattr("architectures.data.svhn.read_digit_struct", slow)
    assert len(SVHN(root, "test", cache_dir=cache, image_size=8)) == 20
    assert len(list(cache.iterdir())) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "training"}, r"one of 'train', 'valid', .*, got 'training'"),
        ({"image_size": 0}, "image_size >= 1"),
        ({"margin": -0.1}, "margin >= 0"),
        ({"margin": float("nan")}, "margin >= 0"),
        ({"margin": float("inf")}, "margin >= 0"),
    ],
)
def test_refused_options(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        SVHN(tmp_path, **({"split": "test"} | options))


@pytest.mark.parametrize("module", ["h5py", "PIL"])
def test_without_packages(
    module: str, root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(DataError, match=r"needs the package .*stn-triton\[train\]"):
        SVHN(root, "test", cache_dir=cache)


def test_allow_missing_is_yes_or_no(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="allow_missing must be True or False, got 'no'"):
        SVHN(tmp_path, "train", allow_missing="no")  # type: ignore[arg-type]


def test_an_empty_cache_dir_is_not_this_folder(root: Path) -> None:
    with pytest.raises(ValueError, match="cache_dir must be a path or None, got ''"):
        SVHN(root, "train", cache_dir="")
