"""Transformers in a row and between the stages of a network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from architectures import SerialSTN, StackedSTN
from stn_triton import SpatialTransformer, compose, identity_theta, st_sample
from support.transformers import FEATURES, localisation

N, C, H, W = 3, 2, 9, 8
CLASSES = 4


def transformer(
    out_size: tuple[int, int] | None = None, *, spread: float = 0.2, **options: Any
) -> SpatialTransformer:
    made = SpatialTransformer(localisation(), out_size, in_features=FEATURES, **options)
    nn.init.normal_(made.regression.weight, std=spread)
    return made


def volume_transformer() -> SpatialTransformer:
    look = nn.Sequential(nn.AdaptiveAvgPool3d(1), nn.Flatten())
    made = SpatialTransformer(look, (4, 5, 6), in_features=C)
    nn.init.normal_(made.regression.weight, std=0.3)
    return made


def head() -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * C, CLASSES))


def shift(pixels: float) -> list[list[float]]:
    return [[1.0, 0.0, 2 * pixels / W], [0.0, 1.0, 0.0]]


def test_serial_is_one_after_the_other() -> None:
    row = [
        transformer((6, 7)),
        transformer(transform="attention"),
        transformer((4, 5), transform="tps"),
    ]
    model = SerialSTN(row, head())
    x = torch.rand(N, C, H, W)
    logits, thetas = model(x, return_theta=True)
    seen = x
    for one, theta in zip(row, thetas, strict=True):
        torch.testing.assert_close(theta, one.localise(seen))
        seen = one(seen)
    assert seen.shape == (N, C, 4, 5)
    torch.testing.assert_close(logits, model.head(seen))
    assert [tuple(theta.shape) for theta in thetas] == [(N, 2, 3), (N, 3), (N, 16, 2)]
    assert torch.equal(model(x), logits)
    assert torch.equal(model.resample(x)[0], seen)


def test_composed_samples_the_input_once() -> None:
    row = [
        transformer((12, 10), padding_mode="border"),
        transformer(transform="attention"),
        transformer((5, 6), mode="bicubic", padding_mode="reflection"),
    ]
    model = SerialSTN(row, nn.Identity(), compose=True)
    x = torch.rand(N, C, H, W)
    final, thetas = model(x, return_theta=True)
    frames = model.composed_theta(thetas)

    torch.testing.assert_close(thetas[0], row[0].localise(x))
    first = row[0](x)
    torch.testing.assert_close(thetas[1], row[1].localise(first))
    scale, move = thetas[1][:, :1], thetas[1][:, 1:]
    attention = torch.cat((torch.diag_embed(scale.expand(-1, 2)), move.unsqueeze(2)), 2)
    torch.testing.assert_close(frames[1], compose(thetas[0], attention))
    second = st_sample(x, frames[1], (12, 10))
    torch.testing.assert_close(thetas[2], row[2].localise(second), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(frames[2], compose(frames[1], thetas[2]))
    wanted = st_sample(x, frames[2], (5, 6), mode="bicubic", padding_mode="reflection")
    torch.testing.assert_close(final, wanted)


@pytest.mark.parametrize("composing", [False, True])
def test_there_and_back(composing: bool) -> None:
    """Two transformers shift by half a pixel and back: composed they change nothing, step by step they blur twice."""
    row = [transformer(spread=0, initial_theta=shift(pixels)) for pixels in (0.5, -0.5)]
    x = torch.rand(N, C, H, W)
    final = SerialSTN(row, nn.Identity(), compose=composing)(x)
    close = torch.allclose(final, x, rtol=0, atol=1e-6)
    assert close if composing else not close


@pytest.mark.parametrize("composing", [False, True])
def test_serial_on_volumes(composing: bool) -> None:
    row = [volume_transformer(), volume_transformer()]
    model = SerialSTN(row, nn.Identity(), compose=composing)
    x = torch.rand(N, C, 5, 6, 4)
    final, thetas = model(x, return_theta=True)
    frames = model.composed_theta(thetas)
    assert final.shape == (N, C, 4, 5, 6) and frames[1].shape == (N, 3, 4)
    if composing:
        torch.testing.assert_close(final, st_sample(x, compose(*thetas), (4, 5, 6)))
    else:
        torch.testing.assert_close(final, row[1](row[0](x)))


def plain_and_with(build: Callable[[list[SpatialTransformer]], nn.Module]) -> None:
    model = build([transformer(spread=0) for _ in range(2)])
    x = torch.rand(N, C, H, W)
    logits, thetas = model(x, return_theta=True)
    torch.testing.assert_close(logits, model.plain(x), rtol=1e-5, atol=1e-5)
    for theta in thetas:
        assert torch.equal(theta, identity_theta("affine", (N,)))
    for frame in model.composed_theta(thetas):
        assert torch.equal(frame, identity_theta("affine", (N,)))


@pytest.mark.parametrize("composing", [False, True])
def test_serial_starts_as_the_plain_network(composing: bool) -> None:
    def build(row: list[SpatialTransformer]) -> nn.Module:
        model = SerialSTN(row, head(), compose=composing)
        model.plain = model.head
        return model

    plain_and_with(build)


def test_stacked_starts_as_the_plain_network() -> None:
    def build(row: list[SpatialTransformer]) -> nn.Module:
        stages = [nn.Conv2d(C, C, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        model = StackedSTN(stages, head(), transformers=[row[0], None, row[1]])
        model.plain = nn.Sequential(*stages, model.head)
        return model

    plain_and_with(build)


def test_stacked_is_transformers_between_stages() -> None:
    stages = nn.Sequential(nn.Conv2d(C, 3, 3), nn.AvgPool2d(2), nn.Conv2d(3, C, 1))
    wide = SpatialTransformer(localisation(3), (5, 6), in_features=FEATURES, transform="projective")
    nn.init.normal_(wide.regression.weight, std=0.1)
    row = [transformer(), None, wide]
    model = StackedSTN(stages, head(), transformers=row)
    assert list(model.transformers) == [row[0], row[2]] and model.before == (0, 2)
    x = torch.rand(N, C, H, W)
    logits, thetas = model(x, return_theta=True)
    between = stages[1](stages[0](row[0](x)))
    torch.testing.assert_close(thetas[1], wide.localise(between))
    torch.testing.assert_close(logits, model.head(stages[2](wide(between))))
    assert isinstance(thetas, list) and [t.shape for t in thetas] == [(N, 2, 3), (N, 8)]
    assert torch.equal(model(x), logits)
    with pytest.raises(ValueError, match=r"transform 'affine' or 'attention', got 'projective'"):
        model.composed_theta(thetas)


def test_stacked_frames_on_the_input() -> None:
    """Where only transformers change the map, the composed theta samples it from the input at once."""
    row = [transformer(spread=0, initial_theta=shift(p)) for p in (1.0, 2.0, -1.0)]
    model = StackedSTN([nn.Identity()] * 3, nn.Identity(), transformers=row)
    x = torch.zeros(N, C, H, W)
    x[..., 3:5] = torch.rand(N, C, H, 2)
    final, thetas = model(x, return_theta=True)
    frames = model.composed_theta(thetas)
    assert len(frames) == 3
    torch.testing.assert_close(final, st_sample(x, frames[-1], (H, W)))
    torch.testing.assert_close(frames[1][0], torch.tensor(shift(3.0)))
    with pytest.raises(ValueError, match="one for each of 3 transformers, got 2"):
        model.composed_theta(thetas[:2])


def test_stages_without_transformers() -> None:
    model = StackedSTN([nn.ReLU()], head(), transformers=[None])
    x = torch.randn(N, C, H, W)
    logits, thetas = model(x, return_theta=True)
    assert thetas == [] and model.composed_theta(thetas) == []
    torch.testing.assert_close(logits, model.head(x.relu()))


MODELS: dict[str, Callable[[], nn.Module]] = {
    "serial": lambda: SerialSTN([transformer(), transformer((4, 5))], head()),
    "composed": lambda: SerialSTN([transformer(), transformer((4, 5))], head(), compose=True),
    "stacked": lambda: StackedSTN(
        [nn.Conv2d(C, C, 3), nn.ReLU()], head(), transformers=[transformer(), transformer()]
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_gradients_reach_every_parameter(name: str) -> None:
    model = MODELS[name]()
    x = torch.rand(N, C, H, W, requires_grad=True)
    model(x).square().sum().backward()
    assert x.grad is not None and bool(x.grad.any())
    for parameter, value in model.named_parameters():
        assert value.grad is not None and bool(value.grad.any()), parameter


@pytest.mark.parametrize("name", MODELS)
def test_state_dict_round_trip(name: str) -> None:
    model, other = MODELS[name](), MODELS[name]()
    x = torch.rand(N, C, H, W)
    assert not torch.equal(model(x), other(x))
    other.load_state_dict(model.state_dict())
    assert torch.equal(model(x), other(x))
    assert any(key.startswith("transformers.1.regression.") for key in model.state_dict())


@pytest.mark.parametrize("name", MODELS)
def test_printed(name: str) -> None:
    assert ("compose=True" in repr(MODELS[name]())) == (name == "composed")


def several() -> SpatialTransformer:
    return transformer(num_transformers=2)


SERIAL_WRONG: dict[str, tuple[Callable[[], Any], dict[str, Any], type[Exception], list[str]]] = {
    "none": (list, {}, ValueError, ["transformers", "at least one"]),
    "one, not in a list": (transformer, {}, TypeError, ["transformers", "list", "SpatialTransformer"]),
    "not transformers": (
        lambda: [transformer(), nn.ReLU()], {}, TypeError,
        ["transformers[1]", "SpatialTransformer", "ReLU"],
    ),
    "None": (lambda: [None], {}, TypeError, ["transformers[0]", "NoneType"]),
    "several maps": (
        lambda: [transformer(), several()], {}, ValueError,
        ["transformers[1]", "num_transformers=2", "ParallelSTN"],
    ),
    "images and volumes": (
        lambda: [transformer(), volume_transformer()], {}, ValueError, ["images", "volumes", "transformers[1]"],
    ),
    "composed, bent": (
        lambda: [transformer(), transformer(transform="tps")], {"compose": True}, ValueError,
        ["transformers[1]", "'affine' or 'attention'", "'tps'"],
    ),
    "composed, other corners": (
        lambda: [transformer(), transformer(align_corners=True)], {"compose": True}, ValueError,
        ["align_corners", "transformers[1]", "False", "True"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", SERIAL_WRONG)
def test_serial_refuses(case: str) -> None:
    row, options, error, parts = SERIAL_WRONG[case]
    with pytest.raises(error) as raised:
        SerialSTN(row(), head(), **options)
    assert all(part in str(raised.value) for part in parts), raised.value


STACKED_WRONG: dict[str, tuple[dict[str, Any], type[Exception], list[str]]] = {
    "too few": ({"transformers": [None]}, ValueError, ["transformers", "2 stages", "got 1"]),
    "too many": ({"transformers": [None] * 3}, ValueError, ["2 stages", "got 3"]),
    "not a list": ({"transformers": None}, TypeError, ["transformers", "list", "NoneType"]),
    "not transformers": ({"transformers": [None, 3]}, TypeError, ["transformers[1]", "int"]),
    "stages, not modules": ({"stages": [nn.ReLU(), len]}, TypeError, ["stages[1]", "nn.Module"]),
    "stages, not a list": ({"stages": nn.ReLU()}, TypeError, ["stages", "list", "ReLU"]),
    "head": ({"head": None}, TypeError, ["head", "nn.Module", "NoneType"]),
    "several maps": (
        {"transformers": [None, several()]},
        ValueError,
        ["transformers[1]", "num_transformers=2"],
    ),
    "images and volumes": (
        {"transformers": [volume_transformer(), transformer()]},
        ValueError,
        ["transformers[1]", "2 spatial axes after one for 3"],
    ),
}


@pytest.mark.parametrize("case", STACKED_WRONG)
def test_stacked_refuses(case: str) -> None:
    changes, error, parts = STACKED_WRONG[case]
    arguments = {"stages": [nn.ReLU(), nn.ReLU()], "head": head(), "transformers": [None, None]}
    with pytest.raises(error) as raised:
        StackedSTN(**{**arguments, **changes})
    assert all(part in str(raised.value) for part in parts), raised.value


def test_head_of_a_row() -> None:
    with pytest.raises(TypeError, match=r"head must be an nn\.Module, got builtin"):
        SerialSTN([transformer()], len)  # type: ignore[arg-type]


def test_no_transformer_is_left_out_of_theta(device: torch.device) -> None:
    model = StackedSTN(
        [nn.Identity()] * 3, nn.Identity(), transformers=[None, transformer(), transformer()]
    ).to(device)
    x = torch.rand(N, C, H, W, device=device)
    final, thetas = model(x, return_theta=True)
    assert isinstance(final, Tensor) and len(thetas) == 2
    assert all(theta.device == x.device and theta.requires_grad for theta in thetas)
