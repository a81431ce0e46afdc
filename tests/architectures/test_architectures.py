"""Transformers in parallel, the paper's networks by name, and parameter groups."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from architectures import ParallelSTN, create_model, list_models, parameter_groups
from architectures.pictures.frames import frame_corners
from stn_triton import SpatialTransformer, identity_theta, st_sample
from stn_triton.transforms import TRANSFORMS

N, C, H, W, K = 3, 2, 8, 10, 3
FEATURES, STREAM, CLASSES = 5, 4, 6
OUT = (4, 5)
IDENTITY = torch.tensor([[1.0, 0, 0], [0, 1.0, 0]])
ADDITION = ["mnist_addition_fcn", "mnist_addition_2st_fcn_affine"]


def localisation() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(C * H * W, FEATURES), nn.Tanh())


def stream() -> nn.Module:
    return nn.Conv2d(C, STREAM, OUT)  # (N, STREAM, 1, 1): flattened by ParallelSTN


def parallel(*, separate: bool = False, streams: bool = False, **options: Any) -> ParallelSTN:
    model = ParallelSTN(
        [localisation() for _ in range(K)] if separate else localisation(),
        [stream() for _ in range(K)] if streams else stream(),
        nn.Linear(K * STREAM, CLASSES),
        **{"in_features": FEATURES, "out_size": OUT, "num_transformers": K, **options},
    )
    for transformer in model.transformers:
        nn.init.normal_(transformer.regression.weight, std=0.2)
    return model


def by_hand(model: ParallelSTN, x: Tensor, theta: Tensor, **options: Any) -> Tensor:
    """One transformer after the other, as the paper's figure reads."""
    features = []
    for k in range(K):
        seen = st_sample(x, theta[:, k], OUT, **options)
        mine = model.streams[k if len(model.streams) > 1 else 0]
        features.append(mine(seen).flatten(1))
    return model.head(torch.cat(features, 1))


@pytest.mark.parametrize("streams", [False, True], ids=["one stream", "K streams"])
@pytest.mark.parametrize("separate", [False, True], ids=["one localisation", "K localisations"])
def test_parallel_is_k_transformers(separate: bool, streams: bool) -> None:
    model = parallel(separate=separate, streams=streams)
    assert len(model.transformers) == (K if separate else 1)
    assert len(model.streams) == (K if streams else 1)
    x = torch.rand(N, C, H, W)
    logits, theta = model(x, return_theta=True)
    assert logits.shape == (N, CLASSES)
    assert theta.shape == (N, K, 2, 3)
    assert theta.std(1).max() > 0.01, "the K thetas differ"
    assert theta.requires_grad, "a loss on theta trains, too"
    if separate:
        own = [transformer.localise(x) for transformer in model.transformers]
        torch.testing.assert_close(theta, torch.stack(own, 1))
    torch.testing.assert_close(logits, by_hand(model, x, theta), rtol=1e-4, atol=1e-5)

    alone = model(x)
    assert isinstance(alone, Tensor)
    assert torch.equal(alone, logits)


def test_shared_stream_is_the_stream_given_k_times() -> None:
    one = parallel()
    several = ParallelSTN(
        one.transformers[0].localisation,
        [one.streams[0]] * K,
        one.head,
        in_features=FEATURES,
        out_size=OUT,
        num_transformers=K,
    )
    several.transformers.load_state_dict(one.transformers.state_dict())
    x = torch.rand(N, C, H, W)
    torch.testing.assert_close(several(x), one(x), rtol=1e-4, atol=1e-5)


def test_separate_localisations_are_independent() -> None:
    model = parallel(separate=True)
    theta = model.localise(torch.rand(N, C, H, W))
    theta[:, 1].sum().backward()
    for k, transformer in enumerate(model.transformers):
        reached = [p.grad is not None and bool(p.grad.any()) for p in transformer.parameters()]
        assert all(reached) if k == 1 else not any(reached)


