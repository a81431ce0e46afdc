"""The native library where results are known to the bit, and where numbers are not finite."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch

from bench.definition import identity
from stn_triton.native import sampler
from stn_triton.transforms import Options
from support.checks import (
    exact,
    make_input,
    needs_native,
    pairwise,
    plain,
    with_gradients,
    within_budget,
)
from support.native import CPU, FORMS, native

pytestmark = needs_native


TURNS = {
    "identity": (((1, 0, 0), (0, 1, 0)), lambda u: u),
    "flip": (((-1, 0, 0), (0, 1, 0)), lambda u: u.flip(-1)),
    "half turn": (((-1, 0, 0), (0, -1, 0)), lambda u: u.flip(-1, -2)),
    "quarter turn": (((0, 1, 0), (-1, 0, 0)), lambda u: u.transpose(-1, -2).flip(-1)),
    "transpose": (((0, 1, 0), (1, 0, 0)), lambda u: u.transpose(-1, -2)),
}  # fmt: skip


@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize("mode", ["bilinear", "nearest", "bicubic"])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_turns_are_exact(turn: str, mode: str, layout: str, level: str) -> None:
    entries, expected = TURNS[turn]
    theta = torch.tensor([entries], dtype=torch.float32)
    factors = {
        "size": [1, 2, 31, 42],
        "dtype": [torch.float32, torch.bfloat16, torch.float64],
        "channels": [1, 3, 9],
        "padding_mode": ["zeros", "border", "reflection"],
        "align_corners": [False, True],
    }
    for case in pairwise(factors):
        size, dtype, channels = case.pop("size"), case.pop("dtype"), case.pop("channels")
        u = make_input((1, channels, size, size), dtype, layout, CPU)
        found = native(u, theta, (size, size), mode=mode, **case)
        assert torch.equal(found, expected(u)), (size, dtype, channels, case)


@pytest.mark.parametrize("transform", FORMS)
def test_identities_are_exact(transform: str, level: str) -> None:
    for size in ((5, 7), (33, 64)):
        for channels in (2, 8):
            u = torch.randn(2, channels, *size)
            theta = identity(transform, 2, FORMS[transform]).float().expand(2, *FORMS[transform])
            assert torch.equal(native(u, theta, size, transform=transform), u)


def test_the_derivative_at_whole_coordinates_is_the_right_one() -> None:
    u = torch.randn(1, 2, 6, 7).requires_grad_()
    theta = torch.eye(2, 3)[None].requires_grad_()
    cotangent = torch.randn(1, 2, 6, 7)
    ours = with_gradients(native, u, theta, cotangent, (6, 7))
    true = with_gradients(exact, u.double(), theta.double(), cotangent, (6, 7))
    low = with_gradients(plain, u, theta, cotangent, (6, 7))
    within_budget(ours["theta gradient"], low["theta gradient"], true["theta gradient"])


def test_results_do_not_hang_on_the_batch() -> None:
    for channels in (3, 9):
        u, theta = torch.randn(5, channels, 20, 30), torch.eye(2, 3) + 0.3 * torch.randn(5, 2, 3)
        together = with_gradients(native, u, theta, torch.ones(5, channels, 9, 17), (9, 17))
        for n in range(5):
            alone = with_gradients(
                native, u[n : n + 1], theta[n : n + 1], torch.ones(1, channels, 9, 17), (9, 17)
            )
            for name, found in alone.items():
                assert torch.equal(found, together[name][n : n + 1]), name


# Hostile values


@pytest.mark.parametrize("padding_mode", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("transform", FORMS)
def test_hostile_thetas(transform: str, padding_mode: str) -> None:
    values = [math.nan, math.inf, -math.inf, 1e30, -1e30, 3e38, 1e-40, 0.0]
    start = identity(transform, 2, FORMS[transform]).float()
    thetas = [torch.full_like(start, value) for value in values]
    for value in values:
        for place in range(start.numel()):
            theta = start.clone()
            theta.view(-1)[place] = value
            thetas.append(theta)
    theta = torch.stack(thetas)
    for mode in ("bilinear", "nearest", "bicubic"):
        for layout, channels in (("contiguous", 2), ("contiguous", 8), ("channels_last", 3)):
            u = make_input((len(theta), channels, 5, 6), torch.float32, layout, CPU)
            found = with_gradients(
                partial(native, transform=transform, mode=mode, padding_mode=padding_mode),
                u, theta, torch.ones(len(theta), channels, 4, 7), (4, 7),
            )  # fmt: skip
            assert found["output"].isfinite().all()
            assert found["input gradient"].isfinite().all()
            lost = found["theta gradient"].isnan().flatten(1).any(1)
            assert not lost[: len(values)].any(), lost.nonzero()


@pytest.mark.parametrize(
    ("layout", "channels"),
    [("contiguous", 1), ("contiguous", 8), ("channels_last", 3), ("channels_last", 8)],
)
@pytest.mark.parametrize("mode", ["bilinear", "nearest", "bicubic"])
def test_what_is_outside_changes_nothing(layout: str, channels: int, mode: str) -> None:
    """A pixel that no tap reads changes nothing, nor does the gradient of an output without taps, finite or not."""
    theta = torch.tensor([[[0.5, 0.0, -1.2], [0.0, 0.5, -0.9]]])
    options = {"mode": mode, "padding_mode": "zeros"}
    u = make_input((1, channels, 12, 13), torch.float32, layout, CPU)
    cotangent = torch.randn(1, channels, 11, 10)
    true = with_gradients(
        partial(exact, **options), u.double(), theta.double(), cotangent, (11, 10)
    )
    touched = with_gradients(
        partial(exact, **options), u.double().abs() + 1, theta.double(), cotangent.abs() + 1, (11, 10)
    )  # fmt: skip
    unread = touched["input gradient"] == 0
    spoiled = torch.where(unread, math.nan, u)
    spoiled = (
        spoiled.contiguous(memory_format=torch.channels_last)
        if layout == "channels_last"
        else spoiled
    )
    blank = touched["output"] == 0
    assert unread.any()
    assert blank.any() or mode == "bicubic"
    loud = torch.where(blank, math.inf, cotangent)
    found = with_gradients(partial(native, **options), spoiled, theta, loud, (11, 10))
    low = with_gradients(partial(plain, **options), u, theta, cotangent, (11, 10))
    for name in true:
        within_budget(found[name], low[name], true[name], name)


def test_the_basis_is_the_same_kept_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    u, theta = torch.randn(1, 2, 6, 7), identity("tps", 2, (9, 2)).float()[None] * 0.9
    kept = native(u, theta, (5, 5), transform="tps")
    monkeypatch.setattr(sampler, "_LARGEST_KEPT_BASIS", 0)
    assert torch.equal(native(u, theta, (5, 5), transform="tps"), kept)
    assert sampler.can_sample(u)
    assert not sampler.can_sample(torch.empty(1, 1, 2**16, 2**15, device="meta"))
    assert Options().transform == "affine"


@pytest.mark.parametrize(
    ("size", "mode"),
    [
        *(((5, 7), mode) for mode in ("bilinear", "nearest", "bicubic")),
        *(((4, 5, 6), mode) for mode in ("bilinear", "nearest")),  # bicubic is for images
    ],
)
def test_the_next_image_is_not_seen(size: tuple[int, ...], mode: str) -> None:
    """Three channels in channels_last are read as four where another image follows."""
    u = torch.randn(3, 3, *size)
    u[1] = torch.nan
    ndim = len(size)
    u = u.to(memory_format=torch.channels_last if ndim == 2 else torch.channels_last_3d)
    theta = torch.eye(ndim, ndim + 1).expand(3, -1, -1) + 0.3 * torch.randn(3, ndim, ndim + 1)
    out_size = tuple(2 * length + 1 for length in size)
    output = native(u, theta, out_size, mode=mode)
    for image in (0, 2):
        alone = native(u[image : image + 1], theta[image : image + 1], out_size, mode=mode)
        assert alone.isfinite().all()
        assert torch.equal(output[image], alone[0])
