"""Outputs that share no pixel of an input much larger than they are: zeros and plain stores."""

from __future__ import annotations

import math

import pytest
import torch

pytest.importorskip("triton")

from torch import Tensor

from stn_triton import st_sample
from stn_triton.kernels.backward_cells import cell_backward
from stn_triton.transforms import Options
from support.checks import with_gradients

pytestmark = pytest.mark.usefixtures("poisoned_memory")

SIZE, OUT_SIZE = (17, 22), (4, 5)
"""Of the identity's outputs neighbours are 4.3 and 4.4 pixels apart."""


def turned(degrees: float, zoom: float) -> list[list[float]]:
    """A map that turns and zooms, and shifts a little."""
    angle = math.radians(degrees)
    cos, sin = zoom * math.cos(angle), zoom * math.sin(angle)
    return [[cos, -sin, 0.047], [sin, cos, -0.023]]


MAPS = {
    "identity": (turned(0, 1), True),
    "turned": (turned(30, 1), True),
    "partly outside": (turned(110, 1.5), True),
    "almost too near": (turned(0, 0.48), True),
    "too near": (turned(0, 0.44), False),
    "near and turned": (turned(70, 0.2), False),
    "flat": ([[1.0, 0.0, 0.013], [1.0, 0.0, 0.017]], False),
    "one point": ([[0.0, 0.0, 0.1], [0.0, 0.0, 0.1]], False),
    "far outside": (turned(0, 1e9), None),
    "nan": ([[math.nan, 0.0, 0.0], [0.0, 1.0, 0.0]], False),
    "infinite": ([[1.0, 0.0, math.inf], [0.0, 1.0, 0.0]], False),
}
"""By name: a map, and whether its outputs are stored one by one; None: if the dtype can tell."""


def batch(device: torch.device, dtype: torch.dtype) -> Tensor:
    """All maps, in order."""
    return torch.tensor([theta for theta, _ in MAPS.values()], dtype=dtype, device=device)


@pytest.mark.parametrize(
    ("channels", "align_corners", "memory_format"),
    [
        (1, False, torch.contiguous_format),
        (3, True, torch.contiguous_format),
        (3, False, torch.channels_last),
        (8, True, torch.channels_last),
    ],
)
def test_gradients(
    channels: int, align_corners: bool, memory_format: torch.memory_format, device: torch.device
) -> None:
    torch.manual_seed(0)
    theta = batch(device, torch.float64)
    u = torch.randn(len(theta), channels, *SIZE, dtype=torch.float64, device=device)
    u = u.to(memory_format=memory_format)
    g = torch.randn(len(theta), channels, *OUT_SIZE, dtype=torch.float64, device=device)
    sampling = {"align_corners": align_corners}
    found, expected = (
        with_gradients(st_sample, u, theta, g, OUT_SIZE, backend=backend, **sampling)
        for backend in ("triton", "torch")
    )
    for name, wanted in expected.items():
        torch.testing.assert_close(
            found[name], wanted, rtol=1e-9, atol=1e-9, equal_nan=True, msg=lambda m, n=name: f"{n}: {m}"
        )  # fmt: skip


@pytest.mark.parametrize("wanted", ["input", "theta"])
def test_one_gradient_alone(wanted: str, device: torch.device) -> None:
    torch.manual_seed(0)
    theta = batch(device, torch.float64)[:6]
    u = torch.randn(len(theta), 2, *SIZE, dtype=torch.float64, device=device)
    given = {"input": u, "theta": theta}
    g = torch.randn(len(theta), 2, *OUT_SIZE, dtype=torch.float64, device=device)
    both = []
    for backend in ("triton", "torch"):
        leaf = given[wanted].clone().requires_grad_()
        output = st_sample(**{**given, wanted: leaf}, out_size=OUT_SIZE, backend=backend)
        both.append(torch.autograd.grad(output, leaf, g)[0])
    torch.testing.assert_close(*both, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_which_maps(dtype: torch.dtype, device: torch.device) -> None:
    """An image is left to plain stores where that is right, and its gradient is zeros so far."""
    theta = batch(device, dtype)
    u = torch.randn(len(theta), 1, *SIZE, dtype=dtype, device=device)
    g = torch.ones(len(theta), 1, *OUT_SIZE, dtype=dtype, device=device)
    apart = torch.empty(len(theta), dtype=torch.int32, device=device)
    options = Options("affine")
    zeros, _ = cell_backward(g, u, theta, None, OUT_SIZE, options, with_theta=False, apart=apart)
    for (name, (_, alone)), found in zip(MAPS.items(), apart.tolist(), strict=True):
        assert alone is None or found == alone, name
    assert not zeros[apart != 0].any()


def test_a_gradient_that_is_not_finite(device: torch.device) -> None:
    """It reaches its own taps alone."""
    theta = batch(device, torch.float32)[:2]
    u = torch.randn(2, 1, *SIZE, device=device)
    g = torch.ones(2, 1, *OUT_SIZE, device=device)
    g[0, 0, 3, 4] = math.nan
    found, expected = (
        with_gradients(st_sample, u, theta, g, OUT_SIZE, backend=backend)["input gradient"]
        for backend in ("triton", "torch")
    )
    assert found.isnan().sum() == 4
    torch.testing.assert_close(found, expected, equal_nan=True)
