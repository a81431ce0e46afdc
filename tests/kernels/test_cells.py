"""The gather by cells: every way in which a cell finds its outputs, and every shape of a tile."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch

pytest.importorskip("triton")

from stn_triton.kernels import backward_cells
from stn_triton.kernels.cells import paths, pixel_by_pixel
from stn_triton.kernels.cells import tile as cell_tile
from support.checks import check, distance_to_kinks, plain, slow, triton_sample, with_gradients
from support.kernels import interpreted, turn

pytestmark = pytest.mark.usefixtures("poisoned_memory")


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
    """Each map uses only the path that is meant for it, and that path finds all outputs."""
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
    """What cells give to pixels of the next tile arrives once, and nothing enters theta's sums twice."""
    u = torch.randn(1, 1, *size, device=device)
    theta = torch.tensor([turn(14, 0.9, 0.033, 0.017)], device=device)
    assert distance_to_kinks(theta, size, (9, 8), "affine", "bilinear", False) > 1e-4
    check(triton_sample, u, theta, (9, 8), reference=plain, padding_mode=padding_mode)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_several_transformers_are_rounded_once(dtype: torch.dtype, device: torch.device) -> None:
    """The sum over transformers is right whether some of them reach a pixel or none does."""
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
    """A cotangent that is not finite, at an output that samples outside the image, reaches no gradient."""
    u = torch.randn(1, 1, 3, 3, device=device)
    # The output shows the image a pixel to the left.
    theta = torch.tensor([[[1.0, 0.0, 2 / 3], [0.0, 1.0, 0.0]]], device=device)
    g = torch.randn(1, 1, 3, 3, device=device)
    clean = with_gradients(triton_sample, u, theta, g.clone(), (3, 3))
    g[..., 2] = value
    found = with_gradients(triton_sample, u, theta, g, (3, 3))
    g[..., 2] = 0.0
    zeroed = with_gradients(triton_sample, u, theta, g, (3, 3))
    for name in ("input gradient", "theta gradient"):
        assert torch.equal(found[name], zeroed[name]), name
    assert clean["input gradient"].isfinite().all()


def visits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts the steps by cells and pixel by pixel; every lane visits one output in a step."""
    count = [0, 0]
    for index, (module, name) in enumerate(((paths, "give"), (pixel_by_pixel, "_visit"))):
        original = getattr(module, name)

        def counted(*args: Any, index: int = index, original: Any = original) -> Any:
            count[index] += 1
            return original(*args)

        monkeypatch.setattr(module, name, counted)
    return count


@interpreted
def test_the_identity_visits_one_candidate_a_cell(
    monkeypatch: pytest.MonkeyPatch, device: torch.device
) -> None:
    count = visits(monkeypatch)
    u = torch.randn(1, 1, 4, 6, device=device)
    theta = torch.tensor([[[1.0, 0, 0], [0, 1, 0]]], device=device)
    with_gradients(triton_sample, u, theta, torch.ones_like(u), (4, 6))
    assert count == [2 + 4, 0]  # the column on the left, the row above, four rows


@interpreted
def test_a_tile_that_no_output_reaches_visits_nothing(
    monkeypatch: pytest.MonkeyPatch, device: torch.device
) -> None:
    count = visits(monkeypatch)
    u = torch.randn(1, 1, 5, 6, device=device)
    theta = torch.tensor([[[0.7, 0.7, 9.0], [-0.7, 0.7, 0]]], device=device)
    found = with_gradients(triton_sample, u, theta, torch.ones_like(u), (5, 6))
    assert count == [0, 0]
    assert not found["input gradient"].any()


@interpreted
@pytest.mark.parametrize("padding_mode", ["zeros", "border"])
@pytest.mark.parametrize("degrees", [0, slow(30)])
def test_tiles_pixel_by_pixel(
    degrees: float, padding_mode: str, monkeypatch: pytest.MonkeyPatch, device: torch.device
) -> None:
    """The gradients are the same where lanes hold outputs instead of inputs."""
    u = torch.randn(1, 2, 2, 2, dtype=torch.float64, device=device)
    theta = torch.tensor([turn(degrees, 1.0, 0.013, 0.017)], dtype=torch.float64, device=device)
    run = partial(
        check, triton_sample, u, theta, (12, 14), reference=plain, padding_mode=padding_mode
    )
    count = visits(monkeypatch)
    torch.manual_seed(2)
    by_cells = run()
    assert count[0] > 40
    assert (count[1] > 0) == (padding_mode == "border")

    count[:] = 0, 0
    monkeypatch.setattr(backward_cells, "pixel_by_pixel_pays", lambda *_: True)
    torch.manual_seed(2)
    by_pixels = run()
    assert count[0] == 0
    assert 0 < count[1] < 100
    for name in by_cells:
        torch.testing.assert_close(by_pixels[name], by_cells[name], rtol=1e-12, atol=1e-12)


@interpreted
def test_a_point_that_takes_the_whole_output_goes_pixel_by_pixel(
    monkeypatch: pytest.MonkeyPatch, device: torch.device
) -> None:
    count = visits(monkeypatch)
    u = torch.randn(1, 1, 3, 3, device=device)
    theta = torch.tensor([[[0.0, 0.0, 0.11], [0.0, 0.0, -0.13]]], device=device)
    check(triton_sample, u, theta, (40, 50), reference=plain)
    assert count[0] == 0
    assert count[1] == 4 * 2 * 50  # four pixels, 40 rows of the output in 32 lanes, 50 columns
