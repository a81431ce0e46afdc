"""Pixel matrices both ways, against OpenCV, scipy, kornia and points mapped by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from stn_triton import (
    identity_theta,
    pixel_matrix_to_theta,
    sampling_grid,
    st_sample,
    theta_to_box,
    theta_to_pixel_matrix,
    to_affine,
)
from support.checks import check_refused, within_budget

F64 = torch.float64
IMAGE = {2: (7, 9), 3: (4, 6, 5)}
OUT = {2: (5, 8), 3: (3, 4, 6)}
DIRECTIONS = ["source_to_output", "output_to_source"]
FORMS: list[tuple[str, int, tuple[int, ...]]] = [
    ("affine", 2, (2, 3)),
    ("affine", 3, (3, 4)),
    ("attention", 2, (3,)),
    ("attention", 3, (4,)),
    ("projective", 2, (8,)),
    ("projective", 2, (3, 3)),
]
forms = pytest.mark.parametrize(("transform", "ndim", "form"), FORMS)
directions = pytest.mark.parametrize("direction", DIRECTIONS)
corners = pytest.mark.parametrize("align_corners", [False, True])


def draw(transform: str, *outer: int, form: tuple[int, ...], dtype: Any = F64) -> Tensor:
    ndim = 3 if form[-1] == 4 else 2
    theta = identity_theta(transform, outer, ndim=ndim, dtype=F64)
    if form == (3, 3):
        theta = torch.cat((theta, torch.ones_like(theta[..., :1])), -1).unflatten(-1, (3, 3))
    return (theta + 0.15 * torch.randn_like(theta)).to(dtype)


def whole(matrix: Tensor) -> Tensor:
    """The square matrix, with the row that an affine one leaves out."""
    if matrix.shape[-1] == matrix.shape[-2]:
        return matrix
    last = torch.eye(matrix.shape[-1], dtype=matrix.dtype)[-1:]
    return torch.cat((matrix, last.expand(*matrix.shape[:-2], 1, -1)), -2)


def mapped(matrix: Tensor, points: Tensor) -> Tensor:
    """Points (P, d) by a matrix, divided by the last coordinate."""
    ones = torch.ones_like(points[:, :1])
    result = torch.cat((points, ones), -1) @ whole(matrix).mT
    return result[..., :-1] / result[..., -1:]


def centres(size: tuple[int, ...]) -> Tensor:
    """The pixels (x, y[, z]) of a size, in the order of the array."""
    axes = [torch.arange(length, dtype=F64) for length in size]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, -2).flip(-1)


def to_pixels(grid: Tensor, size: tuple[int, ...], align_corners: bool) -> Tensor:
    """Normalised coordinates in pixels, by `grid_sample`'s own formula."""
    lengths = torch.tensor(size[::-1], dtype=F64)
    if align_corners:
        return (grid + 1) / 2 * (lengths - 1)
    return ((grid + 1) * lengths - 1) / 2


@corners
@forms
def test_matrix_says_where_st_sample_samples(
    transform: str, ndim: int, form: tuple[int, ...], align_corners: bool
) -> None:
    theta, sizes = draw(transform, 2, form=form), (IMAGE[ndim], OUT[ndim])
    options = {"transform": transform, "align_corners": align_corners}
    there = theta_to_pixel_matrix(theta, *sizes, **options, direction="output_to_source")
    square = transform == "projective"
    assert there.shape == (2, ndim + square, ndim + 1)
    grid = sampling_grid(theta, OUT[ndim], **options)
    source = to_pixels(grid.flatten(1, -2), IMAGE[ndim], align_corners)
    output = centres(OUT[ndim])
    torch.testing.assert_close(mapped(there, output), source)
    back = theta_to_pixel_matrix(theta, *sizes, **options)
    for n in range(2):
        torch.testing.assert_close(mapped(back[n], source[n]), output, rtol=1e-9, atol=1e-9)


@directions
@corners
@forms
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, F64], ids=["f16", "f32", "f64"])
def test_there_and_back(
    transform: str, ndim: int, form: tuple[int, ...], align_corners: bool, direction: str,
    dtype: torch.dtype,
) -> None:  # fmt: skip
    theta = draw(transform, 4, 3, form=form, dtype=dtype)
    sizes = (37, 500, 48)[-ndim:], (128, 31, 60)[-ndim:]
    options: dict[str, Any] = {"align_corners": align_corners, "direction": direction}
    matrix = theta_to_pixel_matrix(theta, *sizes, transform=transform, **options)
    assert matrix.dtype == (F64 if dtype == F64 else torch.float32)
    again = pixel_matrix_to_theta(matrix, *sizes, **options)
    true = theta.double()
    if transform == "projective":
        if form == (8,):
            true = torch.cat((true, torch.ones_like(true[..., :1])), -1).unflatten(-1, (3, 3))
    else:
        true = to_affine(true, transform=transform)
    # The error of a matrix in pixels, by PyTorch's own product and inverse in the same dtype.
    rounded = pixel_truth(true, sizes, align_corners, direction).to(matrix.dtype)
    low = pixel_definition(rounded, sizes, align_corners, direction)
    within_budget(again, low[..., : true.shape[-2], :], true, "theta")


