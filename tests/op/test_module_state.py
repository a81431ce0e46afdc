"""SpatialTransformer as any module: saved, copied, compiled, and reset to where it starts."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from torch import nn

from stn_triton.transforms import TRANSFORMS
from support.transformers import TILTED, N, images, trained, transformer


def test_state_dict_round_trip() -> None:
    module = trained((4, 4), num_transformers=2)
    state = module.state_dict()
    names = {"regression.weight", "regression.bias"}
    names |= {f"localisation.{name}" for name in module.localisation.state_dict()}
    assert set(state) == names

    other = transformer((4, 4), num_transformers=2)
    x = images()
    assert not torch.equal(other(x), module(x))
    other.load_state_dict(state)
    assert torch.equal(other(x), module(x))


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_copies_and_pickles_work_alike(transform: str) -> None:
    module, x = trained((4, 4), transform=transform), images()
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    for other in (copy.deepcopy(module), torch.load(file, weights_only=False)):
        assert torch.equal(other(x), module(x))
        other.reset_parameters()
        assert other.initial_theta == module.initial_theta


@pytest.mark.slow
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_compiles_as_one_graph(transform: str) -> None:
    module, x = trained((4, 4), transform=transform), images()
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), module(x))


def reset_everything(module: nn.Module) -> None:
    """Resets every module, as recipes for modules on the meta device do, FSDP's among them."""
    for each in module.modules():
        if hasattr(each, "reset_parameters"):
            each.reset_parameters()


@pytest.mark.parametrize(
    "options", [{}, {"initial_theta": TILTED, "num_transformers": 2}, {"transform": "tps"}], ids=str
)
def test_resetting_every_module_restores_the_start(options: dict[str, Any]) -> None:
    expected = transformer(**options).localise(images())
    module = trained(**options)
    reset_everything(module)
    torch.testing.assert_close(module.localise(images()), expected)
    with torch.device("meta"):
        module = transformer(**options)
    module.to_empty(device="cpu")
    reset_everything(module)
    torch.testing.assert_close(module.localise(images()), expected)


def test_reset_parameters_restores_the_start() -> None:
    module = trained(transform="attention", fixed_scale=0.5, initial_theta=[0.5, 0.1, 0.2])
    nn.init.normal_(module.regression.bias)
    module.reset_parameters()
    torch.testing.assert_close(
        module.localise(images()), torch.tensor([0.5, 0.1, 0.2]).expand(N, 3)
    )


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ({}, ["'affine'", "out_size=None"]),
        ({"out_size": [4, 5], "num_transformers": 2}, ["out_size=(4, 5)", "num_transformers=2"]),
        ({"transform": "attention", "fixed_scale": 0.5}, ["'attention'", "fixed_scale=0.5"]),
    ],
)
def test_repr_shows_what_it_is(options: dict[str, Any], shown: list[str]) -> None:
    text = repr(transformer(**options))
    assert all(part in text for part in shown)
