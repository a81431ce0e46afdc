"""The gather by cells: every way in which a cell finds its outputs, and every shape of a tile."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch

pytest.importorskip("triton")

from stn_triton import st_sample
from stn_triton.kernels.cells import tile as cell_tile
from stn_triton.kernels.launch import INTERPRET
from support.checks import check, distance_to_kinks, plain, with_gradients

pytestmark = pytest.mark.usefixtures("poisoned_memory")
interpreted = pytest.mark.skipif(not INTERPRET, reason="looks into interpreted kernels")

triton_sample = partial(st_sample, backend="triton")


def turn(degrees: float, scale: float, tx: float = 0.0, ty: float = 0.0) -> list[list[float]]:
    c, s = scale * math.cos(math.radians(degrees)), scale * math.sin(math.radians(degrees))
    return [[c, -s, tx], [s, c, ty]]


PATHS = {
    "find_separable": turn(0, 1.07, 0.013, 0.017),
    "find_single": turn(40, 1.4, 0.013, 0.017),
    "give_diagonal": turn(37, 0.93, 0.013, 0.017),
    "give_parity": turn(20, 0.62, 0.113, 0.017),
    "give_listed": turn(30, 0.31, 0.113, 0.017),
}


@interpreted
@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
@pytest.mark.parametrize("path", PATHS)
def test_paths(path: str, mode: str, monkeypatch: pytest.MonkeyPatch, device: torch.device) -> None:
    """Each map takes its path alone, and that finds all outputs."""
    taken = set()
    for name in PATHS:
        original = getattr(cell_tile, name)

        def counted(*args: Any, name: str = name, original: Any = original) -> Any:
            taken.add(name)
            return original(*args)

        monkeypatch.setattr(cell_tile, name, counted)
    theta = torch.tensor([PATHS[path]], device=device)
    assert distance_to_kinks(theta, (6, 6), (6, 6), "affine", mode, False) > 1e-4
    u = torch.randn(1, 1, 6, 6, device=device)
    check(triton_sample, u, theta, (6, 6), reference=plain, mode=mode)
    assert taken == {path}


@pytest.mark.parametrize(
    ("channels", "channels_last", "dtype"),
    [
        (3, False, torch.float32),  # a tuple of three blocks
        (5, False, torch.float32),  # two programs, the last with a channel too many
        (3, True, torch.float16),  # neighbouring channels, but no vector of them
        (12, True, torch.bfloat16),  # vectors of four, one a lane
        (16, True, torch.bfloat16),  # two vectors of eight a cell
    ],
    ids=str,
)
def test_channels(
    channels: int, channels_last: bool, dtype: torch.dtype, device: torch.device
) -> None:
    u = torch.randn(1, channels, 3, 4, device=device).to(dtype)
    if channels_last:
        u = u.contiguous(memory_format=torch.channels_last)
    theta = torch.tensor([turn(25, 0.9, 0.013, 0.017)], device=device)
    check(triton_sample, u, theta, (4, 3), reference=plain)


@pytest.mark.parametrize("padding_mode", ["zeros", "border"])
@pytest.mark.parametrize("size", [(19, 33), pytest.param((3, 70), marks=pytest.mark.slow)], ids=str)
def test_several_tiles(size: tuple[int, int], padding_mode: str, device: torch.device) -> None:
    """What cells of one tile give to pixels of the next arrives once, theta's sums are not counted twice."""
    u = torch.randn(1, 1, *size, device=device)
    theta = torch.tensor([turn(14, 0.9, 0.033, 0.017)], device=device)
    assert distance_to_kinks(theta, size, (9, 8), "affine", "bilinear", False) > 1e-4
    check(triton_sample, u, theta, (9, 8), reference=plain, padding_mode=padding_mode)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_several_transformers_are_rounded_once(dtype: torch.dtype, device: torch.device) -> None:
    """Whatever reaches a pixel: some of the transformers, or none."""
    u = torch.randn(1, 2, 3, 4, device=device).to(dtype)
    thetas = [turn(25, 0.9), turn(0, 0.5, 9.0), turn(-30, 0.7, 0.1), turn(200, 1.2)]
    theta = torch.tensor([thetas], device=device)
    check(triton_sample, u, theta, (4, 3), reference=plain)
    away = theta[:, 1:2].expand(-1, 2, -1, -1)
    found = with_gradients(triton_sample, u, away, torch.ones(1, 2, 2, 4, 3), (4, 3))
    assert not found["input gradient"].any()
    assert not found["theta gradient"].any()


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_what_has_no_tap_changes_nothing(value: float, device: torch.device) -> None:
    """A cotangent that is not finite, at an output outside the image; also where the tile ends beyond it."""
    u = torch.randn(1, 1, 3, 3, device=device)
    theta = torch.tensor(
        [[[1.0, 0.0, 2 / 3], [0.0, 1.0, 0.0]]], device=device
    )  # a pixel to the left
    g = torch.randn(1, 1, 3, 3, device=device)
    clean = with_gradients(triton_sample, u, theta, g.clone(), (3, 3))
    g[..., 2] = value
    found = with_gradients(triton_sample, u, theta, g, (3, 3))
    g[..., 2] = 0.0
    zeroed = with_gradients(triton_sample, u, theta, g, (3, 3))
    for name in ("input gradient", "theta gradient"):
        assert torch.equal(found[name], zeroed[name]), name
    assert clean["input gradient"].isfinite().all()
