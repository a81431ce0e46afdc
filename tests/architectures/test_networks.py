"""The paper's networks: what they start as, that they learn, and what they refuse."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from architectures import (
    ParallelSTN,
    SerialSTN,
    StackedSTN,
    create_model,
    list_models,
    model_input,
    parameter_groups,
)
from stn_triton import SpatialTransformer, identity_theta
from support.networks import CUB, SVHN, TRANSFORMS, parameters

THETAS = {"affine": (2, 3), "projective": (8,), "tps": (16, 2)}
STN = ParallelSTN | SerialSTN | StackedSTN


def small(name: str) -> dict[str, Any]:
    """Options that make a network small enough for quick tests."""
    if name.startswith("mnist_st_cnn"):
        return {"image_size": 28, "filters": 8, "localisation_filters": 6}
    return {
        "svhn_cnn": {key: SVHN[key] for key in ("image_size", "width", "dropout")},
        "svhn_st_cnn_single": SVHN,
        "svhn_st_cnn_multi": SVHN,
        "cub_cnn": CUB,
        "cub_2st_cnn": CUB,
        "cub_4st_cnn": CUB,
        "mnist3d_cnn": {"image_size": 28, "filters": 8},
        "mnist3d_projected_cnn": {"image_size": 28, "pool": 1, "filters": 8},
        "mnist3d_st_cnn": {"image_size": 28, "pool": 1, "filters": 8, "localisation_filters": 6},
        "mnist_cnn": {"image_size": 28, "filters": 8},
        "mnist_addition_cnn": {"image_size": 28, "filters": 8},
    }.get(name, {"image_size": 28} if name != "colocalisation" else {})


DEFAULT_SIZES = {
    "mnist_addition": 42, "mnist3d": 60, "mnist": 42, "svhn": 64, "cub": 224, "colocalisation": 84,
}  # fmt: skip


@pytest.mark.parametrize("name", list_models())
def test_default_input(name: str) -> None:
    size = next(size for prefix, size in DEFAULT_SIZES.items() if name.startswith(prefix))
    channels = 2 if "addition" in name else 3 if name.startswith(("svhn", "cub")) else 1
    assert model_input(name) == (channels, *[size] * (3 if "3d" in name else 2))
    assert model_input(name, in_channels=7)[0] == 7


def thetas_of(model: nn.Module, x: Tensor) -> list[Tensor]:
    thetas = model(x, return_theta=True)[1]
    return thetas if isinstance(thetas, list) else list(thetas.unbind(1))


WITH = [name for name in list_models() if re.search(r"_\d?st_", name)]


@pytest.mark.parametrize("name", WITH)
def test_starts_as_the_identity(name: str) -> None:
    options = small(name)
    model = create_model(name, **options).eval()
    assert isinstance(model, STN)
    x = torch.rand(2, *model_input(name, **options))
    thetas = thetas_of(model, x)
    transform = next((t for t in TRANSFORMS if name.endswith(t)), "affine")
    number = 4 if "multi" in name or "4st" in name else 2 if "2st" in name else 1
    assert len(thetas) == number
    if name.startswith("cub"):
        wanted = [(-0.5, 0.0), (0.5, 0.0)] if number == 2 else [
            (-0.5, -0.5), (0.5, -0.5), (-0.5, 0.5), (0.5, 0.5)
        ]  # fmt: skip
        for theta, centre in zip(thetas, wanted, strict=True):
            assert torch.equal(theta, torch.tensor([0.5, *centre]).expand(2, 3))
        return
    ndim = 3 if "3d" in name else 2
    for theta in thetas:
        assert theta.shape[1:] == ((3, 4) if ndim == 3 else THETAS[transform])
        assert torch.equal(theta, identity_theta(transform, (2,), ndim=ndim))


@pytest.mark.parametrize("name", list_models())
def test_gradients(name: str) -> None:
    """At the start the regression layers learn; once they have moved, everything does."""
    options = small(name)
    model = create_model(name, **options)
    x = torch.rand(4, *model_input(name, **options))

    def step() -> None:
        model.zero_grad()
        result = model(x)
        outputs = result if isinstance(result, tuple) else (result,)
        sum((part * torch.randn_like(part)).sum() for part in outputs).backward()

    def learns(parameter: nn.Parameter) -> bool:
        return parameter.grad is not None and bool(parameter.grad.any())

    step()
    transformers = [m for m in model.modules() if isinstance(m, SpatialTransformer)]
    assert bool(transformers) == (name in WITH or name == "colocalisation")
    for transformer in transformers:
        assert learns(transformer.regression.weight) and learns(transformer.regression.bias)
        nn.init.normal_(transformer.regression.weight, std=0.05)
    step()
    for transformer in transformers:
        assert any(learns(p) for p in transformer.localisation.parameters())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("name", list_models())
def test_state_dict_round_trip(name: str) -> None:
    options = small(name)
    model, other = (create_model(name, **options).eval() for _ in range(2))
    other.load_state_dict(model.state_dict())
    x = torch.rand(2, *model_input(name, **options))
    ours, theirs = model(x), other(x)
    for a, b in zip(*((y if isinstance(y, tuple) else (y,)) for y in (ours, theirs)), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", [n for n in list_models() if n != "colocalisation"])
def test_common_options(name: str) -> None:
    options = small(name) | {"num_classes": 3}
    if not name.startswith("cub"):  # whose backbone here is for three channels
        options["in_channels"] = 4
    model = create_model(name, **options)
    shape = (2, 5, 3) if name.startswith("svhn") else (2, 3)
    assert model(torch.rand(2, *model_input(name, **options))).shape == shape


@pytest.mark.parametrize("name", WITH)
def test_groups_for_the_optimiser(name: str) -> None:
    model = create_model(name, **small(name))
    groups = parameter_groups(model, lr=0.1, localisation_lr_multiplier=0.5, weight_decay=0.01)
    found = {group["name"]: group for group in groups}
    assert list(found) == ["regression", "localisation", "rest"]
    assert found["regression"]["weight_decay"] == 0.0
    assert sum(p.numel() for group in groups for p in group["params"]) == parameters(model)


@pytest.mark.parametrize("name", list_models())
@pytest.mark.parametrize("option", ["num_classes", "in_channels", "image_size"])
def test_numbers_below_one(name: str, option: str) -> None:
    if (name, option) == ("colocalisation", "num_classes"):
        pytest.skip("has no classes")
    with pytest.raises(ValueError, match=f"^{option} must be at least 1, got 0$"):
        create_model(name, **{option: 0})
    with pytest.raises(TypeError, match=f"^{option} must be an int, got 2.5$"):
        create_model(name, **{option: 2.5})


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mnist_fcn", {"image_size": 27}, "image_size must be at least 28, got 27"),
        ("mnist_cnn", {"image_size": 27}, "image_size must be at least 28, got 27"),
        ("mnist_st_fcn_tps", {"image_size": 27}, "image_size must be at least 28, got 27"),
        ("mnist_st_cnn_affine", {"image_size": 27}, "image_size must be at least 28, got 27"),
        ("mnist_st_cnn_affine", {"image_size": 28, "pool": 2}, "at least 21 x 21 pixels, got 14 x"),
        ("mnist_fcn", {"pool": 43}, "pool must be at most image_size = 42, got 43"),
        ("mnist_fcn", {"hidden": 0}, "hidden must be at least 1, got 0"),
        ("mnist_addition_cnn", {"image_size": 20}, "at least 21 x 21 pixels, got 20 x 20"),
        ("mnist_addition_st_fcn_tps", {"image_size": 1}, "pool must be at most image_size = 1"),
        ("mnist3d_st_cnn", {"image_size": 25}, "image_size must be at least 26"),
        ("mnist3d_cnn", {"image_size": 25}, "image_size must be at least 26"),
        ("mnist3d_projected_cnn", {"projection": "product"}, "projection must be 'sum', 'mean' or"),
        ("mnist3d_st_cnn", {"projection": "product"}, "projection must be 'sum', 'mean' or 'max'"),
        ("svhn_cnn", {"image_size": 15}, "image_size must be at least 16, got 15"),
        ("svhn_st_cnn_single", {"image_size": 15}, "image_size must be at least 16, got 15"),
        ("svhn_st_cnn_multi", {"image_size": 15}, "image_size must be at least 16, got 15"),
        ("svhn_cnn", {"width": 0.0}, "width must be above 0, got 0.0"),
        ("cub_cnn", {"image_size": 300}, "image_size must be 224 or 448.*got 300"),
        ("cub_2st_cnn", {"image_size": 64}, "image_size must be 224 or 448.*got 64"),
        ("colocalisation", {"image_size": 12}, "image_size must be at least 13, got 12"),
        ("colocalisation", {"crop_size": 0}, "crop_size must be at least 1, got 0"),
    ],
)
def test_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create_model(name, **options)


def test_least_sizes_work() -> None:
    for name, size in (
        ("mnist_st_cnn_affine", 28),
        ("svhn_st_cnn_multi", 16),
        ("colocalisation", 13),
    ):
        options = {**small(name), "image_size": size}
        create_model(name, **options)(torch.rand(1, *model_input(name, **options)))


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("mnist_fcn", (2, 1, 28, 28)),
        ("mnist_st_cnn_tps", (2, 3, 42, 42)),
        ("mnist_addition_2st_fcn_affine", (2, 42, 42)),
        ("colocalisation", (2, 1, 60, 60)),
    ],
)
def test_images_of_another_shape(name: str, shape: tuple[int, ...]) -> None:
    wanted = f"reads images of shape (N, {', '.join(map(str, model_input(name)))}), got {shape}"
    with pytest.raises(ValueError, match=re.escape(wanted)):
        create_model(name)(torch.zeros(shape))


def test_input_is_checked_like_options() -> None:
    with pytest.raises(TypeError, match=r"reads images of a float dtype, got torch\.uint8"):
        create_model("mnist_fcn")(torch.zeros(2, 1, 42, 42, dtype=torch.uint8))
    with pytest.raises(TypeError, match="mnist_fcn has no option 'foo'"):
        model_input("mnist_fcn", foo=3)
    with pytest.raises(ValueError, match="image_size must be at least 1, got -3"):
        model_input("mnist_fcn", image_size=-3)


def test_up_to_three_near_names() -> None:
    with pytest.raises(
        ValueError, match="'mnist_st_cnn_affin'; nearest: 'mnist_st_cnn_affine', "
    ) as raised:
        create_model("mnist_st_cnn_affin")
    assert str(raised.value).count("'") == 2 * 4
    with pytest.raises(ValueError, match="unknown model"):
        model_input("mnist")
