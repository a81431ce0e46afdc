"""Training that is killed at any moment, on full disks, from foreign files: it goes on as if nothing had happened."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("lightning")
pytest.importorskip("matplotlib")
pytest.importorskip("h5py")

from architectures.commands.main import main
from architectures.data import DataError, generate_cub
from architectures.data.cub import CUB
from architectures.training.batches import _BatchSampler
from architectures.training.curves import read_metrics
from architectures.training.evaluate import read_run
from architectures.training.files import remove_parts
from architectures.training.module import Classification
from architectures.training.run import Run
from architectures.training.train import train
from support import ROOT
from support.mnist import write_part

STEPS, EVERY, KILLS = 240, 4, 20


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few digits in files, which are read at once."""
    folder = tmp_path_factory.mktemp("digits")
    generator = np.random.default_rng(0)
    for part in ("train", "t10k"):
        write_part(folder, part, generator.integers(0, 256, (120, 28, 28)), np.arange(120) % 10)
    return folder


def _run(out: Path, data_dir: Path, **changes: Any) -> Run:
    settings: dict[str, Any] = {
        "experiment": "mnist_r", "model": "mnist_st_fcn_affine", "schedule": "fast", "max_steps": STEPS,
        "batch_size": 4, "checkpoint_every": EVERY, "out": out, "quiet": True, "data_dir": data_dir,
    }  # fmt: skip
    return Run(**settings | changes)


def _same_state(ours: Path, theirs: Path) -> None:
    states = [torch.load(path, weights_only=True) for path in (ours, theirs)]
    assert states[0]["global_step"] == states[1]["global_step"]
    for part in (
        lambda state: state["state_dict"],
        lambda state: state["optimizer_states"][0]["state"],
        lambda state: [group["lr"] for group in state["optimizer_states"][0]["param_groups"]],
    ):
        torch.testing.assert_close(part(states[0]), part(states[1]), rtol=0, atol=0)


# SIGKILL


def _train_and_count(run: Run, steps: Synchronized[int]) -> None:
    """Train in a process of its own; `steps` has the steps that are behind it."""
    step = Classification.training_step

    def counted(self: Classification, batch: Any, batch_idx: int) -> Any:
        steps.value = self.trainer.global_step
        return step(self, batch, batch_idx)

    Classification.training_step = counted  # type: ignore[method-assign]
    torch.set_num_threads(1)
    train(run)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="processes are killed in another way there")
def test_a_run_that_is_killed_twenty_times_ends_like_one_that_was_not(
    tmp_path: Path, digits: Path
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["architectures.training.train"])  # so that each starts at once
    steps = context.Value("q", -1)

    def started(out: Path) -> multiprocessing.process.BaseProcess:
        steps.value = -1
        run = _run(out, digits, resume=(out / "last.ckpt").exists())
        process = context.Process(target=_train_and_count, args=(run, steps))
        process.start()
        return process

    process = started(whole)
    process.join(300)
    assert process.exitcode == 0

    moments = random.Random(0)
    reached, kills, whole_files = 0, 0, {"last.ckpt", "best.ckpt", "curves.png", "logs"}
    while kills < KILLS:
        process = started(killed)
        few = moments.randint(0, 2 * EVERY)  # however fast the machine is
        while steps.value < reached + few and process.is_alive():
            process.join(0.001)
        process.join(moments.uniform(0, 0.02))
        assert process.is_alive(), "it ended before it was killed: it needs more steps"
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        kills += 1
        if (killed / "last.ckpt").exists():
            found = read_run(killed / "last.ckpt")["global_step"]  # whole: its checksums are right
            assert found % EVERY == 0 and reached <= found
            reached = found
        assert steps.value - reached <= EVERY, "more is lost than the steps since a checkpoint"
        others = {each.name for each in killed.iterdir()} - whole_files
        assert len(others) <= 2, "what one killed process left goes as the next one starts"
        assert all(name.endswith(".part") for name in others)
    assert 0 < reached < STEPS
    process = started(killed)
    process.join(300)
    assert process.exitcode == 0
    assert {each.name for each in killed.iterdir()} == whole_files
    for name in ("last.ckpt", "best.ckpt"):
        _same_state(killed / name, whole / name)
    ours, theirs = read_metrics(killed), read_metrics(whole)
    assert ours["val_error"] == theirs["val_error"], "a validation after every checkpoint"
    assert [step for step, _ in ours["loss"]] == [step for step, _ in theirs["loss"]]


def test_a_table_of_metrics_that_was_cut_off_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "logs/version_0"
    folder.mkdir(parents=True)
    lines = "epoch,loss,step\n0,0.75,1\n0,0.5,2\n"
    for cut in ("", "0", "0,0.2", "0,0.25,3"):
        (folder / "metrics.csv").write_text(lines + cut)
        assert read_metrics(tmp_path) == {"loss": [(1, 0.75), (2, 0.5)]}
    for header in ("", "epoch,lo"):
        (folder / "metrics.csv").write_text(header)
        assert read_metrics(tmp_path) == {}


