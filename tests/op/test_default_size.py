"""`out_size=None`, the default: the size of what is sampled, also while somebody records the call."""

from __future__ import annotations

import io
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stn_triton import SpatialTransformer, st_sample
from stn_triton.transforms import TRANSFORMS
from support.checks import example_of, needs_triton


class Network(nn.Module):
    """A transformer without a size, and a crop without one."""

    def __init__(self) -> None:
        super().__init__()
        pool = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.transformer = SpatialTransformer(pool, in_features=8)
        nn.init.normal_(self.transformer.regression.weight, std=0.2)

    def forward(self, x: Tensor) -> Tensor:
        sampled, theta = self.transformer(x, return_theta=True)
        return sampled + 2 * st_sample(x, theta, padding_mode="border")


CASES: list[Any] = [(name, None) for name in TRANSFORMS]
CASES += [("affine", "torch"), pytest.param("affine", "triton", marks=needs_triton)]


@pytest.mark.parametrize(("transform", "backend"), CASES)
def test_default_is_the_size_of_the_input(transform: str, backend: str | None) -> None:
    u, theta = example_of(transform, 2, dtype=torch.float32)
    wanted = st_sample(u, theta, (3, 4), transform=transform, backend=backend)
    for size in ((), (None,)):
        found = st_sample(u, theta, *size, transform=transform, backend=backend)
        assert torch.equal(found, wanted)
    several = torch.stack((theta, theta), 1)
    found = st_sample(u, several, transform=transform, antialias=2, backend=backend)
    assert found.shape == (2, 2, *u.shape[1:])


def test_default_for_volumes_and_under_vmap() -> None:
    u, theta = torch.randn(2, 1, 3, 4, 5), torch.eye(3, 4).repeat(2, 1, 1) * 0.7
    torch.testing.assert_close(st_sample(u, theta), st_sample(u, theta, (3, 4, 5)))
    images, thetas = torch.randn(3, 2, 1, 4, 5), torch.randn(3, 2, 2, 3)
    found = torch.func.vmap(st_sample)(images, thetas)
    wanted = torch.stack([st_sample(*each, (4, 5)) for each in zip(images, thetas, strict=True)])
    torch.testing.assert_close(found, wanted)


def test_a_module_without_a_size() -> None:
    module = Network().transformer
    assert module.out_size is None
    x, source = torch.rand(2, 2, 6, 5), torch.rand(2, 3, 9, 8)
    assert module(x).shape == x.shape
    assert module(x, source=source).shape == source.shape


@pytest.mark.parametrize(
    ("input", "error", "words"),
    [
        ([1.0], TypeError, ["input", "tensor", "list"]),
        (torch.rand(3, 4, 5), ValueError, ["input", "(N, C, H, W)", "(3, 4, 5)"]),
        (torch.rand(1, 1, 0, 5), ValueError, ["input", "positive H and W", "(1, 1, 0, 5)"]),
        (torch.zeros(1, 1, 4, 5).long(), TypeError, ["input", "int64"]),
    ],
    ids=["a list", "no batch", "nothing", "integers"],
)
def test_an_input_without_a_size_is_refused(input: Any, error: Any, words: list[str]) -> None:
    with pytest.raises(error) as caught:
        st_sample(input, torch.eye(2, 3).unsqueeze(0))
    assert all(word in str(caught.value) for word in words), str(caught.value)


# recorded at one size, run at another

OTHERS = [(3, 7, 6), (2, 9, 4), (4, 12, 13)]


def inputs() -> list[Tensor]:
    return [torch.rand(n, 2, h, w) for n, h, w in OTHERS]


def test_jit_trace() -> None:
    network = Network()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", DeprecationWarning)
        trace = torch.jit.trace(network, (torch.rand(2, 2, 5, 8),), check_trace=False)
        file = io.BytesIO()
        torch.jit.save(trace, file)
        file.seek(0)
        loaded = torch.jit.load(file)
    for x in inputs():
        torch.testing.assert_close(loaded(x), network(x))


def test_symbolic_trace() -> None:
    network = Network()
    graph = torch.fx.symbolic_trace(network)
    for x in inputs():
        torch.testing.assert_close(graph(x), network(x))


@pytest.mark.slow
def test_compile_once_for_every_size() -> None:
    network = Network()
    graphs: list[Any] = []

    def counter(graph: Any, example: Any) -> Any:
        graphs.append(graph)
        return graph

    torch._dynamo.reset()
    compiled = torch.compile(network, fullgraph=True, backend=counter, dynamic=True)
    for x in inputs():
        torch.testing.assert_close(compiled(x), network(x))
    assert len(graphs) == 1


@pytest.mark.slow
def test_export_for_every_size() -> None:
    network = Network()
    n, h, w = (torch.export.Dim(name, min=2, max=64) for name in "nhw")
    shapes = ({0: n, 2: h, 3: w},)
    program = torch.export.export(network, (torch.rand(2, 2, 5, 8),), dynamic_shapes=shapes)
    for x in inputs():
        torch.testing.assert_close(program.module()(x), network(x))
