"""Training: losses fall, interrupted runs end as whole ones do, and two processes learn what one learns."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("lightning")
pytest.importorskip("matplotlib")
pytest.importorskip("mlxtend")

from architectures import data, list_models
from architectures.training import batches, colocalise
from architectures.training.curves import read_metrics
from architectures.training.errors import UsageError
from architectures.training.evaluate import evaluate
from architectures.training.experiments import EXPERIMENTS, Schedule
from architectures.training.module import Classification
from architectures.training.run import Run, fresh_settings
from architectures.training.streams import stream_seed
from architectures.training.tables import TABLES
from architectures.training.train import _steps_between, train
from support import ROOT
from support.runs import last_state


@functools.cache
def _embedded() -> tuple[data.Digits, data.Digits]:
    train_digits, test_digits = data.load_embedded()
    return train_digits, data.Digits(
        images=test_digits.images[::20], labels=test_digits.labels[::20]
    )


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(batches, "load_digits", lambda data_dir: _embedded())
    monkeypatch.setattr(batches, "_VALIDATED", 20)
    monkeypatch.setattr(colocalise, "_ENCODER_STEPS", 2)
    before = torch.get_rng_state()
    yield
    torch.set_rng_state(before)


def _run(out: Path, **changes: Any) -> Run:
    settings: dict[str, Any] = {
        "experiment": "mnist_r",
        "model": "mnist_st_fcn_affine",
        "schedule": "fast",
        "max_steps": 6,
        "batch_size": 8,
        "checkpoint_every": 3,
        "out": out,
        "quiet": True,
    }
    return Run(**settings | changes)


def _assert_same_state(ours: Path, theirs: Path) -> None:
    ours_state, theirs_state = last_state(ours), last_state(theirs)
    assert ours_state["global_step"] == theirs_state["global_step"]
    for part in (
        lambda state: state["state_dict"],
        lambda state: state["optimizer_states"][0]["state"],
        lambda state: [group["lr"] for group in state["optimizer_states"][0]["param_groups"]],
    ):
        torch.testing.assert_close(part(ours_state), part(theirs_state), rtol=0, atol=0)


@pytest.mark.parametrize("limit", ["steps", "minutes"])
def test_limits_are_of_the_encoder_too(
    limit: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    batch, batches = colocalise._reading_batch, []

    def counted(*arguments: Any) -> Any:
        batches.append(time.monotonic())
        return batch(*arguments)

    monkeypatch.setattr(colocalise, "_ENCODER_STEPS", 10_000)
    monkeypatch.setattr(colocalise, "_reading_batch", counted)
    changes = {"max_steps": 2} if limit == "steps" else {"max_steps": 20_000, "max_minutes": 1 / 60}
    train(
        _run(tmp_path, experiment="colocalisation", model=None, checkpoint_every=20_000, **changes)
    )
    state = last_state(tmp_path)
    if limit == "steps":
        assert len(batches) == state["global_step"] == 2
    else:
        assert batches[-1] - batches[0] < 0.5, "half of the time"
        assert state["global_step"] >= 1
        assert state["callbacks"]["Timer"]["time_elapsed"]["train"] >= 1
        assert f"ended at step {len(batches)} of 10000" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("experiment", ["mnist_r", "mnist_e"])
def test_losses_fall(experiment: str, tmp_path: Path) -> None:
    run = _run(
        tmp_path, experiment=experiment, model="mnist_fcn" if experiment == "mnist_r" else "mnist_cnn",
        max_steps=30, batch_size=32, checkpoint_every=30, lr=1e-3,
    )  # fmt: skip
    train(run)
    losses = [value for _, value in read_metrics(tmp_path)["loss"]]
    assert len(losses) == 30
    assert sum(losses[-5:]) < 0.97 * sum(losses[:5])
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "best.ckpt").is_file()


@pytest.mark.parametrize(
    ("experiment", "batch_size"),
    [
        ("mnist_rts", 8),
        ("mnist_p", 8),
        ("mnist_tc", 8),
        ("mnist_addition", 8),
        ("colocalisation", 4),
    ],
)
def test_experiments_train_their_own_networks(
    experiment: str, batch_size: int, tmp_path: Path
) -> None:
    run = _run(tmp_path, experiment=experiment, model=None, max_steps=2, batch_size=batch_size)
    train(run)
    found = evaluate(tmp_path / "last.ckpt", None)
    assert found["step"] == 2
    assert found["examples"] == (100 if experiment == "colocalisation" else 50)
    assert 0 <= found["error_percent"] <= 100


def test_the_encoder_reads_what_is_seen() -> None:
    generator = torch.Generator().manual_seed(0)
    crops, labels = colocalise._reading_batch(_embedded()[0], True, generator)
    assert crops.shape == (70, 1, 28, 28)
    seen = labels.reshape(10, 7)
    assert ((seen == torch.arange(10)[:, None]) | (seen == 10)).all()
    assert 3 < (labels == 10).sum() < 30, "some crops hold no digit"


@pytest.mark.slow
def test_the_place_is_learned_first(tmp_path: Path) -> None:
    run = _run(
        tmp_path,
        experiment="colocalisation",
        model=None,
        max_steps=5,
        batch_size=4,
        checkpoint_every=2,
    )
    scales = []
    score = colocalise.Colocalisation.score

    def watched(self: Any, *batch: Any) -> Any:
        scales.append(self.network.transformer.regression.weight[0].abs().sum().item())
        return score(self, *batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(colocalise.Colocalisation, "score", watched)
        train(run)
    assert scales[:3] == [0.0] * 3, "the size is held for two fifths of five steps"
    assert scales[3] > 0


@pytest.mark.slow
def test_volumes_train(tmp_path: Path) -> None:
    train(_run(tmp_path, experiment="mnist3d", model=None, max_steps=1, batch_size=1))
    assert last_state(tmp_path)["global_step"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("experiment", ["svhn", "cub"])
def test_data_sets_of_files_train(
    experiment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    if experiment == "svhn":
        data.generate_svhn(tmp_path / "data", 8, 0)
    else:
        data.generate_cub(tmp_path / "data", 2, 26, 0)
    model = f"{experiment}_cnn"
    run = _run(
        tmp_path / "run", experiment=experiment, model=model, max_steps=1, batch_size=2,
        data_dir=tmp_path / "data",
    )  # fmt: skip
    train(run)
    assert evaluate(tmp_path / "run/last.ckpt", tmp_path / "data")["step"] == 1


class _Killed(Exception):
    pass


def test_a_run_that_was_killed_ends_like_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(_run(tmp_path / "whole"))
    step = Classification.training_step

    def killed(self: Classification, batch: Any, batch_idx: int) -> Tensor:
        if self.trainer.global_step == 5:
            raise _Killed
        return step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(Classification, "training_step", killed)
        with pytest.raises(_Killed):
            train(_run(tmp_path / "broken"))
    assert last_state(tmp_path / "broken")["global_step"] == 3
    train(_run(tmp_path / "broken", resume=True))
    _assert_same_state(tmp_path / "broken", tmp_path / "whole")
    broken, whole = (read_metrics(tmp_path / name)["loss"] for name in ("broken", "whole"))
    assert broken[-1] == whole[-1]


@pytest.mark.slow
def test_ctrl_c_ends_a_run_after_the_step_and_saves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(_run(tmp_path / "whole"))
    step = Classification.training_step

    def interrupted(self: Classification, batch: Any, batch_idx: int) -> Tensor:
        if self.trainer.global_step == 1:
            signal.raise_signal(signal.SIGINT)
        return step(self, batch, batch_idx)

    before = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        patch.setattr(Classification, "training_step", interrupted)
        assert train(_run(tmp_path / "broken")) == (tmp_path / "broken", signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
    assert last_state(tmp_path / "broken")["global_step"] == 2
    assert train(_run(tmp_path / "broken", resume=tmp_path / "broken/last.ckpt"))[1] == 0
    _assert_same_state(tmp_path / "broken", tmp_path / "whole")


def test_a_finished_run_can_go_on(tmp_path: Path) -> None:
    # In its first third the rate does not depend on the number of steps.
    schedule = {"schedule": "paper", "lr": 0.01}
    train(_run(tmp_path / "a", max_steps=2, **schedule))
    train(_run(tmp_path / "a", max_steps=4, resume=True, **schedule))
    assert last_state(tmp_path / "a")["global_step"] == 4
    assert [step for step, _ in read_metrics(tmp_path / "a")["loss"]] == [0, 1, 2, 3]


@pytest.mark.slow
def test_minutes_end_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(_run(tmp_path, max_steps=10_000, max_minutes=1 / 64, checkpoint_every=10_000))
    step = last_state(tmp_path)["global_step"]
    assert 1 <= step < 10_000
    told = capsys.readouterr().err
    assert (
        f"0.015625 minutes ended it at step {step} of 10000; go on with more and --resume" in told
    )


def test_a_short_run_validates_once(tmp_path: Path) -> None:
    train(_run(tmp_path, max_steps=3, checkpoint_every=None))
    assert [step for step, _ in read_metrics(tmp_path)["val_error"]] == [2]
    asked = {3: 3, 60: 50, 100: 50, 300: 60, 1_500: 300, 12_000: 1_000, 150_000: 1_000}
    assert {steps: _steps_between(steps) for steps in asked} == asked


def test_a_second_run_is_refused_where_there_is_one(tmp_path: Path) -> None:
    train(_run(tmp_path, max_steps=1))
    with pytest.raises(UsageError, match="holds a run already"):
        train(_run(tmp_path, max_steps=1))


def test_a_run_that_waits_for_other_machines_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def joining(*_: Any) -> None:
        raise KeyboardInterrupt  # here it would wait until the other machine joins

    monkeypatch.setattr("architectures.training.train._fit", joining)
    with pytest.raises(KeyboardInterrupt):
        train(_run(tmp_path, num_nodes=2, quiet=False))
    out = capsys.readouterr().out
    assert "waiting   until all 2 machines have joined" in out
    assert "NODE_RANK" in out


@pytest.mark.slow
def test_two_processes_learn_what_one_learns(tmp_path: Path) -> None:
    arguments = (
        "architectures train mnist_r --model mnist_st_fcn_affine --fast --max-steps 3 --batch-size 8 "
        f"--checkpoint-every 3 --out {tmp_path}"
    ).split()
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    python = [sys.executable, "-m"]
    torchrun = [*python, "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    for folder, command in (("one", [*python, *arguments]), ("two", [*torchrun, *arguments])):
        command[command.index(str(tmp_path))] = str(tmp_path / folder)
        subprocess.run(
            command, cwd=ROOT, env=environment, check=True, capture_output=True, timeout=200
        )
    one, two = (last_state(tmp_path / folder)["state_dict"] for folder in ("one", "two"))
    torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)
    losses = [read_metrics(tmp_path / folder)["val_loss"] for folder in ("one", "two")]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-4, atol=1e-5)


def test_streams_differ_by_seed_and_step() -> None:
    seeds = {
        stream_seed("train", seed, step) & 0xFFFFFFFF for seed in range(10) for step in range(100)
    }
    assert len(seeds) == 1000
    assert stream_seed("train", 1, 2) == stream_seed("train", 1, 2) < 2**63


def test_training_digits_are_bent_anew_in_every_epoch() -> None:
    settings = fresh_settings(Run(experiment="mnist_addition", schedule="fast", batch_size=100))
    straight_settings = settings | {"schedule": settings["schedule"] | {"bend": 0.0}}
    cpu = torch.device("cpu")

    def made(settings: dict[str, Any]) -> batches.DigitData:
        found = batches.make_data(settings, None)
        assert isinstance(found, batches.DigitData)
        return found

    bent, straight = made(settings), made(straight_settings)
    steps = len(bent.digits["train"]) // 100  # of an epoch
    digits = [bent._training_digits(step, cpu).images for step in (0, steps, steps + 1)]
    assert torch.equal(digits[0], digits[1]) and not torch.equal(digits[1], digits[2])
    assert not torch.equal(digits[0], straight._training_digits(0, cpu).images)

    images, sums = bent.draw("train", steps + 5, cpu)
    bent.draw("train", 0, cpu)
    again = made(settings).draw("train", steps + 5, cpu)
    assert torch.equal(again[0], images), "a resumed run draws the same"
    unbent = straight.draw("train", steps + 5, cpu)
    assert torch.equal(unbent[1], sums) and not torch.equal(unbent[0], images)
    for split in ("validation", "test"):
        assert torch.equal(bent.draw(split, 0, cpu)[0], straight.draw(split, 0, cpu)[0])


def test_batches_of_files_are_decided_by_the_step() -> None:
    def first(rank: tuple[int, int], start: int, count: int) -> list[list[tuple[int, int]]]:
        steps = iter(batches._BatchSampler(10, 4, 0, rank, lambda: start))
        return [next(steps) for _ in range(count)]

    whole = first((0, 1), 0, 5)
    assert first((0, 1), 3, 2) == whole[3:]
    halves = [
        left + right for left, right in zip(first((0, 2), 0, 5), first((1, 2), 0, 5), strict=True)
    ]
    assert halves == whole
    indices = [index for batch in whole for _, index in batch]
    assert sorted(indices[:10]) == sorted(indices[10:]) == list(range(10))


def test_schedules_fall_as_they_should() -> None:
    paper = Schedule(steps=300, batch_size=1, lr=1.0, milestones=(1 / 3, 2 / 3))
    assert [paper.factor(step) for step in (0, 99, 100, 200, 299)] == pytest.approx(
        [1, 1, 0.1, 0.01, 0.01]
    )
    fast = Schedule(steps=1000, batch_size=1, lr=1.0, easy=(0.1, 0.5))
    factors = [fast.factor(step) for step in range(1000)]
    assert max(factors) == 1.0 == factors[100]
    assert 0 < factors[0] < 0.02 and factors[-1] < 1e-4
    assert [fast.difficulty(step) for step in (0, 100, 300, 500, 999)] == pytest.approx(
        [0, 0, 0.5, 1, 1]
    )


def test_every_network_has_an_experiment_and_every_cell_a_network() -> None:
    fitting = {name for entry in EXPERIMENTS.values() for name in entry.networks()}
    assert fitting == set(list_models())
    for cells in TABLES.values():
        for cell in cells:
            assert cell.model in EXPERIMENTS[cell.experiment].networks()
    assert [len(cells) for cells in TABLES.values()] == [36, 6, 4, 8, 20, 3]
