"""Checkpoints: their networks come back without Lightning, and they know the data that they were trained on."""

from __future__ import annotations

import functools
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

pytest.importorskip("lightning")
pytest.importorskip("matplotlib")
pytest.importorskip("mlxtend")

from architectures import create_model, load_model
from architectures.commands.main import main
from architectures.data import Digits
from architectures.data import digits as digits_module
from architectures.networks.colocalisation import CoLocaliser
from architectures.training import batches, colocalise
from architectures.training.origin import digest_of_digits, digest_of_files
from architectures.training.run import Run
from architectures.training.train import train
from support import ROOT
from support.mnist import write_part

load_embedded = functools.cache(digits_module.load_embedded)  # parsing them takes seconds


@pytest.fixture(autouse=True, scope="module")
def _quick_digits() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digits_module, "load_embedded", load_embedded)
        yield


def _train(out: Path, **changes: Any) -> Path:
    settings: dict[str, Any] = {
        "experiment": "mnist_r", "model": "mnist_fcn", "schedule": "fast", "max_steps": 1, "batch_size": 4,
        "out": out, "quiet": True,
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "_VALIDATED", 10)
        patch.setattr(colocalise, "_ENCODER_STEPS", 2)
        train(Run(**settings | changes))
    return out / "last.ckpt"


def _write_mnist(folder: Path, train_digits: Digits, test_digits: Digits) -> Path:
    folder.mkdir(parents=True)
    for part, digits in (("train", train_digits), ("t10k", test_digits)):
        write_part(folder, part, digits.images.numpy(), digits.labels.numpy())
    return folder


@pytest.fixture(scope="module")
def digits() -> tuple[Digits, Digits]:
    return load_embedded()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, digits: tuple[Digits, Digits]) -> Path:
    """Digits in files that include all embedded digits of the test set."""
    few = Digits(images=digits[0].images[::50], labels=digits[0].labels[::50])
    return _write_mnist(tmp_path_factory.mktemp("files") / "raw", digits[1], few).parent


@pytest.fixture(scope="module")
def of_embedded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _train(tmp_path_factory.mktemp("embedded"))


@pytest.fixture(scope="module")
def of_files(tmp_path_factory: pytest.TempPathFactory, files: Path) -> Path:
    return _train(tmp_path_factory.mktemp("of_files"), data_dir=files)


def _rewritten(path: Path, to: Path, change: Any) -> Path:
    found = torch.load(path, weights_only=True)
    change(found)
    torch.save(found, to)
    return to


def _ends(capsys: pytest.CaptureFixture[str], status: int, *arguments: object) -> str:
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == status
    told = capsys.readouterr().err
    assert told.count("\n") <= 1
    return told


# load_model


def test_load_model_gives_the_trained_network(of_embedded: Path) -> None:
    network = load_model(of_embedded)
    assert isinstance(network, nn.Sequential) and not network.training
    saved = torch.load(of_embedded, weights_only=True)["state_dict"]
    state = network.state_dict()
    assert {f"network.{name}" for name in state} == saved.keys()
    for name, value in state.items():
        assert torch.equal(value, saved[f"network.{name}"])
    assert network(torch.rand(2, 1, 28, 28)).shape == (2, 10)
    assert load_model(str(of_embedded), map_location="meta")[-1].weight.is_meta
    with pytest.raises(
        ValueError, match=r"^.*last\.ckpt: its network cannot be put on .*'cuda:99'"
    ):
        load_model(of_embedded, map_location="cuda:99")


def test_load_model_leaves_the_encoder_out(tmp_path: Path) -> None:
    path = _train(tmp_path, experiment="colocalisation", model=None)
    network = load_model(path)
    assert isinstance(network, CoLocaliser)
    assert not any(name.startswith("encoder") for name in network.state_dict())


def test_half_precision_weights_come_back_in_float32(tmp_path: Path) -> None:
    network = load_model(_train(tmp_path, precision="bf16-true"))
    assert {each.dtype for each in network.parameters()} == {torch.float32}


