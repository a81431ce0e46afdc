"""Control points anywhere: rows x columns and points of one's own, on every backend and in modules."""

from __future__ import annotations

import copy
import importlib
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stn_triton import SpatialTransformer, identity_theta, outside_penalty, sampling_grid, st_sample
from stn_triton.control_points import _solved_lattice
from stn_triton.transforms import TRANSFORMS
from support import definition
from support.checks import (
    BACKENDS,
    DTYPES,
    NATIVE,
    SLOW_TRITON,
    check,
    label,
    needs_triton,
    pairwise,
)
from support.control_points import IN_SIZE, OUT_SIZE, POINTS, fiducials, make

CASES = pairwise(
    {
        "points": list(POINTS), "mode": ["bilinear", "nearest", "bicubic"],
        "padding_mode": ["zeros", "border", "reflection"], "align_corners": [False, True],
        "dtype": DTYPES, "layout": ["contiguous", "channels_last"], "k": [None, 2],
    }
)  # fmt: skip


@pytest.mark.parametrize("backend", SLOW_TRITON)
@pytest.mark.parametrize("case", CASES, ids=label)
def test_values_and_gradients(case: dict[str, Any], backend: str, device: torch.device) -> None:
    u, theta, options = make(**case, device=device)
    # In double precision: two ways of solving a system of condition 3e3 differ by this much.
    slack = 64 if case["dtype"] == torch.float64 else 1
    check(partial(st_sample, backend=backend), u, theta, OUT_SIZE, slack=slack, **options)


@needs_triton
@pytest.mark.parametrize("points", POINTS)
def test_values_and_gradients_by_kernels(points: str, device: torch.device) -> None:
    u, theta, options = make(points, torch.float32, n=1, device=device)
    check(partial(st_sample, backend="triton"), u, theta, OUT_SIZE, **options)


@pytest.mark.parametrize("backend", SLOW_TRITON)
@pytest.mark.parametrize("points", ["fiducials", "triangles (2, 5)"])
def test_antialias(points: str, backend: str, device: torch.device) -> None:
    u, theta, options = make(points, torch.float32, n=1, device=device)
    run = partial(st_sample, backend=backend, antialias=2)
    finer = st_sample(u, theta, (6, 10), backend=backend, **options)
    torch.testing.assert_close(
        run(u, theta, OUT_SIZE, **options), torch.nn.functional.avg_pool2d(finer, 2)
    )


@pytest.mark.parametrize("backend", [NATIVE, pytest.param("triton", marks=needs_triton)])
@pytest.mark.parametrize("points", POINTS)
def test_the_points_themselves_give_the_input(
    points: str, backend: str, device: torch.device
) -> None:
    transform, control_points = POINTS[points]
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        u = torch.randn(1, 2, 9, 11).to(device, dtype)
        theta_dtype = torch.promote_types(dtype, torch.float32)
        theta = identity_theta(
            transform, (1,), control_points=control_points, dtype=theta_dtype, device=device
        )
        same = partial(st_sample, u, theta, (9, 11), transform=transform, backend=backend)
        assert torch.equal(same(control_points=control_points), u)


def test_the_identity_are_the_points() -> None:
    points = fiducials()
    assert torch.equal(identity_theta("tps", control_points=points), points)
    nested = tuple(map(tuple, points.tolist()))
    assert torch.equal(identity_theta("tps", (2, 3), control_points=nested)[1, 2], points)
    corners = identity_theta("piecewise_affine", control_points=(2, 3))
    assert corners.tolist() == [[-1, -1], [0, -1], [1, -1], [-1, 1], [0, 1], [1, 1]]
    assert torch.equal(identity_theta("tps", control_points=None), identity_theta("tps"))
    assert identity_theta("affine", control_points=(0, "x")).shape == (2, 3)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("transform", ["tps", "piecewise_affine"])
def test_a_square_lattice_by_its_three_names(
    transform: str, backend: str, device: torch.device
) -> None:
    u = torch.randn(1, 2, *IN_SIZE, device=device)
    theta = identity_theta(transform, (1,), control_points=3, device=device)
    theta = theta + 0.1 * torch.randn_like(theta)
    run = partial(st_sample, u, theta, OUT_SIZE, transform=transform, backend=backend)
    usual = run()
    assert torch.equal(run(control_points=3), usual)
    assert torch.equal(run(control_points=(3, 3)), usual)
    grid = partial(sampling_grid, theta, OUT_SIZE, transform=transform)
    assert torch.equal(grid(control_points=(3, 3)), grid())
    if transform == "tps":
        points = identity_theta("tps", control_points=3, dtype=torch.float64)
        torch.testing.assert_close(run(control_points=points), usual, rtol=1e-4, atol=1e-4)


