"""Random hostile calls find nothing wrong, and would find what is."""

from __future__ import annotations

import os
import time
from typing import Any

import pytest
import torch

import stn_triton
from bench.hostile import calls, processes, refused, sampled
from bench.hostile.__main__ import main
from bench.hostile.calls import outcome
from bench.hostile.drawing import Draw
from bench.hostile.guards import Memory
from stn_triton import st_sample
from support.checks import needs_native, slow
from support.works import hostile


@pytest.mark.parametrize("part", range(4))
@needs_native
def test_native_and_torch(part: int) -> None:
    for number in range(60 * part, 60 * part + 60):
        found = outcome(11, number, ["native", "torch"])
        assert not found.wrong, found


@pytest.mark.parametrize("numbers", [range(30, 31), *map(slow, (range(10), range(10, 20)))])
@pytest.mark.filterwarnings(
    "ignore::RuntimeWarning"
)  # NumPy's, of numbers that overflow on purpose
def test_interpreted_kernels(numbers: range) -> None:
    for number in numbers:
        found = outcome(12, number, ["triton"])
        assert not found.wrong, found


def _number_of(kind: str, seed: int = 0) -> int:
    """The first call of a kind whose result has numbers."""
    for number in range(1000):
        found = outcome(seed, number, ["torch"])
        if found.kind == kind and ", 0" not in found.what and "(0" not in found.what:
            return number
    raise AssertionError(kind)


def test_a_call_depends_on_seed_and_number_alone() -> None:
    first = [outcome(3, number, ["torch"]).what for number in range(5)]
    assert first[::-1] == [outcome(3, number, ["torch"]).what for number in reversed(range(5))]
    assert first != [outcome(4, number, ["torch"]).what for number in range(5)]


def test_a_wrong_number_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    number = _number_of("sampled")
    true = stn_triton.st_sample

    def off(*args: Any, **options: Any) -> torch.Tensor:
        return true(*args, **options) * 1.01

    monkeypatch.setattr(stn_triton, "st_sample", off)
    wrong = outcome(0, number, ["torch"]).wrong
    assert any("output" in each for each in wrong), wrong
    assert any("gradient" in each for each in wrong), wrong


def test_an_argument_that_changes_is_found() -> None:
    options = {"transform": "affine", "mode": "bilinear"}
    call = sampled.Call(torch.randn(1, 2, 4, 4), torch.eye(2, 3)[None], (3, 3), options)
    honest = sampled.by_backend("torch")

    def changing(call: sampled.Call, cotangent: torch.Tensor) -> dict[str, torch.Tensor]:
        found = honest(call, cotangent)
        call.input.zero_()
        return found

    assert sampled.judged(call, honest, Draw(0, 0)) == []
    assert "an argument was changed" in sampled.judged(call, changing, Draw(0, 0))


def test_an_error_that_says_nothing_is_found() -> None:
    def run() -> None:
        raise ValueError("no")

    assert refused.misjudged(run, (ValueError,), "theta") == [
        "the message does not name theta: ValueError: no"
    ]
    assert "instead of TypeError" in refused.misjudged(run, (TypeError,), "theta")[0]
    assert "accepted" in refused.misjudged(lambda: None, (TypeError,), "theta")[0]


def test_bytes_beside_a_tensor_are_watched() -> None:
    memory = Memory()
    tensor = memory.guarded(torch.zeros(2, 3))
    assert memory.is_whole()
    tensor.as_strided((7,), (1,))[6] = 1.0
    assert not memory.is_whole()


@pytest.mark.slow
def test_what_crashes_or_hangs_is_found_and_the_rest_goes_on() -> None:
    found = list(processes.outcomes(0, range(5), ["torch"], 1.0, time.monotonic() + 500, hostile))
    assert [each.number for each in found] == list(range(5))
    assert [bool(each.wrong) for each in found] == [False, True, False, True, False]
    assert "exit code 3" in found[1].wrong[0]
    assert "no end within 1 s" in found[3].wrong[0]


def test_command_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", os.environ.get("TRITON_INTERPRET", "0"))
    assert main(["--backend", "torch", "--only", "2"]) == 0
    monkeypatch.setattr(calls, "_sampled", lambda draw, backend: ("this", ["bad"]))
    monkeypatch.setattr(calls, "_refused", lambda draw, backend: ("this", ["bad"]))
    monkeypatch.setattr(calls.utilities, "judged", lambda draw: ("this", ["bad"]))
    assert main(["--backend", "torch", "--seed", "5", "--only", "2"]) == 1
    assert "python -m bench.hostile --backend torch --seed 5 --only 2" in capsys.readouterr().out


# What such calls have found


def test_reflection_of_coordinates_beyond_32_bits() -> None:
    u = torch.randn(1, 2, 5, 5, dtype=torch.float64)
    theta = torch.tensor([[[1.0, 0.0, 1e10], [0.0, 1.0, 0.0]]], dtype=torch.float64)
    for mode in ("bilinear", "nearest", "bicubic"):
        found = [
            st_sample(u, theta, mode=mode, padding_mode="reflection", backend=backend)
            for backend in ("torch", *(["native"] if not stn_triton.native.library.MISSING else []))
        ]
        first = u[..., :1].expand_as(u) if mode != "bicubic" else found[0]
        assert all(torch.allclose(each, first) for each in found), mode


def test_drawn_calls_are_varied() -> None:
    drawn = [str(sampled.drawn(Draw(1, number))) for number in range(300)]
    for word in (
        "nowhere",
        "kinks",
        "channels_last",
        "expanded",
        "index=",
        "antialias=True",
        "not finite",
        "bicubic",
    ):
        assert any(word in each for each in drawn), word


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mode", torch.zeros(2).numpy()),
        ("out_size", (2**40, 2**40)),
        ("out_size", b"44"),
        ("antialias", 2**31),
    ],
    ids=str,
)
def test_errors_name_the_argument(name: str, value: Any) -> None:
    options = {"out_size": (4, 4), name: value}
    with pytest.raises((TypeError, ValueError), match=name):
        st_sample(torch.zeros(1, 1, 4, 4), torch.eye(2, 3)[None], backend="torch", **options)
