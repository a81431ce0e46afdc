"""SpatialTransformer: where it starts, what it predicts, what it samples and what it refuses."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import stn_triton.modules
from stn_triton import SpatialTransformer, identity_theta, st_sample
from stn_triton.transforms import TRANSFORMS

N, C, H, W = 3, 2, 9, 7
FEATURES = 5
AFFINE_IDENTITY = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
TILTED = [[0.8, 0.3, 0.1], [-0.2, 0.7, -0.15]]
INTO_THE_DARK = [[1.5, 0.3, 0.6], [-0.2, 1.4, -0.5]]


def localisation(channels: int = C, features: int = FEATURES) -> nn.Module:
    pool = nn.AdaptiveAvgPool2d(3)
    return nn.Sequential(pool, nn.Flatten(), nn.Linear(9 * channels, features), nn.Tanh())


def transformer(out_size: Any = None, **options: Any) -> SpatialTransformer:
    return SpatialTransformer(localisation(), out_size, in_features=FEATURES, **options)


def trained(out_size: Any = None, **options: Any) -> SpatialTransformer:
    """One whose theta depends on the image, as after some training."""
    module = transformer(out_size, **options)
    nn.init.normal_(module.regression.weight, std=0.2)
    return module


def images(*lead: int, h: int = H, w: int = W, **options: Any) -> Tensor:
    return torch.rand(*(lead or (N, C)), h, w, **options)


def volume_transformer(out_size: Any = None, **options: Any) -> SpatialTransformer:
    pool = nn.Sequential(nn.AdaptiveAvgPool3d(2), nn.Flatten())
    return SpatialTransformer(pool, out_size, in_features=8 * C, **options)


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
        # Flat: as many numbers as one theta has, or all K.
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
    start = torch.tensor([9.0, 0.25, -0.125])  # its scale gives way to the fixed one
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
    # Through weights of zero nothing passes; after one step it does.
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
    """Only a loss on the result, as in the paper: theta is never shown."""
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


def test_state_dict_round_trip() -> None:
    module = trained((4, 4), num_transformers=2)
    state = module.state_dict()
    names = {"regression.weight", "regression.bias"}
    names |= {f"localisation.{name}" for name in module.localisation.state_dict()}
    assert set(state) == names

    other = transformer((4, 4), num_transformers=2)
    x = images()
    assert not torch.equal(other(x), module(x))
    other.load_state_dict(state)
    assert torch.equal(other(x), module(x))


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_copies_and_pickles_work_alike(transform: str) -> None:
    module, x = trained((4, 4), transform=transform), images()
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    for other in (copy.deepcopy(module), torch.load(file, weights_only=False)):
        assert torch.equal(other(x), module(x))
        other.reset_parameters()
        assert other.initial_theta == module.initial_theta


@pytest.mark.slow
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_compiles_as_one_graph(transform: str) -> None:
    module, x = trained((4, 4), transform=transform), images()
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), module(x))


def reset_everything(module: nn.Module) -> None:
    """What recipes for meta modules do, FSDP's among them."""
    for each in module.modules():
        if hasattr(each, "reset_parameters"):
            each.reset_parameters()


@pytest.mark.parametrize(
    "options", [{}, {"initial_theta": TILTED, "num_transformers": 2}, {"transform": "tps"}], ids=str
)
def test_resetting_every_module_restores_the_start(options: dict[str, Any]) -> None:
    expected = transformer(**options).localise(images())
    module = trained(**options)
    reset_everything(module)
    torch.testing.assert_close(module.localise(images()), expected)
    with torch.device("meta"):
        module = transformer(**options)
    module.to_empty(device="cpu")
    reset_everything(module)
    torch.testing.assert_close(module.localise(images()), expected)


def test_a_flat_volume_theta_is_for_volumes() -> None:
    identity = torch.eye(3, 4).flatten().tolist()
    assert volume_transformer(initial_theta=identity).ndim == 3


def test_reset_parameters_restores_the_start() -> None:
    module = trained(transform="attention", fixed_scale=0.5, initial_theta=[0.5, 0.1, 0.2])
    nn.init.normal_(module.regression.bias)
    module.reset_parameters()
    torch.testing.assert_close(
        module.localise(images()), torch.tensor([0.5, 0.1, 0.2]).expand(N, 3)
    )


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


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ({}, ["'affine'", "out_size=None"]),
        ({"out_size": [4, 5], "num_transformers": 2}, ["out_size=(4, 5)", "num_transformers=2"]),
        ({"transform": "attention", "fixed_scale": 0.5}, ["'attention'", "fixed_scale=0.5"]),
    ],
)
def test_repr_shows_what_it_is(options: dict[str, Any], shown: list[str]) -> None:
    text = repr(transformer(**options))
    assert all(part in text for part in shown)


