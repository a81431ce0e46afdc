"""`python -m architectures export`: what it writes was compared with the network, and nothing else is written."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("lightning")
pytest.importorskip("mlxtend")
ort = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from architectures import create_model, load_model
from architectures.commands.main import main
from architectures.training import export
from architectures.training.errors import ExportError
from architectures.training.experiments import EXPERIMENTS
from stn_triton import SpatialTransformer

pytestmark = pytest.mark.usefixtures("quick_digits")


def checkpoint(path: Path, experiment: str, model: str, size: int, **options: Any) -> Path:
    """A checkpoint as `train` writes it, of a network whose transformers look elsewhere in each image."""
    network = create_model(model, image_size=size, **options)
    for module in network.modules():
        if isinstance(module, SpatialTransformer):
            nn.init.normal_(module.regression.weight, std=0.05)
    entry = EXPERIMENTS[experiment]
    settings = {
        "experiment": experiment, "model": model, "model_options": {"image_size": size, **options},
        "data_options": dict(entry.data_options), "image_size": size, "schedule_name": "fast",
        "schedule": asdict(entry.fast), "seed": 0,
    }  # fmt: skip
    weights = {f"network.{name}": value for name, value in network.state_dict().items()}
    torch.save({"hyper_parameters": settings, "state_dict": weights, "global_step": 1}, path)
    return path


@pytest.fixture(scope="module")
def affine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "last.ckpt"
    return checkpoint(path, "mnist_r", "mnist_st_fcn_affine", 28)


def run_onnx(path: Path, images: Tensor) -> dict[str, Tensor]:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_outputs()]
    (given,) = session.get_inputs()
    assert given.name == "images"
    found = session.run(names, {"images": images.numpy()})
    return {name: torch.from_numpy(each) for name, each in zip(names, found, strict=True)}


def fails(capsys: pytest.CaptureFixture[str], status: int, *arguments: object) -> str:
    """The one line that a command ends with."""
    capsys.readouterr()
    try:
        found: object = main([str(argument) for argument in arguments])
    except SystemExit as stopped:
        found = stopped.code
    printed = capsys.readouterr()
    assert found == status, printed.err
    assert printed.out == "" and printed.err.count("\n") == 1, printed
    return printed.err


def test_onnx(affine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "network.onnx"
    assert main(["export", str(affine), "--onnx", str(out), "--dynamic-batch"]) == 0
    printed = capsys.readouterr()
    assert printed.err == "" and printed.out.startswith(f"{out}: mnist_st_fcn_affine as ONNX")
    assert "images (batch, 1, 28, 28)" in printed.out and "on 8 images onnxruntime" in printed.out
    assert [each.name for each in out.parent.iterdir()] == ["network.onnx"]
    network = load_model(affine)
    for n in (1, 5):
        images = torch.rand(n, 1, 28, 28)
        found = run_onnx(out, images)
        assert list(found) == ["logits"]
        with torch.no_grad():
            torch.testing.assert_close(found["logits"], network(images), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("experiment", "model", "size", "options", "shape"),
    [
        ("mnist_r", "mnist_st_fcn_tps", 28, {}, (1, 28, 28)),
        ("mnist_addition", "mnist_addition_2st_fcn_projective", 42, {}, (2, 42, 42)),
        ("colocalisation", "colocalisation", 84, {"initial_scale": 0.6}, (1, 84, 84)),
        ("svhn", "svhn_st_cnn_multi", 64, {"width": 0.05}, (3, 64, 64)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_networks_of_all_kinds(
    experiment: str, model: str, size: int, options: dict[str, Any], shape: tuple[int, ...], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    path = checkpoint(tmp_path / "last.ckpt", experiment, model, size, **options)
    out = tmp_path / "network.onnx"
    assert main(["export", str(path), "--onnx", str(out)]) == 0
    assert f"images (1, {', '.join(map(str, shape))})" in capsys.readouterr().out
    images = torch.rand(1, *shape)
    found = run_onnx(out, images)
    with torch.no_grad():
        wanted = load_model(path)(images)
    if experiment == "colocalisation":
        assert list(found) == ["crop", "theta"]
    else:
        assert list(found) == ["logits"]
        wanted = (wanted,)
    for one, ours in zip(found.values(), wanted, strict=True):
        torch.testing.assert_close(one, ours, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("dynamic", [False, True])
def test_aoti(
    dynamic: bool, affine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "network.pt2"
    arguments = ["export", str(affine), "--aoti", str(out)]
    assert main([*arguments, "--dynamic-batch"] if dynamic else arguments) == 0
    said = capsys.readouterr().out.splitlines()[-1]
    assert said.startswith(f"{out}: mnist_st_fcn_affine as an AOTInductor package for c")
    assert {each.name for each in tmp_path.iterdir()} == {"network.pt2"}
    images = torch.rand(5 if dynamic else 1, 1, 28, 28, device=export.device())
    found = torch._inductor.aoti_load_package(str(out))(images)
    with torch.no_grad():
        wanted = load_model(affine, map_location=export.device())(images)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


DAMAGE = {
    "a little off": lambda y: y + 1e-3,
    "no numbers": lambda y: y * torch.nan,
    "another shape": lambda y: y[:, :-1],
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_results_that_differ_are_refused(damage: str, affine: Path) -> None:
    network, images = load_model(affine), torch.rand(4, 1, 28, 28)
    wrong = DAMAGE[damage](network(images).detach())
    with pytest.raises(ExportError, match="something gives other results than the network") as said:
        export._compared(network, images, [wrong], affine, "something")
    assert str(affine) in str(said.value)


def test_nothing_is_written_where_results_differ(
    affine: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    out = tmp_path / "network.onnx"
    out.write_text("what was there")
    proto = SimpleNamespace(SerializeToString=lambda: b"a model")
    monkeypatch.setattr(torch.onnx, "export", lambda *_, **__: SimpleNamespace(model_proto=proto))
    wrong = lambda content: lambda images: [torch.zeros(1, 10)]
    monkeypatch.setattr(export, "_onnx_runner", wrong)
    said = fails(capsys, 1, "export", affine, "--onnx", out)
    assert str(affine) in said and "onnxruntime gives other results than the network" in said
    assert out.read_text() == "what was there" and len(list(tmp_path.iterdir())) == 1


@torch.no_grad()
def test_the_right_results_are_not_refused(affine: Path) -> None:
    """The budget allows for rounding: float64's results are within it, an error a hundred times that is not."""
    network = load_model(affine)
    images = torch.rand(4, 1, 28, 28)
    exact = load_model(affine).double()(images.double()).detach()
    export._compared(network, images, [exact], affine, "float64")
    rounding = float((network(images) - exact).abs().max())
    with pytest.raises(ExportError, match="other results"):
        export._compared(network, images, [exact + 1e-3 + 100 * rounding], affine, "something")