def test_the_grid_goes_through_the_points() -> None:
    # With aligned corners the pixels of a rows x columns output are the points of that lattice.
    for transform in ("tps", "piecewise_affine"):
        theta = torch.randn(2, 3, 20, 2, dtype=torch.float64)
        grid = sampling_grid(
            theta, (2, 10), transform=transform, align_corners=True, control_points=(2, 10)
        )
        torch.testing.assert_close(grid.flatten(2, 3), theta)


class _InDouble:
    """Stands in for numpy inside scikit-image, which would solve in float32."""

    float32 = float

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module("numpy"), name)


def of_scipy(theta: Tensor, at: Tensor, _: pytest.MonkeyPatch) -> Any:
    interpolate = pytest.importorskip("scipy.interpolate").RBFInterpolator
    spline = interpolate(fiducials().double(), theta, kernel="thin_plate_spline")
    return spline(at.flatten(0, 1).numpy())


def of_skimage(theta: Tensor, at: Tensor, monkeypatch: pytest.MonkeyPatch) -> Any:
    module = pytest.importorskip("skimage.transform._thin_plate_splines")
    monkeypatch.setattr(module, "np", _InDouble())
    # scikit-image adds 1e-8 inside its logarithm. With coordinates a thousand times as large that is negligible,
    # and a spline does not depend on the unit.
    scaled = 1e3 * fiducials().double(), 1e3 * at.flatten(0, 1)
    spline = module.ThinPlateSplineTransform.from_estimate(scaled[0].numpy(), theta.numpy())
    return spline(scaled[1].numpy())


@pytest.mark.parametrize("theirs", [of_scipy, of_skimage])
def test_splines_of_other_libraries(theirs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    theta = fiducials().double() + 0.3 * torch.randn(20, 2, dtype=torch.float64)
    x, y = (torch.linspace(-1.3, 1.3, n, dtype=torch.float64) for n in (31, 13))  # beyond the frame
    at = torch.stack((x.expand(13, 31), y.unsqueeze(1).expand(13, 31)), -1)
    ours = TRANSFORMS["tps"].grid(theta, (x, y), tuple(fiducials().double().flatten().tolist()))
    found = torch.as_tensor(theirs(theta, at, monkeypatch)).view_as(at)
    torch.testing.assert_close(ours, found, rtol=0, atol=1e-9)
    truth = torch.stack(definition.tps(theta, [at[..., 0], at[..., 1]], fiducials()), -1)
    torch.testing.assert_close(ours, truth, rtol=0, atol=1e-11)


# The module, and what is kept


def rectifier(**options: Any) -> SpatialTransformer:
    localisation = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten())
    return SpatialTransformer(localisation, (4, 10), in_features=12, **options)


@pytest.mark.parametrize("points", POINTS)
def test_module(points: str) -> None:
    transform, control_points = POINTS[points]
    module = rectifier(transform=transform, control_points=control_points)
    assert set(module.state_dict()) == {"regression.weight", "regression.bias"}
    nn.init.normal_(module.regression.weight, std=0.1)
    x = torch.randn(2, 3, 8, 20)
    out, theta = module(x, return_theta=True)
    given = {"transform": transform, "control_points": control_points}
    assert torch.equal(out, st_sample(x, theta, (4, 10), **given))
    assert torch.equal(copy.deepcopy(module)(x), out)
    module.reset_parameters()
    identity = identity_theta(transform, (2,), control_points=control_points)
    assert torch.equal(module.localise(x), identity)
    assert outside_penalty(theta, transform=transform).shape == (2,)


def test_modules_without_control_points_ignore_them() -> None:
    x = torch.randn(1, 3, 6, 6)
    assert torch.equal(rectifier(control_points=fiducials())(x), rectifier()(x))


def test_equal_points_are_solved_once() -> None:
    u, theta, options = make("anywhere")
    _solved_lattice.cache_clear()
    for points in (
        options["control_points"],
        torch.tensor(options["control_points"], dtype=torch.float64),
    ):
        for backend in ("torch", None):
            st_sample(u, theta, OUT_SIZE, transform="tps", control_points=points, backend=backend)
    info = _solved_lattice.cache_info()
    assert info.misses == 1 and info.hits > 0