WRONG: dict[str, tuple[dict[str, Any], type[Exception], list[str]]] = {
    # what is wrong: options, error, what the message says
    "localisation, a function": ({"localisation": lambda x: x}, TypeError, ["localisation", "nn.Module", "function"]),
    "out_size, an int": ({"out_size": 28}, TypeError, ["out_size", "(h, w)", "28"]),
    "out_size, text": ({"out_size": "28"}, TypeError, ["out_size", "(h, w)", "'28'"]),
    "out_size, floats": ({"out_size": (2.0, 2)}, TypeError, ["out_size", "int", "2.0"]),
    "out_size, bools": ({"out_size": (True, 2)}, TypeError, ["out_size", "int", "True"]),
    "out_size, one": ({"out_size": (2,)}, ValueError, ["out_size", "(h, w)", "got 1"]),
    "out_size, four": ({"out_size": (2, 3, 4, 5)}, ValueError, ["(d, h, w)", "got 4"]),
    "out_size, zero": ({"out_size": (0, 2)}, ValueError, ["out_size", "positive", "(0, 2)"]),
    "out_size, negative": ({"out_size": (2, -3)}, ValueError, ["out_size", "positive", "-3"]),
    "out_size, of a volume": (
        {"out_size": (2, 3, 4), "transform": "tps"},
        ValueError,
        ["'tps'", "(N, C, H, W)", "not (N, C, D, H, W)"],
    ),
    "in_features, zero": ({"in_features": 0}, ValueError, ["in_features", "at least 1", "got 0"]),
    "in_features, a float": ({"in_features": 2.0}, TypeError, ["in_features", "int", "2.0"]),
    "transform, misspelt": (
        {"transform": "afine"},
        ValueError,
        ["transform", "'affine'", "'piecewise_affine'", "'afine'"],
    ),
    "transform, None": ({"transform": None}, ValueError, ["transform", "'affine'", "None"]),
    "num_transformers, zero": ({"num_transformers": 0}, ValueError, ["num_transformers", "at least 1", "got 0"]),
    "num_transformers, a bool": ({"num_transformers": True}, TypeError, ["num_transformers", "int", "True"]),
    "num_transformers, a float": ({"num_transformers": 2.0}, TypeError, ["num_transformers", "int", "2.0"]),
    "control_points, one": (
        {"control_points": 1, "transform": "tps"}, ValueError, ["control_points", "at least 2", "1"]
    ),
    "control_points, a word": (
        {"control_points": "4", "transform": "tps"}, TypeError, ["control_points", "int", "'4'"]
    ),
    "fixed_scale, affine": ({"fixed_scale": 0.5}, ValueError, ["fixed_scale", "'attention'", "'affine'"]),
    "fixed_scale, text": (
        {"fixed_scale": "0.5", "transform": "attention"},
        TypeError,
        ["fixed_scale", "float", "'0.5'"],
    ),
    "fixed_scale, a bool": (
        {"fixed_scale": True, "transform": "attention"},
        TypeError,
        ["fixed_scale", "float", "True"],
    ),
    "initial_theta, transposed": (
        {"initial_theta": torch.zeros(3, 2)},
        ValueError,
        ["initial_theta", "(2, 3)", "(3, 2)"],
    ),
    "initial_theta, of attention": (
        {"initial_theta": [1.0, 0.0, 0.0]},
        ValueError,
        ["initial_theta", "(2, 3)", "'affine'", "6 numbers", "got shape (3,)"],
    ),
    "initial_theta, one point for all": (
        {"initial_theta": [1.0, 0.0], "transform": "tps", "num_transformers": 2},
        ValueError,
        ["initial_theta", "(2, 16, 2)", "'tps'", "32 numbers or 64", "got shape (2,)"],
    ),
    "initial_theta, K without the axis": (
        {"initial_theta": torch.zeros(2, 2, 3)},
        ValueError,
        ["initial_theta", "(2, 3)", "(2, 2, 3)"],
    ),
    "initial_theta, flat": (
        {"initial_theta": [1.0] * 7, "num_transformers": 2},
        ValueError,
        ["initial_theta", "(2, 2, 3)", "6", "12", "(7,)"],
    ),
    "initial_theta, another K": (
        {"initial_theta": torch.zeros(2, 2, 3), "num_transformers": 3},
        ValueError,
        ["initial_theta", "(3, 2, 3)", "(2, 2, 3)"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_refuses(case: str) -> None:
    options, error, parts = WRONG[case]
    arguments = {"localisation": localisation(), "out_size": None, "in_features": FEATURES}
    with pytest.raises(error) as raised:
        SpatialTransformer(**{**arguments, **options})
    message = str(raised.value)
    assert all(part in message for part in parts), message


@pytest.mark.parametrize(
    ("module", "got"),
    [
        (localisation(features=FEATURES + 1), (N, FEATURES + 1)),
        (nn.AdaptiveAvgPool2d(1), (N, C, 1, 1)),
        (nn.Flatten(0, 1), (N * C, H, W)),
    ],
    ids=["another width", "not flattened", "another batch"],
)
def test_refuses_features_of_another_shape(module: nn.Module, got: tuple[int, ...]) -> None:
    wrong = SpatialTransformer(module, None, in_features=FEATURES)
    with pytest.raises(ValueError, match="localisation must give features") as raised:
        wrong(images())
    assert str((N, FEATURES)) in str(raised.value)
    assert str(got) in str(raised.value)


def test_source_of_another_batch_is_refused() -> None:
    with pytest.raises(ValueError, match=f"source.*{N}, got {N + 1}"):
        transformer()(images(), source=images(N + 1, C))


@pytest.mark.parametrize(
    ("option", "allowed"),
    [({"mode": "cubic"}, "'bilinear'"), ({"padding_mode": "zero"}, "'zeros'")],
    ids=["mode", "padding_mode"],
)
def test_unknown_sampling_option_is_refused(option: dict[str, str], allowed: str) -> None:
    (value,) = option.values()
    with pytest.raises(ValueError, match=f"{allowed}.*got '{value}'"):
        transformer(**option)(images())
