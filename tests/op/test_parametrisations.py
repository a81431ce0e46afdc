"""Parametrisations: where they start, that no input leads beyond a bound, and that turning does not shear."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from stn_triton import identity_theta, st_sample
from stn_triton.parametrisations import BoundedAffine, BoundedAttention, Rotation, Similarity
from support.bounded import BOUNDS, KINDS, ORDER, definition, held, kinds, make, parts
from support.checks import check_refused, within_budget

F64 = torch.float64
SIZE = (12, 30)


@kinds
@pytest.mark.parametrize("image_size", [None, SIZE])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, F64])
def test_zero_is_the_identity(kind: Any, image_size: Any, dtype: torch.dtype) -> None:
    module = make(kind, image_size)
    theta = module(torch.zeros(2, 3, module.num_parameters, dtype=dtype))
    wide = F64 if dtype == F64 else torch.float32
    expected = identity_theta(module.transform, (2, 3), dtype=wide)
    assert torch.equal(theta, expected)
    assert not theta.signbit().any(), "no -0.0"
    assert theta.dtype == wide
    assert torch.equal(
        kind(image_size=image_size)(torch.zeros(module.num_parameters)), theta[0, 0].float()
    )


@kinds
@pytest.mark.parametrize("image_size", [None, SIZE])
def test_is_its_definition(kind: Any, image_size: Any) -> None:
    module = make(kind, image_size)
    p = torch.randn(64, module.num_parameters)
    true = definition(kind, p, image_size)
    exact = module(p.double())
    # The module rounds its bounds to float32.
    torch.testing.assert_close(exact, true, rtol=0, atol=3e-7)
    within_budget(module(p), definition(kind, p, image_size).float(), true)


@kinds
def test_gradients_at_the_identity(kind: Any) -> None:
    for changed in ({}, {"max_scale": 1.0}, {"min_scale": 1.0}):
        module = make(kind, SIZE, **changed)
        for number in range(module.num_parameters):
            p = torch.zeros(module.num_parameters, requires_grad=True)
            theta = module(p)
            of_each = [
                torch.autograd.grad(entry, p, retain_graph=True)[0][number]
                for entry in theta.flatten()
            ]
            slopes = torch.stack(of_each)
            assert slopes.isfinite().all()
            assert slopes.abs().max() > 0.05, (changed, ORDER[kind][number])
    tangent = torch.func.jacfwd(make(kind))(torch.zeros(2, module.num_parameters))
    assert tangent.isfinite().all()


@kinds
@pytest.mark.parametrize("changed", [{}, {"max_scale": 1.0}, {"min_scale": 1.0}], ids=str)
def test_derivatives(kind: Any, changed: Any) -> None:
    module = make(kind, SIZE, **changed)
    p = torch.randn(2, module.num_parameters, dtype=F64).requires_grad_()
    assert torch.autograd.gradcheck(module, p, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(module, p)


@kinds
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, F64])
@pytest.mark.parametrize("image_size", [None, SIZE])
def test_bounds_cannot_be_passed(kind: Any, dtype: torch.dtype, image_size: Any) -> None:
    module = make(kind, image_size)
    count = module.num_parameters
    huge = torch.tensor([math.inf, -math.inf, 6e4, -6e4, 30, -30, 9, -9, 1, 1e-7], dtype=dtype)
    p = torch.cat(
        (huge[torch.randint(len(huge), (200, count))], 4 * torch.randn(200, count).to(dtype))
    )
    p.requires_grad_()
    theta = module(p)
    assert theta.isfinite().all()
    theta.square().sum().backward()
    assert p.grad is not None
    assert p.grad.isfinite().all()
    held(kind, theta.detach(), image_size)


@given(
    st.floats(0.01, 1.0),
    st.floats(1.0, 100.0),
    st.floats(0, 10.0),
    st.floats(width=32, allow_nan=False),
)
def test_any_bound_holds_to_the_last_bit(
    least: float, most: float, shift: float, value: float
) -> None:
    theta = BoundedAttention(least, most, shift)(torch.tensor([value, value, -value]))
    scale, x, y = theta.tolist()
    assert least <= scale <= most
    assert -shift <= x <= shift
    assert -shift <= y <= shift


@kinds
def test_bounds_are_reached(kind: Any) -> None:
    module = make(kind, SIZE)
    for sign in (1, -1):
        p = sign * torch.full((module.num_parameters,), math.inf)
        reached = module(p)
        if kind is BoundedAttention:
            found = dict(zip(["scale_x", "x", "y"], reached, strict=True))
        else:
            found = parts(reached, SIZE)
        for name in set(found) & {"angle", "shear", "x", "y"}:
            bound = BOUNDS[{"angle": "max_angle", "shear": "max_shear"}.get(name, "max_shift")]
            has = name in ORDER[kind]
            assert float(found[name]) == pytest.approx(sign * bound * has, abs=1e-6)
        if kind is not Rotation:
            bound = BOUNDS["max_scale" if sign > 0 else "min_scale"]
            assert float(found["scale_x"]) == pytest.approx(bound, abs=1e-6)


@pytest.mark.parametrize("bounds", [(0.5, 1.0), (1.0, 2.0)])
def test_a_scale_that_starts_at_its_bound_leaves_it_and_comes_back(
    bounds: tuple[float, float],
) -> None:
    """A parameter on either side of 0 reaches the target, also where the range lies on one side of scale 1 only."""
    module = BoundedAttention(*bounds)
    target = sum(bounds) / 2
    for start in (-1.0, 0.0, 1.0):
        p = torch.tensor([start, 0.0, 0.0], requires_grad=True)
        optimiser = torch.optim.Adam([p], lr=0.1)
        for _ in range(80):
            optimiser.zero_grad()
            (module(p)[0] - target).square().backward()
            optimiser.step()
        assert module(p)[0].item() == pytest.approx(target, abs=1e-2)


def test_a_bound_of_nothing_leaves_nothing() -> None:
    p = torch.randn(5, 6)
    theta = BoundedAffine(1, 1, 0, 0, 0)(p)
    assert torch.equal(theta, identity_theta("affine", (5,)))
    turned = parts(Similarity(1.0, 1.0, 0.5, 0.0)(p[:, :4]), None)
    torch.testing.assert_close(turned["scale_x"], torch.ones(5, dtype=F64), rtol=0, atol=1e-6)
    assert turned["angle"].abs().min() > 1e-3


def test_scale_says_how_much_the_frame_shows() -> None:
    """A scale of 0.5 shows the middle half, enlarged."""
    u = torch.randn(1, 1, 8, 8)
    halved = BoundedAttention(0.5, 2.0)(torch.tensor([[-math.inf, 0, 0]]))
    out = st_sample(u, halved, (4, 4), transform="attention")
    torch.testing.assert_close(out, u[..., 2:6, 2:6])


def test_a_quarter_turn_is_clockwise_for_the_frame() -> None:
    u = torch.randn(1, 1, 6, 6)
    theta = Rotation(math.pi / 2)(torch.tensor([[math.inf]]))
    # The frame's x axis points down: the first row of the output is the last column, from above.
    wanted = u.rot90(1, (2, 3))
    torch.testing.assert_close(st_sample(u, theta), wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("align_corners", [False, True])
def test_turning_an_oblong_image_does_not_shear(align_corners: bool) -> None:
    """A smooth disc off the centre stays a disc: what is seen is the picture turned in pixels."""
    h, w = 40, 80
    y, x = torch.meshgrid(torch.arange(h, dtype=F64), torch.arange(w, dtype=F64), indexing="ij")
    mid_x, mid_y = (w - 1) / 2, (h - 1) / 2

    def blob(cx: float, cy: float) -> Tensor:
        return torch.exp(-((x - mid_x - cx) ** 2 + (y - mid_y - cy) ** 2) / 2 / 5**2)

    angle = 0.7
    size = (h - 1, w - 1) if align_corners else (h, w)
    parameter = torch.tensor([[math.atanh(angle / math.pi)]], dtype=F64)
    theta = Rotation(image_size=size)(parameter)
    out = st_sample(blob(9.0, 2.0)[None, None], theta, align_corners=align_corners)
    # Output pixel q reads R q: the disc at c is seen at R^-1 c.
    c, s = math.cos(angle), math.sin(angle)
    wanted = blob(c * 9.0 + s * 2.0, -s * 9.0 + c * 2.0)
    assert (out[0, 0] - wanted)[8:-8, 20:-20].abs().max() < 0.02  # bilinear, of a curve this smooth
    sheared = st_sample(
        blob(9.0, 2.0)[None, None], Rotation()(parameter), align_corners=align_corners
    )
    assert (sheared[0, 0] - wanted).abs().max() > 0.1


# copies, traces and compiled graphs


@kinds
def test_copies_and_traces_work_alike(kind: Any) -> None:
    module = make(kind, SIZE)
    p = torch.randn(5, module.num_parameters)
    expected = module(p)
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(other(p), expected)
        assert repr(other) == repr(module)
    assert torch.equal(torch.func.vmap(module)(p), expected)
    assert torch.equal(module.half()(p), expected), "there is nothing to round"
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(module(p), expected)
        low = p.bfloat16()
        assert torch.equal(module(low), module(low.float()))
    traced = torch.jit.trace(module, (p[:2],))
    assert torch.equal(traced(p), expected)
    assert not list(module.parameters())
    assert not module.state_dict()


@pytest.mark.slow
@kinds
def test_compiles_and_exports(kind: Any) -> None:
    module = make(kind, SIZE)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager", dynamic=True)
    for n in (2, 5):
        p = torch.zeros(n, module.num_parameters)
        p[1:] = torch.randn(n - 1, module.num_parameters)
        results, grads = [], []
        for run in (compiled, module):
            leaf = p.clone().requires_grad_()
            results.append(run(leaf))
            grads.append(torch.autograd.grad(results[-1].square().sum(), leaf)[0])
        torch.testing.assert_close(*results)
        torch.testing.assert_close(*grads)
    program = torch.export.export(module, (p,), dynamic_shapes=({0: torch.export.Dim("n")},))
    torch.testing.assert_close(program.module()(p[:3]), module(p[:3]))


# refusals

WRONG: dict[str, tuple[Any, type[Exception], list[str]]] = {
    "min_scale, 0": (lambda: Similarity(0.0), ValueError, ["min_scale", "above 0", "got 0.0"]),
    "min_scale, above 1": (lambda: BoundedAffine(1.2), ValueError, ["min_scale", "at most 1", "1.2"]),
    "max_scale, below 1": (lambda: BoundedAttention(0.5, 0.9), ValueError, ["max_scale", "at least 1", "0.9"]),
    "max_scale, infinite": (lambda: BoundedAttention(0.5, math.inf), ValueError, ["max_scale", "inf"]),
    "max_angle, degrees": (lambda: Rotation(45), ValueError, ["max_angle", "radians", "45"]),
    "max_angle, negative": (lambda: Rotation(-0.1), ValueError, ["max_angle", "-0.1"]),
    "max_shift, negative": (lambda: Similarity(max_shift=-1), ValueError, ["max_shift", "at least 0", "-1"]),
    "max_shear, not a number": (lambda: BoundedAffine(max_shear=math.nan), ValueError, ["max_shear", "nan"]),
    "max_angle, text": (lambda: Rotation("1"), TypeError, ["max_angle", "number", "'1'"]),
    "max_angle, a bool": (lambda: Rotation(True), TypeError, ["max_angle", "number", "True"]),
    **{
        f"image_size of {kind.__name__}, {what}": (
            lambda kind=kind, size=size: kind(image_size=size), error, [f"image_size must {wanted}, got {got}"],
        )
        for kind in KINDS
        for what, size, error, wanted, got in (
            ("an int", 5, TypeError, "be a sequence of 2 ints, (h, w)", "5"),
            ("a text", "5", TypeError, "be a sequence of 2 ints, (h, w)", "'5'"),
            ("floats", (5.0, 4.0), TypeError, "be a sequence of 2 ints, (h, w)", "(5.0, 4.0)"),
            ("of a volume", (2, 3, 4), ValueError, "have 2 entries, (h, w)", "3: (2, 3, 4)"),
        )
    },
    "image_size, 0": (lambda: Rotation(image_size=(0, 4)), ValueError, ["image_size", "(0, 4)"]),
    "parameters, another number": (
        lambda: Similarity()(torch.zeros(2, 3)), ValueError, ["parameters", "Similarity", "(..., 4)", "(2, 3)"],
    ),
    "parameters, a number": (lambda: Rotation()(torch.tensor(0.0)), ValueError, ["(..., 1)", "()"]),
    "parameters, integers": (lambda: Rotation()(torch.zeros(1).int()), TypeError, ["parameters", "int32"]),
    "parameters, a list": (lambda: Rotation()([0.0]), TypeError, ["parameters", "tensor", "list"]),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_refused(what: str) -> None:
    check_refused(*WRONG[what])