@pytest.mark.parametrize("out_size", [OUT, (3, 3), (16, 4), None], ids=str)
def test_parallel_maps_have_the_size_asked_for(out_size: tuple[int, int] | None) -> None:
    model = ParallelSTN(
        localisation(),
        nn.AdaptiveAvgPool2d(1),
        nn.Linear(K * C, CLASSES),
        in_features=FEATURES,
        out_size=out_size,
        num_transformers=K,
    )
    x = torch.rand(N, C, H, W)
    maps = model.sample(x, model.localise(x))
    assert maps.shape == (N, K, C, *(out_size or (H, W)))
    wanted = F.interpolate(x, out_size, mode="bilinear") if out_size in (OUT, (3, 3)) else None
    if wanted is not None:  # at the start the map is the whole image, made smaller
        torch.testing.assert_close(maps[:, 1], wanted, rtol=0, atol=1e-5)
    assert model(x).shape == (N, CLASSES)


@pytest.mark.parametrize("separate", [False, True], ids=["one localisation", "K localisations"])
def test_parallel_passes_options_on(separate: bool) -> None:
    """As for the birds: crops of half the width, side by side, whose scale is fixed."""
    start = torch.tensor([[1.0, -0.5, 0.0], [1.0, 0.0, 0.25], [1.0, 0.5, 0.0]])
    options = {"transform": "attention", "mode": "nearest", "padding_mode": "border"}
    model = parallel(separate=separate, fixed_scale=0.5, initial_theta=start, **options)
    for transformer in model.transformers:
        transformer.reset_parameters()
    x = torch.rand(N, C, H, W)
    logits, theta = model(x, return_theta=True)
    wanted = start.clone()
    wanted[:, 0] = 0.5
    torch.testing.assert_close(theta, wanted.expand(N, K, 3))
    torch.testing.assert_close(logits, by_hand(model, x, theta, **options), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("separate", [False, True], ids=["one localisation", "K localisations"])
def test_parallel_gives_every_transformer_one_initial_theta(separate: bool) -> None:
    model = parallel(separate=separate, initial_theta=0.25 * IDENTITY)
    for transformer in model.transformers:
        transformer.reset_parameters()
    theta = model.localise(torch.rand(N, C, H, W))
    torch.testing.assert_close(theta, (0.25 * IDENTITY).expand(N, K, 2, 3))


@pytest.mark.parametrize("separate", [False, True], ids=["one localisation", "K localisations"])
def test_parallel_on_volumes(separate: bool) -> None:
    start = identity_theta("affine", (K,), ndim=3) * torch.tensor([1.0, 0.5, 0.25])[:, None, None]
    looks = [nn.Sequential(nn.AdaptiveAvgPool3d(1), nn.Flatten()) for _ in range(K)]
    model = ParallelSTN(
        looks if separate else looks[0], nn.AdaptiveAvgPool3d(1), nn.Identity(),
        in_features=C, out_size=(3, 4, 5), num_transformers=K, initial_theta=start,
    )  # fmt: skip
    x = torch.rand(N, C, 4, 6, 5)
    features, theta = model(x, return_theta=True)
    torch.testing.assert_close(theta, start.expand(N, K, 3, 4))
    maps = st_sample(x, start.expand(N, K, 3, 4).contiguous(), (3, 4, 5))
    torch.testing.assert_close(features, maps.mean((3, 4, 5)).flatten(1))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_streams_may_begin_in_place(memory_format: torch.memory_format) -> None:
    def streams(inplace: bool) -> list[nn.Module]:
        return [nn.Sequential(nn.ReLU(inplace), stream(), nn.ReLU(inplace)) for _ in range(K)]

    x = (torch.rand(N, C, H, W) - 0.5).to(memory_format=memory_format)
    model = parallel(separate=True, streams=True)
    found = []
    for inplace in (False, True):
        torch.manual_seed(1)
        model.streams = nn.ModuleList(streams(inplace))
        model.zero_grad()
        logits = model(x)
        logits.square().sum().backward()
        found.append([logits, *(each.grad for each in model.parameters())])
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=0)


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_outline_of_a_frame(transform: str) -> None:
    theta = identity_theta(transform, (2, K))
    outline = frame_corners(theta + 0.1 * torch.randn_like(theta), (H, W), transform)
    assert torch.equal(outline[..., 0, :], outline[..., -1, :]), "closed"
    around = frame_corners(theta, (H, W), transform)[0, 0]
    corners = [(-0.5, -0.5), (W - 0.5, -0.5), (W - 0.5, H - 0.5), (-0.5, H - 0.5)]
    quarter = (len(around) - 1) // 4
    assert [tuple(point) for point in around[:-1:quarter].tolist()] == corners, "clockwise"


