"""The paper's networks: parameters, shapes, what they start as, what they refuse."""

from __future__ import annotations

import re
from itertools import pairwise
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
from architectures.networks.inception import MODULES
from stn_triton import SpatialTransformer, identity_theta

TRANSFORMS = {"affine": 6, "projective": 8, "tps": 32}
THETAS = {"affine": (2, 3), "projective": (8,), "tps": (16, 2)}
STN = ParallelSTN | SerialSTN | StackedSTN


def tiny_backbone() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 6, 3, stride=4, padding=1), nn.ReLU())


CUB = {"crop_size": 16, "image_size": 32, "backbone": tiny_backbone, "backbone_features": 6}
SVHN = {"image_size": 32, "width": 0.05, "localisation_width": 4, "dropout": 0.0}


def small(name: str) -> dict[str, Any]:
    """Options with which a network is quick."""
    if name.startswith("mnist_st_cnn"):
        return {"image_size": 28, "filters": 8, "localisation_filters": 6}
    return {
        "svhn_cnn": {key: SVHN[key] for key in ("image_size", "width", "dropout")},
        "svhn_st_cnn_single": SVHN,
        "svhn_st_cnn_multi": SVHN,
        "cub_cnn": CUB,
        "cub_2st_cnn": CUB,
        "cub_4st_cnn": CUB,
        "mnist3d_st_cnn": {"image_size": 28, "pool": 1, "filters": 8, "localisation_filters": 6},
        "mnist_cnn": {"image_size": 28, "filters": 8},
        "mnist_addition_cnn": {"image_size": 28, "filters": 8},
    }.get(name, {"image_size": 28} if name != "colocalisation" else {})


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def meta(name: str, **options: Any) -> nn.Module:
    with torch.device("meta"):
        return create_model(name, **options)


def linear(*widths: int) -> int:
    """Fully connected layers from each width to the next."""
    return sum(a * b + b for a, b in pairwise(widths))


def conv(inputs: int, filters: int, size: int, ndim: int = 2) -> int:
    return filters * (inputs * size**ndim + 1)


def cnn_classifier(channels: int, filters: int, side: int, classes: int) -> int:
    """`side`: of the last feature map, worked out by hand."""
    features = conv(channels, filters, 9) + conv(filters, filters, 7)
    return features + linear(filters * side**2, classes)


# Image size: hidden units and pixels that the classifiers see, sides of the last feature maps.
MNIST_FCN = {28: (208, 28), 42: (128, 42), 60: (232, 30)}
MNIST_ST_FCN = {28: (187, 28), 42: (256, 21), 60: (144, 30)}
MNIST_CNN = {28: 2, 42: 6, 60: 10}  # 28-20-10-4-2, 42-34-17-11-6, 60-52-26-20-10
MNIST_ST_CNN = {28: 2, 42: 1, 60: 3}  # 28-20-10-4-2, 21-13-7-1-1, 30-22-11-5-3
LOCALISATION = {28: 1, 42: 4, 60: 9}  # 14-10-5-1, 21-17-8-4, 30-26-13-9


def mnist_counts(size: int) -> dict[str, int]:
    hidden, seen = MNIST_FCN[size]
    counts = {
        "mnist_fcn": linear(seen**2, hidden, hidden, 10),
        "mnist_cnn": cnn_classifier(1, 64, MNIST_CNN[size], 10),
    }
    hidden, seen = MNIST_ST_FCN[size]
    for transform, numbers in TRANSFORMS.items():
        localisation = linear(size**2, 32, 32, 32, numbers)
        counts[f"mnist_st_fcn_{transform}"] = localisation + linear(seen**2, hidden, hidden, 10)
        localisation = conv(1, 20, 5) + conv(20, 20, 5)
        localisation += linear(20 * LOCALISATION[size] ** 2, 20, numbers)
        classifier = cnn_classifier(1, 64, MNIST_ST_CNN[size], 10)
        counts[f"mnist_st_cnn_{transform}"] = localisation + classifier
    return counts


def addition_counts() -> dict[str, int]:
    counts = {
        "mnist_addition_fcn": linear(2 * 42**2, 128, 128, 19),
        "mnist_addition_cnn": cnn_classifier(2, 90, 6, 19),
    }
    for transform, numbers in TRANSFORMS.items():
        localisation = linear(2 * 42**2, 32, 32, 32, numbers)
        counts[f"mnist_addition_st_fcn_{transform}"] = localisation + linear(
            2 * 21**2, 296, 296, 19
        )
        counts[f"mnist_addition_2st_fcn_{transform}"] = 2 * localisation + linear(
            4 * 21**2, 128, 128, 19
        )
    return counts


