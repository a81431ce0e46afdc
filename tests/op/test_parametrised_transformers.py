"""SpatialTransformer with a parametrisation: what it predicts, in which dtype, what it keeps and what it refuses."""

from __future__ import annotations

import copy
import pickle
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stn_triton import SpatialTransformer, identity_theta, st_sample
from stn_triton.parametrisations import BoundedAffine, BoundedAttention, Rotation, Similarity
from support.bounded import held, kinds, make
from support.checks import check_refused
from support.transformers import FEATURES, localisation

F64 = torch.float64


def transformer(parametrisation: Any, **options: Any) -> SpatialTransformer:
    return SpatialTransformer(
        localisation(), in_features=FEATURES, parametrisation=parametrisation, **options
    )


@kinds
@pytest.mark.parametrize("k", [None, 3])
def test_transformer_starts_as_the_identity(kind: Any, k: int | None) -> None:
    parametrisation = make(kind, (9, 7))
    module = transformer(parametrisation, num_transformers=k)
    lead = (2,) if k is None else (2, k)
    assert module.transform == parametrisation.transform
    assert type(module.transform) is str
    assert module.regression.out_features == parametrisation.num_parameters * (k or 1)
    x = torch.rand(2, 2, 9, 7)
    sampled, theta = module(x, return_theta=True)
    assert torch.equal(theta, identity_theta(module.transform, lead))
    assert theta.shape == (2, *module.theta_shape)
    wanted = x if k is None else x.unsqueeze(1).expand(2, 3, *x.shape[1:])
    torch.testing.assert_close(sampled, wanted, rtol=0, atol=4e-6)

    nn.init.normal_(module.regression.weight, std=2.0)
    theta = module.localise(x)
    assert (theta[0] != theta[1]).any()
    held(kind, theta, (9, 7))
    features = module.localisation(x)
    numbers = F.linear(features, module.regression.weight, module.regression.bias)
    torch.testing.assert_close(theta, parametrisation(numbers.unflatten(1, (*lead[1:], -1))))
    sampled = module.sample(x, theta)
    torch.testing.assert_close(sampled, st_sample(x, theta, transform=module.transform))

    module.reset_parameters()
    assert torch.equal(module.localise(x), identity_theta(module.transform, lead))
    nn.init.normal_(module.regression.bias)
    module.regression.reset_parameters()
    assert torch.equal(module.localise(x), identity_theta(module.transform, lead))


def test_transformer_trains_every_parameter() -> None:
    module = transformer(make(BoundedAffine, (9, 7)))
    weights = torch.randn(2, 2, 9, 7)
    (module(torch.rand(2, 2, 9, 7)) * weights).sum().backward()
    assert module.regression.bias.grad.abs().min() > 0
    assert module.regression.weight.grad.abs().amax(1).min() > 0