PARALLEL_WRONG: dict[str, tuple[dict[str, Any], type[Exception], list[str]]] = {
    # what is wrong: arguments, error, what the message says
    "localisation, too few": (
        {"localisation": [localisation()] * 2},
        ValueError,
        ["localisation", "num_transformers = 3", "got 2"],
    ),
    "localisation, a ModuleList too short": (
        {"localisation": nn.ModuleList([localisation()])},
        ValueError,
        ["localisation", "num_transformers = 3", "got 1"],
    ),
    "localisation, a function": (
        {"localisation": len},
        TypeError,
        ["localisation", "nn.Module", "builtin_function_or_method"],
    ),
    "streams, too many": (
        {"streams": [stream()] * 4},
        ValueError,
        ["streams", "num_transformers = 3", "got 4"],
    ),
    "streams, not modules": (
        {"streams": [stream(), stream(), None]},
        TypeError,
        ["streams", "nn.Module", "NoneType"],
    ),
    "num_transformers, None": (
        {"num_transformers": None},
        TypeError,
        ["num_transformers", "int", "None"],
    ),
    "num_transformers, zero": ({"num_transformers": 0}, ValueError, ["num_transformers", "0"]),
    "num_transformers, zero of none": (
        {"num_transformers": 0, "localisation": [], "streams": []},
        ValueError,
        ["num_transformers", "at least 1", "0"],
    ),
    "num_transformers, a float": (
        {"num_transformers": 3.0, "localisation": [localisation()] * K},
        TypeError,
        ["num_transformers", "int", "3.0"],
    ),
    "out_size, an int": ({"out_size": 4}, TypeError, ["out_size", "(h, w)", "4"]),
    "transform, unknown": (
        {"transform": "afine", "localisation": [localisation()] * K, "initial_theta": 0.0},
        ValueError,
        ["transform", "'afine'", "'affine'"],
    ),
    "initial_theta, another K": (
        {"initial_theta": torch.zeros(2, 2, 3)},
        ValueError,
        ["initial_theta", "(3, 2, 3)", "(2, 2, 3)"],
    ),
    "initial_theta, another K, separate": (
        {"initial_theta": torch.zeros(2, 2, 3), "localisation": [localisation()] * K},
        ValueError,
        ["initial_theta", "(3, 2, 3)", "(2, 2, 3)"],
    ),
    "head": ({"head": None}, TypeError, ["head", "nn.Module", "NoneType"]),
    "an unknown option": ({"paddding_mode": "border"}, TypeError, ["paddding_mode"]),
}


@pytest.mark.parametrize("case", PARALLEL_WRONG)
def test_parallel_refuses(case: str) -> None:
    changes, error, parts = PARALLEL_WRONG[case]
    arguments: dict[str, Any] = {
        "localisation": localisation(),
        "streams": stream(),
        "head": nn.Linear(K * STREAM, CLASSES),
        "in_features": FEATURES,
        "out_size": OUT,
        "num_transformers": K,
    }
    with pytest.raises(error) as raised:
        ParallelSTN(**{**arguments, **changes})
    message = str(raised.value)
    assert all(part in message for part in parts), message


