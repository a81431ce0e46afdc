"""SpatialTransformer: where it starts, what it predicts and what it samples."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import stn_triton.modules
from stn_triton import SpatialTransformer, identity_theta, st_sample
from stn_triton.transforms import TRANSFORMS
from support.transformers import (
    AFFINE_IDENTITY,
    FEATURES,
    INTO_THE_DARK,
    TILTED,
    C,
    H,
    N,
    W,
    images,
    localisation,
    trained,
    transformer,
    volume_transformer,
)


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("out_size", [None, (H, W)])
def test_starts_as_identity(transform: str, out_size: Any, device: torch.device) -> None:
    x = images(device=device)
    module = transformer(out_size, transform=transform).to(device)
    assert not module.regression.weight.any()
    torch.testing.assert_close(module(x), x, rtol=0, atol=4e-6)


@pytest.mark.parametrize("transform", ["affine", "attention"])
def test_volume_starts_as_identity(transform: str) -> None:
    x = torch.rand(N, C, 3, 4, 5)
    sized = volume_transformer((3, 4, 5), transform=transform, num_transformers=2)
    torch.testing.assert_close(sized(x), x.unsqueeze(1).expand(-1, 2, *x.shape[1:]))
    # Without a size the initial theta says that it is for volumes.
    start = identity_theta(transform, ndim=3)
    unsized = volume_transformer(transform=transform, initial_theta=start)
    sampled, theta = unsized(x, return_theta=True)
    torch.testing.assert_close(sampled, x)
    torch.testing.assert_close(theta, start.expand(N, *start.shape))


def test_images_where_volumes_are_wanted_and_the_reverse() -> None:
    with pytest.raises(ValueError, match=r"source must have 2 spatial axes.*\(d, h, w\)"):
        volume_transformer()(torch.rand(N, C, 3, 4, 5))
    module = volume_transformer((3, 4, 5))
    with pytest.raises(ValueError, match="source must have 3 spatial axes"):
        module(torch.rand(N, C, 3, 4, 5), source=images())


def test_fixed_scale_of_a_volume() -> None:
    module = volume_transformer((2, 2, 2), transform="attention", fixed_scale=0.5)
    assert module.regression.out_features == 3
    theta = module.localise(torch.rand(N, C, 3, 4, 5))
    assert theta.tolist() == [[0.5, 0, 0, 0]] * N


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("out_size", [(4, 3), (18, 5), (9, 21)])
def test_identity_to_another_size_interpolates(
    out_size: tuple[int, int], align_corners: bool, device: torch.device
) -> None:
    x = images(device=device)
    module = transformer(out_size, padding_mode="border", align_corners=align_corners).to(device)
    wanted = F.interpolate(x, out_size, mode="bilinear", align_corners=align_corners)
    torch.testing.assert_close(module(x), wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "initial", "wanted"),
    [
        ({}, None, AFFINE_IDENTITY),
        ({}, TILTED, TILTED),
        ({}, torch.tensor(TILTED), TILTED),
        ({}, 0.5, [[0.5] * 3] * 2),
        ({}, [[1.0, 2.0, 3.0]], [[1.0, 2.0, 3.0]] * 2),
        ({"transform": "attention"}, None, [1.0, 0.0, 0.0]),
        ({"transform": "attention"}, [0.5, 0.25, -0.25], [0.5, 0.25, -0.25]),
        ({"num_transformers": 2}, None, [AFFINE_IDENTITY] * 2),
        ({"num_transformers": 2}, TILTED, [TILTED] * 2),
        ({"num_transformers": 2}, [TILTED, AFFINE_IDENTITY], [TILTED, AFFINE_IDENTITY]),
        ({"num_transformers": 2}, [[[0.5]], [[2.0]]], [[[0.5] * 3] * 2, [[2.0] * 3] * 2]),
        ({"num_transformers": 1}, TILTED, [TILTED]),
        # A flat initial theta has as many numbers as one theta, or as all K together.
        ({}, [1.0, 0.5, 0.25, -0.5, 1.0, 0.0], [[1.0, 0.5, 0.25], [-0.5, 1.0, 0.0]]),
        ({"num_transformers": 3}, torch.tensor(TILTED).flatten(), [TILTED] * 3),
        (
            {"num_transformers": 2},
            torch.tensor([TILTED, AFFINE_IDENTITY]).flatten(),
            [TILTED, AFFINE_IDENTITY],
        ),
        (
            {"transform": "tps", "control_points": 2},
            [-1.0, -1, 1, -1, -1, 1, 2, 1],
            [[-1.0, -1], [1, -1], [-1, 1], [2, 1]],
        ),
        (
            {"num_transformers": 2, "transform": "attention"},
            [[0.5, -0.5, 0.0], [0.5, 0.5, 0.0]],
            [[0.5, -0.5, 0.0], [0.5, 0.5, 0.0]],
        ),
    ],
)
def test_initial_theta_broadcasts(options: dict[str, Any], initial: Any, wanted: Any) -> None:
    module = transformer(initial_theta=initial, **options)
    theta = module.localise(images())
    torch.testing.assert_close(theta, torch.tensor(wanted).expand(N, *torch.tensor(wanted).shape))


def test_initial_theta_is_a_copy() -> None:
    given = torch.tensor(TILTED, requires_grad=True)
    module = transformer(initial_theta=given)
    with torch.no_grad():
        given.zero_()
    module.reset_parameters()
    torch.testing.assert_close(module.localise(images())[0], torch.tensor(TILTED))


@pytest.mark.parametrize("k", [None, 3])
def test_fixed_scale_is_not_predicted(k: int | None) -> None:
    lead = (N,) if k is None else (N, k)
    start = torch.tensor([9.0, 0.25, -0.125])  # the fixed scale replaces its scale
    module = transformer(
        (4, 4), transform="attention", fixed_scale=0.5, num_transformers=k, initial_theta=start
    )
    assert module.regression.out_features == 2 * (k or 1)
    x = images()
    theta = module.localise(x)
    torch.testing.assert_close(theta, torch.tensor([0.5, 0.25, -0.125]).expand(*lead, 3))

    nn.init.normal_(module.regression.weight)
    theta = module.localise(x)
    assert theta.shape == (*lead, 3)
    assert (theta[..., 0] == 0.5).all()
    assert theta[..., 1:].std(0).min() > 1e-3, "tx and ty depend on the image"
    torch.testing.assert_close(module(x), st_sample(x, theta, (4, 4), transform="attention"))
    grads = torch.autograd.grad(theta[..., 0].sum(), module.regression.bias, retain_graph=True)
    assert not grads[0].any()
    (grad,) = torch.autograd.grad(theta[..., 1:].sum(), module.regression.bias)
    assert (grad == N).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_leaves_theta_wide(dtype: torch.dtype) -> None:
    module = trained((4, 5), initial_theta=TILTED)
    x = images(dtype=dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = module.localisation(x)
        sampled, theta = module(x, return_theta=True)
    assert features.dtype == torch.bfloat16, "the localisation itself runs under autocast"
    assert theta.dtype == torch.float32
    assert sampled.dtype == dtype
    wanted = F.linear(features.float(), module.regression.weight, module.regression.bias)
    torch.testing.assert_close(theta.flatten(1), wanted, rtol=0, atol=1e-6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(sampled, st_sample(x, theta, (4, 5)))


@pytest.mark.parametrize(
    ("dtype", "wide"),
    [
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_theta_of_other_dtypes_is_float32_or_wider(dtype: torch.dtype, wide: torch.dtype) -> None:
    module = trained().to(dtype)
    sampled, theta = module(images(dtype=dtype), return_theta=True)
    assert theta.dtype == wide
    assert sampled.dtype == dtype


def test_float64_keeps_the_initial_theta_exact() -> None:
    module = transformer(initial_theta=[[1.0, 0.0, 1 / 3], [0.0, 1.0, 0.1]])
    module.double().reset_parameters()
    theta = module.localise(images(dtype=torch.float64))
    assert theta[0].flatten().tolist() == [1.0, 0.0, 1 / 3, 0.0, 1.0, 0.1]


@pytest.mark.parametrize(
    ("transform", "shape"),
    [
        ("affine", (2, 3)),
        ("attention", (3,)),
        ("projective", (8,)),
        ("tps", (9, 2)),
        ("piecewise_affine", (9, 2)),
    ],
    ids=str,
)
@pytest.mark.parametrize("k", [None, 1, 4])
def test_axis_k(transform: str, shape: tuple[int, ...], k: int | None) -> None:
    module = trained((4, 5), transform=transform, num_transformers=k, control_points=3)
    x = images()
    sampled, theta = module(x, return_theta=True)
    lead = (N,) if k is None else (N, k)
    assert theta.shape == (*lead, *shape)
    assert module.theta_shape == (*lead[1:], *shape)
    assert sampled.shape == (*lead, C, 4, 5)
    for index in range(k or 0):
        alone = st_sample(x, theta[:, index], (4, 5), transform=transform)
        torch.testing.assert_close(sampled[:, index], alone, rtol=0, atol=1e-5)


def test_source_is_sampled_where_x_points() -> None:
    module = trained()
    x, source = images(), images(N, 4, h=6, w=11)
    sampled, theta = module(x, source=source, return_theta=True)
    torch.testing.assert_close(theta, module.localise(x))
    assert sampled.shape == source.shape, "out_size=None is the source's size, not that of x"
    torch.testing.assert_close(sampled, st_sample(source, theta, (6, 11)))


def test_source_sets_the_dtype_of_the_map() -> None:
    sampled, theta = trained()(images(), source=images(dtype=torch.float16), return_theta=True)
    assert sampled.dtype == torch.float16
    assert theta.dtype == torch.float32


def test_return_theta_adds_theta_alone() -> None:
    module = trained((4, 4))
    x = images()
    both = module(x, return_theta=True)
    assert isinstance(both, tuple)
    assert len(both) == 2
    alone = module(x)
    assert isinstance(alone, Tensor)
    assert torch.equal(both[0], alone)
    assert torch.equal(both[1], module.localise(x))
    (grad,) = torch.autograd.grad(both[1].sum(), module.regression.bias)
    assert (grad == N).all(), "a loss on theta trains, too"


def test_theta_differs_between_images() -> None:
    theta = trained().localise(images())
    assert (theta[0] - theta[1]).abs().max() > 1e-3


def test_gradients_reach_regression_then_localisation(device: torch.device) -> None:
    module = transformer((5, 5), num_transformers=2, initial_theta=TILTED).to(device)
    x, source = images(device=device), images(device=device).requires_grad_()
    weights = torch.randn(N, 2, C, 5, 5, device=device)

    def backward() -> None:
        module.zero_grad()
        (module(x, source=source) * weights).sum().backward()

    backward()
    assert module.regression.weight.grad.abs().amin(1).min() > 0, "every entry of theta"
    assert module.regression.bias.grad.abs().min() > 0
    assert source.grad is not None
    assert source.grad.abs().max() > 0
    inner = list(module.localisation.parameters())
    assert inner
    # No gradient passes through weights of zero; after one step it does.
    assert not any(p.grad.any() for p in inner)
    torch.optim.SGD(module.parameters(), lr=0.01).step()
    backward()
    assert all(p.grad.abs().max() > 0 for p in inner)


def test_gradient_reaches_x_through_theta() -> None:
    module = trained()
    x = images().requires_grad_()
    module(x, source=images()).square().sum().backward()
    assert x.grad is not None
    assert x.grad.abs().max() > 0


def test_training_finds_a_shift() -> None:
    """The loss is on the result alone, as in the paper; the true theta is never given."""
    x = torch.zeros(8, 1, 12, 12)
    x[:, :, 4:9, 3:8] = torch.rand(8, 1, 5, 5) + 1
    wanted = st_sample(x, torch.tensor([[1.0, 0, 0.2], [0, 1.0, -0.15]]).expand(8, 2, 3), (12, 12))
    module = SpatialTransformer(localisation(1), None, in_features=FEATURES)
    optimiser = torch.optim.Adam(module.parameters(), lr=0.02)
    losses = []
    for _ in range(60):
        optimiser.zero_grad()
        loss = F.mse_loss(module(x), wanted)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]


def test_a_flat_volume_theta_is_for_volumes() -> None:
    identity = torch.eye(3, 4).flatten().tolist()
    assert volume_transformer(initial_theta=identity).ndim == 3


@pytest.mark.parametrize(
    "option",
    [{"mode": "nearest"}, {"padding_mode": "border"}, {"align_corners": True}],
    ids=lambda option: next(iter(option)),
)
def test_sampling_option_counts(option: dict[str, Any]) -> None:
    x = images()
    module = transformer((6, 8), initial_theta=INTO_THE_DARK, **option)
    theta = torch.tensor(INTO_THE_DARK).expand(N, 2, 3)
    torch.testing.assert_close(module(x), st_sample(x, theta, (6, 8), **option))
    assert (module(x) - transformer((6, 8), initial_theta=INTO_THE_DARK)(x)).abs().max() > 0.01


def test_every_sampling_option_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def spy(source: Tensor, theta: Tensor, out_size: Any, **options: Any) -> Tensor:
        seen.update(options, out_size=out_size)
        return source

    monkeypatch.setattr(stn_triton.modules, "st_sample", spy)
    options = {
        "transform": "attention",
        "mode": "nearest",
        "align_corners": False,
        "antialias": 3,
        "backend": "torch",
    }
    for outside in (
        {"padding_mode": "border", "padding_value": 0.0},
        {"padding_mode": "zeros", "padding_value": 2.5},
    ):
        transformer([4, 5], **options, **outside)(images())
        assert seen == {**options, **outside, "control_points": None, "out_size": (4, 5)}
    transformer(control_points=torch.tensor(((-1.0, -1), (1, -1), (0, 1))), transform="tps")(
        images()
    )
    assert seen["control_points"] == ((-1, -1), (1, -1), (0, 1))


def test_sample_takes_any_theta() -> None:
    module = transformer((4, 4))
    x, theta = images(), torch.tensor(TILTED).expand(N, 2, 2, 3)
    torch.testing.assert_close(module.sample(x, theta), st_sample(x, theta, (4, 4)))
