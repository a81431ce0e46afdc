"""`antialias`: an output pixel is the mean of several samples, as many as are asked for or as theta needs."""

from __future__ import annotations

import math
from functools import partial
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from stn_triton import st_sample
from support import definition
from support.cases import IN_SIZES, MAPS, OUT_SIZES, make
from support.checks import BACKENDS, SLOW_TRITON, check, plain


def pooled(u: Tensor, theta: Tensor, out_size: tuple[int, ...], antialias: int, **o: Any) -> Tensor:
    finer = tuple(antialias * length for length in out_size)
    pool = torch.nn.functional.avg_pool2d if len(out_size) == 2 else torch.nn.functional.avg_pool3d
    result = st_sample(u, theta, finer, **o)
    k = theta.shape[1 : theta.dim() - definition.theta_dims(theta, o["transform"])]
    result = pool(result.flatten(0, len(k)), antialias)
    return result.unflatten(0, (len(u), *k))


@pytest.mark.parametrize("backend", SLOW_TRITON)
@pytest.mark.parametrize(("ndim", "antialias"), [(2, 2), (2, 3), (3, 2)])
def test_antialias(ndim: int, antialias: int, backend: str, device: torch.device) -> None:
    modes = ["bilinear", "nearest", "bicubic"][: 5 - ndim]
    names = list(MAPS)[: None if ndim == 2 else 2]
    k = 2
    if backend == "triton":  # interpreted kernels take their time
        names, modes, k = names[:: 2 if antialias == 2 else 6], modes[:1], None
    for name, mode in product(names, modes):
        case = {"map": name, "mode": mode, "antialias": antialias, "padding_mode": "border", "k": k}
        u, theta, options = make({**case, "spread": 0.2, "dtype": torch.bfloat16}, device, ndim)
        run = partial(st_sample, backend=backend)
        check(run, u, theta, OUT_SIZES[ndim], **options)
        u, theta = u.double(), theta.double()
        torch.testing.assert_close(
            run(u, theta, OUT_SIZES[ndim], **options),
            pooled(u, theta, OUT_SIZES[ndim], backend=backend, **options),
        )


@pytest.mark.parametrize("backend", SLOW_TRITON)
@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("name", ["affine", "attention"])
def test_antialias_as_theta_asks(name: str, ndim: int, backend: str, device: torch.device) -> None:
    case = {"map": name, "k": 3, "antialias": True, "spread": 0.9, "layout": "channels_last"}
    dtypes = (torch.float16, torch.float32)
    if backend == "triton":  # interpreted kernels take their time, here for up to 8 x 8 x 8 samples
        dtypes = dtypes[:1]
        if ndim == 3 and device.type == "cpu":
            pytest.skip("minutes; `test_samples_of_a_volume` is a small one")
    for dtype in dtypes:
        u, theta, options = make({**case, "dtype": dtype}, device, ndim)
        counts = {
            definition.samples(one.double().cpu(), IN_SIZES[ndim], OUT_SIZES[ndim], name)
            for one in theta.flatten(0, 1)
        }
        assert len(counts) > 1, "a case for every branch"
        run = partial(st_sample, backend=backend)
        check(run, u, theta, OUT_SIZES[ndim], reference=plain, **options)


@pytest.mark.parametrize("backend", SLOW_TRITON)
def test_how_many_samples_theta_asks_for(backend: str, device: torch.device) -> None:
    u = torch.randn(1, 1, 16, 16, device=device)
    for scale, count in (
        (0.0, 1), (0.3, 1), (0.5, 1), (0.5004, 1), (0.52, 2), (-1.0, 2), (1.4, 3), (3.99, 8), (50.0, 8),
        (math.nan, 1), (math.inf, 1),
    ):  # fmt: skip
        theta = torch.tensor([[[0.1, 0, 0.1], [scale, 0.2, 0.1]]], device=device)
        run = partial(st_sample, u, theta, (8, 8), padding_mode="reflection", backend=backend)
        asked, given = run(antialias=True), run(antialias=count)
        torch.testing.assert_close(asked, given, msg=f"{scale}: not {count}")


@pytest.mark.parametrize("backend", BACKENDS)
def test_samples_of_a_volume(backend: str, device: torch.device) -> None:
    u = torch.randn(1, 1, 2, 2, 2, device=device)
    theta = torch.tensor([[[0.9, 0.1, 0.0, 0.1], [0.0, 0.8, 0.1, 0.0], [0.1, 0.0, 0.9, 0.1]]])
    run = partial(st_sample, u, theta.to(device), (1, 1, 1), backend=backend)
    torch.testing.assert_close(run(antialias=True), run(antialias=2))
    assert not torch.equal(run(antialias=True), run(antialias=False))
