"""The scripts in examples/ run, and do what they say."""

from __future__ import annotations

import importlib.util
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch

from support import ROOT

pytest.importorskip("einops")

EXAMPLES = ROOT / "examples"


def _example(name: str) -> dict[str, Any]:
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))


def test_there_are_no_others() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {
        "finetune_backbone", "own_network", "rectify_text", "register_images", "rotated_boxes",
    }  # fmt: skip


def test_own_network_learns() -> None:
    assert _example("own_network")["main"](steps=120) < 20


def test_finetuning_lowers_the_loss() -> None:
    losses = _example("finetune_backbone")["main"](steps=10)
    assert losses[-1] < losses[0]


def test_registration_finds_theta() -> None:
    found, truth = _example("register_images")["main"]()
    torch.testing.assert_close(found, truth, atol=2e-3, rtol=0)


def test_the_text_rectifier_learns_from_letters_alone(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    pytest.importorskip("PIL")
    example = _example("rectify_text")
    network = torch.nn.Sequential(example["rectifier"](), example["reader"]())
    losses = example["train"](network, 25)
    assert sum(losses[-5:]) < sum(losses[:5])
    assert network[0].regression.weight.abs().amax() > 0
    found = example["main"](steps=2, path=tmp_path / "lines.png")
    assert set(found) == {"without", "with"}
    assert (tmp_path / "lines.png").stat().st_size > 10_000


def test_boxes_learn_what_they_hold(tmp_path: Path) -> None:
    picture = tmp_path / "boxes.png"
    drawn = importlib.util.find_spec("matplotlib") is not None
    found, truth = _example("rotated_boxes")["main"](str(picture) if drawn else None)
    torch.testing.assert_close(found, truth, atol=5e-3, rtol=0)
    assert picture.is_file() == drawn
