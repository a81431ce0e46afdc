"""`python -m bench --shape`: one's own case beside every peer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

import stn_triton
from bench import __main__ as own
from bench import cpu, providers, timing

SMALL = ["--shape", "2x3x9x8", "--device", "cpu", "--seconds", "0.01"]


def rows_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert own.main([*SMALL, *arguments]) == 0
    return capsys.readouterr().out


def test_forward_and_both_ways(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    out = rows_of(capsys, "--k", "2", "--transform", "attention", "--json", str(file))
    assert "forward + backward, gradients: both" in out
    content = json.loads(file.read_text())
    assert content["k"] == 2
    assert content["out_size"] == [9, 8]
    for direction in ("fwd", "fwd+bwd"):
        timed = {r["provider"]: r for r in content["rows"] if r["direction"] == direction}
        assert timed["stn_triton"]["ratio"] is None
        assert timed["torch_eager"]["ratio"] > 0
        output = 2 * 2 * 3 * 9 * 8 * 4  # N, K, C, the size and the bytes of a float
        assert timed["stn_triton"]["peak_bytes"] >= output
        # PyTorch's own operations also make a grid.
        assert timed["torch_eager"]["peak_bytes"] > timed["stn_triton"]["peak_bytes"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--transform", "shear"], "transform must be one of 'affine'"),
        (["--shape", "2x3x8"], "--shape must be NxCxHxW or NxCxDxHxW, got 3 numbers"),
        (["--shape", "2x0x8x8"], "--shape must be of positive numbers"),
        (["--shape", "2x3x8by8"], "a size is written as 56x56, got '2x3x8by8'"),
        (["--shape", "1x1x4x4x4", "--transform", "tps"], "tps"),
        (["--out-size", "4"], "--out-size must have 2 numbers, got (4,)"),
        (["--antialias", "2", "--align-corners"], "antialias needs align_corners=False"),
        (["--k", "0"], "--k must be at least 1, got 0"),
        (["--seconds", "nan"], "--seconds must be positive and finite, got nan"),
        (["--seconds", "inf"], "--seconds must be positive and finite, got inf"),
        (["--threads", "0"], "--threads: must be a whole number, at least 1, got '0'"),
        (["--json", "."], "--json: must be a file, got the folder '.'"),
        (["--json", f"{__file__}/rows.json"], "rows.json' cannot be written: "),
    ],
)
def test_refuses(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        own.main([*SMALL, *arguments])
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("shape", ["64x64x99999x99999", "99999999x9999x9999x9999"])
def test_a_shape_beyond_memory_is_one_line(shape: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert own.main(["--shape", shape, "--device", "cpu"]) == 1
    line = capsys.readouterr().err.strip()
    assert line.startswith("python -m bench: out of memory: ")
    assert line.endswith("; try a smaller --shape or --out-size")
    assert "\n" not in line


def test_a_file_that_cannot_be_written_is_refused_before_measuring(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with pytest.raises(SystemExit) as stopped:
        cpu.main(["--json", str(tmp_path)])
    assert stopped.value.code == 2
    assert "--json: must be a file, got the folder" in capsys.readouterr().err


def test_what_cannot_be_timed_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    if not providers.present("cpu", ["kornia"]):
        pytest.skip("needs a peer that cannot do everything")
    assert "kornia: no bicubic" in rows_of(capsys, "--mode", "bicubic", "--grads", "none")


def test_wrong_results_are_not_timed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = stn_triton.st_sample

    def wrong(*arguments: object, **options: object) -> Tensor:
        return right(*arguments, **options) * 1.01

    monkeypatch.setattr(stn_triton, "st_sample", wrong)
    assert own.main([*SMALL, "--grads", "none"]) == 1
    assert "stn_triton: output: error" in capsys.readouterr().out


def test_memory_of_a_call() -> None:
    def step() -> Tensor:
        large = torch.ones(1 << 20)
        return (large + 1).sum()

    assert 8 << 20 <= timing.peak_bytes(step, "cpu") < 9 << 20


def test_copy_speed_is_that_of_the_fastest_way(monkeypatch: pytest.MonkeyPatch) -> None:
    took = iter((8.0, 2.0))

    def time_cpu(steps: Sequence[timing.Step], repeats: int) -> timing.Timing:
        (step,) = steps
        assert isinstance(result := step(), Tensor)
        assert result.numel() == 1 << 22
        ms = next(took)
        return timing.Timing(ms, ms, ms, 0.0, None, None)

    monkeypatch.setattr(timing, "time_cpu", time_cpu)
    assert timing.copy_gb_s("cpu") == pytest.approx(2 * 4 * (1 << 22) / 2e-3 / 1e9)
    assert next(took, None) is None
