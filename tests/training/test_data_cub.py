"""CUB-200-2011: generated in the official layout, read back, cropped; and every way to be broken."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from architectures.data import CUB, DataError, generate_cub


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cub") / "CUB_200_2011"
    generate_cub(folder, 3, 5, 0)
    return folder


@pytest.fixture
def root(generated: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(generated, tmp_path / "cub"))


def ramp(root: Path, h: int, w: int) -> None:
    """One species with one training and one test picture, in which red tells the column and green the row."""
    (root / "images" / "001.Ramp").mkdir(parents=True)
    y, x = np.mgrid[:h, :w]
    picture = Image.fromarray(np.stack((x, y, 0 * x), -1).astype(np.uint8))
    for name in ("a", "b"):
        picture.save(root / "images" / "001.Ramp" / f"{name}.png")
    (root / "images.txt").write_text("1 001.Ramp/a.png\n2 001.Ramp/b.png\n")
    (root / "image_class_labels.txt").write_text("1 1\n2 1\n")
    (root / "train_test_split.txt").write_text("1 1\n2 0\n")
    (root / "classes.txt").write_text("1 001.Ramp\n")


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("size", [224, 448, 30])
def test_items(train: bool, size: int, generated: Path) -> None:
    data = CUB(generated, train=train, image_size=size)
    assert len(data) == (9 if train else 6), "every other picture of five, the first to train on"
    assert data.classes == ["001.Species_1", "002.Species_2", "003.Species_3"]
    assert data.labels.tolist() == [species for species in range(3) for _ in range(2 + train)]
    image, label = data[4]
    assert (image.shape, image.dtype) == ((3, size, size), torch.uint8)
    assert (label.shape, label.dtype) == ((), torch.int64)
    assert label == data.labels[4]
    with pytest.raises(IndexError):
        data[len(data)]


@pytest.mark.parametrize(("h", "w"), [(160, 240), (240, 160), (64, 64)])
def test_the_middle_is_tested_on(h: int, w: int, tmp_path: Path) -> None:
    ramp(tmp_path / "ramp", h, w)
    data = CUB(str(tmp_path / "ramp"), train=False, image_size=70)
    image, _ = data[0]
    side = min(h, w) * 7 / 8
    centres = ((torch.arange(70) + 0.5) / 70 - 0.5) * side
    torch.testing.assert_close(image[0, 35].float(), w / 2 - 0.5 + centres, rtol=0, atol=1.6)
    torch.testing.assert_close(image[1, :, 35].float(), h / 2 - 0.5 + centres, rtol=0, atol=1.6)
    assert torch.equal(data[0][0], image), "always the same"


def test_crops_and_flips_to_train_on(tmp_path: Path) -> None:
    h, w = 80, 120
    ramp(tmp_path / "ramp", h, w)
    data = CUB(tmp_path / "ramp", train=True, image_size=28)
    torch.manual_seed(0)
    crops = torch.stack([data[0][0] for _ in range(300)]).float()
    flipped = crops[:, 0, 14, 0] > crops[:, 0, 14, -1]
    assert 110 < flipped.sum() < 190
    crops[flipped] = crops[flipped].flip(3)
    # 28 pixels of the crop are 70 of the picture: the first centre lies 1.25 pixels in.
    for channel, room in ((0, w - 70), (1, h - 70)):
        start = (crops[:, channel, 0, 0] - 0.75).double()
        assert start.min() < 2
        assert start.max() > room - 2
        assert abs(start.mean() - room / 2) < 0.06 * room
        steps = crops[:, channel].diff(dim=2 - channel)
        assert (steps - 2.5).abs().max() <= 1.5, "proportions are kept"
    torch.manual_seed(0)
    again = torch.stack([data[0][0] for _ in range(5)]).float()
    again[flipped[:5]] = again[flipped[:5]].flip(3)
    assert torch.equal(again, crops[:5]), "drawn from torch's generator"


def test_loader_workers_draw_apart(tmp_path: Path) -> None:
    ramp(tmp_path / "ramp", 80, 120)
    data = CUB(tmp_path / "ramp", train=True, image_size=8)
    loader = DataLoader(
        torch.utils.data.Subset(data, [0] * 4),
        num_workers=2,
        generator=torch.Generator().manual_seed(0),
    )
    images = [image for image, _ in loader]
    assert not torch.equal(images[0], images[1]), "the first of each worker"
    loader.generator.manual_seed(0)
    assert all(map(torch.equal, images, (image for image, _ in loader)))


def test_grey_pictures_become_rgb(root: Path) -> None:
    name = (root / "images.txt").read_text().split()[1]
    Image.new("L", (50, 40), 77).save(root / "images" / name)
    image, _ = CUB(root, train=True, image_size=16)[0]
    assert torch.equal(image, torch.full((3, 16, 16), 77, dtype=torch.uint8))


# What is broken


def edit(name: str, old: str, new: str) -> Callable[[Path], object]:
    def apply(root: Path) -> None:
        text = (root / name).read_text()
        assert old in text
        (root / name).write_text(text.replace(old, new, 1))

    return apply


def link_out(root: Path) -> None:
    path = root / "images" / "001.Species_1" / "Species_1_0001.jpg"
    path.rename(root.parent / "elsewhere.jpg")
    path.symlink_to(root.parent / "elsewhere.jpg")


PICTURE = "001.Species_1/Species_1_0001.jpg"
LABELS = "image_class_labels.txt"
SPLIT = "train_test_split.txt"
BROKEN: dict[str, tuple[str, Callable[[Path], object], list[str]]] = {
    # what is wrong: the file to be named, how it is broken, what the message says besides
    "no folder": ("images.txt", shutil.rmtree, ["cannot be read: No such file"]),
    **{
        f"no {name}": (name, lambda d, name=name: (d / name).unlink(), ["cannot be read"])
        for name in ("images.txt", LABELS, SPLIT, "classes.txt")
    },
    "not text": ("images.txt", lambda d: (d / "images.txt").write_bytes(b"\xff\xfe1"), ["UTF-8"]),
    "a missing picture": (
        f"images/{PICTURE}",
        lambda d: (d / "images" / PICTURE).unlink(),
        ["no such file", "1 of 9"],
    ),
    "a missing folder of pictures": (
        f"images/{PICTURE}",
        lambda d: shutil.rmtree(d / "images"),
        ["no such file", "9 of 9"],
    ),
    "a line without a name": ("images.txt", edit("images.txt", f"1 {PICTURE}", "1"), ["got '1'"]),
    "an image twice": ("images.txt", edit("images.txt", "\n2 ", "\n1 "), ["a new number"]),
    "a label that is no number": (LABELS, edit(LABELS, "1 1", "1 one"), ["got '1 one'"]),
    "a label too few": (
        LABELS,
        edit(LABELS, "\n15 3", ""),
        ["each of 15 images", "got 14", "15 is in one"],
    ),
    "a label too many": (LABELS, edit(LABELS, "1 1", "99 1\n1 1"), ["got 16", "99 is in one"]),
    "an unknown class": (LABELS, edit(LABELS, "1 1", "1 4"), ["image 1, got 4"]),
    "class 0": (LABELS, edit(LABELS, "1 1", "1 0"), ["image 1, got 0"]),
    "no such part": (SPLIT, edit(SPLIT, "1 1", "1 2"), ["0 or 1 for image 1, got 2"]),
    "a part too few": (SPLIT, edit(SPLIT, "\n15 1", ""), ["got 14"]),
    "nothing to train on": (
        "images.txt",
        lambda d: (d / SPLIT).write_text("".join(f"{n} 0\n" for n in range(1, 16))),
        ["pictures to train on, got none"],
    ),
    "an empty list": ("images.txt", lambda d: [
        (d / name).write_text("") for name in ("images.txt", LABELS, SPLIT)
    ], ["got none"]),
    "a picture above": (
        "images.txt",
        edit("images.txt", PICTURE, "../classes.txt"),
        ["files inside", "'../classes.txt'"],
    ),
    "an absolute picture": (
        "images.txt",
        edit("images.txt", PICTURE, "/etc/hostname"),
        ["files inside", "'/etc/hostname'"],
    ),
    "a link out": ("images.txt", link_out, ["files inside", "links out"]),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
def test_broken(what: str, root: Path) -> None:
    name, break_it, wanted = BROKEN[what]
    break_it(root)
    with pytest.raises(DataError) as raised:
        CUB(root, train=True)
    message = str(raised.value)
    assert message.startswith(f"{root / name}: "), message
    assert "\n" not in message
    for part in wanted:
        assert part in message, message


@pytest.mark.parametrize("content", [b"", b"a bird", None], ids=["empty", "text", "cut off"])
def test_broken_picture(content: bytes | None, root: Path) -> None:
    path = root / "images" / PICTURE
    path.write_bytes(path.read_bytes()[:900] if content is None else content)
    data = CUB(root, train=True)
    data[1]
    with pytest.raises(DataError, match="can be decoded") as raised:
        data[0]
    assert str(raised.value).startswith(f"{path}: ")
    assert "\n" not in str(raised.value)


def test_refused_size(generated: Path) -> None:
    with pytest.raises(ValueError, match="image_size >= 1, got 0"):
        CUB(generated, train=True, image_size=0)


def test_without_pillow(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    data = CUB(root, train=True)
    with pytest.raises(DataError, match=r"needs the package pillow.*stn-triton\[train\]"):
        data[0]
    with pytest.raises(DataError, match=r"needs the package pillow"):
        generate_cub(root.parent / "new", 1, 2, 0)
    assert not (root.parent / "new").exists()
