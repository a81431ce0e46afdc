"""Folders of data before training: all that cannot be read is named, and they are found where people point."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from torch.utils.data import DataLoader

pytest.importorskip("lightning")
pytest.importorskip("matplotlib")

from architectures.commands.main import main
from architectures.data import CUB, DataError, generate_cub, generate_svhn, load_mnist
from architectures.data.check import check_holds
from support.mnist import idx, write_part

PICTURES = [f"00{species}.Species_{species}/Species_{species}_0003.jpg" for species in (1, 2)]


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cub")
    generate_cub(folder / "CUB_200_2011", 2, 13, 0)
    return folder


@pytest.fixture
def birds(generated: Path, tmp_path: Path) -> Path:
    """The parent of a folder in which one picture is empty and one is cut off."""
    parent = Path(shutil.copytree(generated, tmp_path / "birds"))
    images = parent / "CUB_200_2011/images"
    (images / PICTURES[0]).write_bytes(b"")
    (images / PICTURES[1]).write_bytes((images / PICTURES[1]).read_bytes()[:900])
    return parent


@pytest.mark.parametrize("below", [".", "CUB_200_2011"])
def test_check_lists_every_bad_picture(
    below: str, birds: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "check", str(birds / below)]) == 1
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert [line.partition(": ")[0] for line in lines] == [
        str(birds / "CUB_200_2011/images" / name) for name in PICTURES
    ]
    assert lines[0].endswith("got: an empty file") and "truncated" in lines[1]
    assert "26 pictures, 2 that cannot be read" in printed.err


def test_check_of_whole_folders(generated: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", str(generated)]) == 0
    printed = capsys.readouterr()
    assert printed.out == "" and "26 pictures, none that cannot be read" in printed.err


def test_check_names_a_missing_picture_and_a_broken_index(
    birds: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = birds / "CUB_200_2011"
    (root / "images" / PICTURES[0]).unlink()
    assert main(["data", "check", str(root)]) == 1
    assert "No such file" in capsys.readouterr().out.splitlines()[0]
    (root / "classes.txt").unlink()
    assert main(["data", "check", str(root)]) == 1
    assert capsys.readouterr().out.startswith(f"{root / 'classes.txt'}: cannot be read")


def test_check_of_house_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("h5py")
    root = tmp_path / "svhn"
    generate_svhn(root, 6, 0, splits=("train", "test"))
    assert main(["data", "check", str(root)]) == 0
    (root / "train/2.png").write_bytes(b"")
    (root / "test/5.png").write_text("a house")
    (root / "extra").mkdir()
    assert main(["data", "check", str(root)]) == 1
    printed = capsys.readouterr()
    names = [line.partition(": ")[0] for line in printed.out.splitlines()]
    bad = ("train/2.png", "test/5.png", "extra/digitStruct.mat")
    assert names == [str(root / name) for name in bad]


def test_check_of_digits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = tmp_path / "MNIST/raw"
    raw.mkdir(parents=True)
    for part in ("train", "t10k"):
        write_part(raw, part, np.zeros((3, 28, 28)), np.zeros(3))
    for folder in (tmp_path, raw.parent, raw):
        assert main(["data", "check", str(folder)]) == 0
        assert len(load_mnist(folder, train=True)) == 3
    (raw / "train-images-idx3-ubyte").write_bytes(b"")
    (raw / "train-labels-idx1-ubyte").write_bytes(b"text")
    (raw / "t10k-labels-idx1-ubyte").write_bytes(idx(np.zeros(2)))
    capsys.readouterr()
    assert main(["data", "check", str(tmp_path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and "wanted 3 labels, one for each image, got 2" in lines[2]


def test_check_says_where_to_point(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "file"
    file.touch()
    for folder, message in (
        (tmp_path / "nowhere", "no such directory"),
        (file, "wanted a directory, got a file"),
        (tmp_path, "wanted the folder of CUB-200-2011 (images.txt)"),
    ):
        assert main(["data", "check", str(folder)]) == 1
        told = capsys.readouterr().err
        assert told.startswith(f"python -m architectures data check: {folder}: {message}")
        assert told.count("\n") == 1
    with pytest.raises(DataError, match=r"file: wanted a directory, got a file$"):
        load_mnist(file, train=True)


def test_a_folder_of_another_kind_is_told(
    generated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    digits, numbers = tmp_path / "digits", tmp_path / "numbers"
    for folder in (digits, numbers / "train"):
        folder.mkdir(parents=True)
    write_part(digits, "train", np.zeros((3, 28, 28)), np.zeros(3))
    (numbers / "train/digitStruct.mat").touch()
    for experiment, folder, wanted, found in (
        ("mnist_rts", generated, "MNIST", "CUB-200-2011"),
        ("colocalisation", numbers, "MNIST", "SVHN"),
        ("svhn", digits, "SVHN", "MNIST"),
        ("cub", digits, "CUB-200-2011", "MNIST"),
    ):
        out = ("--data-dir", str(folder), "--out", str(tmp_path / "batch.png"))
        assert main(["data", "preview", experiment, *out]) == 1
        told = capsys.readouterr().err
        assert told.endswith(f": {folder}: wanted the folder of {wanted}, got that of {found}\n")


def test_digits_beside_birds_are_read(generated: Path, tmp_path: Path) -> None:
    both = Path(shutil.copytree(generated, tmp_path / "both"))
    write_part(both, "train", np.zeros((3, 28, 28)), np.zeros(3))
    for kind in ("MNIST", "CUB-200-2011"):
        check_holds(both, kind)
    with pytest.raises(DataError, match="got that of CUB-200-2011 and MNIST"):
        check_holds(both, "SVHN")


def test_birds_are_found_in_the_parent(generated: Path) -> None:
    assert len(CUB(generated, train=True)) == len(CUB(generated / "CUB_200_2011", train=True)) == 14
    with pytest.raises(DataError, match="wanted CUB_200_2011 or the folder that holds it"):
        CUB(generated / "CUB_200_2011/images", train=True)


def test_a_worker_names_the_picture_in_one_line(birds: Path) -> None:
    data = CUB(birds, train=True, image_size=16)
    with pytest.raises(DataError) as raised:
        list(DataLoader(data, num_workers=1))
    path = birds / "CUB_200_2011/images" / PICTURES[0]
    assert str(raised.value) == f"{path}: wanted a picture that can be decoded, got: an empty file"


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["0", "1"])
def test_training_names_the_picture(
    workers: str, birds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = (
        f"train cub --model cub_cnn --fast --max-steps 9 --batch-size 8 --num-workers {workers}"
    )
    out = ("--data-dir", str(birds), "--out", str(tmp_path / "run"))
    assert main([*arguments.split(), *out]) == 1
    told = capsys.readouterr().err
    images = birds / "CUB_200_2011/images"
    assert told.count("\n") == 1
    assert any(f"train: {images / name}: wanted a picture" in told for name in PICTURES)
