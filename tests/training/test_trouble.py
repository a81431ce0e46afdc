"""Training where something goes wrong: one line that says what, and the last good checkpoint stays."""

from __future__ import annotations

import functools
import multiprocessing
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("lightning")
pytest.importorskip("matplotlib")
pytest.importorskip("mlxtend")

from architectures.commands.main import main
from architectures.data import digits as digits_module
from architectures.errors import machine_trouble
from architectures.training import batches, colocalise
from architectures.training.callbacks import Finite
from architectures.training.errors import Diverged, UsageError
from architectures.training.lock import locked
from architectures.training.module import Classification
from architectures.training.run import Run
from architectures.training.train import train
from support import ROOT
from support.runs import last_state

_load_embedded = functools.cache(digits_module.load_embedded)  # parsing them takes seconds
_ARGUMENTS = [
    "train",
    "mnist_r",
    "--model",
    "mnist_fcn",
    "--fast",
    "--batch-size",
    "4",
    "--checkpoint-every",
    "2",
]


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digits_module, "load_embedded", _load_embedded)
    monkeypatch.setattr(batches, "_VALIDATED", 10)
    monkeypatch.setattr(colocalise, "_ENCODER_STEPS", 2)


def _run(out: Path, **changes: Any) -> Run:
    settings: dict[str, Any] = {
        "experiment": "mnist_r", "model": "mnist_fcn", "schedule": "fast", "max_steps": 4, "batch_size": 4,
        "checkpoint_every": 2, "out": out, "quiet": True,
    }  # fmt: skip
    return Run(**settings | changes)


def _command(capsys: pytest.CaptureFixture[str], status: int, *arguments: object) -> str:
    """What a command prints as an error, in one line at most."""
    capsys.readouterr()
    assert main([*_ARGUMENTS, *map(str, arguments)]) == status
    told = capsys.readouterr().err
    assert told.count("\n") <= 1, told
    return told


def _at_step(
    monkeypatch: pytest.MonkeyPatch, step: int, act: Any, method: str = "training_step"
) -> None:
    """At one step, what `act(module, loss)` returns replaces the loss."""
    original = getattr(Classification, method)

    def changed(self: Classification, *arguments: Any) -> Any:
        loss = original(self, *arguments)
        return act(self, loss) if self.trainer.global_step == step else loss

    monkeypatch.setattr(Classification, method, changed)


