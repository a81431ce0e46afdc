"""The gather by pixels: every map that has an inverse, beside the definition."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from bench.definition import identity
from bench.layouts import laid_out

pytest.importorskip("triton")

import triton.language as tl
from torch import Tensor

from bench import definition
from stn_triton.autograd import _PRODUCTS
from stn_triton.kernels.backward_pixels import pixel_backward
from stn_triton.kernels.launch import INTERPRET
from stn_triton.kernels.pixels import gather as pixel_gather
from stn_triton.transforms import Options
from support.checks import draw_theta, mostly_slow, pairwise, plain, slow, within_budget
from support.kernels import HOSTILE

pytestmark = pytest.mark.usefixtures("poisoned_memory")


def true_gradient(
    u: Tensor, theta: Tensor, g: Tensor, out_size: tuple[int, ...], options: Options, run: Any
) -> Tensor:
    """The gradient of the input by `run`, a definition of sampling."""
    u = u.detach().requires_grad_()
    output = run(
        u, theta, out_size, transform=options.transform, mode=options.mode,
        padding_mode=options.padding_mode, align_corners=options.align_corners,
        antialias=False if options.samples == 1 else options.samples,
    )  # fmt: skip
    return torch.autograd.grad(output, u, g.to(output.dtype), materialize_grads=True)[0]


def compare(u: Tensor, theta: Tensor, out_size: tuple[int, ...], options: Options) -> Tensor:
    """Compares the gradient of the input with the definition's, and returns it."""
    trailing = definition.theta_dims(theta, options.transform)
    k = theta.shape[1 : theta.dim() - trailing]
    g = torch.randn(u.shape[0], *k, u.shape[1], *out_size, device=u.device).to(u.dtype)
    found = pixel_backward(g, u, theta, None, out_size, options)
    assert found.shape == u.shape
    if u.dtype == torch.float64:
        expected = true_gradient(u, theta, g, out_size, options, definition.sample)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-9 * g.abs().sum().item())
    else:
        true = true_gradient(
            u.double(), theta.double(), g.double(), out_size, options, definition.sample
        )
        low = true_gradient(u, theta, g, out_size, options, plain)
        within_budget(found, low, true, pixels=max(*u.shape[2:], *out_size))
    return found


def image(*shape: int, dtype: torch.dtype = torch.float64, device: torch.device) -> Tensor:
    return torch.randn(*shape, dtype=dtype, device=device)


MAPS = {"affine": 2, "attention": 2, "projective": 2, "volume": 3, "volume attention": 3}
FACTORS = {
    "map": list(MAPS),
    "mode": ["bilinear", "nearest", "bicubic"],
    "padding_mode": ["zeros", "border", "reflection"],
    "align_corners": [False, True],
    "k": [None, 2],
    "samples": [1, 2],
    "channels": [1, 3, "4 last"],
    "dtype": [torch.float32, torch.float64],
}


def has_kernel(case: dict[str, Any]) -> bool:
    if MAPS[case["map"]] == 3 and (case["mode"] == "bicubic" or case["samples"] > 1):
        return False
    return case["map"] != "projective" or case["padding_mode"] != "reflection"


@pytest.mark.parametrize(
    "case", mostly_slow([case for case in pairwise(FACTORS) if has_kernel(case)], 12), ids=str
)
def test_options(case: dict[str, Any], device: torch.device) -> None:
    transform = case["map"].removeprefix("volume").strip() or "affine"
    ndim, k, dtype = MAPS[case["map"]], case["k"], case["dtype"]
    in_size, out_size = ((3, 6, 7), (4, 3, 3)) if ndim == 3 else ((6, 9), (5, 6))
    options = Options(
        transform, case["mode"], case["padding_mode"], align_corners=case["align_corners"],
        samples=case["samples"],
    )  # fmt: skip
    torch.manual_seed(0)
    theta = draw_theta(
        (1,) if k is None else (1, k), dtype, device, in_size, out_size, transform=transform,
        mode=case["mode"], align=case["align_corners"], spread=0.5,
        antialias=case["samples"] if case["samples"] > 1 else False,
    )  # fmt: skip
    channels = 4 if case["channels"] == "4 last" else case["channels"]
    u = image(1, channels, *in_size, dtype=dtype, device=device)
    if case["channels"] == "4 last":
        u = laid_out(u, "channels_last")
    compare(u, theta, out_size, options)


