"""The native library for CPUs: every option against the definition."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

from bench.definition import identity
from stn_triton.transforms import TRANSFORMS
from support.checks import (
    DTYPES,
    draw_theta,
    exact,
    label,
    make_input,
    needs_native,
    pairwise,
    peer,
    plain,
    with_gradients,
    within_budget,
)
from support.native import CPU, FORMS, native

pytestmark = needs_native

PLANE = {
    "transform": list(FORMS),
    "mode": ["bilinear", "nearest", "bicubic"],
    "padding_mode": ["zeros", "border", "reflection"],
    "align_corners": [False, True],
    "layout": ["contiguous", "channels_last", "strided", "transposed"],
    "channels": [1, 3, 5, 8, 19],
    "k": [None, 2],
    "dtype": DTYPES,
}
VOLUME = {
    **PLANE,
    "transform": ["affine", "attention"],
    "mode": ["bilinear", "nearest"],
    "channels": [1, 4, 9],
}


def agrees(
    in_size: tuple[int, ...], out_size: tuple[int, ...], transform: str, layout: str, channels: int,
    k: int | None, dtype: torch.dtype, theta_dtype: torch.dtype | None = None, **options: Any,
) -> None:  # fmt: skip
    """Compares result and gradients of random images with the definition in float64."""
    n = 2
    u = make_input((n, channels, *in_size), dtype, layout, CPU)
    antialias = options.get("antialias", False)
    theta = draw_theta(
        (n,) if k is None else (n, k), theta_dtype or dtype, CPU, in_size, out_size, transform=transform,
        mode=options.get("mode", "bilinear"), align=options.get("align_corners", False), spread=0.3,
        form=FORMS[transform] if len(in_size) == 2 else None, antialias=antialias,
    )  # fmt: skip
    usual = options.get("mode") != "bicubic" and antialias is not True
    run = partial(native, transform=transform, **options)
    reference = partial(peer if usual else plain, transform=transform, **options)
    truth = partial(exact, transform=transform, **options)
    outer = (n,) if k is None else (n, k)
    cotangent = torch.randn(*outer, channels, *out_size).to(dtype)
    ours = with_gradients(run, u, theta, cotangent, out_size)
    low = with_gradients(reference, u, theta, cotangent, out_size)
    true = with_gradients(truth, u.double(), theta.double(), cotangent, out_size)
    for name in ours:
        # In double precision the truth itself has an error of this size.
        pixels = 64 * max(*in_size, *out_size) * (4 if options.get("mode") == "bicubic" else 1)
        within_budget(ours[name], low[name], true[name], name, pixels)


@pytest.mark.parametrize("case", pairwise(PLANE), ids=label)
def test_images(case: dict[str, Any], level: str) -> None:
    agrees((7, 9), (6, 11), **case)


@pytest.mark.parametrize("case", pairwise(VOLUME), ids=label)
def test_volumes(case: dict[str, Any], level: str) -> None:
    agrees((4, 5, 6), (3, 5, 4), **case)


@pytest.mark.parametrize("antialias", [2, 3, True])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("channels", [3, 9])
@pytest.mark.parametrize("transform", FORMS)
def test_antialias(antialias: bool | int, layout: str, channels: int, transform: str) -> None:
    if antialias is True and TRANSFORMS[transform].matrix is None:
        pytest.skip("refused")
    agrees((9, 8), (4, 3), transform, layout, channels, 2, torch.float32, antialias=antialias)


@pytest.mark.parametrize("padding_mode", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("mode", ["bilinear", "nearest", "bicubic"])
@pytest.mark.parametrize("in_size", [(1, 1), (1, 7), (6, 1), (2, 3), (3, 2)])
def test_images_smaller_than_a_window(
    in_size: tuple[int, int], mode: str, padding_mode: str
) -> None:
    for layout, channels in (("contiguous", 2), ("contiguous", 9), ("channels_last", 9)):
        if layout == "channels_last" and in_size == (1, 1):
            continue
        agrees(
            in_size, (4, 5), "affine", layout, channels, None, torch.float32,
            mode=mode, padding_mode=padding_mode,
        )  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("theta_dtype", DTYPES)
def test_theta_of_another_dtype(dtype: torch.dtype, theta_dtype: torch.dtype) -> None:
    for channels in (3, 9):
        agrees((6, 5), (4, 7), "affine", "contiguous", channels, None, dtype, theta_dtype)
    agrees((6, 5), (4, 7), "tps", "channels_last", 3, None, dtype, theta_dtype)


LONG_ROWS = [
    ("affine", (3, 700)),
    ("affine", (300, 300)),
    ("projective", (4, 530)),
    ("tps", (3, 600)),
]


@pytest.mark.parametrize(("transform", "size"), LONG_ROWS)
@pytest.mark.parametrize(
    ("layout", "channels"), [("contiguous", 1), ("contiguous", 8), ("channels_last", 3)]
)
def test_rows_of_several_pieces(
    transform: str, size: tuple[int, int], layout: str, channels: int
) -> None:
    """Rows that are computed in several pieces, and images that are read ahead in bands."""
    u = make_input((1, channels, *size), torch.float32, layout, CPU)
    theta = (identity(transform, 2, FORMS[transform]) * 0.9 + 0.01).float()[None]
    true = exact(u, theta, size, transform=transform)
    found = native(u, theta, size, transform=transform)
    within_budget(found, plain(u, theta, size, transform=transform), true, "output", 700)
    double = native(u.double(), theta.double(), size, transform=transform)
    torch.testing.assert_close(double, true, rtol=0, atol=1e-9)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("padding_mode", ["zeros", "border"])
@pytest.mark.parametrize(
    ("shape", "out_size"),
    [
        ((1, 450, 500), (270, 530)),
        ((3, 300, 310), (280, 340)),
        ((9, 170, 180), (190, 270)),
        ((2, 20, 80, 90), (11, 70, 270)),
    ],
)
def test_images_larger_than_the_cache(
    shape: tuple[int, ...], out_size: tuple[int, ...], padding_mode: str, layout: str
) -> None:
    """They are visited in tiles, turned ones above all, which partly lie outside."""
    ndim = len(shape) - 1
    theta = identity("affine", ndim).float()[None]
    theta[0, :2, :2] = torch.tensor([[0.9, 0.5], [-0.6, 1.1]])
    theta[0, :, -1] = 0.1
    options = {"padding_mode": padding_mode}
    u = make_input((1, *shape), torch.float32, layout, CPU)
    cotangent = torch.randn(1, shape[0], *out_size)
    wide = u.double(), theta.double(), cotangent.double(), out_size
    true = with_gradients(partial(exact, **options), *wide)
    double = with_gradients(partial(native, **options), *wide)
    found = with_gradients(partial(native, **options), u, theta, cotangent, out_size)
    low = with_gradients(partial(plain, **options), u, theta, cotangent, out_size)
    for name, numbers in true.items():
        largest = float(numbers.abs().amax())
        torch.testing.assert_close(double[name], numbers, rtol=0, atol=1e-11 * largest)
        if name != "theta gradient":  # A coordinate may round to the other side of a kink.
            within_budget(found[name], low[name], numbers, name, 700)


def test_a_large_output() -> None:
    u = torch.randn(1, 1, 3, 4)
    found = native(u, torch.eye(2, 3)[None], (2050, 2100), mode="nearest")
    true = exact(u, torch.eye(2, 3)[None], (2050, 2100), mode="nearest")
    assert (found.double() != true).double().mean() < 1e-3


def test_higher_derivatives() -> None:
    u = torch.randn(1, 1, 4, 5, dtype=torch.float64, requires_grad=True)
    theta = draw_theta(
        (1,), torch.float64, CPU, (4, 5), (3, 3), transform="affine", mode="bilinear", align=False, spread=0.2
    ).requires_grad_()  # fmt: skip
    run = partial(native, out_size=(3, 3))
    assert torch.autograd.gradcheck(run, (u, theta))
    assert torch.autograd.gradgradcheck(run, (u, theta))


def test_empty() -> None:
    for shape, k in (((0, 2, 3, 4), 2), ((2, 0, 3, 4), 2), ((2, 2, 3, 4), 0)):
        u, theta = (
            torch.randn(shape, requires_grad=True),
            torch.zeros(shape[0], k, 2, 3).requires_grad_(),
        )
        out = native(u, theta, (5, 6))
        assert out.shape == (shape[0], k, shape[1], 5, 6)
        of_u, of_theta = torch.autograd.grad(out.sum(), (u, theta))
        assert of_u.shape == u.shape
        assert not of_u.any()
        assert of_theta.shape == theta.shape
        assert not of_theta.any()
