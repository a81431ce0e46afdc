"""The paper's networks by name, and those that add two digits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from architectures import create_model, list_models, parameter_groups

N = 3
IDENTITY = torch.tensor([[1.0, 0, 0], [0, 1.0, 0]])
ADDITION = ["mnist_addition_fcn", "mnist_addition_2st_fcn_affine"]


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
