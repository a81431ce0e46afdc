"""`st_sample` under what observes or replaces operations: modes, subclasses, `vectorize=True`, tracers, devices."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.testing._internal.two_tensor import TwoTensor

from stn_triton import SpatialTransformer, identity_theta, st_sample
from stn_triton.control_points import _solved_lattice
from stn_triton.native.sampler import _kept_basis
from stn_triton.transforms import TRANSFORMS
from support.checks import BACKENDS, SLOW_TRITON, exact, example_of, needs_triton, with_gradients

MAPS = list(TRANSFORMS)


# Fake tensors, recorders, subclasses


@pytest.mark.parametrize("backend", SLOW_TRITON)
@pytest.mark.parametrize("tracing_mode", ["real", "fake", "symbolic"])
def test_make_fx(tracing_mode: str, backend: str) -> None:
    u, theta = example_of()
    other = torch.randn_like(u)
    run = partial(st_sample, out_size=(2, 3), backend=backend)

    def gradient(u: Tensor, theta: Tensor) -> Tensor:
        theta = theta.detach().requires_grad_()
        return torch.autograd.grad(run(u, theta).square().sum(), theta)[0]

    for function in (
        lambda u, theta: run(u, theta),
        gradient,
        torch.func.grad(lambda u, t: run(u, t).square().sum(), 1),
    ):
        recorded = make_fx(function, tracing_mode=tracing_mode)(u, theta)
        torch.testing.assert_close(recorded(other, theta), function(other, theta))


@pytest.mark.parametrize("backend", BACKENDS)
def test_aot_function(backend: str) -> None:
    from functorch.compile import aot_function, nop

    u, theta = example_of()
    run = lambda u, theta: st_sample(u, theta, (2, 3), backend=backend).sin()
    cotangent = torch.randn(1, 2, 2, 3, dtype=torch.float64)
    found = with_gradients(aot_function(run, fw_compiler=nop), u, theta, cotangent)
    for name, tensor in with_gradients(run, u, theta, cotangent).items():
        torch.testing.assert_close(found[name], tensor)


@pytest.mark.parametrize("backend", SLOW_TRITON)
def test_linearize(backend: str) -> None:
    u, theta = example_of()
    run = lambda theta: st_sample(u, theta, (2, 3), backend=backend)
    _, linear = torch.func.linearize(run, theta)
    along = torch.randn_like(theta)
    torch.testing.assert_close(linear(along), torch.func.jvp(run, (theta,), (along,))[1])


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_subclass_without_memory_of_its_own(backend: str) -> None:
    u, theta = example_of()
    run = partial(st_sample, out_size=(2, 3), backend=backend)
    pair = [TwoTensor(u, 2 * u).requires_grad_(), TwoTensor(theta, theta).requires_grad_()]
    out = run(*pair)
    assert isinstance(out, TwoTensor)
    torch.testing.assert_close(out.b, 2 * run(u, theta))
    of_input, of_theta = torch.autograd.grad(out.sum(), pair)
    expected = with_gradients(run, u, theta, torch.ones_like(out.a))
    torch.testing.assert_close(of_input.a, expected["input gradient"])
    torch.testing.assert_close(of_theta.a, expected["theta gradient"])


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_gradient_of_a_subclass(backend: str) -> None:
    u, theta = (tensor.requires_grad_() for tensor in example_of())
    out = st_sample(u, theta, (2, 3), backend=backend)
    g = torch.randn_like(out)
    found = torch.autograd.grad(out, (u, theta), TwoTensor(g, -g), retain_graph=True)
    for one, other in zip(found, torch.autograd.grad(out, (u, theta), g), strict=True):
        torch.testing.assert_close(one.a, other)
        torch.testing.assert_close(one.b, -other)


@needs_triton
@pytest.mark.parametrize("transform", MAPS)
def test_fake_tensors_of_a_device_that_is_not_there(transform: str) -> None:
    with FakeTensorMode():
        u = torch.empty(2, 3, 8, 8, device="cuda:1")
        theta = identity_theta(transform, (2,), device="cpu").to("cuda:1")
        out = st_sample(u, theta, (4, 5), transform=transform)
        assert (out.device, out.shape) == (torch.device("cuda:1"), (2, 3, 4, 5))


class Marked(Tensor):
    """A subclass of Tensor that overrides nothing."""


def test_results_of_a_subclass_are_of_it() -> None:
    u, theta = example_of()
    assert type(st_sample(u.as_subclass(Marked), theta, (2, 3))) is Marked


# `vectorize=True`, `is_grads_batched`


def second_derivative(run: Callable[..., Tensor], theta: Tensor) -> Tensor:
    return torch.func.hessian(lambda theta: run(theta).square().sum())(theta)


@pytest.mark.parametrize("backend", SLOW_TRITON)
@pytest.mark.parametrize("outer", ["reverse-mode", "forward-mode"])
def test_vectorized_hessian(outer: str, backend: str) -> None:
    u, theta = example_of()
    run = partial(st_sample, u, out_size=(2, 3), backend=backend)
    found = torch.autograd.functional.hessian(
        lambda theta: run(theta).square().sum(),
        theta,
        vectorize=True,
        outer_jacobian_strategy=outer,
    )
    torch.testing.assert_close(found, second_derivative(partial(exact, u, out_size=(2, 3)), theta))


@pytest.mark.parametrize("backend", SLOW_TRITON)
@pytest.mark.parametrize("strategy", ["reverse-mode", "forward-mode"])
@pytest.mark.parametrize("transform", ["affine", "projective"])
def test_vectorized_jacobian(transform: str, strategy: str, backend: str) -> None:
    u, theta = example_of(transform)
    jacobian = torch.autograd.functional.jacobian
    options = {"out_size": (2, 3), "transform": transform}
    run = partial(st_sample, backend=backend, **options)
    for one, other in zip(
        jacobian(run, (u, theta), vectorize=True, strategy=strategy),
        jacobian(partial(exact, **options), (u, theta)),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("backend", SLOW_TRITON)
def test_batched_gradchecks(backend: str) -> None:
    leaves = [tensor.requires_grad_() for tensor in example_of(channels=1)]
    run = partial(st_sample, out_size=(2, 2), backend=backend)
    torch.autograd.gradcheck(run, leaves, check_batched_grad=True)
    torch.autograd.gradcheck(
        run, leaves, check_forward_ad=True, check_batched_forward_grad=True, check_backward_ad=False
    )
    torch.autograd.gradgradcheck(run, leaves, check_batched_grad=True)


# `torch.jit.trace`


def traced(run: Callable[..., Tensor], *arguments: Tensor) -> Any:
    """The trace, saved and loaded again."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        trace = torch.jit.trace(run, arguments, check_trace=False)
        file = io.BytesIO()
        torch.jit.save(trace, file)
        file.seek(0)
        return torch.jit.load(file)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("transform", MAPS)
