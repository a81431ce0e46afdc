"""Whole tables: what `reproduce` writes, and how it ends when a run fails or is stopped."""

from __future__ import annotations

import functools
import json
import os
import platform
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("lightning")
pytest.importorskip("matplotlib")
pytest.importorskip("mlxtend")

from architectures import data
from architectures.checkpoint import CheckpointError
from architectures.commands.main import main
from architectures.training import batches, colocalise, jobs
from architectures.training.errors import UsageError
from architectures.training.module import Classification
from architectures.training.provenance import commit
from architectures.training.reproduce import reproduce
from architectures.training.results import Results
from architectures.training.run import Run
from architectures.training.tables import TABLES, Cell
from architectures.training.train import train
from support import ROOT
from support.runs import last_state

KEY = "mnist_addition-error-fcn-seed0"
OPTIONS: dict[str, Any] = {"schedule": "fast", "max_steps": 1, "models": "mnist_addition_fcn"}


@functools.cache
def _embedded() -> tuple[data.Digits, data.Digits]:
    train_digits, test_digits = data.load_embedded()
    few = data.Digits(images=test_digits.images[::20], labels=test_digits.labels[::20])
    return train_digits, few


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few examples to validate and test on, for runs in this process."""
    monkeypatch.setattr(batches, "load_digits", lambda data_dir: _embedded())
    monkeypatch.setattr(batches, "_VALIDATED", 20)
    monkeypatch.setattr(colocalise, "_ENCODER_STEPS", 2)


def _read(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results.json").read_text())


@pytest.mark.usefixtures("few")
def test_a_table_is_made_and_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table, failed = reproduce("table4", None, tmp_path, seeds=(0, 1), **OPTIONS)
    assert failed == {}
    folder = tmp_path / "table4-fast"
    found = _read(folder)
    errors = [run["error_percent"] for run in found["runs"]]
    mean, deviation = sum(errors) / 2, abs(errors[0] - errors[1]) / 2**0.5
    assert table.splitlines()[2] == f"| fcn | {mean:.1f} ± {deviation:.1f} (47.7) |"
    assert (
        "2 seeds (0, 1), 1 steps of 256 images, muon, learning rate 0.003, digits bent by 1 px"
        in table
    )
    assert table.splitlines()[2] in (folder / "table.md").read_text()
    assert "| 2st_fcn_tps | – (5.8) |" in (folder / "table.md").read_text()
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")

    run = found["runs"][0]
    assert (run["key"], run["seed"], run["steps"], run["examples"]) == (KEY, 0, 1, 50)
    assert (run["parameters"], run["paper_error_percent"]) == (470_675, 47.7)
    assert run["schedule"]["steps"] == 1 and run["minutes"] >= 0 and run["trained_on"] == 3666
    assert found["kind"] == "paper" and found["table"] == "table4" and found["schedule"] == "fast"
    assert found["data"] | {"digest": ""} == {
        "digest": "", "embedded": True, "train": 3666, "validation": 334, "test": 50,
    }  # fmt: skip
    assert found["versions"]["torch"] == torch.__version__ and found["device"]
    text = (folder / "results.json").read_text()
    assert str(tmp_path) not in text and platform.node() not in text

    printed = capsys.readouterr().out
    assert f"run 1 of 2: {KEY}\n" in printed and "run 2 of 2: " in printed
    assert f"{KEY}: error {errors[0]:.2f} % (paper: 47.7 %) after 1 steps, " in printed
    assert "; about " in printed and "left" in printed

    monkeypatch.setattr(jobs, "train", None)
    assert reproduce("table4", None, tmp_path, seeds=(0, 1), **OPTIONS) == (table, {})
    with pytest.raises(UsageError, match="nothing"):
        reproduce("table4", None, tmp_path, models="nothing")
    with pytest.raises(
        CheckpointError, match=r"was made with --max-steps 1, got 2; wanted the same"
    ):
        reproduce("table4", None, tmp_path, **OPTIONS | {"max_steps": 2})
    with pytest.raises(UsageError, match="mnist_addition has no option 'x'"):
        reproduce("table4", None, tmp_path, **OPTIONS, data_options={"x": 1})
    with pytest.raises(CheckpointError, match=r"--data-option left out, got \{'canvas': "):
        reproduce("table4", None, tmp_path, **OPTIONS, data_options={"canvas": (42, 42)})


@pytest.mark.usefixtures("few")
def test_co_localisation_tells_what_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TABLES, "table5", TABLES["table5"][10:12])
    table, _ = reproduce("table5", None, tmp_path, schedule="fast", max_steps=1)
    runs = _read(tmp_path / "table5-fast")["runs"]
    assert table.splitlines()[0] == "| found %, ours (paper's) | 0 | 1 |"
    assert [run["paper_found_percent"] for run in runs] == [81, 82]
    ours = [100 - run["error_percent"] for run in runs]
    assert [run["found_percent"] for run in runs] == ours
    assert table.splitlines()[2] == f"| TC | {ours[0]:.1f} (81.0) | {ours[1]:.1f} (82.0) |"


@pytest.mark.usefixtures("few")
def test_a_failed_run_is_told_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    finish = jobs.finish

    def fails(run: Run) -> dict[str, Any]:
        if run.seed == 0:
            raise OSError("/x: cannot be written: No space left on device")
        if run.seed == 1:
            raise AssertionError("a mistake")
        return finish(run)

    monkeypatch.setattr(jobs, "finish", fails)
    arguments = "reproduce table4 --fast --max-steps 1 --model mnist_addition_fcn --seeds 0,1,2"
    assert main([*arguments.split(), "--out", str(tmp_path)]) == 1
    told = capsys.readouterr().err
    assert f"reproduce: {KEY}: /x: cannot be written: No space left on device\n" in told
    assert "seed1: AssertionError: a mistake\n" in told and "Traceback" in told
    assert [run["seed"] for run in _read(tmp_path / "table4-fast")["runs"]] == [2]

    monkeypatch.setattr(jobs, "finish", finish)
    assert main([*arguments.split(), "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "1 of 3 runs are done already" in printed and "run 2 of 3: " in printed
    assert sorted(run["seed"] for run in _read(tmp_path / "table4-fast")["runs"]) == [0, 1, 2]


@pytest.mark.usefixtures("few")
def test_more_minutes_go_on(tmp_path: Path) -> None:
    options = OPTIONS | {"max_steps": 2_000}
    reproduce("table4", None, tmp_path, max_minutes=0.02, **options)
    first = _read(tmp_path / "table4-fast")["runs"][0]
    assert 0 < first["steps"] < 2_000 and first["max_minutes"] == 0.02 <= first["minutes"]
    reproduce("table4", None, tmp_path, max_minutes=0.02, **options)
    assert _read(tmp_path / "table4-fast")["runs"] == [first]
    # On a busy machine one step can take longer than the limit.
    minutes = first["minutes"] + 0.03
    table, _ = reproduce("table4", None, tmp_path, max_minutes=minutes, **options)
    (more,) = _read(tmp_path / "table4-fast")["runs"]
    assert more["steps"] > first["steps"] and more["minutes"] > first["minutes"]
    assert f"{more['steps']:,} steps (of 2,000)" in table


@pytest.mark.usefixtures("few")
def test_runs_of_train_are_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed, out in ((0, "a"), (1, "deep/b"), (7, "c")):
        train(
            Run(
                experiment="mnist_addition", model="mnist_addition_fcn", schedule="fast", seed=seed,
                max_steps=3, out=tmp_path / "made" / out, quiet=True,
            )
        )  # fmt: skip
    options = OPTIONS | {"max_steps": None, "runs": tmp_path / "made", "seeds": (0, 1)}
    monkeypatch.setattr("lightning.Trainer.fit", lambda *_, **__: pytest.fail("trained"))
    _, failed = reproduce("table4", None, tmp_path / "out", **options)
    assert failed == {}
    folder = tmp_path / "out/table4-fast"
    assert [(run["seed"], run["steps"]) for run in _read(folder)["runs"]] == [(0, 3), (1, 3)]
    assert last_state(folder / KEY)["global_step"] == 3
    assert f"{KEY}: taken from {tmp_path / 'made/a'}" in capsys.readouterr().out

    assert reproduce("table4", None, tmp_path / "out", **options)[1] == {}
    with pytest.raises(UsageError, match=r"got no last\.ckpt"):
        reproduce("table4", None, tmp_path / "x", **options | {"runs": tmp_path / "x"})
    (tmp_path / "made/d").mkdir()
    (tmp_path / "made/d/last.ckpt").write_bytes((tmp_path / "made/a/last.ckpt").read_bytes())
    with pytest.raises(CheckpointError, match=r"is for .*seed0, as .* is; wanted one run for it"):
        reproduce("table4", None, tmp_path / "y", **options)


def test_results_that_are_none_are_refused(tmp_path: Path) -> None:
    results = Results(table="table4", schedule="fast", max_steps=None, data={"digest": "x"})
    for text in ("{", "[]", '{"runs": 3}'):
        (tmp_path / "results.json").write_text(text)
        with pytest.raises(CheckpointError, match="not results of reproduce"):
            results.read(tmp_path / "results.json")


def test_ways_of_training_are_told_apart() -> None:
    cells = [
        Cell(row="a", column="x", experiment="e", model="m", paper=1.0),
        Cell(row="b", column="x", experiment="e", model="n", paper=None),
    ]
    schedule = {"steps": 10, "batch_size": 4, "optimiser": "sgd", "lr": 0.1}
    run = {"seed": 0, "steps": 10, "schedule": schedule, "error_percent": 2.0}
    facts = {"embedded": False, "train": 55_000, "validation": 5_000, "test": 10_000}
    results = Results(table="t", schedule="paper", max_steps=None, data=facts)
    results.runs = {
        "e-x-a-seed3": run | {"seed": 3},
        "e-x-a-seed0": run | {"error_percent": 4.0},
        "e-x-b-seed0": run | {"steps": 7},
    }
    text = results.markdown(cells)
    assert "| a | 3.0 ± 1.4 (1.0) |\n| b | 2.0 (–) |\n" in text
    assert (
        "files, 55,000 to train on, 5,000 for validation, 10,000 to test. Schedule: paper." in text
    )
    assert "- 2 seeds (0, 3), 10 steps of 4 images, sgd, learning rate 0.1: a x\n" in text
    assert text.endswith("- 1 seed (0), 7 steps (of 10) of 4 images, sgd, learning rate 0.1: b x")


def test_the_commit_is_of_this_code() -> None:
    command = ["git", "rev-parse", "HEAD"]
    here = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    found = commit()
    if here.returncode:
        assert found is None
    else:
        assert found is not None and here.stdout.startswith(found.rstrip("+"))


def test_a_stopped_table_says_how_far_it_came(
    few: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [
        "reproduce", "table4", "--fast", "--max-steps", "3", "--model", "mnist_addition_fcn",
        "--seeds", "0,1,2", "--out", str(tmp_path),
    ]  # fmt: skip
    step = Classification.training_step

    def interrupted(self: Classification, batch: Any, batch_idx: int) -> torch.Tensor:
        if self.hparams["seed"] == 1 and self.trainer.global_step == 1:
            signal.raise_signal(signal.SIGINT)
        return step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(Classification, "training_step", interrupted)
        assert main(command) == 130
    second = KEY.replace("seed0", "seed1")
    told = capsys.readouterr().err.strip()
    said = f"(1 of 3 runs are done; {second} is at step 2 of 3)"
    assert told == f"stopped; the same command goes on {said}"
    assert main(command) == 0
    assert len(_read(tmp_path / "table4-fast")["runs"]) == 3


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals are of another kind there")
def test_ctrl_c_saves_and_the_same_command_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a user sees it: two runs at once in processes, stopped and gone on with."""
    command = [
        sys.executable, "-m", "architectures", "reproduce", "table4", "--fast", "--max-steps", "40",
        "--model", "mnist_addition_fcn", "--seeds", "0,1", "--jobs", "2", "--out", str(tmp_path),
    ]  # fmt: skip
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    folder = tmp_path / "table4-fast"
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as run:
        end = time.monotonic() + 240
        while len(list(folder.glob("*/logs"))) < 2 and time.monotonic() < end:
            time.sleep(0.1)
        run.send_signal(signal.SIGINT)
        told = run.communicate(timeout=120)
    assert run.returncode == 130 and "stopped; the same command goes on" in told[1]
    reached = rf"; {KEY[:-1]}[01] (is at step \d+ of 40|has no checkpoint yet)"
    assert re.search(rf"on \(0 of 2 runs are done({reached}){{2}}\)", told[1]), told[1]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.chdir(ROOT)
    # In this process, where all is imported already; the two runs have processes of their own.
    assert main(command[3:]) == 0
    runs = _read(folder)["runs"]
    assert [(run["steps"], run["examples"]) for run in runs] == [(40, 1000)] * 2
    assert sorted(run["seed"] for run in runs) == [0, 1]


@pytest.mark.slow
@pytest.mark.parametrize("table", ["table2", "table3"])
def test_tables_of_pictures(table: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setitem(TABLES, table, TABLES[table][:1])
    kind, name = ("svhn", "8") if table == "table2" else ("cub", "14")
    folder = tmp_path / "data"
    options = ["--species", "2"] if kind == "cub" else []
    assert main(["data", "generate", kind, str(folder), "--images", name, *options]) == 0
    arguments = ["reproduce", table, "--fast", "--max-steps", "2", "--num-workers", "0"]
    assert main([*arguments, "--data-dir", str(folder), "--out", str(tmp_path)]) == 0
    found = _read(tmp_path / f"{table}-fast")
    assert found["runs"][0]["steps"] == 2 and not found["data"]["embedded"]
    assert all(found["data"][split] > 0 for split in ("train", "validation", "test"))
    assert str(tmp_path) not in json.dumps(found)
