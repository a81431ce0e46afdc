"""Made-up house numbers and birds: the official layouts, and the same files for the same seed."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from architectures.data import CUB, DataError, Digits, generate_cub, generate_svhn
from architectures.data.digit_struct import read_digit_struct
from architectures.data.generated import write_digit_struct
from support.svhn import WHITE, rows

# The index of house numbers


def test_index_as_matlab_writes_it(generated_svhn: Path) -> None:
    """The layout of the official file: a user block, references for several digits, plain numbers for one."""
    path = generated_svhn / "train" / "digitStruct.mat"
    raw = path.read_bytes()
    assert raw.startswith(b"MATLAB 7.3 MAT-file")
    assert raw[124:128] == b"\0\2IM"
    assert raw[512:520] == b"\x89HDF\r\n\x1a\n"
    with h5py.File(path) as file:
        assert file.userblock_size == 512
        assert set(file) == {"#refs#", "digitStruct"}
        names, boxes = file["digitStruct/name"], file["digitStruct/bbox"]
        assert names.shape == boxes.shape == (20, 1)
        name = file[names[0, 0]]
        assert (name.shape, name.dtype) == ((5, 1), np.uint16)
        kinds = set()
        for (reference,) in boxes:
            box = file[reference]
            assert set(box) == {"height", "left", "top", "width", "label"}
            count = len(box["label"])
            kinds.add(count > 1)
            for field in box.values():
                assert field.shape == (count, 1)
                if count > 1:
                    assert h5py.check_ref_dtype(field.dtype)
                    assert file[field[0, 0]].shape == (1, 1)
                else:
                    assert field.dtype == np.float64
        assert kinds == {False, True}


def test_index_read_back(tmp_path: Path) -> None:
    path = tmp_path / "digitStruct.mat"
    entries = [
        ("1.png", rows((10, 5, 6, 7, 8))),
        ("a b.png", rows((1, 20, 5, 10, 30), (10, 31.5, 3, 9, 30), (9, 42, 8, 11, 25))),
        ("\u00e9.png", rows((5, -1, 0, 10, 12), (6, 9, -2, 10, 12))),
    ]
    write_digit_struct(path, entries)
    numbers = read_digit_struct(path)
    assert [each.name for each in numbers] == [name for name, _ in entries]
    assert [each.digits for each in numbers] == [(0,), (1, 0, 9), (5, 6)]
    assert [each.box for each in numbers] == [(5, 6, 12, 14), (20, 3, 53, 35), (-1, -2, 19, 12)]


# House numbers


def test_generated_is_seeded(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        generate_svhn(tmp_path / name, 3, seed, splits=("test",), digits=WHITE)
    pictures = {
        name: [(tmp_path / name / "test" / f"{each}.png").read_bytes() for each in (1, 2, 3)]
        for name in "abc"
    }
    assert pictures["a"] == pictures["b"]
    assert pictures["a"] != pictures["c"]
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["test"]


def test_generated_boxes_are_in_their_pictures(generated_svhn: Path) -> None:
    for split in ("train", "test", "extra"):
        for number in read_digit_struct(generated_svhn / split / "digitStruct.mat"):
            with Image.open(generated_svhn / split / number.name) as picture:
                assert 0 <= number.box[0] < number.box[2] <= picture.width
                assert 0 <= number.box[1] < number.box[3] <= picture.height
            assert 1 <= len(number.digits) <= 5


def test_generated_keeps_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("stays")
    with pytest.raises(DataError, match="new or empty folder"):
        generate_svhn(tmp_path, 1, 0, digits=WHITE)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


# Birds


def test_birds_are_seeded(tmp_path: Path) -> None:
    generated = tmp_path / "birds"
    generate_cub(generated, 3, 5, 0)
    generate_cub(tmp_path / "again", 3, 5, 0)
    generate_cub(tmp_path / "other", 3, 5, 1)
    files = sorted(path.relative_to(generated) for path in generated.rglob("*") if path.is_file())
    assert len(files) == 15 + 4
    same = [
        (tmp_path / "again" / file).read_bytes() == (generated / file).read_bytes()
        for file in files
    ]
    assert all(same)
    other = [
        (tmp_path / "other" / file).read_bytes() == (generated / file).read_bytes()
        for file in files
    ]
    assert sum(other) == 4, "the lists are the same, the pictures are not"


def test_species_look_apart(tmp_path: Path) -> None:
    """A nearest-mean classifier on the histogram of colours tells them."""
    generate_cub(tmp_path / "birds", 6, 12, 0)

    def histograms(train: bool) -> tuple[torch.Tensor, torch.Tensor]:
        data = CUB(tmp_path / "birds", train=train, image_size=48)
        images = torch.stack([data[index][0] for index in range(len(data))]).long() // 64
        code = (images * torch.tensor([16, 4, 1])[:, None, None]).sum(1).flatten(1)
        return torch.nn.functional.one_hot(code, 64).float().mean(1), data.labels

    torch.manual_seed(0)
    seen, labels = histograms(True)
    means = torch.stack([seen[labels == species].mean(0) for species in range(6)])
    new, wanted = histograms(False)
    assert (torch.cdist(new, means).argmin(1) == wanted).float().mean() > 0.7


def test_birds_keep_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("stays")
    with pytest.raises(DataError, match="new or empty folder"):
        generate_cub(tmp_path, 1, 2, 0)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    (tmp_path / "empty").mkdir()
    generate_cub(tmp_path / "empty", 1, 2, 0)
    assert len(CUB(tmp_path / "empty", train=True)) == 1


def test_digits_without_ink_are_refused(tmp_path: Path) -> None:
    train, test = WHITE
    images = torch.cat((test.images, torch.zeros_like(test.images[:1])))
    black = Digits(images=images, labels=torch.zeros(len(images)).long())
    with pytest.raises(
        DataError, match=f"digits with ink, got a black image as number {len(test)}"
    ):
        generate_svhn(tmp_path / "new", 1, 0, digits=(train, black))
    assert not (tmp_path / "new").exists()