def test_list_models() -> None:
    names = list_models()
    assert set(ADDITION) <= set(names)
    assert names == sorted(set(names))
    assert list_models("mnist_addition_*_affine") == [
        "mnist_addition_2st_fcn_affine",
        "mnist_addition_st_fcn_affine",
    ]
    assert "mnist_addition_fcn" not in list_models("mnist_addition_*_affine")
    assert list_models("mnist_addition_fcn") == ["mnist_addition_fcn"]
    assert list_models("MNIST*") == [], "case counts, on every platform"


@pytest.mark.parametrize(
    ("wrong", "nearest"),
    [
        ("mnist_adition_fcn", "mnist_addition_fcn"),
        ("MNIST_addition_fcn", "mnist_addition_fcn"),
        ("SVHN_CNN", "svhn_cnn"),
        ("mnist_addition_2st_fcn_afine", "mnist_addition_2st_fcn_affine"),
    ],
)
def test_unknown_model_names_the_nearest(wrong: str, nearest: str) -> None:
    with pytest.raises(ValueError, match=f"unknown model '{wrong}'; nearest: '{nearest}'"):
        create_model(wrong)


@pytest.mark.parametrize("wrong", ["", "zzz", None])
def test_unknown_model_far_from_all(wrong: Any) -> None:
    with pytest.raises(ValueError, match="list_models"):
        create_model(wrong)


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("mnist_addition_fcn", "hiden"),
        ("mnist_addition_fcn", "pool"),
        ("mnist_addition_2st_fcn_affine", "transform"),
        ("mnist_addition_2st_fcn_affine", "num_transformers"),
    ],
)
def test_unknown_option_lists_those_there_are(name: str, option: str) -> None:
    with pytest.raises(TypeError) as raised:
        create_model(name, **{option: 2})
    message = str(raised.value)
    assert message.startswith(f"{name} has no option '{option}'")
    known = message.partition("it has ")[2].split(", ")
    assert {"num_classes", "in_channels", "image_size", "hidden"} <= set(known)
    assert option not in known


def linear(inputs: int, outputs: int) -> int:
    return inputs * outputs + outputs


def test_parameters_of_mnist_addition_fcn() -> None:
    pixels = 2 * 42 * 42
    wanted = linear(pixels, 128) + linear(128, 128) + linear(128, 19)
    assert wanted == 470_675
    model = create_model("mnist_addition_fcn")
    assert sum(p.numel() for p in model.parameters()) == wanted


def test_parameters_of_mnist_addition_2st_fcn() -> None:
    pixels = 2 * 42 * 42
    localisation_and_regression = (
        linear(pixels, 32) + linear(32, 32) + linear(32, 32) + linear(32, 6)
    )
    pooled = 2 * 2 * 21 * 21  # two transformers, two channels each, 42 pixels pooled to 21
    classifier = linear(pooled, 128) + linear(128, 128) + linear(128, 19)
    wanted = 2 * localisation_and_regression + classifier
    assert wanted == 475_359
    model = create_model("mnist_addition_2st_fcn_affine")
    assert sum(p.numel() for p in model.parameters()) == wanted


@pytest.mark.parametrize("name", ADDITION)
@pytest.mark.parametrize(
    "options",
    [{}, {"num_classes": 7, "in_channels": 3, "image_size": 28, "hidden": 16}],
    ids=["as in the paper", "other sizes"],
)
def test_addition_shapes(name: str, options: dict[str, int]) -> None:
    model = create_model(name, **options)
    side = options.get("image_size", 42)
    x = torch.rand(N, options.get("in_channels", 2), side, side)
    assert model(x).shape == (N, options.get("num_classes", 19))


def test_addition_transformers_start_as_identity() -> None:
    torch.manual_seed(1)
    model = create_model("mnist_addition_2st_fcn_affine")
    x = torch.rand(N, 2, 42, 42)
    logits, theta = model(x, return_theta=True)
    torch.testing.assert_close(theta, IDENTITY.expand(N, 2, 2, 3), rtol=0, atol=0)
    # Both transformers hand on the whole image, pooled.
    pooled = F.avg_pool2d(x, 2).flatten(1)
    torch.testing.assert_close(logits, model.head(torch.cat([pooled] * 2, 1)), rtol=0, atol=1e-4)