def normaliser(size: tuple[int, ...], align_corners: bool, dtype: torch.dtype) -> Tensor:
    """The homogeneous matrix from normalised coordinates to pixels."""
    lengths = torch.tensor(size[::-1], dtype=dtype)
    result = torch.diag(torch.cat(((lengths - int(align_corners)) / 2, torch.ones(1, dtype=dtype))))
    result[:-1, -1] = (lengths - 1) / 2
    return result


def pixel_truth(theta: Tensor, sizes: Any, align_corners: bool, direction: str) -> Tensor:
    """The homogeneous matrix in pixels of a theta, in float64."""
    image, out = (normaliser(size, align_corners, F64) for size in sizes)
    there = image @ whole(theta.double()) @ torch.linalg.inv(out)
    return there if direction == "output_to_source" else torch.linalg.inv(there)


def pixel_definition(matrix: Tensor, sizes: Any, align_corners: bool, direction: str) -> Tensor:
    """The theta of a matrix by plain matrix algebra in its dtype."""
    image, out = (normaliser(size, align_corners, matrix.dtype) for size in sizes)
    there = matrix if direction == "output_to_source" else torch.linalg.inv(matrix)
    return torch.linalg.inv(image) @ there @ out


@directions
@corners
@pytest.mark.parametrize(("ndim", "perspective"), [(2, False), (2, True), (3, False)])
def test_the_identity_is_exact(
    ndim: int, perspective: bool, align_corners: bool, direction: str
) -> None:
    matrix = torch.eye(ndim + perspective, ndim + 1)
    for length in range(1, 70):
        size = (length, 2 * length + 1, 70 - length)[-ndim:]
        options: dict[str, Any] = {"align_corners": align_corners, "direction": direction}
        assert torch.equal(pixel_matrix_to_theta(matrix, size, size, **options), matrix)
        transform = "projective" if perspective else "affine"
        again = theta_to_pixel_matrix(matrix, size, size, transform=transform, **options)
        assert torch.equal(again, matrix)


@corners
@directions
@pytest.mark.parametrize(("ndim", "perspective"), [(2, False), (2, True), (3, False)])
def test_matrices_map_pixels(
    ndim: int, perspective: bool, direction: str, align_corners: bool
) -> None:
    """The theta of a matrix samples where the matrix, or its inverse, sends the output's pixels."""
    matrix = torch.eye(ndim + perspective, ndim + 1, dtype=F64)
    matrix = matrix + 0.05 * torch.randn_like(matrix)
    sizes = IMAGE[ndim], OUT[ndim]
    theta = pixel_matrix_to_theta(matrix, *sizes, align_corners=align_corners, direction=direction)
    grid = sampling_grid(
        theta[None], OUT[ndim], align_corners=align_corners,
        transform="projective" if perspective else "affine",
    )  # fmt: skip
    source = to_pixels(grid.flatten(0, -2), IMAGE[ndim], align_corners)
    inverse = torch.linalg.inv(whole(matrix))
    wanted = mapped(matrix if direction == "output_to_source" else inverse, centres(OUT[ndim]))
    torch.testing.assert_close(source, wanted)


@forms
def test_singular_is_finite_where_nothing_is_inverted(
    transform: str, ndim: int, form: tuple[int, ...]
) -> None:
    theta = torch.zeros(2, *form)
    theta[1] = draw(transform, form=form, dtype=torch.float32)
    if form == (8,):
        theta[0, 0] = 1.0  # [[1, 0, 0], [0, 0, 0], [0, 0, 1]]
    sizes = IMAGE[ndim], OUT[ndim]
    there = theta_to_pixel_matrix(theta, *sizes, transform=transform, direction="output_to_source")
    assert there.isfinite().all()
    theta_again = pixel_matrix_to_theta(there, *sizes, direction="output_to_source")
    assert theta_again.isfinite().all()
    back = theta_to_pixel_matrix(theta, *sizes, transform=transform)
    assert not back[0].isfinite().any()
    assert back[1].isfinite().all()
    nothing = pixel_matrix_to_theta(there, *sizes)
    assert not nothing[0].isfinite().any()
    assert nothing[1].isfinite().all()


