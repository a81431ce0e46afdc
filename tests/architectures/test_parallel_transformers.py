"""Transformers in parallel give what the same ones give one after the other."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from architectures import ParallelSTN
from architectures.pictures.frames import frame_corners
from stn_triton import identity_theta, st_sample
from stn_triton.transforms import TRANSFORMS

N, C, H, W, K = 3, 2, 8, 10, 3
FEATURES, STREAM, CLASSES = 5, 4, 6
OUT = (4, 5)
IDENTITY = torch.tensor([[1.0, 0, 0], [0, 1.0, 0]])


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
    """The network's result, computed by one transformer after the other as in the paper's figure."""
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
    """The options of the birds' networks: crops of half the width, side by side, whose scale is fixed."""
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