def test_parts_of_checkpoints_go_and_nothing_else(tmp_path: Path) -> None:
    names = (
        "last.ckpt",
        ".show.png.7.part",
        ".last.ckpt.part",
        ".last.ckpt.7.part",
        ".best.ckpt.77.part",
    )
    for name in names:
        (tmp_path / name).touch()
    remove_parts(tmp_path, ".ckpt")
    assert {each.name for each in tmp_path.iterdir()} == set(names[:3])


# A full disk


_FULL = """
set -e
mount -t tmpfs -o size=1m none "$1"
cd "$2"
shift 2
exec "$@"
"""


@pytest.mark.slow
@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="how to make a small disk is known for Linux"
)
def test_a_full_disk_is_one_line(tmp_path: Path, digits: Path) -> None:
    """A file system of one megabyte holds one checkpoint and no second beside it."""
    unshare = ["unshare", "--map-root-user", "--mount"]
    if (
        not shutil.which("unshare")
        or subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode
    ):
        pytest.skip("this user may mount nothing")
    command = [
        sys.executable, "-m", "architectures", "train", "mnist_r", "--model", "mnist_fcn", "--fast", "--max-steps", "9",
        "--checkpoint-every", "3", "--batch-size", "4", "--data-dir", str(digits), "--out", str(tmp_path / "run"),
    ]  # fmt: skip
    (tmp_path / "run").mkdir()
    done = subprocess.run(
        [*unshare, "sh", "-c", _FULL, "sh", str(tmp_path / "run"), str(ROOT), *command],
        capture_output=True, text=True, timeout=300, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 1
    assert "No space left on device" in done.stderr and done.stderr.count("\n") == 1, done.stderr


# Foreign checkpoints


class _Program:
    """A pickle that runs a command as it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def _archive(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../outside", "text")


FOREIGN: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.touch(),
    "text": lambda path: path.write_text("weights"),
    "an archive of other files": _archive,
    "weights alone": lambda path: torch.save(torch.nn.Linear(2, 2).state_dict(), path),
    "a tensor": lambda path: torch.save(torch.zeros(3), path),
    "a program": lambda path: torch.save(_Program(path.with_name("ran")), path),
    "a program without an archive": lambda path: path.write_bytes(pickle.dumps(_Program(path.with_name("ran")))),
    "another program's training": lambda path: torch.save(
        {"state_dict": {}, "global_step": 3, "hyper_parameters": {"width": 3}, "loops": {}}, path
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", FOREIGN)
def test_foreign_checkpoints_are_one_line(
    what: str, tmp_path: Path, digits: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run/last.ckpt"
    path.parent.mkdir()
    FOREIGN[what](path)
    before = path.read_bytes()
    common = ("--data-dir", str(digits))
    for command in (
        ("train", "mnist_r", "--resume", "--out", str(path.parent), *common),
        ("evaluate", str(path), *common),
        ("show", str(path), "--out", str(tmp_path / "show.png"), *common),
        ("export", str(path), "--weights", str(tmp_path / "weights"), *common),
    ):
        assert main(list(command)) == 1
        told = capsys.readouterr().err
        assert told.count("\n") == 1
        assert (
            f"{path}: not a readable checkpoint" in told or f"{path}: not a checkpoint of" in told
        )
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.rglob("*")] == ["run", "last.ckpt"]


# A picture that cannot be read


@pytest.mark.slow
def test_a_picture_that_cannot_be_read_ends_an_epoch_in_its_middle(tmp_path: Path) -> None:
    birds = tmp_path / "birds"
    generate_cub(birds, 2, 13, 0)
    changes: dict[str, Any] = {
        "experiment": "cub", "model": "cub_cnn", "max_steps": 4, "batch_size": 2, "checkpoint_every": 2,
        "num_workers": 1,
    }  # fmt: skip
    train(_run(tmp_path / "whole", birds, **changes))

    pictures = CUB(birds, train=True)
    held_out = [place for place in range(len(pictures)) if place % 12]
    steps = iter(_BatchSampler(len(held_out), 2, 0, (0, 1), int))
    (_, place), _ = [next(steps) for _ in range(4)][3]
    path = pictures._paths[held_out[place]]
    content = path.read_bytes()
    path.write_bytes(content[:900])
    with pytest.raises(DataError, match="wanted a picture that can be decoded") as raised:
        train(_run(tmp_path / "broken", birds, **changes))
    assert str(raised.value).startswith(f"{path}: ")
    assert read_run(tmp_path / "broken/last.ckpt")["global_step"] == 2
    path.write_bytes(content)
    train(_run(tmp_path / "broken", birds, **changes, resume=True))
    _same_state(tmp_path / "broken/last.ckpt", tmp_path / "whole/last.ckpt")