@corners
def test_a_singular_matrix_samples_one_line(align_corners: bool) -> None:
    u = torch.randn(1, 1, 7, 9, dtype=F64)
    matrix = torch.tensor([[1.0, 0, 0], [0, 0, 3]], dtype=F64)  # every row is row 3
    theta = pixel_matrix_to_theta(
        matrix, (7, 9), (4, 9), align_corners=align_corners, direction="output_to_source"
    )
    out = st_sample(u, theta[None], (4, 9), align_corners=align_corners)
    torch.testing.assert_close(out, u[..., 3:4, :].expand_as(out))


@corners
def test_an_axis_of_one_pixel_is_finite(align_corners: bool) -> None:
    theta = draw("affine", form=(2, 3))
    for direction in DIRECTIONS:
        options: dict[str, Any] = {"align_corners": align_corners, "direction": direction}
        matrix = theta_to_pixel_matrix(theta, (1, 5), (5, 1), **options)
        torch.testing.assert_close(pixel_matrix_to_theta(matrix, (1, 5), (5, 1), **options), theta)


# other libraries

MATRIX = [[1.3, 0.2, -1.7], [-0.3, 0.9, 2.1], [0.02, -0.01, 1.5]]


@directions
@pytest.mark.parametrize("perspective", [False, True])
def test_as_opencv_warps(perspective: bool, direction: str) -> None:
    cv2 = pytest.importorskip("cv2")
    matrix = torch.tensor(MATRIX if perspective else MATRIX[:2], dtype=F64)
    u = torch.randn(1, 1, 7, 9)
    flags = cv2.INTER_LINEAR | (cv2.WARP_INVERSE_MAP if direction == "output_to_source" else 0)
    warp = cv2.warpPerspective if perspective else cv2.warpAffine
    wanted = torch.as_tensor(warp(u[0, 0].numpy(), matrix.numpy(), (8, 5), flags=flags))
    theta = pixel_matrix_to_theta(matrix, (7, 9), (5, 8), direction=direction)
    out = st_sample(u, theta[None], (5, 8), transform="projective" if perspective else "affine")
    # OpenCV rounds coordinates to 1/32 pixel.
    torch.testing.assert_close(out[0, 0], wanted, rtol=0, atol=0.15)


@pytest.mark.parametrize("perspective", [False, True])
def test_as_kornia_warps(perspective: bool) -> None:
    kornia = pytest.importorskip("kornia")
    matrix = torch.tensor([MATRIX if perspective else MATRIX[:2]], dtype=F64)
    u = torch.randn(1, 2, 7, 9, dtype=F64)
    warp = kornia.geometry.warp_perspective if perspective else kornia.geometry.warp_affine
    wanted = warp(u, matrix, (5, 8), align_corners=True)
    theta = pixel_matrix_to_theta(matrix, (7, 9), (5, 8), align_corners=True)
    transform = "projective" if perspective else "affine"
    out = st_sample(u, theta, (5, 8), transform=transform, align_corners=True)
    torch.testing.assert_close(out, wanted)
    again = theta_to_pixel_matrix(theta, (7, 9), (5, 8), transform=transform, align_corners=True)
    torch.testing.assert_close(warp(u, again, (5, 8), align_corners=True), out)


@corners
@pytest.mark.parametrize("ndim", [2, 3])
def test_as_scipy_warps(ndim: int, align_corners: bool) -> None:
    """scipy's matrix maps output to source, in the order of the array's axes."""
    ndimage = pytest.importorskip("scipy.ndimage")
    u = torch.randn(1, 1, *IMAGE[ndim], dtype=F64)
    matrix = torch.eye(ndim, ndim + 1, dtype=F64) + 0.2 * torch.randn(ndim, ndim + 1, dtype=F64)

    def warp(matrix: Tensor) -> Tensor:
        linear, offset = matrix[:, :-1].flip(0, 1), matrix[:, -1].flip(0)
        return torch.as_tensor(
            ndimage.affine_transform(
                u[0, 0].numpy(), linear.numpy(), offset.numpy(), OUT[ndim], order=1, mode="grid-constant"
            )
        )  # fmt: skip

    sizes = IMAGE[ndim], OUT[ndim]
    options: dict[str, Any] = {"align_corners": align_corners, "direction": "output_to_source"}
    theta = pixel_matrix_to_theta(matrix, *sizes, **options)
    out = st_sample(u, theta[None], OUT[ndim], align_corners=align_corners)
    torch.testing.assert_close(out[0, 0], warp(matrix))
    torch.testing.assert_close(out[0, 0], warp(theta_to_pixel_matrix(theta, *sizes, **options)))


