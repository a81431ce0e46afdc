"""Trained weights: made from a checkpoint with their provenance, found by `create_model`, and no others."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("lightning")
pytest.importorskip("matplotlib")
pytest.importorskip("mlxtend")
pytest.importorskip("safetensors")

from architectures import create_model, list_models, load_model, pretrained
from architectures.commands.main import main
from architectures.data import load_embedded
from architectures.pretrained import list_weights, read_weights, weights_bytes, weights_path
from architectures.training import batches, export_weights
from architectures.training.evaluate import error_on_test_set
from architectures.training.experiments import EXPERIMENTS
from architectures.training.origin import digest_of_digits
from architectures.training.run import Run
from architectures.training.train import train
from support.mnist import write_part

pytestmark = pytest.mark.usefixtures("quick_digits")


def _train(out: Path, **changes: Any) -> Path:
    settings: dict[str, Any] = {
        "experiment": "mnist_r", "model": "mnist_fcn", "schedule": "fast", "max_steps": 1, "batch_size": 4,
        "seed": 3, "model_options": {"hidden": 16}, "out": out, "quiet": True,
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "_VALIDATED", 10)
        train(Run(**settings | changes))
    return out / "last.ckpt"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _train(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Path:
    """A folder with the weights of the checkpoint."""
    folder = tmp_path_factory.mktemp("weights") / "new"
    assert main(["export", str(checkpoint), "--weights", str(folder)]) == 0
    return folder


@pytest.fixture
def weights(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(pretrained, "WEIGHTS", made)
    return made


def _fails(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 1
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    return told


def test_the_network_is_that_of_the_checkpoint(weights: Path, checkpoint: Path) -> None:
    network = create_model("mnist_fcn", pretrained="mnist_r")
    for name, value in load_model(checkpoint).state_dict().items():
        assert torch.equal(network.state_dict()[name], value)
    assert network(torch.rand(2, 1, 28, 28)).shape == (2, 10)
    with pytest.raises(ValueError, match=r"reads images of shape \(N, 1, 28, 28\)"):
        network(torch.rand(2, 1, 42, 42))
    same = create_model("mnist_fcn", pretrained="mnist_r", image_size=28, hidden=16, num_classes=10)
    assert sum(each.numel() for each in same.parameters()) == 784 * 16 + 16 + 16 * 17 + 170


def test_what_is_not_there_is_told(weights: Path) -> None:
    with pytest.raises(ValueError, match=r"for pretrained=True; wanted one of 'mnist_r'$"):
        create_model("mnist_fcn", pretrained=True)
    with pytest.raises(ValueError, match=r"for pretrained='mnist_tc'; wanted one of 'mnist_r'$"):
        create_model("mnist_fcn", pretrained="mnist_tc")
    with pytest.raises(ValueError, match=r"of svhn_cnn; there are those of mnist_fcn \(mnist_r\)$"):
        create_model("svhn_cnn", pretrained=True)
    with pytest.raises(ValueError, match=r"with hidden=16, got 128$"):
        create_model("mnist_fcn", pretrained="mnist_r", hidden=128)
    with pytest.raises(ValueError, match=r"mnist_fcn-mnist_r .* with num_classes=10, got 11$"):
        create_model("mnist_fcn", pretrained="mnist_r", num_classes=11)
    with pytest.raises(TypeError, match="has no option 'filters'"):
        create_model("mnist_fcn", pretrained="mnist_r", filters=3)
    with pytest.raises(TypeError, match="pretrained must be None, True or an experiment, got 1"):
        create_model("mnist_fcn", pretrained=1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unknown model"):
        create_model("mnist_fnc", pretrained=True)
    for nothing in (None, False):
        create_model("mnist_fcn", pretrained=nothing)


def test_without_any_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained, "WEIGHTS", tmp_path / "nowhere")
    with pytest.raises(ValueError, match="no weights of mnist_cnn; there are those of no network"):
        create_model("mnist_cnn", pretrained=True)


@pytest.mark.parametrize(
    ("name", "experiment"),
    [("mnist_fcn", "mnist_rts"), ("mnist_addition_fcn", "mnist_addition"), ("mnist_addition_fcn", "mnist_r")],
)  # fmt: skip
def test_true_is_the_usual_experiment(
    name: str, experiment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretrained, "WEIGHTS", tmp_path)
    options = {"hidden": 4}
    network = create_model(name, **options)
    about = {"model": name, "model_options": options}
    weights_path(name, experiment).write_bytes(weights_bytes(network.state_dict(), about))
    if experiment == "mnist_r":
        with pytest.raises(ValueError, match="pretrained=True; wanted one of 'mnist_r'"):
            create_model(name, pretrained=True)
    else:
        found = create_model(name, pretrained=True).state_dict()
        assert all(torch.equal(found[key], value) for key, value in network.state_dict().items())


def test_provenance(made: Path, tmp_path: Path) -> None:
    about = read_weights(made / "mnist_fcn-mnist_r.safetensors").about
    assert about["licence"] == "Apache-2.0" and about["steps"] == 1 and about["seed"] == 3
    assert about["schedule"]["steps"] == 1 and about["schedule_name"] == "fast"
    digest = digest_of_digits(load_embedded()[0])
    counts = {"train": 3666, "validation": 334, "test": 1000}
    assert about["data"] == {"from": about["data"]["from"], "digest": digest, "embedded": True} | counts  # fmt: skip
    assert about["embedded_may_be_trained_on"] is False
    assert (about["examples"], about["embedded_examples"]) == (1000, 1000)
    assert about["error_percent"] == about["embedded_error_percent"] > 0
    assert str(made) not in json.dumps(about)
    _check_error(made / "mnist_fcn-mnist_r.safetensors")


@pytest.mark.slow
def test_weights_of_files_are_tested_on_both(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train_digits, test_digits = load_embedded()
    (tmp_path / "data").mkdir()
    for part, digits in (("train", test_digits), ("t10k", train_digits)):
        few = slice(0, None, 10)
        write_part(tmp_path / "data", part, digits.images[few].numpy(), digits.labels[few].numpy())
    path = _train(tmp_path / "run", data_dir=tmp_path / "data")
    arguments = ("export", path, "--weights", tmp_path / "weights")
    assert "give its --data-dir" in _fails(capsys, *arguments)
    assert not (tmp_path / "weights").exists()
    assert main([str(each) for each in (*arguments, "--data-dir", tmp_path / "data")]) == 0
    about = read_weights(tmp_path / "weights/mnist_fcn-mnist_r.safetensors").about
    assert (about["examples"], about["embedded_examples"]) == (400, 1000)
    assert about["embedded_may_be_trained_on"] is True
    assert about["data"]["train"] + about["data"]["validation"] == 100


def test_what_cannot_be_weights_is_refused(
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arguments = ("--weights", tmp_path / "weights")
    found = torch.load(checkpoint, weights_only=True)
    found["hyper_parameters"]["schedule"]["steps"] = 9
    torch.save(found, tmp_path / "part.ckpt")
    told = _fails(capsys, "export", tmp_path / "part.ckpt", *arguments)
    assert "part.ckpt: wanted a finished run, got 1 of 9 steps" in told
    found["hyper_parameters"] |= {"experiment": "svhn", "image_size": 64}
    torch.save(found, tmp_path / "svhn.ckpt")
    told = _fails(capsys, "export", tmp_path / "svhn.ckpt", *arguments)
    assert "wanted weights of an experiment with digits, got svhn" in told
    monkeypatch.setattr(export_weights, "_MOST", 1_000)
    told = _fails(capsys, "export", checkpoint, *arguments)
    assert "beside 0 of the others; wanted 1,000 at most together" in told
    assert not (tmp_path / "weights").exists()


def test_damaged_weights_are_told(weights: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    whole = (weights / "mnist_fcn-mnist_r.safetensors").read_bytes()
    for content in (b"", b"text", whole[: len(whole) // 2], weights_bytes({}, {"model": "x"})):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"^{path}: not a file of weights that export wrote"):
            read_weights(path)
    about = {"model": "mnist_fcn", "model_options": {"hidden": 16}}
    path.write_bytes(weights_bytes({"1.weight": torch.zeros(3)}, about))
    with pytest.raises(ValueError, match=f"^{path}: its weights are not those of mnist_fcn: wanted"):  # fmt: skip
        read_weights(path).load_into(create_model("mnist_fcn", image_size=28, hidden=16))


def test_a_missing_package_is_told(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'stn-triton\[train\]'") as raised:
        create_model("mnist_fcn", pretrained="mnist_r")
    assert raised.value.name == "safetensors"


# The weights that come with the package, however many there are


def _check_error(path: Path) -> None:
    """The error on the embedded digits is the one that the file tells."""
    found = read_weights(path)
    network = create_model(found.about["model"], **found.about["model_options"]).eval()
    found.load_into(network)
    settings = {name: found.about[name] for name in ("experiment", "data_options", "schedule", "seed")}  # fmt: skip
    error, examples = error_on_test_set(network, settings, batches.make_data(settings, None))
    assert examples == found.about["embedded_examples"]
    # Another processor rounds otherwise, which can change the answer for an image or two.
    assert abs(error - found.about["embedded_error_percent"]) <= 200 / examples


def test_shipped_weights_are_small_and_known() -> None:
    paths = [weights_path(name, experiment) for name, experiment in list_weights()]
    assert sum(path.stat().st_size for path in paths) <= 8 * 1024**2
    for path, (name, experiment) in zip(paths, list_weights(), strict=True):
        about = read_weights(path).about
        assert (about["model"], about["experiment"]) == (name, experiment)
        assert name in list_models() and name in EXPERIMENTS[experiment].networks()
        assert about["commit"] and about["licence"] and about["data"]["digest"]
        create_model(name, pretrained=experiment)


@pytest.mark.slow
def test_shipped_weights_have_the_error_that_they_tell() -> None:
    for name, experiment in list_weights():
        _check_error(weights_path(name, experiment))
