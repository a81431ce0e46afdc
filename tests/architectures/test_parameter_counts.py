"""How many parameters each of the paper's networks has, worked out by hand."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from architectures import list_models, model_input
from architectures.networks.inception import MODULES
from support.networks import TRANSFORMS, meta, parameters


def linear(*widths: int) -> int:
    """Fully connected layers from each width to the next."""
    return sum(a * b + b for a, b in pairwise(widths))


def conv(inputs: int, filters: int, size: int, ndim: int = 2) -> int:
    return filters * (inputs * size**ndim + 1)


def cnn_classifier(channels: int, filters: int, side: int, classes: int) -> int:
    """A convolutional classifier; `side` is that of its last feature map."""
    features = conv(channels, filters, 9) + conv(filters, filters, 7)
    return features + linear(filters * side**2, classes)


# By image size: hidden units of the fully connected classifiers and the side of the image that they see. For the
# convolutional ones the side of the last feature map, with the sides from layer to layer beside it.
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
    """The convolutions have no biases; the normalisation adds two numbers for each filter."""

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
    "mnist3d_projected_cnn": cnn_classifier(1, 105, 3, 10),
    "mnist3d_cnn": conv(1, 61, 5, 3) + conv(61, 61, 5, 3) + linear(61 * 5**3, 10),  # 30-26-13-9-5
}

CUB_SIZES = [("cub_cnn", 224), ("cub_cnn", 448), ("cub_2st_cnn", 224), ("cub_4st_cnn", 448)]

COUNTS: list[tuple[str, int, int]] = [  # name, image size, parameters
    *((name, size, n) for size in (28, 42, 60) for name, n in mnist_counts(size).items()),
    *((name, 42, n) for name, n in addition_counts().items()),
    *((name, size, n) for size in (64, 128) for name, n in svhn_counts(size).items()),
    *((name, size, cub_counts()[name]) for name, size in CUB_SIZES),
    ("colocalisation", 84, OTHERS["colocalisation"]),
    *((name, 60, n) for name, n in OTHERS.items() if name.startswith("mnist3d")),
]


@pytest.mark.parametrize(("name", "size", "wanted"), COUNTS, ids=lambda value: str(value))
def test_parameters_and_shapes(name: str, size: int, wanted: int) -> None:
    """Networks of full size on the meta device, which needs no memory for them."""
    model = meta(name, image_size=size)
    assert parameters(model) == wanted
    shape = model_input(name, image_size=size)
    assert shape[1:] == (size,) * (3 if name.startswith("mnist3d") else 2)
    result = model(torch.rand(2, *shape, device="meta"))
    if name == "colocalisation":
        assert [tuple(part.shape) for part in result] == [(2, 1, 28, 28), (2, 3)]
    else:
        classes = {"mnist_addition": 19, "svhn": 11, "cub": 200}
        last = next((n for prefix, n in classes.items() if name.startswith(prefix)), 10)
        assert result.shape == ((2, 5, last) if name.startswith("svhn") else (2, last))


def test_every_network_is_counted() -> None:
    assert {name for name, _, _ in COUNTS} == set(list_models())
    assert len(list_models()) == 8 + 8 + 3 + 3 + 1 + 3


def test_counts_agree_within_an_experiment() -> None:
    """The networks of one experiment have about as many parameters as each other, as in the paper."""
    for size, low, high in ((28, 208_500, 220_500), (42, 223_500, 244_000), (60, 254_500, 271_000)):
        assert all(low <= count <= high for count in mnist_counts(size).values())
    assert all(470_000 <= count <= 477_500 for count in addition_counts().values())
    volumes = [count for name, count in OTHERS.items() if name.startswith("mnist3d")]
    assert all(549_000 <= count <= 559_000 for count in volumes)


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