@pytest.mark.slow
def test_what_the_exporter_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = checkpoint(
        tmp_path / "last.ckpt", "colocalisation", "colocalisation", 84, antialias=True
    )
    said = fails(capsys, 1, "export", path, "--onnx", tmp_path / "network.onnx")
    assert (
        str(path) in said and "stn_triton.onnx_translations()" in said and "antialias=True" in said
    )
    assert {each.name for each in tmp_path.iterdir()} == {"last.ckpt"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("export", "CHECKPOINT"),
        ("export x", "one of the arguments --onnx --aoti --weights is required"),
        ("export x --onnx a.onnx --aoti a.pt2", "not allowed with"),
        ("export x --onnx a.pt", "wanted a name that ends in .onnx, got 'a.pt'"),
        ("export x --aoti a.so", "wanted a name that ends in .pt2, got 'a.so'"),
        ("export x --onnx .", "wanted a file, got the folder '.'"),
        ("export x --onnx /proc/a.onnx", "'/proc/a.onnx' cannot be written"),
    ],
)
def test_bad_arguments_are_status_2(
    arguments: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in fails(capsys, 2, *arguments.split())


def test_workers_for_digits_are_status_2(
    affine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a.onnx"
    assert "--num-workers" in fails(capsys, 2, "export", affine, "--onnx", out, "--num-workers", 1)


def test_bad_checkpoints_and_data_are_status_1(
    affine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nowhere, out = tmp_path / "nowhere", tmp_path / "a.onnx"
    for form in ("--onnx", "--aoti"):
        name = out if form == "--onnx" else tmp_path / "a.pt2"
        assert f"{nowhere}: no such checkpoint" in fails(capsys, 1, "export", nowhere, form, name)
    assert str(nowhere) in fails(capsys, 1, "export", affine, "--onnx", out, "--data-dir", nowhere)
    broken = tmp_path / "broken.ckpt"
    broken.write_bytes(affine.read_bytes()[:1000])
    assert "not a readable checkpoint" in fails(capsys, 1, "export", broken, "--onnx", out)
    assert not out.exists()


@pytest.mark.parametrize("missing", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_names_the_extra(
    missing: str, affine: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setitem(sys.modules, missing, None)
    said = fails(capsys, 1, "export", affine, "--onnx", tmp_path / "a.onnx")
    assert f"{missing} is not installed: pip install 'stn-triton[onnx]'" in said


def test_a_missing_compiler_is_told_before_the_work(
    affine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from torch._inductor import config, cpp_builder

    for cached in ("get_cpp_compiler", "cpp_compiler_search"):
        clear = getattr(getattr(cpp_builder, cached, None), "cache_clear", None)
        if clear is not None:
            clear()
    with config.patch({"cpp.cxx": ("no-such-compiler",)}):  # monkeypatch could not take it back
        said = fails(capsys, 1, "export", affine, "--aoti", tmp_path / "a.pt2")
    assert "--aoti: wanted a C++ compiler" in said and "stn-triton[onnx]" in said
    assert not list(tmp_path.iterdir())


def test_digits_stand_in_for_pictures_of_files() -> None:
    images = export._embedded_digits((3, 64, 64))
    assert images.shape == (8, 3, 64, 64) and images.min() >= 0 and images.max() <= 1
    assert images.std(0).max() > 0.1, "different digits"
