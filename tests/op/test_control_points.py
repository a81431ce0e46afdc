"""Control points anywhere: rows x columns and points of one's own, on every backend and under whatever looks on."""

from __future__ import annotations

import copy
import importlib
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stn_triton import (
    SpatialTransformer,
    identity_theta,
    ops,
    outside_penalty,
    sampling_grid,
    st_sample,
)
from stn_triton.control_points import _solved_lattice
from stn_triton.transforms import TRANSFORMS, Options
from support import definition
from support.checks import (
    BACKENDS,
    DTYPES,
    NATIVE,
    SLOW_TRITON,
    check,
    draw_theta,
    exact,
    label,
    make_input,
    needs_triton,
    pairwise,
)


def fiducials(count: int = 10, inside: float = 0.9) -> Tensor:
    """Points along the upper and along the lower edge, slightly inside, as text rectifiers have them."""
    x = torch.linspace(-inside, inside, count)
    rows = [torch.stack((x, torch.full_like(x, y)), -1) for y in (-0.8, 0.8)]
    return torch.cat(rows)


POINTS = {
    "(2, 10)": ("tps", (2, 10)),
    "fiducials": ("tps", fiducials()),
    "anywhere": ("tps", ((-1.2, -0.5), (0.9, -1), (0.3, 1.1), (-0.4, 0.2), (0.1, -0.3))),
    "(4, 2)": ("tps", (4, 2)),
    "triangles (2, 5)": ("piecewise_affine", (2, 5)),
    "triangles (4, 2)": ("piecewise_affine", (4, 2)),
}
IN_SIZE, OUT_SIZE = (4, 6), (3, 5)
CASES = pairwise(
    {
        "points": list(POINTS), "mode": ["bilinear", "nearest", "bicubic"],
        "padding_mode": ["zeros", "border", "reflection"], "align_corners": [False, True],
        "dtype": DTYPES, "layout": ["contiguous", "channels_last"], "k": [None, 2],
    }
)  # fmt: skip


def make(
    points: str, dtype: torch.dtype = torch.float64, k: int | None = None, n: int = 2,
    layout: str = "contiguous", device: torch.device | None = None, **sampling: Any,
) -> tuple[Tensor, Tensor, dict[str, Any]]:  # fmt: skip
    """Input, theta and the options of a case."""
    transform, control_points = POINTS[points]
    device = device or torch.device("cpu")
    u = make_input((n, 3, *IN_SIZE), dtype, layout, device)
    theta = draw_theta(
        (n,) if k is None else (n, k), dtype, device, IN_SIZE, OUT_SIZE, transform=transform,
        mode=sampling.get("mode", "bilinear"), align=sampling.get("align_corners", False),
        control_points=control_points, spread=0.25,
    )  # fmt: skip
    return u, theta, {"transform": transform, "control_points": control_points, **sampling}


@pytest.mark.parametrize("backend", SLOW_TRITON)
@pytest.mark.parametrize("case", CASES, ids=label)
def test_values_and_gradients(case: dict[str, Any], backend: str, device: torch.device) -> None:
    u, theta, options = make(**case, device=device)
    # What the two ways of solving a system of condition 3e3 differ by, in double precision.
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
    """numpy for scikit-image, which solves in float32."""

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
    # In units so small that the 1e-8 in its logarithm is nothing; splines follow any unit.
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


# Derivatives


@pytest.mark.parametrize("backend", SLOW_TRITON)
@pytest.mark.parametrize("points", ["fiducials", "(4, 2)", "triangles (2, 5)"])
def test_second_order(points: str, backend: str, device: torch.device) -> None:
    u, theta, options = make(points, n=1, device=device, padding_mode="border")

    def second(run: Any) -> tuple[Tensor, ...]:
        tensors = [t.detach().requires_grad_() for t in (u, theta)]
        loss = run(*tensors, OUT_SIZE, **options).square().sum()
        first = torch.autograd.grad(loss, tensors, create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in first), tensors)

    for ours, true in zip(second(partial(st_sample, backend=backend)), second(exact), strict=True):
        torch.testing.assert_close(ours, true)


@pytest.mark.parametrize("backend", ["torch", NATIVE])
@pytest.mark.parametrize("points", POINTS)
def test_gradcheck(points: str, backend: str) -> None:
    u, theta, options = make(points, n=1)
    run = partial(st_sample, out_size=OUT_SIZE, backend=backend, **options)
    u, theta = u.requires_grad_(), theta.requires_grad_()
    torch.autograd.gradcheck(run, (u, theta), fast_mode=True, check_batched_grad=True)
    torch.autograd.gradgradcheck(run, (u, theta), fast_mode=True)


@pytest.mark.parametrize("backend", SLOW_TRITON)
def test_functorch(backend: str, device: torch.device) -> None:
    u, theta, options = make("fiducials", n=1, device=device)
    thetas = torch.stack((theta, theta.roll(1, -1)))

    def both(run: Any) -> list[Tensor]:
        sample = lambda theta: run(u, theta, OUT_SIZE, **options)
        loss = lambda theta: sample(theta).square().sum()
        return [
            torch.func.vmap(sample)(thetas),
            torch.func.vmap(torch.func.grad(loss))(thetas),
            torch.func.jvp(sample, (theta,), (torch.ones_like(theta),))[1],
        ]

    for ours, true in zip(both(partial(st_sample, backend=backend)), both(exact), strict=True):
        torch.testing.assert_close(ours, true)


