"""The optimisers that schedules name."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from architectures.networks.registry import create_model
from architectures.training.experiments import Schedule
from architectures.training.optimisers import MuonAndAdamW, make_optimiser

SCHEDULE = Schedule(optimiser="muon", steps=10, batch_size=4, lr=0.003)


def made(network: nn.Module, schedule: Schedule = SCHEDULE) -> Any:
    return make_optimiser(network, schedule, fused=True)


def learn(network: nn.Module, optimiser: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        images = torch.rand(4, 2, 42, 42, generator=generator)
        optimiser.zero_grad()
        network(images).square().mean().backward()
        optimiser.step()


@pytest.mark.parametrize("name", ["sgd", "adamw", "muon"])
def test_every_parameter_is_learned_once(name: Any) -> None:
    network = create_model("mnist_addition_2st_fcn_affine")
    groups = made(network, replace(SCHEDULE, optimiser=name)).param_groups
    held = [id(p) for group in groups for p in group["params"]]
    assert sorted(held) == sorted(map(id, network.parameters()))
    names = [group["name"] for group in groups]
    assert len(set(names)) == len(names), "a monitor of the learning rates tells groups by name"


def test_muon_makes_updates_of_matrices_orthogonal() -> None:
    torch.manual_seed(0)
    network = create_model("mnist_addition_2st_fcn_affine")
    for p in network.parameters():
        p.grad = torch.randn_like(p)
    before = [p.detach().clone() for p in network.parameters()]
    made(network).step()
    for (name, p), old in zip(network.named_parameters(), before, strict=True):
        moved = (p - old).detach()
        if p.ndim == 2 and "regression" not in name:
            values = torch.linalg.svdvals(moved)
            # Five Newton-Schulz steps in bfloat16 bring all but the least singular values near 1, not to it.
            assert values.quantile(0.1) > 0.5 * values.max(), name
            size = moved.square().mean().sqrt()
            assert size < 0.25 * SCHEDULE.lr, f"{name}: 0.2 lr, the usual size of AdamW's"
        else:
            assert moved.abs().max() <= 1.01 * SCHEDULE.lr, f"{name}: AdamW's first step is lr"
            assert moved.abs().min() > 0.9 * SCHEDULE.lr, name


def test_muon_goes_on_from_its_state() -> None:
    torch.manual_seed(0)
    whole = create_model("mnist_addition_2st_fcn_affine")
    first = copy.deepcopy(whole)
    learn(whole, made(whole), range(4))

    optimiser = made(first)
    learn(first, optimiser, range(2))
    second = copy.deepcopy(first)
    resumed = made(second)
    resumed.load_state_dict(copy.deepcopy(optimiser.state_dict()))
    learn(second, resumed, range(2, 4))
    assert all(
        torch.equal(p, q) for p, q in zip(whole.parameters(), second.parameters(), strict=True)
    )
    resumed.param_groups[0]["lr"] = resumed.param_groups[-1]["lr"] = 0.0
    assert [group["lr"] for part in resumed._parts for group in part.param_groups] == [
        group["lr"] for group in resumed.param_groups
    ]


def test_muon_without_matrices_or_without_others() -> None:
    convolution, matrix = nn.Conv2d(1, 1, 3), nn.Linear(3, 2, bias=False)
    for module in (convolution, matrix):
        optimiser = made(module)
        assert isinstance(optimiser, MuonAndAdamW)
        weight = next(module.parameters())
        weight.grad = torch.ones_like(weight)
        before = weight.detach().clone()
        assert optimiser.step(lambda: 5.0) == 5.0
        assert (weight != before).all()