# What is not finite


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_loss_that_is_not_finite_ends_the_run(
    value: float,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _at_step(monkeypatch, 2, lambda module, loss: loss * value)
    told = _command(capsys, 1, "--max-steps", 6, "--out", tmp_path)
    assert re.search(r"step 3: the loss is not finite, at a learning rate of 0\.00\d+; try a", told)
    assert f"{tmp_path / 'last.ckpt'} is as it was before" in told
    for name in ("last.ckpt", "best.ckpt"):
        found = torch.load(tmp_path / name, weights_only=True)
        assert found["global_step"] == 2
        assert all(each.isfinite().all() for each in found["state_dict"].values())


def test_weights_that_are_not_finite_are_not_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A transformer whose theta is NaN samples zeros, so that the loss stays finite."""

    def spoil(module: Classification, loss: Tensor) -> Tensor:
        with torch.no_grad():
            next(module.network.parameters()).view(-1)[0] = torch.nan
        return loss

    _at_step(monkeypatch, 1, spoil)
    with pytest.raises(Diverged, match=r"step 2: the (weights are|loss is) not finite"):
        train(_run(tmp_path))
    assert not list(tmp_path.glob("*.ckpt"))


def test_an_accelerator_is_not_asked_after_every_step() -> None:
    """A tensor on another device than the CPU is read when many steps have passed, or before a checkpoint."""
    finite = Finite(Path("last.ckpt"))
    strategy = SimpleNamespace(reduce=lambda tensor, reduce_op: pytest.fail("waited"))
    trainer = SimpleNamespace(global_step=3, strategy=strategy)
    finite.on_train_batch_end(trainer, None, {"loss": torch.empty((), device="meta")}, None, 0)  # type: ignore[arg-type]


# Precision


@pytest.mark.parametrize("precision", ["64-true", "bf16-true", "16-mixed"])
@pytest.mark.parametrize(
    "experiment", ["mnist_r", pytest.param("colocalisation", marks=pytest.mark.slow)]
)
def test_precisions_that_work(experiment: str, precision: str, tmp_path: Path) -> None:
    model = "mnist_st_fcn_affine" if experiment == "mnist_r" else None
    changes: dict[str, Any] = {"experiment": experiment, "model": model, "precision": precision}
    train(_run(tmp_path, max_steps=2, **changes))
    wanted = {"64-true": torch.float64, "bf16-true": torch.bfloat16}.get(precision, torch.float32)
    state = last_state(tmp_path)
    assert {each.dtype for each in state["state_dict"].values()} == {wanted}
    (optimiser,) = state["optimizer_states"]
    fused = {bool(group["fused"]) for group in optimiser["param_groups"]}
    assert fused == {precision != "16-mixed"}, "a fused optimiser would refuse to clip gradients"
    train(_run(tmp_path, max_steps=3, resume=True, **changes))
    assert last_state(tmp_path)["global_step"] == 3


def test_half_precision_alone_works_without_adam(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = _command(capsys, 2, "--max-steps", 2, "--precision", "16-true", "--out", tmp_path)
    assert "--precision 16-true: float16 cannot hold AdamW's squares" in told
    train(_run(tmp_path, precision="16-true", schedule="paper", max_steps=2))
    assert all(each.isfinite().all() for each in last_state(tmp_path)["state_dict"].values())


def test_what_a_device_cannot_do_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: Any) -> Any:
        raise NotImplementedError("\"avg_pool3d_out_frame\" not implemented for 'BFloat16'")

    monkeypatch.setattr(Classification, "training_step", missing)
    told = _command(capsys, 2, "--max-steps", 1, "--precision", "bf16-true", "--out", tmp_path)
    assert "--precision bf16-true" in told and "BFloat16" in told
    told = _command(capsys, 2, "--max-steps", 1, "--precision", "transformer-engine")
    assert "--precision" in told and "transformer_engine" in told


# The machine


def test_a_full_disk_leaves_the_checkpoint_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    resource = pytest.importorskip("resource")
    train(_run(tmp_path, max_steps=2))
    last = tmp_path / "last.ckpt"
    before = last.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit, path in ((len(before) // 2, last), (0, tmp_path)):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))
        try:
            told = _command(capsys, 1, "--max-steps", 6, "--out", tmp_path, "--resume")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert f"{path}: cannot be written: File too large" in told
        assert last.read_bytes() == before
        assert {each.name for each in tmp_path.iterdir()} == {
            "last.ckpt",
            "best.ckpt",
            "curves.png",
            "logs",
        }
    train(_run(tmp_path, max_steps=4, resume=True))
    assert last_state(tmp_path)["global_step"] == 4


def test_out_of_memory_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    told = _command(capsys, 1, "--batch-size", 10**12, "--max-steps", 1, "--out", out)
    assert "out of memory" in told and "try a smaller --batch-size" in told
    assert not out.exists()


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."), "out of memory: CUDA"),
        (MemoryError(), "out of memory: MemoryError"),
        (RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly"), "a process that reads data"),
        (RuntimeError("backend='inductor' raised:\nRuntimeError: Failed to find C compiler."), "a C++ compiler"),
        (RuntimeError("size mismatch"), None),
    ],
)  # fmt: skip
def test_troubles_of_the_machine_are_told_from_mistakes(
    error: BaseException, message: str | None
) -> None:
    told = machine_trouble(error)
    assert told is None if message is None else message in str(told)


@pytest.mark.slow
def test_a_missing_compiler_is_one_line(tmp_path: Path) -> None:
    arguments = [*_ARGUMENTS, "--max-steps", "1", "--compile", "--out", str(tmp_path / "run")]
    environment = os.environ | {
        "CXX": "/nowhere/g++", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "",
        "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache"),
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "architectures", *arguments],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 1
    assert "wanted a C++ compiler" in done.stderr and done.stderr.count("\n") == 1


# Two runs, and signals


def _hold(folder: Path, held: Any) -> None:
    with locked(folder):
        held.set()
        signal.pause()


@pytest.mark.slow
def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    context = multiprocessing.get_context("spawn")
    held = context.Event()
    other = context.Process(target=_hold, args=(tmp_path, held))
    other.start()
    try:
        assert held.wait(60)
        with pytest.raises(UsageError, match="another run is writing there"), locked(tmp_path):
            pass
    finally:
        other.kill()
        other.join()
    with locked(tmp_path):
        assert not list(tmp_path.iterdir()), "nothing is left behind"


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # the child does nothing
def test_workers_do_not_hold_the_lock(tmp_path: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    reader, writer = os.pipe()
    with locked(tmp_path):
        child = os.fork()
        if child == 0:
            os.write(writer, b".")
            signal.pause()
            os._exit(0)
        os.read(reader, 1)
    descriptor = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(descriptor)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_a_second_run_at_once_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("fcntl")
    with locked(tmp_path):
        told = _command(capsys, 2, "--max-steps", 1, "--out", tmp_path)
        assert f"--out {tmp_path}: another run is writing there" in told
        assert not list(tmp_path.iterdir())


@pytest.fixture
def _heard() -> Iterator[None]:
    """SIGHUP ends a process, also where the tests run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="there are no terminals that hang up")
@pytest.mark.usefixtures("_heard")
def test_a_closed_terminal_ends_a_run_like_sigterm(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def hang_up(module: Classification, loss: Tensor) -> Tensor:
        signal.raise_signal(signal.SIGHUP)
        return loss

    before = signal.getsignal(signal.SIGHUP)
    _at_step(monkeypatch, 2, hang_up)
    told = _command(capsys, 128 + signal.SIGHUP, "--max-steps", 9, "--out", tmp_path / "a")
    assert f"go on with --resume {tmp_path / 'a/last.ckpt'}" in told
    assert last_state(tmp_path / "a")["global_step"] == 3
    assert signal.getsignal(signal.SIGHUP) == before

    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        assert _command(capsys, 0, "--max-steps", 4, "--out", tmp_path / "b") == ""
    finally:
        signal.signal(signal.SIGHUP, before)
    assert last_state(tmp_path / "b")["global_step"] == 4


def test_handlers_are_put_back_after_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    _at_step(monkeypatch, 1, lambda module, loss: loss * torch.nan)
    with pytest.raises(Diverged):
        train(_run(tmp_path))
    assert signal.getsignal(signal.SIGTERM) == before