def test_transformer_state_and_copies() -> None:
    module = transformer(Similarity())
    nn.init.normal_(module.regression.weight)
    plain = {f"localisation.{name}" for name in module.localisation.state_dict()}
    assert set(module.state_dict()) == plain | {"regression.weight", "regression.bias"}
    x = torch.rand(2, 2, 9, 7)
    other = transformer(Similarity())
    other.load_state_dict(module.state_dict())
    for each in (other, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(each(x), module(x))
    assert "Similarity(min_scale=0.5" in repr(module)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_leaves_theta_wide(dtype: torch.dtype) -> None:
    class Multiplying(nn.Module):
        """A parametrisation of one's own, with a product that autocast would round."""

        transform, num_parameters = "affine", 2

        def forward(self, parameters: Tensor) -> Tensor:
            basis = torch.tensor([[0.1, 0.2, 0.3, 0.4, 0.5, 0.6], [0.6, 0.5, 0.4, 0.3, 0.2, 0.1]])
            return (parameters @ basis).unflatten(-1, (2, 3)) + torch.eye(2, 3)

    for parametrisation in (Similarity(), Multiplying()):
        module = transformer(parametrisation)
        nn.init.normal_(module.regression.weight)
        x = torch.rand(2, 2, 9, 7, dtype=dtype)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            features = module.localisation(x)
            sampled, theta = module(x, return_theta=True)
        assert features.dtype == torch.bfloat16
        assert theta.dtype == torch.float32
        assert sampled.dtype == dtype
        numbers = F.linear(features.float(), module.regression.weight, module.regression.bias)
        torch.testing.assert_close(theta, parametrisation(numbers), rtol=0, atol=1e-6)


def test_half_and_double_transformers() -> None:
    for dtype, wide in ((torch.float16, torch.float32), (F64, F64)):
        module = transformer(Similarity()).to(dtype)
        assert module.localise(torch.rand(2, 2, 9, 7, dtype=dtype)).dtype == wide


def test_meta_transformers_are_made_real() -> None:
    with torch.device("meta"):
        module = transformer(Rotation())
        assert module(torch.rand(2, 2, 9, 7)).shape == (2, 2, 9, 7)
    module.to_empty(device="cpu")
    for each in module.modules():
        if hasattr(each, "reset_parameters"):
            each.reset_parameters()
    assert torch.equal(module.localise(torch.rand(2, 2, 9, 7)), identity_theta("affine", (2,)))


@pytest.mark.slow
@kinds
def test_transformer_compiles_as_one_graph(kind: Any) -> None:
    module, x = transformer(make(kind, (9, 7)), num_transformers=2), torch.rand(2, 2, 9, 7)
    nn.init.normal_(module.regression.weight)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(compiled(x), module(x))


def test_streams_side_by_side_with_a_localisation_each() -> None:
    pytest.importorskip("einops")
    from architectures import ParallelSTN

    network = ParallelSTN(
        [localisation(), localisation()], nn.Flatten(), nn.Linear(2 * 2 * 16, 3), in_features=FEATURES,
        out_size=(4, 4), num_transformers=2, parametrisation=BoundedAttention(max_scale=1.0),
    )  # fmt: skip
    logits, theta = network(torch.rand(5, 2, 9, 7), return_theta=True)
    assert logits.shape == (5, 3)
    assert torch.equal(theta, identity_theta("attention", (5, 2)))


class Nothing(nn.Module):
    pass


class Empty(nn.Module):
    transform, num_parameters = "affine", 0


REFUSED: dict[str, tuple[dict[str, Any], type[Exception], list[str]]] = {
    "initial_theta": (
        {"initial_theta": [[1.0, 0, 0], [0, 1, 0]]}, ValueError, ["initial_theta", "None", "parametrisation"],
    ),
    "fixed_scale": ({"fixed_scale": 0.5}, ValueError, ["fixed_scale", "None", "0.5"]),
    "another transform": ({"transform": "tps"}, ValueError, ["transform", "'affine'", "'tps'"]),
    "affine said aloud": (
        {"parametrisation": BoundedAttention(), "transform": "affine"}, ValueError, ["'attention'", "'affine'"],
    ),
    "volumes": ({"out_size": (2, 3, 4)}, ValueError, ["out_size", "(h, w)", "(2, 3, 4)"]),
    "a function": ({"parametrisation": lambda p: p}, TypeError, ["parametrisation", "nn.Module"]),
    "a class": ({"parametrisation": Rotation}, TypeError, ["parametrisation", "nn.Module"]),
    "no attributes": ({"parametrisation": Nothing()}, TypeError, ["num_parameters", "Nothing()"]),
    "no parameters": ({"parametrisation": Empty()}, TypeError, ["num_parameters", "above 0", "Empty()"]),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_transformer_refuses(what: str) -> None:
    options, error, words = REFUSED[what]
    check_refused(partial(transformer, **{"parametrisation": Rotation(), **options}), error, words)


def test_the_transform_of_the_parametrisation_may_be_said() -> None:
    assert transformer(BoundedAttention(), transform="attention").transform == "attention"
    assert transformer(Rotation(), transform="affine").transform == "affine"