def test_a_trace_is_right_at_every_size(transform: str, gradients: bool, backend: str) -> None:
    u, theta = example_of(transform, 2, 64, torch.float32)
    run = lambda u, theta: st_sample(
        u, theta, (u.shape[2], 5), transform=transform, backend=backend
    )
    trace = traced(run, u.requires_grad_(gradients), theta)
    _, other = example_of(transform, 3)
    for factor in (1, 1e6):  # a trace must not depend on the values it was made with
        u, theta = torch.randn(3, 5, 7, 6), (factor * other).float()
        torch.testing.assert_close(
            trace(u, theta), st_sample(u, theta, (7, 5), transform=transform, backend="torch")
        )


@pytest.mark.parametrize(
    "options",
    [
        {"mode": "nearest"},
        {"mode": "bicubic", "padding_mode": "reflection"},
        {"padding_mode": "border"},
        {"align_corners": True},
        {"antialias": 2},
        pytest.param({"antialias": True, "padding_mode": "reflection"}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_options_of_a_trace(options: dict[str, Any]) -> None:
    run = lambda u, theta: st_sample(u, theta, (4, u.shape[3] // 2), **options)
    start = torch.eye(2, 3).repeat(3, 2, 1, 1)
    trace = traced(run, torch.randn(3, 20, 6, 8), start + 0.2 * torch.randn_like(start))
    u, theta = torch.randn(3, 4, 9, 6), start + 0.2 * torch.randn_like(start)
    # Which coordinates overflow depends on the order of sums; a trace has that of the torch backend.
    theta[0] = 3e38
    expected = st_sample(u, theta, (4, u.shape[3] // 2), backend="torch", **options)
    torch.testing.assert_close(trace(u, theta), expected, rtol=1e-4, atol=1e-4)


def test_a_trace_of_a_module_and_of_a_volume() -> None:
    module = SpatialTransformer(
        nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten()), None, in_features=12
    ).eval()
    nn.init.normal_(module.regression.weight, std=0.1)
    x = torch.rand(4, 3, 9, 7)
    torch.testing.assert_close(traced(module, torch.rand(2, 3, 6, 8))(x), module(x))
    run = lambda u, theta: st_sample(u, theta, tuple(u.shape[2:]))
    theta = torch.eye(3, 4).repeat(2, 1, 1) + 0.1 * torch.randn(2, 3, 4)
    u = torch.randn(2, 3, 4, 6, 5)
    torch.testing.assert_close(
        traced(run, torch.randn(2, 1, 3, 4, 5), theta)(u, theta), run(u, theta)
    )


def test_a_trace_passes_its_own_check_in_silence() -> None:
    module = SpatialTransformer(
        nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), (4, 4), in_features=4
    )
    theta = torch.eye(2, 3).repeat(2, 1, 1).requires_grad_()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.trace(module, (torch.rand(2, 1, 8, 8),))
        torch.jit.trace(
            lambda u, theta: st_sample(u, theta, (4, 4)), (torch.rand(2, 1, 8, 8), theta)
        )


@pytest.mark.parametrize("transform", ["tps", "piecewise_affine"])
def test_a_compiled_lattice_may_be_the_first_of_the_process(transform: str) -> None:
    torch._dynamo.reset()
    _solved_lattice.cache_clear()
    u, theta = torch.rand(2, 1, 5, 5), identity_theta(transform, (2,)) * 0.8
    run = partial(st_sample, out_size=(4, 4), transform=transform)
    found = torch.compile(run, fullgraph=True, backend="aot_eager")(u, theta)
    torch.testing.assert_close(found, run(u, theta))


TRANSFORMS_OF_FUNC: dict[str, Callable[..., Any]] = {
    "grad": torch.func.grad,
    "jacfwd": torch.func.jacfwd,
    "hessian": torch.func.hessian,
    "vmap": lambda f: lambda theta: torch.func.vmap(torch.func.grad(f))(theta.unsqueeze(0)),
    "functionalize": torch.func.functionalize,
}


@pytest.mark.parametrize("backend", BACKENDS[:2])
@pytest.mark.parametrize("first", TRANSFORMS_OF_FUNC)
def test_a_lattice_solved_under_a_transform_serves_the_next_call(first: str, backend: str) -> None:
    u = torch.rand(1, 1, 4, 4, dtype=torch.float64)
    theta = identity_theta("tps", (1,), control_points=3, dtype=torch.float64) * 0.8

    def total(theta: Tensor) -> Tensor:
        return st_sample(u, theta, (3, 3), transform="tps", backend=backend).square().sum()

    expected = torch.func.grad(total)(theta)
    for cached in (_solved_lattice, _kept_basis):
        cached.cache_clear()
    TRANSFORMS_OF_FUNC[first](total)(theta)
    assert torch.equal(torch.func.grad(total)(theta), expected)


def test_the_first_trace_of_a_lattice_records_a_constant() -> None:
    side = 7  # no other test has this lattice: its system is solved while tracing, and must stay out of the trace
    u, theta = torch.rand(1, 1, 5, 5), identity_theta("tps", (1,), control_points=side)
    trace = traced(lambda u, theta: st_sample(u, theta, (5, 5), transform="tps"), u, theta)
    assert "linalg" not in str(trace.graph)
    torch.testing.assert_close(trace(u, theta), u, rtol=1e-4, atol=1e-4)


# `torch.fx`


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        localisation = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.transformer = SpatialTransformer(
            localisation, (4, 4), in_features=12, num_transformers=2
        )
        self.head = nn.Linear(2 * 3 * 16, 5)

    def forward(self, x: Tensor) -> Tensor:
        sampled, theta = self.transformer(x, source=x.relu(), return_theta=True)
        crop = st_sample(x, theta[:, 0], (4, 4), padding_mode="border")
        return self.head(sampled.flatten(1)) + crop.mean((1, 2, 3)).unsqueeze(1)


def test_symbolic_trace_takes_a_transformer_whole() -> None:
    network = Network()
    nn.init.normal_(network.transformer.regression.weight, std=0.1)
    graph = torch.fx.symbolic_trace(network)
    nodes = {(node.op, node.target) for node in graph.graph.nodes}
    assert ("call_module", "transformer") in nodes
    assert ("call_function", st_sample) in nodes
    x = torch.rand(3, 3, 8, 8)
    torch.testing.assert_close(graph(x), network(x))


def test_symbolic_trace_of_a_transformer_alone_says_what_to_do() -> None:
    with pytest.raises(torch.fx.proxy.TraceError, match="trace the module that contains it"):
        torch.fx.symbolic_trace(Network().transformer)
