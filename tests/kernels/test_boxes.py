"""The gather through boxes where it is hard: many chunks, maps that fold and tear, thetas that gather everything."""

from __future__ import annotations

import math

import pytest
import torch

pytest.importorskip("triton")

import triton.language as tl
from torch import Tensor

from stn_triton import identity_theta, st_sample
from stn_triton.kernels import backward_boxes
from stn_triton.kernels.backward_boxes import box_backward
from stn_triton.kernels.coordinates import source_coordinates
from stn_triton.kernels.launch import INTERPRET
from stn_triton.transforms import Options
from support.checks import with_gradients
from support.kernels import HOSTILE

pytestmark = pytest.mark.usefixtures("poisoned_memory")


@pytest.fixture
def small_boxes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Boxes of 4 output pixels and chunks of 4 boxes: a small output has many chunks, and chunks of chunks."""
    if not INTERPRET:
        pytest.skip("compiled kernels keep their constants")
    for name, value in {"BOX_X": 2, "BOX_Y": 2, "CHUNK_X": 2, "CHUNK_Y": 2, "CHUNK": 4}.items():
        monkeypatch.setattr(backward_boxes, name, tl.constexpr(value))


def compare(u: Tensor, theta: Tensor, out_size: tuple[int, ...], options: Options) -> None:
    """Compares the gradient of the input with the torch backend's, both in double precision.

    Of a lattice once with the coordinates found by the kernels themselves, and once with those in memory.
    """
    k = theta.shape[1:2] if theta.dim() == 4 else ()
    g = torch.randn(u.shape[0], *k, u.shape[1], *out_size, dtype=u.dtype, device=u.device)
    sampling = {
        "transform": options.transform, "mode": options.mode, "padding_mode": options.padding_mode,
        "align_corners": options.align_corners, "backend": "torch",
    }  # fmt: skip
    expected = with_gradients(st_sample, u, theta, g, out_size, **sampling)["input gradient"]
    arguments = u, theta, None, out_size, options
    for coordinates in {None, source_coordinates(*arguments)}:
        found = box_backward(g, *arguments, coordinates=coordinates)
        assert found.shape == u.shape
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-9 * g.abs().sum().item())


def lattice(theta: list[list[float]], transform: str, device: torch.device) -> Tensor:
    """The control points of a lattice, moved by an affine map."""
    matrix = torch.tensor([theta], dtype=torch.float64, device=device)
    points = identity_theta(transform, (1,), dtype=torch.float64, device=device)
    return points @ matrix[..., :2].mT + matrix[..., 2].unsqueeze(1)


@pytest.mark.parametrize("padding_mode", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_thetas(name: str, padding_mode: str, device: torch.device) -> None:
    torch.manual_seed(0)
    u = torch.randn(1, 2, 6, 19, dtype=torch.float64, device=device)
    if padding_mode == "reflection" and "huge" in name:
        pytest.skip("folded so often that rounding decides")
    theta = lattice(HOSTILE[name], "piecewise_affine", device)
    compare(u, theta, (7, 11), Options("piecewise_affine", padding_mode=padding_mode))


@pytest.mark.parametrize("transform", ["tps", "piecewise_affine"])
def test_coordinates_whose_products_overflow(transform: str, device: torch.device) -> None:
    """They lie past the image's end, as do lanes of its last tile."""
    torch.manual_seed(0)
    u, g = torch.randn(1, 1, 9, 13, device=device), torch.randn(1, 1, 12, 11, device=device)
    theta = identity_theta(transform, (1,), device=device).contiguous()
    theta[0, -1] = 1e20
    found, expected = (
        with_gradients(st_sample, u, theta, g, (12, 11), transform=transform, backend=backend)
        for backend in ("triton", "torch")
    )
    torch.testing.assert_close(found["input gradient"], expected["input gradient"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "padding_mode"),
    [("nearest", "zeros"), ("bicubic", "border"), ("bilinear", "reflection")],
)
def test_many_chunks(padding_mode: str, mode: str, small_boxes: None, device: torch.device) -> None:
    torch.manual_seed(1)
    u = torch.randn(1, 2, 20, 9, dtype=torch.float64, device=device)
    theta = torch.stack(
        [lattice(torch.randn(2, 3).tolist(), "piecewise_affine", device) for _ in range(2)], 1
    )
    options = Options("piecewise_affine", mode=mode, padding_mode=padding_mode)
    compare(u, theta, (13, 12), options)


@pytest.mark.slow
@pytest.mark.parametrize("transform", ["projective", "tps", "piecewise_affine"])
def test_maps_that_fold_and_tear(transform: str, small_boxes: None, device: torch.device) -> None:
    torch.manual_seed(2)
    u = torch.randn(1, 1, 18, 21, dtype=torch.float64, device=device)
    theta = identity_theta(transform, (1,), dtype=torch.float64, device=device)
    theta = theta + 0.8 * torch.randn_like(theta)  # homographies: the horizon is inside the image
    compare(u, theta, (11, 15), Options(transform, padding_mode="reflection"))


@pytest.mark.slow
def test_chunks_of_the_usual_size(device: torch.device) -> None:
    torch.manual_seed(4)
    u = torch.randn(1, 1, 6, 20, dtype=torch.float64, device=device)
    theta = lattice([[0.9, 0.3, 0.1], [-0.2, 1.1, 0.0]], "piecewise_affine", device)
    out_size = (34, 140)
    sizes = (
        backward_boxes.BOX_Y,
        backward_boxes.CHUNK_Y,
        backward_boxes.BOX_X,
        backward_boxes.CHUNK_X,
    )
    high, tall, wide, long = (size.value for size in sizes)
    assert out_size[0] > high * tall
    assert out_size[1] > wide * long
    compare(u, theta, out_size, Options("piecewise_affine"))


@pytest.mark.slow
def test_what_is_not_finite_stays_near(device: torch.device) -> None:
    u = torch.zeros(1, 1, 32, 48, device=device)
    g = torch.ones(1, 1, 32, 48, device=device)
    g[..., 2, 3] = math.nan
    theta = identity_theta("piecewise_affine", (1,), device=device)
    found = box_backward(g, u, theta, None, (32, 48), Options("piecewise_affine"))
    assert found[..., 2, 3].isnan().all()
    near = torch.zeros_like(found, dtype=torch.bool)
    near[..., 1:4, 2:5] = True
    torch.testing.assert_close(found[~near], torch.ones_like(found[~near]))
