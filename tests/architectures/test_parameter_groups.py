"""`parameter_groups`: regression, localisation and the rest, each with its own settings."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from architectures import create_model, parameter_groups
from stn_triton import SpatialTransformer
from support.transformers import FEATURES, localisation


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
    """Where all gradients are zero, only weight decay moves a parameter."""
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