def test_addition_pool_is_an_option() -> None:
    model = create_model("mnist_addition_2st_fcn_affine", pool=3, localisation_width=8)
    assert model.head[0].in_features == 2 * 2 * 14 * 14
    assert model(torch.rand(N, 2, 42, 42)).shape == (N, 19)


@pytest.mark.parametrize("name", ADDITION)
def test_a_few_steps_lower_the_loss(name: str) -> None:
    model = create_model(name)
    x, labels = torch.rand(32, 2, 42, 42), torch.randint(19, (32,))
    groups = parameter_groups(model, lr=0.05, localisation_lr_multiplier=0.1, weight_decay=1e-4)
    optimiser = torch.optim.SGD(groups, momentum=0.9)
    start = [p.detach().clone() for p in model.parameters()]
    losses = []
    for _ in range(30):
        optimiser.zero_grad()
        loss = F.cross_entropy(model(x), labels)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    assert not any(torch.equal(a, b) for a, b in zip(start, model.parameters(), strict=True))


def by_name(groups: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    assert len({group["name"] for group in groups}) == len(groups)
    return {group["name"]: group for group in groups}


def test_parameter_groups() -> None:
    model = create_model("mnist_addition_2st_fcn_affine")
    groups = by_name(
        parameter_groups(model, lr=0.01, localisation_lr_multiplier=0.1, weight_decay=5e-4)
    )
    settings = {name: (group["lr"], group["weight_decay"]) for name, group in groups.items()}
    assert settings == {
        "regression": (pytest.approx(0.001), 0.0),
        "localisation": (pytest.approx(0.001), 5e-4),
        "rest": (0.01, 5e-4),
    }
    names = {p: name for name, p in model.named_parameters()}
    sorted_in = [names[p] for group in groups.values() for p in group["params"]]
    assert sorted(sorted_in) == sorted(names.values()), "every parameter, once"
    for name in names.values():
        wanted = (
            "regression"
            if ".regression." in name
            else "localisation"
            if ".localisation." in name
            else "rest"
        )
        assert any(names[p] == name for p in groups[wanted]["params"]), name


def test_parameter_groups_leave_regression_undecayed() -> None:
    """Seen in what the optimiser does: without gradients only decay moves a parameter."""
    model = create_model("mnist_addition_2st_fcn_affine", hidden=8)
    optimiser = torch.optim.SGD(parameter_groups(model, lr=0.1, weight_decay=0.5))
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimiser.step()
    for name, p in model.named_parameters():
        kept = 1.0 if ".regression." in name else 1 - 0.1 * 0.5
        torch.testing.assert_close(p.detach(), kept * start[name])


def test_parameter_groups_defaults_and_plain_networks() -> None:
    model = create_model("mnist_addition_fcn", hidden=8)
    (group,) = parameter_groups(model, lr=0.3)
    assert (group["name"], group["lr"], group["weight_decay"]) == ("rest", 0.3, 0.0)
    assert len(group["params"]) == len(list(model.parameters()))
    transformer = SpatialTransformer(localisation(), None, in_features=FEATURES)
    names = [group["name"] for group in parameter_groups(transformer, lr=0.3)]
    assert names == ["regression", "localisation"]


def test_parameter_groups_take_a_shared_parameter_once() -> None:
    trunk = localisation()
    model = nn.ModuleList([trunk, SpatialTransformer(trunk, None, in_features=FEATURES)])
    groups = by_name(parameter_groups(model, lr=1.0, localisation_lr_multiplier=0.5))
    assert set(groups) == {"regression", "localisation"}
    assert {id(p) for p in groups["localisation"]["params"]} == {id(p) for p in trunk.parameters()}


@pytest.mark.parametrize("value", [-1.0, float("nan")])
@pytest.mark.parametrize("name", ["lr", "localisation_lr_multiplier", "weight_decay"])
def test_parameter_groups_refuse(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"^{name} must be at least 0, got {value}$"):
        parameter_groups(localisation(), **{"lr": 0.1, name: value})