def test_outside_penalty_of_any_number_of_points() -> None:
    inside = torch.rand(2, 3, 7, 2) - 0.5
    for transform in ("tps", "piecewise_affine"):
        assert torch.equal(outside_penalty(inside, transform=transform), torch.zeros(2, 3))
    one = inside.clone()
    one[0, 0, 0, 0] = 3
    assert outside_penalty(one, transform="tps")[0, 0] == pytest.approx(4 / 7)
    with pytest.raises(ValueError, match=r"\(N, P, 2\).*\(7, 3\)"):
        outside_penalty(torch.zeros(7, 3), transform="tps")


LINE = torch.linspace(-1, 1, 5).unsqueeze(1) * torch.tensor((1.0, 0.3))
WRONG: dict[str, tuple[Any, type[Exception], list[str]]] = {
    "one": (1, ValueError, ["at least 2", "1"]),
    "one row": ((1, 5), ValueError, ["at least 2", "(1, 5)"]),
    "a bool": (True, TypeError, ["int", "(rows, columns)", "True"]),
    "a float": (3.0, TypeError, ["int", "3.0"]),
    "floats": ((2.0, 10.0), TypeError, ["(rows, columns)", "(2.0, 10.0)"]),
    "three sides": ((2, 3, 4), TypeError, ["(rows, columns)", "(2, 3, 4)"]),
    "text": ("2x10", TypeError, ["(rows, columns)", "'2x10'"]),
    "a bool among them": ([(0, 0), (1, True), (0, 1)], TypeError, ["points (x, y)"]),
    "triples": ([(0, 0, 1)] * 3, ValueError, ["(x, y)", "(0, 0, 1)"]),
    "two points": ([(0, 0), (1, 1)], ValueError, ["at least 3", "got 2"]),
    "points twice": ([(0, 0), (1, 1), (0, 1), (1, 1)], ValueError, ["distinct", "(1.0, 1.0)"]),
    "on a line": (LINE, ValueError, ["one line", "5 points"]),
    "nearly on a line": (
        [(x, 0.5 * x + 1e-15 * x * x) for x in (-1.0, -0.2, 0.3, 1.0)], ValueError, ["one line"],
    ),
    "nearly twice": ([(0, 0), (1, 0), (0, 1), (1e-9, 0)], ValueError, ["near", "rcond"]),
    "not finite": ([(0, 0), (1, float("nan")), (0, 1)], ValueError, ["finite", "nan"]),
    "a flat tensor": (torch.zeros(20), ValueError, ["(P, 2)", "(20,)"]),
    "on another device": (torch.zeros(20, 2, device="meta"), ValueError, ["CPU", "meta"]),
    "complex": (torch.zeros(20, 2).cfloat(), TypeError, ["reals", "complex64"]),
    "more than theta has": ((2, 11), ValueError, ["(N, 22, 2)", "2 x 11", "(2, 20, 2)"]),
    "fewer than theta has": (fiducials(9), ValueError, ["(N, 18, 2)", "18 control points"]),
}  # fmt: skip


@pytest.mark.parametrize(("given", "error", "said"), WRONG.values(), ids=list(WRONG))
def test_errors(given: Any, error: type[Exception], said: list[str]) -> None:
    u, theta = torch.zeros(2, 3, 4, 5), torch.zeros(2, 20, 2)
    with pytest.raises(error) as raised:
        st_sample(u, theta, (2, 2), transform="tps", control_points=given)
    assert all(part in str(raised.value) for part in said), str(raised.value)
    with pytest.raises(error):
        sampling_grid(theta, (2, 2), transform="tps", control_points=given)
    if "theta" not in str(raised.value):
        with pytest.raises(error):
            identity_theta("tps", control_points=given)
        with pytest.raises(error):
            rectifier(transform="tps", control_points=given)


def test_who_has_no_control_points_refuses_them() -> None:
    u, theta = torch.zeros(2, 3, 4, 5), torch.zeros(2, 2, 3)
    for given in (4, (2, 10), fiducials()):
        with pytest.raises(ValueError, match=r"(?s)'tps' or 'piecewise_affine'.*'affine'"):
            st_sample(u, theta, (2, 2), control_points=given)
    with pytest.raises(ValueError, match=r"'piecewise_affine'.*anywhere"):
        st_sample(
            u, torch.zeros(2, 20, 2), (2, 2), transform="piecewise_affine",
            control_points=fiducials(),
        )  # fmt: skip
    with pytest.raises(ValueError, match="P = G"):
        st_sample(u, torch.zeros(2, 20, 2), (2, 2), transform="tps")
