"""What SpatialTransformer refuses, and that the message says what was wanted and what came."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from stn_triton import SpatialTransformer
from support.transformers import FEATURES, C, H, N, W, images, localisation, transformer

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
    "initial_theta, of attention in volumes": (
        {"initial_theta": [1.0, 0.0, 0.0, 0.0], "out_size": None},
        ValueError,
        ["initial_theta", "(2, 3)", "'affine'", "6 numbers", "got shape (4,)"],
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