def svhn_counts(size: int) -> dict[str, int]:
    widths = (3, 48, 64, 128, 160, 192, 192, 192, 192)
    plain = sum(conv(a, b, 5) for a, b in pairwise(widths))
    plain += linear(192 * (size // 16) ** 2, 3072, 3072, 3072, 5 * 11)
    single = conv(3, 32, 5) + conv(32, 32, 5) + linear(32 * (size // 2) ** 2, 32, 32, 6)
    read = (3 * size**2, 48 * (size // 2) ** 2, 64 * (size // 2) ** 2, 128 * (size // 4) ** 2)
    return {
        "svhn_cnn": plain,
        "svhn_st_cnn_single": plain + single,
        "svhn_st_cnn_multi": plain + sum(linear(features, 32, 32, 6) for features in read),
    }


def inception_count() -> int:
    """Convolutions without biases, and two numbers a filter for the normalisation."""

    def normalised(inputs: int, filters: int, size: int) -> int:
        return inputs * filters * size**2 + 2 * filters

    count = normalised(3, 64, 7) + normalised(64, 64, 1) + normalised(64, 192, 3)
    inputs = 192
    for single, reduced, triple, double_reduced, double, projection, _ in MODULES.values():
        count += normalised(inputs, reduced, 1) + normalised(reduced, triple, 3)
        count += normalised(inputs, double_reduced, 1)
        count += normalised(double_reduced, double, 3) + normalised(double, double, 3)
        if single:
            count += normalised(inputs, single, 1) + normalised(inputs, projection, 1)
        inputs = single + triple + double + (projection or inputs)
    assert inputs == 1024
    return count


def cub_counts() -> dict[str, int]:
    counts = {"cub_cnn": inception_count() + linear(1024, 200)}
    for k in (2, 4):
        localisation = inception_count() + conv(1024, 128, 1) + linear(128 * 7 * 7, 128, 2 * k)
        counts[f"cub_{k}st_cnn"] = k * inception_count() + localisation + linear(k * 1024, 200)
    return counts


OTHERS = {
    "colocalisation": conv(1, 8, 9) + linear(8 * 9 * 9, 8, 8, 3),  # 84-19-9
    "mnist3d_st_cnn": conv(1, 20, 5, 3)
    + conv(20, 20, 5, 3)
    + linear(20 * 9**3, 20, 12)  # 60-30-26-13-9
    + cnn_classifier(1, 64, 3, 10),
}

CUB_SIZES = [("cub_cnn", 224), ("cub_cnn", 448), ("cub_2st_cnn", 224), ("cub_4st_cnn", 448)]

COUNTS: list[tuple[str, int, int]] = [  # name, image size, parameters
    *((name, size, n) for size in (28, 42, 60) for name, n in mnist_counts(size).items()),
    *((name, 42, n) for name, n in addition_counts().items()),
    *((name, size, n) for size in (64, 128) for name, n in svhn_counts(size).items()),
    *((name, size, cub_counts()[name]) for name, size in CUB_SIZES),
    ("colocalisation", 84, OTHERS["colocalisation"]),
    ("mnist3d_st_cnn", 60, OTHERS["mnist3d_st_cnn"]),
]
DEFAULT_SIZES = {
    "mnist_addition": 42, "mnist3d": 60, "mnist": 42, "svhn": 64, "cub": 224, "colocalisation": 84,
}  # fmt: skip


@pytest.mark.parametrize(("name", "size", "wanted"), COUNTS, ids=lambda value: str(value))
def test_parameters_and_shapes(name: str, size: int, wanted: int) -> None:
    """At full size, without memory for it."""
    model = meta(name, image_size=size)
    assert parameters(model) == wanted
    shape = model_input(name, image_size=size)
    assert shape[1:] == (size,) * (3 if name == "mnist3d_st_cnn" else 2)
    result = model(torch.rand(2, *shape, device="meta"))
    if name == "colocalisation":
        assert [tuple(part.shape) for part in result] == [(2, 1, 28, 28), (2, 3)]
    else:
        classes = {"mnist_addition": 19, "svhn": 11, "cub": 200}
        last = next((n for prefix, n in classes.items() if name.startswith(prefix)), 10)
        assert result.shape == ((2, 5, last) if name.startswith("svhn") else (2, last))


def test_every_network_is_counted() -> None:
    assert {name for name, _, _ in COUNTS} == set(list_models())
    assert len(list_models()) == 8 + 8 + 3 + 3 + 1 + 1


@pytest.mark.parametrize("name", list_models())
def test_default_input(name: str) -> None:
    size = next(size for prefix, size in DEFAULT_SIZES.items() if name.startswith(prefix))
    channels = 2 if "addition" in name else 3 if name.startswith(("svhn", "cub")) else 1
    assert model_input(name) == (channels, *[size] * (3 if "3d" in name else 2))
    assert model_input(name, in_channels=7)[0] == 7


def test_counts_agree_within_an_experiment() -> None:
    """As in the paper; how near, the docstrings say."""
    for size, low, high in ((28, 208_500, 220_500), (42, 223_500, 244_000), (60, 254_500, 271_000)):
        assert all(low <= count <= high for count in mnist_counts(size).values())
    assert all(470_000 <= count <= 477_500 for count in addition_counts().values())


@pytest.mark.parametrize(
    ("count", "millions"),
    [
        (svhn_counts(64)["svhn_cnn"], 32.8),
        (svhn_counts(128)["svhn_cnn"], 61.1),
        (svhn_counts(64)["svhn_st_cnn_single"] - svhn_counts(64)["svhn_cnn"], 1.1),
        (svhn_counts(128)["svhn_st_cnn_single"] - svhn_counts(128)["svhn_cnn"], 4.2),
        (svhn_counts(64)["svhn_st_cnn_multi"] - svhn_counts(64)["svhn_cnn"], 5.1),
        (svhn_counts(128)["svhn_st_cnn_multi"] - svhn_counts(128)["svhn_cnn"], 20.5),
        (inception_count(), 10.3),
        (cub_counts()["cub_cnn"], 10.5),
        (cub_counts()["cub_2st_cnn"], 32.1),
        (cub_counts()["cub_4st_cnn"], 53.1),
    ],
)
def test_counts_that_docstrings_tell(count: int, millions: float) -> None:
    assert round(count / 1e6, 1) == millions


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