@pytest.mark.parametrize("mode", ["nearest", slow("bicubic")])
@pytest.mark.parametrize("padding_mode", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("name", mostly_slow(list(HOSTILE), 10))
def test_hostile_thetas(name: str, padding_mode: str, mode: str, device: torch.device) -> None:
    if padding_mode == "reflection" and "huge" in name:
        pytest.skip("folded so often that rounding decides")
    torch.manual_seed(0)
    u = image(1, 1, 6, 13, device=device)
    theta = torch.tensor([HOSTILE[name]], dtype=torch.float64, device=device)
    if mode == "nearest":
        theta = theta + 1e-4 * torch.tensor([[[3, 1, 7], [2, 5, 4]]], device=device)
    compare(u, theta, (7, 9), Options(mode=mode, padding_mode=padding_mode))


HOMOGRAPHIES = {
    "horizon": [0.9, 0.1, 0.03, -0.1, 0.8, 0.1, 0.9, 0.7, 1.0],
    "horizon through the middle": [0.9, 0.1, 0.2, -0.1, 0.8, 0.1, 1.0, 0.3, 0.0],
    "behind": [0.9, 0.1, 0.03, -0.1, 0.8, 0.1, 0.1, 0.2, -1.0],
    "z = 0 on a row": [1.0, 0.0, 0.1, 0.0, 0.0, 0.4, 0.0, 1.0, 0.0],
    "z = 0 everywhere": [0.9, 0.1, 0.0, -0.1, 0.8, 0.1, 0.0, 0.0, 0.0],
    "a line": [0.9, 0.3, 0.1, 0.9, 0.3, 0.1, 0.1, 0.2, 1.0],
    "nearly a line": [0.9, 0.3, 0.1, 0.9, 0.3 + 1e-7, 0.1, 0.1, 0.2, 1.0],
    "a point": [0.0, 0.0, 0.1, 0.0, 0.0, 0.2, 0.0, 0.0, 1.0],
    "rank 1": [0.2, 0.1, 0.3, 0.1, 0.05, 0.15, 0.4, 0.2, 0.6],
    "all zero": [0.0] * 9,
    "far": [1.0, 0.0, 30.0, 0.0, 1.0, -50.0, 0.1, 0.0, 1.0],
    "huge": [1e5, 3e4, 0.1, -3e4, 1e5, 0.2, 0.1, 0.2, 1.0],
    "tiny": [1e-6, 0.0, 0.1, 0.0, 1e-6, 0.2, 0.1, 0.2, 1.0],
    "large numbers": [x * 1e30 for x in (0.9, 0.1, 0.03, -0.1, 0.8, 0.1, 0.3, 0.2, 1.0)],
    "nan": [0.9, math.nan, 0.1, 0.2, 0.8, 0.1, 0.1, 0.2, 1.0],
    "nan below": [0.9, 0.3, 0.1, 0.2, 0.8, 0.1, math.nan, 0.2, 1.0],
    "inf": [0.9, 0.3, 0.1, 0.2, math.inf, 0.1, 0.1, 0.2, 1.0],
    "inf below": [0.9, 0.3, 0.1, 0.2, 0.8, 0.1, 0.1, math.inf, 1.0],
}


@pytest.mark.parametrize("padding_mode", ["zeros", "border"])
@pytest.mark.parametrize("name", mostly_slow(list(HOMOGRAPHIES), 9))
def test_homographies(name: str, padding_mode: str, device: torch.device) -> None:
    torch.manual_seed(1)
    u = image(1, 1, 7, 9, device=device)
    theta = torch.tensor(HOMOGRAPHIES[name], dtype=torch.float64, device=device).view(1, 3, 3)
    compare(u, theta, (8, 5), Options("projective", padding_mode=padding_mode))


VOLUMES = {
    "a plate": [[0.9, 0.3, 0.2, 0.1], [0.1, 0.8, -0.2, 0.0], [1.0, 1.1, 0.0, 0.1]],
    "a needle": [[0.9, 0.3, 0.2, 0.1], [0.9, 0.3, 0.2, 0.03], [-0.9, -0.3, -0.2, 0.1]],
    "a point": [[0.0, 0.0, 0.0, 0.1], [0.0, 0.0, 0.0, 0.2], [0.0, 0.0, 0.0, -0.1]],
    "one axis": [[0.9, 0.0, 0.0, 0.1], [0.0, 0.0, 0.0, 0.2], [0.0, 0.0, 0.0, -0.1]],
    "far": [[1.0, 0.1, 0.0, 40.0], [0.0, 1.0, 0.1, 0.0], [0.1, 0.0, 1.0, -30.0]],
    "huge": [[1e6, 3e5, 0.0, 0.1], [0.0, 1e6, 2e5, 0.0], [1e5, 0.0, 1e6, 0.3]],
    "nan": [[1.0, 0.1, 0.0, 0.1], [0.0, math.nan, 0.1, 0.0], [0.1, 0.0, 1.0, 0.3]],
    "inf": [[1.0, 0.1, 0.0, 0.1], [0.0, 1.0, 0.1, math.inf], [0.1, 0.0, 1.0, 0.3]],
}


@pytest.mark.parametrize("padding_mode", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("name", mostly_slow(list(VOLUMES), 5))
def test_volumes(name: str, padding_mode: str, device: torch.device) -> None:
    if padding_mode == "reflection" and name == "huge":
        pytest.skip("folded so often that rounding decides")
    torch.manual_seed(2)
    u = image(1, 1, 3, 4, 5, device=device)
    theta = torch.tensor([VOLUMES[name]], dtype=torch.float64, device=device)
    compare(u, theta, (3, 2, 4), Options(padding_mode=padding_mode))


@pytest.mark.parametrize("align_corners", [False, slow(True)])
@pytest.mark.parametrize("mode", ["bilinear", "nearest", slow("bicubic")])
@pytest.mark.parametrize("scale", [3.1, slow(9.3), slow(40.0)], ids=["few", "many", "too many"])
def test_mirrored_copies(
    scale: float, mode: str, align_corners: bool, device: torch.device
) -> None:
    """An output sees a few copies of the image, more than are visited together, or too many to tell apart."""
    torch.manual_seed(3)
    theta = torch.tensor(
        [[[scale, 0.3, 0.07], [-0.2, 0.8 * scale, 0.31]]], dtype=torch.float64, device=device
    )
    u = image(1, 1, 3, 4, device=device)
    compare(u, theta, (6, 7), Options("affine", mode, "reflection", align_corners=align_corners))


@pytest.mark.parametrize("align_corners", [slow(False), True])
@pytest.mark.parametrize("mode", ["bilinear", slow("bicubic")])
@pytest.mark.parametrize("size", [(1, 5), slow((4, 1)), slow((1, 1))], ids=str)
@pytest.mark.parametrize("padding_mode", ["border", "reflection"])
def test_images_of_one_row_or_column(
    padding_mode: str, size: tuple[int, int], mode: str, align_corners: bool, device: torch.device
) -> None:
    torch.manual_seed(4)
    theta = torch.tensor([[[0.8, 0.3, 0.4], [-0.4, 1.3, 0.2]]], dtype=torch.float64, device=device)
    u = image(1, 1, *size, device=device)
    compare(u, theta, (4, 3), Options("affine", mode, padding_mode, align_corners=align_corners))


@pytest.mark.parametrize(
    "values", [(math.nan, 0, 0), slow((0, math.inf, 0)), (1e38, 1, 0), slow((3e5, 0, 1e9))], ids=str
)
def test_reflection_of_what_is_far_or_not_finite(
    values: tuple[float, float, float], device: torch.device
) -> None:
    """Coordinates that are not finite lie at index 0; finite ones that are far lie there in single precision."""
    torch.manual_seed(5)
    theta = identity("affine")[None].to(device).float()
    theta[0, 1] += torch.tensor(values, device=device)
    u = image(1, 1, 5, 6, device=device, dtype=torch.float32)
    g = torch.randn(1, 1, 4, 5, device=device)
    found = pixel_backward(g, u, theta, None, (4, 5), Options(padding_mode="reflection"))
    if not theta.isfinite().all():
        assert not found[..., 1:, :].any()
    torch.testing.assert_close(found.sum(), g.sum(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("transform", ["affine", slow("projective")])
def test_pixels_one_by_one(
    transform: str, monkeypatch: pytest.MonkeyPatch, device: torch.device
) -> None:
    """Every pixel has its outputs in the lanes, along rows for one output size and along columns for the other."""
    if not INTERPRET:
        pytest.skip("compiled kernels keep their constants")
    monkeypatch.setattr(pixel_gather, "PATIENCE", tl.constexpr(1))
    monkeypatch.setattr(pixel_gather, "ONE_BY_ONE", tl.constexpr(0))
    torch.manual_seed(6)
    theta = identity(transform)[None].to(device) + 0.1
    for out_size in ((35, 4), (3, 40)):
        compare(image(1, 1, 2, 3, device=device), theta, out_size, Options(transform))


@pytest.mark.slow
def test_voxels_one_by_one(monkeypatch: pytest.MonkeyPatch, device: torch.device) -> None:
    if not INTERPRET:
        pytest.skip("compiled kernels keep their constants")
    monkeypatch.setattr(pixel_gather, "PATIENCE", tl.constexpr(1))
    monkeypatch.setattr(pixel_gather, "ONE_BY_ONE", tl.constexpr(0))
    torch.manual_seed(7)
    theta = torch.eye(3, 4, dtype=torch.float64, device=device)[None] + 0.05
    compare(image(1, 1, 1, 2, 2, device=device), theta, (2, 33, 2), Options())
    compare(image(1, 1, 2, 1, 2, device=device), theta, (2, 2, 5), Options(padding_mode="border"))


@pytest.mark.parametrize(
    ("transform", "mode", "padding_mode"),
    [
        ("affine", "bilinear", "reflection"),
        slow("affine", "bicubic", "border"),
        slow("affine", "bilinear", "border"),
        slow("affine", "bicubic", "reflection"),
        ("projective", "bilinear", "zeros"),
        slow("projective", "bicubic", "border"),
    ],
)
def test_change_along_a_tangent(
    transform: str, mode: str, padding_mode: str, device: torch.device
) -> None:
    torch.manual_seed(8)
    theta = draw_theta(
        (1, 2), torch.float64, device, (5, 6), (6, 5), transform=transform, mode="bilinear",
        align=False, spread=0.6,
    )  # fmt: skip
    u, g = image(1, 2, 5, 6, device=device), image(1, 2, 2, 6, 5, device=device)
    along, options = torch.randn_like(theta), Options(transform, mode, padding_mode)
    found = pixel_backward(g, u, theta, None, (6, 5), options, along)
    expected = _PRODUCTS["adjoint"].formula(None, (6, 5), options, g, u, theta, along)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9 * expected.abs().max().item())


@pytest.mark.parametrize("value", [slow(math.inf), math.nan])
@pytest.mark.parametrize("padding_mode", ["zeros", slow("reflection")])
def test_gradients_that_are_not_finite(
    padding_mode: str, value: float, device: torch.device
) -> None:
    """They reach the pixels that they touch and no others: a tap outside is left out, not multiplied by 0."""
    torch.manual_seed(9)
    theta = torch.tensor([[[0.8, 0.31, 0.33], [-0.27, 0.9, 0.12]]], device=device)
    u = image(1, 1, 9, 17, dtype=torch.float32, device=device)
    g = torch.randn(1, 1, 6, 8, device=device)
    g[..., 0, 0], g[..., 3, 4] = value, value
    options = Options(mode="bicubic", padding_mode=padding_mode)
    found = pixel_backward(g, u, theta, None, (6, 8), options)
    expected = true_gradient(u, theta, g, (6, 8), options, definition.sample)
    assert torch.equal(found.isfinite(), expected.isfinite())
    assert not found.isfinite().all()


def test_the_same_bits_again(device: torch.device) -> None:
    torch.manual_seed(10)
    theta = torch.tensor([[[0.3, 0.31, 0.33], [-0.27, 0.2, 0.12]]], device=device)
    u, g = torch.randn(1, 2, 5, 9, device=device), torch.randn(1, 2, 9, 8, device=device)
    options = Options(padding_mode="reflection")
    first = pixel_backward(g, u, theta, None, (9, 8), options)
    assert torch.equal(first, pixel_backward(g, u, theta, None, (9, 8), options))


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_outputs_near_an_end_that_nothing_folds_count_once(mode: str, device: torch.device) -> None:
    """With aligned corners the pixels at the ends are their own mirror images."""
    theta = torch.tensor([[0.83, 0.013, -0.041]], dtype=torch.float64, device=device)
    u = image(1, 2, 4, 5, device=device)
    compare(u, theta, (5, 4), Options("attention", mode, "reflection", align_corners=True))
