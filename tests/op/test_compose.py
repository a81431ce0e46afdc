"""compose, invert and to_affine for every transform with a matrix, boxes of attention, crops pasted back."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from stn_triton import (
    box_to_theta,
    compose,
    identity_theta,
    invert,
    sampling_grid,
    st_sample,
    theta_to_box,
    to_affine,
)
from support.checks import check_refused, within_budget

F64 = torch.float64
FORMS: list[tuple[str, tuple[int, ...]]] = [
    ("affine", (2, 3)),
    ("affine", (3, 4)),
    ("attention", (3,)),
    ("attention", (4,)),
    ("projective", (8,)),
    ("projective", (3, 3)),
]
forms = pytest.mark.parametrize(("transform", "form"), FORMS)


def draw(transform: str, *outer: int, form: tuple[int, ...], dtype: Any = F64) -> Tensor:
    theta = identity_theta(transform, outer, ndim=3 if form[-1] == 4 else 2, dtype=F64)
    if form == (3, 3):
        theta = square(theta)
    return (theta + 0.15 * torch.randn_like(theta)).to(dtype)


def square(theta: Tensor) -> Tensor:
    """(..., 8) -> (..., 3, 3)."""
    return torch.cat((theta, torch.ones_like(theta[..., :1])), -1).unflatten(-1, (3, 3))


def matrix(theta: Tensor, transform: str) -> Tensor:
    """The homogeneous matrix of a theta, by definition."""
    if transform == "projective":
        return square(theta) if theta.shape[-1] == 8 else theta
    if transform == "attention":
        linear = theta[..., :1, None] * torch.eye(theta.shape[-1] - 1, dtype=theta.dtype)
        theta = torch.cat((linear, theta[..., 1:, None]), -1)
    last = torch.eye(theta.shape[-1], dtype=theta.dtype)[-1:]
    return torch.cat((theta, last.expand(*theta.shape[:-2], 1, -1)), -2)


def result_shape(transform: str, form: tuple[int, ...]) -> tuple[int, ...]:
    return (3, 3) if transform == "projective" else form


@forms
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, F64], ids=["f16", "f32", "f64"])
def test_compose_is_the_product(transform: str, form: tuple[int, ...], dtype: torch.dtype) -> None:
    first = draw(transform, 4, form=form, dtype=dtype)
    second = draw(transform, 3, 1, form=form, dtype=dtype)
    wide = torch.float64 if dtype == F64 else torch.float32
    product = compose(first, second, transform=transform)
    assert product.dtype == wide
    assert product.shape == (3, 4, *result_shape(transform, form))
    true = matrix(first.double(), transform) @ matrix(second.double(), transform)
    low = matrix(first.to(wide), transform) @ matrix(second.to(wide), transform)
    within_budget(matrix(product, transform), low, true)


@forms
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, F64], ids=["f16", "f32", "f64"])
def test_invert_is_the_inverse(transform: str, form: tuple[int, ...], dtype: torch.dtype) -> None:
    theta = draw(transform, 3, 4, form=form, dtype=dtype)
    wide = torch.float64 if dtype == F64 else torch.float32
    inverse = invert(theta, transform=transform)
    assert inverse.dtype == wide
    assert inverse.shape == (3, 4, *result_shape(transform, form))
    true = torch.linalg.inv(matrix(theta.double(), transform))
    low = torch.linalg.inv(matrix(theta.to(wide), transform))
    within_budget(matrix(inverse, transform), low, true)
    one = matrix(compose(theta, inverse, transform=transform), transform)
    identity = torch.eye(one.shape[-1], dtype=wide).expand_as(one)
    within_budget(one, matrix(theta.to(wide), transform) @ low, identity)


def test_homographies_of_both_forms() -> None:
    flat, whole = draw("projective", 3, form=(8,)), draw("projective", 3, form=(3, 3))
    joined = compose(flat, whole, transform="projective")
    torch.testing.assert_close(joined, square(flat) @ whole)
    joined = compose(whole, flat.float(), transform="projective")
    assert joined.dtype == F64
    torch.testing.assert_close(joined, whole @ square(flat.float().double()))


@pytest.mark.parametrize("scale", [1.0, -1.0, 7.0, -1e-9, 1e9, 1e-20])
def test_homographies_of_any_scale_and_sign(scale: float) -> None:
    """A homography times a number is the same map; its inverse is that of the matrix as it was given."""
    theta = draw("projective", 2, form=(3, 3), dtype=torch.float32)
    inverse = invert(scale * theta, transform="projective")
    wanted = torch.linalg.inv(theta.double())
    torch.testing.assert_close((inverse.double() * scale), wanted, rtol=2e-5, atol=2e-5)
    grids = [
        sampling_grid(each, (5, 6), transform="projective")
        for each in (inverse, wanted, compose(inverse, scale * theta, transform="projective"))
    ]
    torch.testing.assert_close(grids[0].double(), grids[1], rtol=1e-3, atol=1e-4)
    same = sampling_grid(identity_theta("projective", (2,)), (5, 6), transform="projective")
    torch.testing.assert_close(grids[2], same, rtol=0, atol=1e-5)


def test_h33_of_an_inverse_may_be_0() -> None:
    theta = torch.tensor([[1.0, 0, 0, 1, 0, 1, 0, -1]])  # a11 a22 - a12 a21 = 0, and yet regular
    inverse = invert(theta, transform="projective")
    assert inverse[0, 2, 2] == 0
    torch.testing.assert_close(inverse, torch.linalg.inv(square(theta)))
    torch.testing.assert_close(invert(inverse, transform="projective"), square(theta))
    torch.testing.assert_close(
        compose(theta, inverse, transform="projective"), torch.eye(3).unsqueeze(0)
    )


@forms
def test_singular_thetas_are_not_finite(transform: str, form: tuple[int, ...]) -> None:
    theta = torch.zeros(3, *form)
    if form == (8,):
        theta[0, 0] = 1.0
    else:
        theta[0, ..., -1] = 1.0
    theta[1] = draw(transform, form=form, dtype=torch.float32)
    if form == (8,):
        theta[2] = torch.tensor([1.0, 2, 3, 2, 4, 6, 0, 0])
    inverse = invert(theta, transform=transform)
    assert not inverse[0].isfinite().any()
    assert not inverse[2].isfinite().any()
    alone = invert(theta[1], transform=transform)
    assert torch.equal(inverse[1], alone)
    assert alone.isfinite().all()


def test_one_sampling_by_homographies_for_two() -> None:
    """The composed grid is the grid of the second map, sent through the first by hand."""
    first, second = (draw("projective", 1, form=(8,)) for _ in range(2))
    product = compose(first, second, transform="projective")
    inner = sampling_grid(second, (4, 5), transform="projective").flatten(1, 2)
    ends = torch.cat((inner, torch.ones_like(inner[..., :1])), -1) @ square(first).mT
    wanted = ends[..., :2] / ends[..., 2:]
    torch.testing.assert_close(
        sampling_grid(product, (4, 5), transform="projective").flatten(1, 2), wanted
    )


@pytest.mark.parametrize("form", [(3,), (4,)])
def test_to_affine(form: tuple[int, ...]) -> None:
    ndim = len(form) and form[0] - 1
    theta = draw("attention", 2, 3, form=form, dtype=torch.bfloat16)
    affine = to_affine(theta, transform="attention")
    assert affine.dtype == torch.float32
    assert affine.shape == (2, 3, ndim, ndim + 1)
    assert torch.equal(affine, matrix(theta.float(), "attention")[..., :ndim, :])
    u = torch.randn(2, 1, *(5, 6, 7)[:ndim])
    torch.testing.assert_close(
        st_sample(u, theta.float(), transform="attention"), st_sample(u, affine)
    )
    assert torch.equal(to_affine(affine, transform="affine"), affine)
    halved = to_affine(affine.half(), transform="affine")
    assert torch.equal(halved, affine.half().float())


# boxes of attention, crops pasted back


def test_box_of_an_attention_theta() -> None:
    theta = draw("attention", 4, form=(3,))
    theta[1, 0] = -0.5  # mirrors
    box = theta_to_box(theta, (7, 9), transform="attention")
    torch.testing.assert_close(box, theta_to_box(to_affine(theta, transform="attention"), (7, 9)))
    torch.testing.assert_close(box_to_theta(box, (7, 9)), to_affine(theta, transform="attention"))
    assert box[1, 0] > box[1, 2]
    assert theta_to_box(torch.tensor([0.5, 0.5, -0.5]), (8, 4), transform="attention").tolist() == [
        2,
        0,
        4,
        4,
    ]
    volume = theta_to_box(torch.tensor([0.5, 0.5, -0.5, 0.0]), (4, 8, 4), transform="attention")
    assert volume.tolist() == [2, 0, 1, 4, 4, 3]


def test_a_crop_goes_back_to_its_place() -> None:
    u = torch.rand(1, 2, 12, 10, dtype=F64) + 1
    theta = box_to_theta(torch.tensor([[2.0, 3.0, 8.0, 9.0]], dtype=F64), (12, 10))
    crop = st_sample(u, theta, (6, 6))
    wanted = torch.zeros_like(u)
    wanted[..., 3:9, 2:8] = u[..., 3:9, 2:8]
    torch.testing.assert_close(st_sample(crop, invert(theta), (12, 10)), wanted)
    square = torch.rand(1, 1, 8, 8, dtype=F64) + 1
    wanted = torch.zeros_like(square)
    wanted[..., 0:4, 3:7] = square[..., 0:4, 3:7]
    attention = torch.tensor([[0.5, 0.25, -0.5]], dtype=F64)
    crop = st_sample(square, attention, (4, 4), transform="attention")
    back = invert(attention, transform="attention")
    torch.testing.assert_close(st_sample(crop, back, (8, 8), transform="attention"), wanted)
    # As a homography of another scale and sign; h33 = 0 of the inverse is tested above.
    homography = -3 * torch.cat(
        (to_affine(attention, transform="attention"), torch.tensor([[[0.0, 0, 1]]])), 1
    )
    back = invert(homography, transform="projective")
    torch.testing.assert_close(st_sample(crop, back, (8, 8), transform="projective"), wanted)


# derivatives, torch.func, compilation


def run_all(transform: str, theta: Tensor) -> tuple[Tensor, ...]:
    inverse = invert(theta, transform=transform)
    results = [inverse, compose(theta, theta.flip(0), transform=transform)]
    results.append(compose(inverse, theta, transform=transform))
    if transform != "projective":
        results.append(to_affine(theta, transform=transform))
        size = (7, 9, 5)[: results[-1].shape[-2]]
        results.append(theta_to_box(theta, size, transform=transform))
    return tuple(results)


@forms
def test_derivatives(transform: str, form: tuple[int, ...]) -> None:
    theta = draw(transform, 2, form=form).requires_grad_()
    assert torch.autograd.gradcheck(lambda t: run_all(transform, t), theta, check_forward_ad=True)
    if form != (3, 4):  # its twelve numbers take too long
        assert torch.autograd.gradgradcheck(lambda t: run_all(transform, t), theta)


@forms
def test_vmap_and_autocast(transform: str, form: tuple[int, ...]) -> None:
    thetas = draw(transform, 3, 2, form=form)
    mapped = torch.func.vmap(lambda t: run_all(transform, t))(thetas)
    for number, theta in enumerate(thetas):
        for batched, alone in zip(mapped, run_all(transform, theta), strict=True):
            torch.testing.assert_close(batched[number], alone)
    wanted = run_all(transform, thetas.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for rounded, exact in zip(run_all(transform, thetas.float()), wanted, strict=True):
            assert torch.equal(rounded, exact)


@pytest.mark.slow
@forms
def test_compiles_as_one_graph(transform: str, form: tuple[int, ...]) -> None:
    compiled = torch.compile(run_all, fullgraph=True, backend="aot_eager", dynamic=True)
    for n in (2, 3):
        theta = draw(transform, n, form=form)
        torch.testing.assert_close(compiled(transform, theta), run_all(transform, theta))


# refusals

S, A, P = torch.ones(3), torch.eye(2, 3), torch.eye(3)
WRONG: dict[str, tuple[Any, type[Exception], list[str]]] = {
    "compose, tps": (
        lambda: compose(A, A, transform="tps"), ValueError, ["transform", "'projective'", "'tps'"],
    ),
    "compose, one of a volume": (
        lambda: compose(S, torch.ones(4), transform="attention"), ValueError, ["first", "second", "(3,)", "(4,)"],
    ),
    "compose, another form": (
        lambda: compose(P, A, transform="projective"), ValueError,
        ["second", "(..., 8) or (..., 3, 3)", "'projective'", "(2, 3)"],
    ),
    "compose, not broadcast": (
        lambda: compose(torch.ones(2, 8), P.expand(3, 3, 3), transform="projective"), ValueError,
        ["broadcast", "(2, 8)", "(3, 3, 3)"],
    ),
    "invert, default": (lambda: invert(P), ValueError, ["theta", "'affine'", "(3, 3)"]),
    "invert, a scalar": (
        lambda: invert(torch.tensor(1.0), transform="attention"), ValueError, ["(..., 3) or (..., 4)", "()"],
    ),
    "invert, integers": (lambda: invert(P.int(), transform="projective"), TypeError, ["theta", "int32"]),
    "to_affine, projective": (
        lambda: to_affine(P, transform="projective"), ValueError, ["'affine', 'attention'", "'projective'"],
    ),
    "to_affine, a list": (lambda: to_affine([1.0], transform="affine"), TypeError, ["theta", "list"]),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_refused(what: str) -> None:
    check_refused(*WRONG[what])