def test_points_are_constants_without_gradient() -> None:
    u, theta, options = make("fiducials")
    points = fiducials().requires_grad_()
    theta.requires_grad_()
    out = st_sample(u, theta, OUT_SIZE, transform="tps", control_points=points)
    torch.testing.assert_close(out, st_sample(u, theta, OUT_SIZE, **options))
    of_theta, of_points = torch.autograd.grad(out.sum(), (theta, points), allow_unused=True)
    assert of_theta is not None and of_points is None
    call = lambda points: st_sample(u, theta, OUT_SIZE, transform="tps", control_points=points)
    with pytest.raises(ValueError, match="vmap"):
        torch.func.vmap(call)(torch.stack((fiducials(), fiducials())))
    grads = torch.func.vmap(torch.func.grad(lambda t: call(points).sum() + t.sum()))(theta)
    assert grads.shape == theta.shape


# Recorded graphs


@pytest.fixture
def _fresh_dynamo() -> None:
    torch._dynamo.reset()


@pytest.mark.usefixtures("_fresh_dynamo")
@pytest.mark.parametrize("backend", [None, *BACKENDS])
@pytest.mark.parametrize("points", ["fiducials", "(2, 10)", "triangles (2, 5)"])
def test_compile(points: str, backend: str | None, device: torch.device) -> None:
    u, theta, options = make(points, device=device)
    theta.requires_grad_()
    run = partial(st_sample, out_size=OUT_SIZE, backend=backend, **options)
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    found, true = compiled(u, theta), run(u, theta)
    torch.testing.assert_close(found, true)
    grads = [torch.autograd.grad(out.square().sum(), theta)[0] for out in (found, true)]
    torch.testing.assert_close(*grads)


@pytest.mark.usefixtures("_fresh_dynamo")
def test_compile_reads_an_argument_as_a_constant() -> None:
    u, theta, options = make("fiducials", torch.float32)

    def run(u: Tensor, theta: Tensor, points: Tensor) -> Tensor:
        return st_sample(u, theta, OUT_SIZE, transform="tps", control_points=points)

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(
        compiled(u, theta, fiducials()), st_sample(u, theta, OUT_SIZE, **options)
    )
    wrong = torch.compile(run, backend="eager")
    with pytest.raises(ValueError, match="one line"):
        wrong(u, theta[:, :3], torch.tensor(((-1.0, 0), (0, 0), (1, 0))))


class Rectifier(nn.Module):
    def __init__(self, points: Any, transform: str = "tps") -> None:
        super().__init__()
        self.points, self.transform = points, transform

    def forward(self, u: Tensor, theta: Tensor) -> Tensor:
        return st_sample(u, theta, OUT_SIZE, transform=self.transform, control_points=self.points)


@pytest.mark.usefixtures("_fresh_dynamo")
@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("points", ["fiducials", "triangles (2, 5)"])
def test_export(points: str, strict: bool) -> None:
    u, theta, options = make(points, torch.float32)
    model = Rectifier(options["control_points"], options["transform"])
    program = torch.export.export(model, (u, theta), strict=strict)
    torch.testing.assert_close(program.module()(u, theta), model(u, theta))


@pytest.mark.filterwarnings("error::torch.jit.TracerWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_traces_hold_a_constant() -> None:
    u, theta, options = make("fiducials", torch.float32)
    model = Rectifier(options["control_points"])
    traced = torch.jit.trace(model, (u, theta))
    torch.testing.assert_close(traced(u, theta), model(u, theta))
    traced = torch.fx.symbolic_trace(model)
    torch.testing.assert_close(traced(u, theta), model(u, theta))


@needs_triton
@pytest.mark.parametrize("points", ["fiducials", "triangles (2, 5)"])
def test_opcheck(points: str, device: torch.device) -> None:
    transform, given = POINTS[points]
    numbers = tuple(given.flatten().tolist()) if isinstance(given, Tensor) else given
    u, theta, _ = make(points, torch.float32, n=1, device=device)
    u, theta = u.requires_grad_(), theta.requires_grad_()
    options = Options(transform, control_points=numbers)
    torch.library.opcheck(ops.sample, (u, theta, None, OUT_SIZE, *options))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("exporter", ["dynamo", "without a table", "tracer"])
@pytest.mark.parametrize("points", ["fiducials", pytest.param("(2, 10)", marks=pytest.mark.slow)])
def test_onnx(points: str, exporter: str, tmp_path: Path) -> None:
    ort = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    from stn_triton import onnx_translations

    u, theta, options = make(points, torch.float32)
    model = Rectifier(options["control_points"], options["transform"]).eval()
    how: dict[str, Any] = {"dynamo": True, "verbose": False}
    if exporter == "dynamo":
        how["custom_translation_table"] = onnx_translations()
    elif exporter == "tracer":
        how = {"dynamo": False, "opset_version": 20}
    torch.onnx.export(model, (u, theta), tmp_path / "m.onnx", input_names=["u", "theta"], **how)
    session = ort.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"u": u.numpy(), "theta": theta.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), model(u, theta), rtol=0, atol=1e-4)


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