def test_load_model_refuses(of_embedded: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_model(tmp_path / "nowhere.ckpt")
    path = tmp_path / "x.ckpt"
    whole = of_embedded.read_bytes()
    bad: list[tuple[Any, str]] = [
        (whole[: len(whole) // 2], "not a readable checkpoint"),
        (lambda found: found.pop("hyper_parameters"), "not a checkpoint of"),
        (lambda found: found.update(state_dict=3), "not a checkpoint of"),
        (lambda found: found["hyper_parameters"].update(model="mnist_fnc"), "nearest: 'mnist_fcn'"),
        (lambda found: found["hyper_parameters"].update(model=["mnist_fcn"]), "not a checkpoint of"),
        (lambda found: found["hyper_parameters"].update(model="mnist_cnn"), "not those of mnist_cnn"),
        (lambda found: found["state_dict"].popitem(), r"not those of mnist_fcn: wanted \S+bias, got none$"),
        (lambda found: found["state_dict"].update({"network.more": torch.zeros(1)}), "got 'more', which this"),
        (lambda found: found["state_dict"].update({next(iter(found["state_dict"])): torch.zeros(3)}),
         r"wanted \S+weight of shape \(\d+, 784\), got \(3,\)$"),
        (lambda found: found["state_dict"].update({next(iter(found["state_dict"])): 3}),
         r"wanted \S+weight as a tensor, got int$"),
        (lambda found: next(iter(found["state_dict"].values())).fill_(torch.nan), "not finite"),
    ]  # fmt: skip
    for damage, message in bad:
        if isinstance(damage, bytes):
            path.write_bytes(damage)
        else:
            _rewritten(of_embedded, path, damage)
        with pytest.raises(ValueError, match=message) as raised:
            load_model(path)
        assert str(raised.value).startswith(f"{path}: ")
    with pytest.raises(ValueError, match="got a folder"):
        load_model(tmp_path)


def test_one_flipped_bit_is_told(
    of_embedded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = bytearray(of_embedded.read_bytes())
    weights = next(iter(torch.load(of_embedded, weights_only=True)["state_dict"].values()))
    at = content.find(weights.numpy().tobytes())
    assert at > 0
    content[at] ^= 1
    path = tmp_path / "last.ckpt"
    path.write_bytes(content)
    message = f"{path}: not a readable checkpoint: truncated, damaged"
    with pytest.raises(ValueError, match=re.escape(message)):
        load_model(path)
    picture = tmp_path / "picture.png"
    for command in (
        ("evaluate", path),
        ("show", path, "--out", picture),
        ("train", "mnist_r", "--resume", path, "--max-steps", 2, "--out", tmp_path / "on"),
    ):
        assert message in _ends(capsys, 1, *command)
    assert [each.name for each in tmp_path.iterdir()] == ["last.ckpt"]


@pytest.mark.slow
def test_networks_need_torch_and_einops_alone(of_embedded: Path) -> None:
    script = f"""
import sys
blocked = ("lightning", "pytorch_lightning", "matplotlib", "h5py", "mlxtend", "numpy", "PIL", "tensorboard", "tqdm")
for name in blocked[:5]:
    sys.modules[name] = None
import architectures
network = architectures.load_model({str(of_embedded)!r})
architectures.create_model("svhn_st_cnn_multi")
assert not any(sys.modules.get(name) for name in blocked[:5])
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)


def test_einops_comes_with_the_distribution() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {line.partition(">")[0] for line in project["dependencies"]}
    assert names == {"torch", "einops"}
    extra = {line.partition(">")[0] for line in project["optional-dependencies"]["train"]}
    assert {"lightning", "matplotlib", "h5py", "mlxtend"} <= extra


# The data of a checkpoint


def test_digests_are_of_contents(tmp_path: Path, digits: tuple[Digits, Digits]) -> None:
    of_train = digest_of_digits(digits[0])
    assert of_train == digest_of_digits(digits[0].to("cpu")) != digest_of_digits(digits[1])
    relabelled = Digits(images=digits[0].images, labels=9 - digits[0].labels)
    assert digest_of_digits(relabelled) != of_train
    for folder, content in (("a", "1"), ("b", "1"), ("c", "2")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "index").write_text(content)
    a, b, c = (digest_of_files(tmp_path / folder, ["index"]) for folder in "abc")
    assert a == b != c


def test_embedded_digits_do_not_score_what_files_trained(
    of_files: Path, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    json_path = tmp_path / "found.json"
    told = _ends(capsys, 1, "evaluate", of_files, "--json", json_path)
    assert f"{of_files}: was trained on files" in told and "--embedded" in told
    assert not json_path.exists()

    told = _ends(capsys, 0, "evaluate", of_files, "--json", json_path, "--embedded")
    note = json.loads(json_path.read_text())["data"]
    assert "tested on the embedded digits" in note and note in told

    assert _ends(capsys, 0, "evaluate", of_files, "--json", json_path, "--data-dir", files) == ""
    assert "data" not in json.loads(json_path.read_text())


def test_other_test_data_are_said(
    of_files: Path,
    of_embedded: Path,
    files: Path,
    tmp_path: Path,
    digits: tuple[Digits, Digits],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert "tested on files" in _ends(capsys, 0, "evaluate", of_embedded, "--data-dir", files)
    others = _write_mnist(tmp_path / "others", digits[0], digits[1])
    assert "trained on other data" in _ends(capsys, 0, "evaluate", of_files, "--data-dir", others)
    # The same digits are the same data, in files or embedded.
    assert _ends(capsys, 0, "evaluate", of_embedded, "--data-dir", others) == ""
    picture = tmp_path / "picture.png"
    told = _ends(capsys, 0, "show", of_files, "--out", picture)
    assert "show: shown on the embedded digits" in told and "trained on other data" in told
    both = ("evaluate", of_files, "--embedded", "--data-dir", files)
    assert "--embedded" in _ends(capsys, 2, *both)


def test_resuming_on_other_data_is_refused(
    of_files: Path, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = of_files.read_bytes()
    resume = ("train", "mnist_r", "--resume", of_files, "--max-steps", 2, "--out", tmp_path / "on")
    assert f"{of_files}: was trained on other data" in _ends(capsys, 1, *resume)
    assert of_files.read_bytes() == before
    assert not (tmp_path / "on/last.ckpt").exists()
    assert _ends(capsys, 0, *resume, "--data-dir", files / "raw") == ""


def test_checkpoints_from_before_load_and_that_is_said(
    of_files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = _rewritten(of_files, tmp_path / "old.ckpt", lambda found: found.pop("data"))
    assert isinstance(load_model(path), nn.Sequential)
    found = tmp_path / "found.json"
    told = _ends(capsys, 0, "evaluate", path, "--json", found)
    assert "does not say which data it was trained on" in told
    assert "does not say" in json.loads(found.read_text())["data"]
    resume = ("train", "mnist_r", "--resume", path, "--max-steps", 2, "--out", tmp_path / "on")
    assert "does not say which data it was trained on" in _ends(capsys, 0, *resume)


def test_weights_that_are_not_finite_are_not_gone_on_with(
    of_embedded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def damage(found: dict[str, Any]) -> None:
        next(iter(found["state_dict"].values())).view(-1)[0] = torch.nan

    path = _rewritten(of_embedded, tmp_path / "nan.ckpt", damage)
    command = ("train", "mnist_r", "--resume", path, "--max-steps", 2)
    assert f"{path}: its weights are not finite" in _ends(capsys, 1, *command)


def test_a_table_is_of_one_data_set(
    tmp_path: Path, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from architectures.checkpoint import CheckpointError
    from architectures.training.reproduce import reproduce

    monkeypatch.setattr(batches, "_VALIDATED", 10)
    options: dict[str, Any] = {"schedule": "fast", "max_steps": 1, "models": "mnist_addition_fcn"}
    reproduce("table4", files, tmp_path, **options)
    with pytest.raises(CheckpointError, match="of other data"):
        reproduce("table4", None, tmp_path, **options)

    _train(tmp_path / "made", experiment="mnist_addition", model="mnist_addition_fcn")
    _, failed = reproduce("table4", files, tmp_path / "new", runs=tmp_path / "made", **options)
    (reason,) = failed.values()
    assert "tested on files" in reason and "but trained on other data" in reason
    assert json.loads((tmp_path / "new/table4-fast/results.json").read_text())["runs"] == []


def test_options_of_networks_are_checked_by_kind() -> None:
    for option, value in (("dropout", "a"), ("width", None), ("padding_mode", 3), ("dropout", True)):  # fmt: skip
        with pytest.raises(TypeError, match=f"^{option} must be .*, got {value!r}$"):
            create_model("svhn_st_cnn_single", **{option: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("schedule", 7), ("data_options", [1]), ("seed", "seven"), ("model_options", None),
        ("image_size", "28"), ("image_size", [28, 28]), ("image_size", None), ("image_size", True),
        ("image_size", torch.zeros(40, 40)), ("image_size", 0), ("image_size", -28),
    ],
    ids=lambda value: repr(value)[:12],
)  # fmt: skip
def test_settings_of_another_kind_are_no_checkpoint(
    name: str, value: object, of_embedded: Path, tmp_path: Path
) -> None:
    path = _rewritten(
        of_embedded, tmp_path / "x.ckpt", lambda found: found["hyper_parameters"].update({name: value})
    )  # fmt: skip
    with pytest.raises(ValueError, match=f"not a checkpoint of .*: its {name} must be .*, got ") as raised:  # fmt: skip
        load_model(path)
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 300 + len(str(path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": 29}, "its image_size must be one of 28, got 29"),
        ({"experiment": "mnist_x"}, "its experiment must be one of 'mnist_r', "),
        ({"schedule": {"steps": 1}}, "missing 2 required keyword-only arguments: 'batch_size' and 'lr'"),
        ({"schedule": {"pace": 1}}, "its schedule has no option 'pace'"),
        ({"schedule": {"steps": "many"}}, "steps must be an int, got 'many'"),
        ({"schedule": {"milestones": (0.1, "x")}}, "milestones must be a tuple, of which each is a finite number, got"),
        ({"schedule": {"optimiser": "lion"}}, "optimiser must be 'sgd' or 'adamw' or 'muon', got 'lion'"),
    ],
    ids=str,
)  # fmt: skip
def test_settings_that_training_cannot_have_are_one_line(
    change: dict[str, Any], message: str, of_embedded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    path = _rewritten(
        of_embedded, tmp_path / "x.ckpt", lambda found: found["hyper_parameters"].update(change)
    )  # fmt: skip
    told = _ends(capsys, 1, "evaluate", path)
    assert told.startswith(f"python -m architectures evaluate: {path}: not a checkpoint of")
    assert message in told


@pytest.mark.parametrize("dtype", [torch.complex64, torch.int64], ids=str)
def test_weights_of_another_kind_do_not_fit(
    dtype: torch.dtype, of_embedded: Path, tmp_path: Path
) -> None:
    found = torch.load(of_embedded, weights_only=True)
    weights = found["state_dict"]
    name = next(n for n, w in weights.items() if n.startswith("network.") and w.is_floating_point())
    weights[name] = weights[name].to(dtype)
    torch.save(found, tmp_path / "damaged.ckpt")
    with pytest.raises(ValueError, match=f"wanted .* as torch.float32, got {dtype}"):
        load_model(tmp_path / "damaged.ckpt")
