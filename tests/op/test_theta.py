"""The utilities around theta, against what defines them: affine_grid, grid_sample and points mapped by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from stn_triton import (
    box_to_theta,
    compose,
    identity_theta,
    invert,
    outside_penalty,
    pixel_matrix_to_theta,
    sampling_grid,
    st_sample,
    theta_to_box,
)
from stn_triton.transforms import TRANSFORMS
from support.checks import check_refused
from support.thetas import F64, OUT, SIZE, SPACES, apply, draw

# sampling_grid


@pytest.mark.filterwarnings("ignore:.*unit-size grids")
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("out_size", [(5, 8), (1, 3), (3, 4, 6), (2, 1, 1)], ids=str)
def test_grid_is_that_of_affine_grid(out_size: tuple[int, ...], align_corners: bool) -> None:
    theta = draw("affine", 2, ndim=len(out_size), dtype=torch.float32)
    grid = sampling_grid(theta, out_size, align_corners=align_corners)
    wanted = F.affine_grid(theta, [2, 1, *out_size], align_corners)
    torch.testing.assert_close(grid, wanted, rtol=0, atol=5e-7)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(("transform", "ndim"), SPACES)
def test_grid_is_where_st_sample_samples(transform: str, ndim: int, align_corners: bool) -> None:
    u, theta = torch.randn(2, 3, *SIZE[ndim], dtype=F64), draw(transform, 2, 3, ndim=ndim)
    grid = sampling_grid(theta, OUT[ndim], transform=transform, align_corners=align_corners)
    assert grid.shape == (2, 3, *OUT[ndim], ndim)
    sampled = st_sample(u, theta, OUT[ndim], transform=transform, align_corners=align_corners)
    for k in range(3):
        wanted = F.grid_sample(u, grid[:, k], align_corners=align_corners)
        torch.testing.assert_close(sampled[:, k], wanted)


def test_grid_of_a_homography_at_its_horizon_is_infinite() -> None:
    theta = torch.tensor([[1.0, 0, 0, 0, 1, 0, 1, 0]])
    grid = sampling_grid(theta, (1, 3), transform="projective", align_corners=True)
    assert grid[0, 0, 0].tolist() == [torch.inf, torch.inf]
    assert grid[0, 0, 1:, 0].tolist() == [0.0, 0.5]


@pytest.mark.parametrize(
    ("dtype", "wide"), [(torch.float16, torch.float32), (torch.bfloat16, torch.float32), (F64, F64)]
)
def test_results_are_float32_or_wider(dtype: torch.dtype, wide: torch.dtype) -> None:
    theta = torch.eye(2, 3, dtype=dtype).expand(2, 2, 3)
    assert sampling_grid(theta, (2, 2)).dtype == wide
    assert compose(theta, theta).dtype == wide
    assert invert(theta).dtype == wide
    assert outside_penalty(theta).dtype == wide
    assert box_to_theta(torch.ones(4, dtype=dtype), (4, 4)).dtype == wide


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_autocast_rounds_nothing(transform: str) -> None:
    u = torch.randn(2, 1, 6, 6)
    theta = draw(transform, 2, dtype=torch.float32)
    matrix = draw("affine", 2, dtype=torch.float32)
    results = []
    for enabled in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            results.append(
                [
                    st_sample(u, theta, (5, 5), transform=transform),
                    sampling_grid(theta, (5, 5), transform=transform),
                    outside_penalty(theta, transform=transform),
                    compose(matrix, invert(matrix)),
                    pixel_matrix_to_theta(matrix, (5, 5), (4, 4)),
                ]
            )
    torch.testing.assert_close(*results, rtol=0, atol=0)


# identity_theta


@pytest.mark.parametrize(("transform", "ndim"), SPACES)
def test_identity_leaves_the_image(transform: str, ndim: int) -> None:
    u = torch.randn(2, 3, *SIZE[ndim])
    theta = identity_theta(transform, (2,), ndim=ndim, control_points=3)
    out = st_sample(u, theta, SIZE[ndim], transform=transform)
    torch.testing.assert_close(out, u, rtol=0, atol=4e-6 * float(u.abs().max()))


def test_identity_shapes() -> None:
    assert identity_theta("affine").tolist() == [[1, 0, 0], [0, 1, 0]]
    assert identity_theta("affine", (5, 2), ndim=3).shape == (5, 2, 3, 4)
    assert identity_theta("attention", ndim=3).tolist() == [1, 0, 0, 0]
    assert identity_theta("projective", (4,)).shape == (4, 8)
    assert identity_theta("tps", (0,), control_points=3).shape == (0, 9, 2)
    corners = identity_theta("piecewise_affine", control_points=2)
    assert corners.tolist() == [[-1, -1], [1, -1], [-1, 1], [1, 1]]
    assert identity_theta("tps", dtype=torch.float16).dtype == torch.float16
    own = identity_theta("affine", (2,))
    own[0] = 0  # every theta of the batch has memory of its own
    assert own[1].tolist() == identity_theta("affine").tolist()


# compose, invert


@pytest.mark.parametrize("ndim", [2, 3])
def test_compose_maps_by_second_then_first(ndim: int) -> None:
    first, second = draw("affine", 4, ndim=ndim), draw("affine", 3, 1, ndim=ndim)
    points = torch.randn(3, 4, 6, ndim, dtype=F64)
    product = compose(first, second)
    assert product.shape == (3, 4, ndim, ndim + 1)
    wanted = apply(first, apply(second, points))
    torch.testing.assert_close(apply(product, points), wanted)


def test_compose_is_one_sampling_for_two() -> None:
    """Interpolation reproduces a ramp, and so sampling it in two steps and in one gives the same."""
    y, x = torch.meshgrid(torch.arange(20.0), torch.arange(24.0), indexing="ij")
    u = (x + 3 * y).double().expand(1, 1, 20, 24)
    first = torch.tensor([[[0.5, 0.2, 0.1], [-0.1, 0.6, 0.05]]], dtype=F64)
    second = torch.tensor([[[0.6, -0.3, 0.0], [0.2, 0.5, 0.1]]], dtype=F64)
    twice = st_sample(st_sample(u, first, (18, 22)), second, (8, 9))
    torch.testing.assert_close(st_sample(u, compose(first, second), (8, 9)), twice)


@pytest.mark.parametrize("ndim", [2, 3])
def test_invert_undoes(ndim: int) -> None:
    theta = draw("affine", 5, 2, ndim=ndim)
    identity = identity_theta("affine", (5, 2), ndim=ndim, dtype=F64)
    torch.testing.assert_close(compose(theta, invert(theta)), identity)
    torch.testing.assert_close(compose(invert(theta), theta), identity)
    torch.testing.assert_close(invert(theta)[..., :-1], torch.linalg.inv(theta[..., :-1]))


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("rank", [0, 1])
def test_invert_of_a_singular_theta_is_not_finite(ndim: int, rank: int) -> None:
    theta = torch.ones(2, ndim, ndim + 1) * rank
    theta[1] = torch.eye(ndim, ndim + 1)
    inverse = invert(theta)
    assert not inverse[0].isfinite().any()
    assert torch.equal(inverse[1], theta[1]), "its neighbours keep their inverse"


# boxes

edges = st.floats(-50, 50, width=32)


@given(st.lists(edges, min_size=4, max_size=4), st.integers(1, 40), st.integers(1, 40))
def test_box_there_and_back(box: list[float], height: int, width: int) -> None:
    boxes = torch.tensor(box, dtype=F64)
    back = theta_to_box(box_to_theta(boxes, (height, width)), (height, width))
    torch.testing.assert_close(back, boxes, rtol=0, atol=1e-12 * 100)


def test_box_is_what_is_cropped() -> None:
    u = torch.randn(1, 2, 7, 9, dtype=F64)
    theta = box_to_theta(torch.tensor([[2.0, 1.0, 6.0, 4.0]], dtype=F64), (7, 9))
    torch.testing.assert_close(st_sample(u, theta, (3, 4)), u[:, :, 1:4, 2:6])
    whole = box_to_theta(torch.tensor([0.0, 0.0, 9.0, 7.0]), (7, 9))
    assert whole.tolist() == identity_theta("affine").tolist()
    mirrored = box_to_theta(torch.tensor([[6.0, 1.0, 2.0, 4.0]], dtype=F64), (7, 9))
    torch.testing.assert_close(st_sample(u, mirrored, (3, 4)), u[:, :, 1:4, 2:6].flip(3))


def test_box_of_a_volume() -> None:
    u = torch.randn(1, 1, 4, 6, 5, dtype=F64)
    box = torch.tensor([[1.0, 2.0, 0.0, 4.0, 5.0, 3.0]], dtype=F64)
    theta = box_to_theta(box, (4, 6, 5))
    torch.testing.assert_close(st_sample(u, theta, (3, 3, 3)), u[..., 0:3, 2:5, 1:4])
    torch.testing.assert_close(theta_to_box(theta, (4, 6, 5)), box)


def test_box_around_a_turned_frame() -> None:
    theta = draw("affine", 5) / 2
    corners = torch.tensor([[x, y] for x in (-1, 1) for y in (-1, 1)], dtype=F64)
    pixels = (apply(theta, corners) + 1) / 2 * torch.tensor([9, 7])
    wanted = torch.cat((pixels.amin(-2), pixels.amax(-2)), -1)
    torch.testing.assert_close(theta_to_box(theta, (7, 9)), wanted)


# matrices of other libraries


def warp(u: Tensor, matrix: Tensor, out_size: tuple[int, int]) -> Tensor:
    """`cv2.warpPerspective` by definition: each output pixel's source is the matrix's inverse, bilinear, 0 outside."""
    result = u.new_zeros(u.shape[0], *out_size)
    height, width = u.shape[1:]
    inverse = torch.linalg.inv(matrix)
    for i in range(out_size[0]):
        for j in range(out_size[1]):
            x, y, z = (inverse @ torch.tensor([j, i, 1], dtype=F64)).tolist()
            x, y = x / z, y / z
            x0, y0 = int(x // 1), int(y // 1)
            for row, column in ((y0, x0), (y0, x0 + 1), (y0 + 1, x0), (y0 + 1, x0 + 1)):
                if 0 <= row < height and 0 <= column < width:
                    weight = (1 - abs(x - column)) * (1 - abs(y - row))
                    result[:, i, j] += weight * u[:, row, column]
    return result


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("perspective", [False, True])
def test_pixel_matrix_warps_alike(perspective: bool, align_corners: bool) -> None:
    u = torch.randn(1, 2, 7, 9, dtype=F64)
    matrix = torch.tensor([[1.3, 0.2, -1.7], [-0.3, 0.9, 2.1], [0, 0, 1]], dtype=F64)
    if perspective:
        matrix[2] = torch.tensor([0.02, -0.01, 1.5])
    given = matrix if perspective else matrix[:2]
    theta = pixel_matrix_to_theta(given, (7, 9), (5, 8), align_corners=align_corners)
    assert theta.shape == given.shape
    transform = "projective" if perspective else "affine"
    out = st_sample(u, theta[None], (5, 8), transform=transform, align_corners=align_corners)
    torch.testing.assert_close(out[0], warp(u[0], matrix, (5, 8)))


def test_pixel_matrix_of_a_volume_and_of_single_pixels() -> None:
    u = torch.randn(1, 1, 4, 6, 5, dtype=F64)
    matrix = torch.eye(3, 4, dtype=F64)
    matrix[:, 3] = torch.tensor([-1.0, -2.0, 0.0])  # one to the left, two up
    theta = pixel_matrix_to_theta(matrix, (4, 6, 5), (4, 4, 4))
    torch.testing.assert_close(st_sample(u, theta[None], (4, 4, 4)), u[..., 2:6, 1:5])
    aligned = pixel_matrix_to_theta(torch.eye(2, 3), (1, 5), (5, 1), align_corners=True)
    assert aligned.isfinite().all()


# derivatives, torch.func, compilation

FUNCTIONS: dict[str, Any] = {
    "sampling_grid": lambda t: sampling_grid(t, (3, 4)),
    "compose": lambda t: compose(t, t.flip(0)),
    "invert": invert,
    "theta_to_box": lambda t: theta_to_box(t, (7, 9)),
    "box_to_theta": lambda t: box_to_theta(t.flatten(1)[:, :4], (7, 9)),
    "pixel_matrix_to_theta": lambda t: pixel_matrix_to_theta(t, (7, 9), (3, 4)),
    "outside_penalty": outside_penalty,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_derivatives(name: str) -> None:
    theta = draw("affine", 2, spread=0.4).requires_grad_()
    assert torch.autograd.gradcheck(FUNCTIONS[name], theta, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(FUNCTIONS[name], theta)


@pytest.mark.parametrize(("transform", "ndim"), SPACES)
def test_derivatives_of_every_transform(transform: str, ndim: int) -> None:
    theta = draw(transform, 2, ndim=ndim).requires_grad_()
    for run in (
        lambda t: sampling_grid(t, OUT[ndim], transform=transform),
        lambda t: outside_penalty(t, transform=transform),
    ):
        assert torch.autograd.gradcheck(run, theta, check_forward_ad=True)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_vmap(name: str) -> None:
    thetas = draw("affine", 3, 2)
    wanted = torch.stack([FUNCTIONS[name](theta) for theta in thetas])
    torch.testing.assert_close(torch.func.vmap(FUNCTIONS[name])(thetas), wanted)


@pytest.mark.slow
@pytest.mark.parametrize("name", FUNCTIONS)
def test_compiles_as_one_graph(name: str) -> None:
    compiled = torch.compile(FUNCTIONS[name], fullgraph=True, backend="aot_eager", dynamic=True)
    for n in (2, 3):
        theta = draw("affine", n)
        torch.testing.assert_close(compiled(theta), FUNCTIONS[name](theta))


@pytest.mark.slow
@pytest.mark.parametrize("transform", ["projective", "tps", "piecewise_affine"])
def test_grid_compiles_for_any_size(transform: str) -> None:
    def run(theta: Tensor, height: int) -> Tensor:
        return sampling_grid(theta, (height, 4), transform=transform)

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager", dynamic=True)
    for height in (3, 5):
        theta = draw(transform, 2).requires_grad_()
        ours, wanted = compiled(theta, height), run(theta, height)
        torch.testing.assert_close(ours, wanted)
        grads = [torch.autograd.grad(each.square().sum(), theta) for each in (ours, wanted)]
        torch.testing.assert_close(*grads)


# refusals

A, V = torch.eye(2, 3), torch.eye(3, 4)
WRONG: dict[str, tuple[Any, type[Exception], list[str]]] = {
    "grid, size": (lambda: sampling_grid(A[None], 4), TypeError, ["out_size", "4"]),
    "grid, transform": (
        lambda: sampling_grid(A[None], (4, 4), transform="afine"), ValueError, ["'affine'", "'afine'"],
    ),
    "grid, integers": (lambda: sampling_grid(A[None].long(), (4, 4)), TypeError, ["theta", "int64"]),
    "grid, no batch": (lambda: sampling_grid(A, (4, 4)), ValueError, ["(N, 2, 3)", "(2, 3)"]),
    "grid, tps of a volume": (
        lambda: sampling_grid(torch.zeros(1, 4, 2), (2, 2, 2), transform="tps"), ValueError, ["'tps'"],
    ),
    "identity, transform": (lambda: identity_theta("shear"), ValueError, ["'tps'", "'shear'"]),
    "identity, ndim": (lambda: identity_theta("tps", ndim=3), ValueError, ["ndim", "'tps'", "2", "3"]),
    "identity, negative size": (
        lambda: identity_theta("affine", (2, -1)), ValueError, ["batch_shape", "negative", "(2, -1)"],
    ),
    "compose, not broadcast": (
        lambda: compose(torch.ones(4, 2, 2, 3), torch.ones(4, 3, 2, 3)), ValueError,
        ["broadcast", "(4, 2, 2, 3)", "(4, 3, 2, 3)"],
    ),
    "identity, points": (lambda: identity_theta("tps", control_points=1), ValueError, ["control_points", "2"]),
    "compose, a list": (lambda: compose([1.0], A), TypeError, ["first", "tensor", "list"]),
    "compose, attention": (
        lambda: compose(A, torch.ones(2, 3, 3)), ValueError, ["second", "(..., 2, 3)", "(2, 3, 3)"],
    ),
    "compose, image and volume": (
        lambda: compose(A, V), ValueError, ["first", "second", "(2, 3)", "(3, 4)"],
    ),
    "invert, a vector": (lambda: invert(torch.ones(3)), ValueError, ["theta", "(..., 3, 4)", "(3,)"]),
    "box, of five": (lambda: box_to_theta(torch.ones(5), (4, 4)), ValueError, ["(..., 4)", "(5,)"]),
    "box, integers": (lambda: box_to_theta(torch.ones(4).int(), (4, 4)), TypeError, ["boxes", "int32"]),
    "box, size": (lambda: box_to_theta(torch.ones(4), (0, 4)), ValueError, ["image_size", "(0, 4)"]),
    "to box, volume": (
        lambda: theta_to_box(V, (4, 4)), ValueError, ["(..., 2, 3)", "image_size", "(3, 4)"],
    ),
    "matrix, transposed": (
        lambda: pixel_matrix_to_theta(A.mT, (4, 4), (4, 4)), ValueError,
        ["matrix", "(..., 2, 3)", "(..., 3, 3)", "(3, 2)"],
    ),
    "matrix, sizes": (
        lambda: pixel_matrix_to_theta(V, (4, 4, 4), (4, 4)), ValueError, ["out_size", "3 entries", "(4, 4)"],
    ),
    "penalty, transform": (lambda: outside_penalty(A[None], transform="x"), ValueError, ["'affine'", "'x'"]),
    "penalty, shape": (lambda: outside_penalty(A), ValueError, ["(N, 2, 3)", "(2, 3)"]),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_refused(what: str) -> None:
    check_refused(*WRONG[what])


@pytest.mark.parametrize("scale", [1e-20, 1e-13, 1e13, 1e20])
@pytest.mark.parametrize("ndim", [2, 3])
def test_invert_has_no_favourite_scale(ndim: int, scale: float) -> None:
    theta = identity_theta("affine", (2,), ndim=ndim) + 0.2 * torch.randn(2, ndim, ndim + 1)
    theta[..., -1] = 0
    expected = invert(theta.double())
    torch.testing.assert_close(
        invert(scale * theta).double() * scale, expected, rtol=1e-4, atol=1e-5
    )


def test_identity_theta_refuses_what_is_no_float_and_no_shape() -> None:
    with pytest.raises(TypeError, match=r"float dtype.*int32"):
        identity_theta("tps", dtype=torch.int32)
    with pytest.raises(TypeError, match=r"batch_shape.*4"):
        identity_theta("affine", 4)  # type: ignore[arg-type]