# derivatives, torch.func, compilation


def run_all(theta: Tensor) -> Tensor:
    """Every direction of one affine theta."""
    results = []
    for direction in DIRECTIONS:
        matrix = theta_to_pixel_matrix(theta, (7, 9), (3, 4), direction=direction)
        results += [matrix, pixel_matrix_to_theta(matrix, (9, 7), (4, 3), direction=direction)]
    return torch.stack(results)


def test_derivatives() -> None:
    theta = draw("affine", 2, form=(2, 3)).requires_grad_()
    assert torch.autograd.gradcheck(run_all, theta, check_forward_ad=True)
    for transform, ndim, form in FORMS[1:]:
        theta = draw(transform, 2, form=form).requires_grad_()
        for direction in DIRECTIONS:
            assert torch.autograd.gradcheck(
                lambda t: theta_to_pixel_matrix(
                    t, IMAGE[ndim], OUT[ndim], transform=transform, direction=direction  # noqa: B023
                ),
                theta,
            )  # fmt: skip


@forms
def test_vmap(transform: str, ndim: int, form: tuple[int, ...]) -> None:
    thetas = draw(transform, 3, 2, form=form)

    def run(theta: Tensor) -> Tensor:
        matrix = theta_to_pixel_matrix(theta, IMAGE[ndim], OUT[ndim], transform=transform)
        return matrix, pixel_matrix_to_theta(matrix, OUT[ndim], IMAGE[ndim])

    torch.testing.assert_close(torch.func.vmap(run)(thetas), run(thetas))


@pytest.mark.slow
@forms
def test_compiles_as_one_graph(transform: str, ndim: int, form: tuple[int, ...]) -> None:
    def run(theta: Tensor, length: int) -> Tensor:
        sizes = (length, *IMAGE[ndim][1:]), OUT[ndim]
        matrix = theta_to_pixel_matrix(theta, *sizes, transform=transform)
        return matrix, pixel_matrix_to_theta(matrix, *sizes, direction="output_to_source")

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager", dynamic=True)
    for n in (2, 3):
        theta = draw(transform, n, form=form)
        torch.testing.assert_close(compiled(theta, 4 + n), run(theta, 4 + n))


def test_autocast_rounds_nothing() -> None:
    theta = draw("affine", 2, form=(2, 3), dtype=torch.float32)
    wanted = run_all(theta)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(run_all(theta), wanted)


# refusals

A, V = torch.eye(2, 3), torch.eye(3, 4)
WRONG: dict[str, tuple[Any, type[Exception], list[str]]] = {
    "direction": (
        lambda: pixel_matrix_to_theta(A, (4, 4), (4, 4), direction="forward"), ValueError,
        ["direction", "'source_to_output'", "'output_to_source'", "'forward'"],
    ),
    "direction, back": (
        lambda: theta_to_pixel_matrix(A, (4, 4), (4, 4), direction=None), ValueError, ["direction", "None"],
    ),
    "tps": (
        lambda: theta_to_pixel_matrix(torch.zeros(4, 2), (4, 4), (4, 4), transform="tps"), ValueError,
        ["transform", "'projective'", "'tps'"],
    ),
    "a homography of a volume": (
        lambda: theta_to_pixel_matrix(torch.eye(3), (4, 4, 4), (4, 4, 4), transform="projective"), ValueError,
        ["'projective'", "2", "3"],
    ),
    "another shape": (
        lambda: theta_to_pixel_matrix(torch.ones(2, 4), (4, 4), (4, 4), transform="attention"), ValueError,
        ["theta", "(..., 3)", "'attention'", "2 entries", "(2, 4)"],
    ),
    "sizes": (lambda: theta_to_pixel_matrix(V, (4, 4, 4), (4, 4)), ValueError, ["out_size", "3 entries", "(4, 4)"]),
    "integers": (lambda: theta_to_pixel_matrix(A.long(), (4, 4), (4, 4)), TypeError, ["theta", "int64"]),
    "image_size": (lambda: theta_to_pixel_matrix(A, 4, (4, 4)), TypeError, ["image_size", "4"]),
    "box, projective": (
        lambda: theta_to_box(torch.eye(3), (4, 4), transform="projective"), ValueError,
        ["transform", "'affine', 'attention'", "'projective'"],
    ),
    "box, attention of a volume": (
        lambda: theta_to_box(torch.ones(4), (4, 4), transform="attention"), ValueError, ["(..., 3)", "(4,)"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_refused(what: str) -> None:
    check_refused(*WRONG[what])
