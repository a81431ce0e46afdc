"""Who may look on while `st_sample` runs: modes, subclasses, `vectorize=True`, tracers, other devices, threads."""

from __future__ import annotations

import io
import threading
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from checks import BACKENDS, SLOW_TRITON, exact, identity, needs_triton, with_gradients
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.testing._internal.two_tensor import TwoTensor

from stn_triton import SpatialTransformer, identity_theta, st_sample
from stn_triton.torch_backend import st_sample_torch
from stn_triton.transforms import TRANSFORMS, Options

MAPS = list(TRANSFORMS)


def example(
    transform: str = "affine", n: int = 1, channels: int = 2, dtype: torch.dtype = torch.float64
) -> Any:
    start = identity(transform)
    return torch.randn(n, channels, 3, 4, dtype=dtype), (
        start + 0.2 * torch.randn(n, *start.shape, dtype=torch.float64)
    ).to(dtype)


# Fake tensors, recorders, subclasses


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("tracing_mode", ["real", "fake", "symbolic"])
def test_make_fx(tracing_mode: str, backend: str) -> None:
    u, theta = example()
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

    u, theta = example()
    run = lambda u, theta: st_sample(u, theta, (2, 3), backend=backend).sin()
    cotangent = torch.randn(1, 2, 2, 3, dtype=torch.float64)
    found = with_gradients(aot_function(run, fw_compiler=nop), u, theta, cotangent)
    for name, tensor in with_gradients(run, u, theta, cotangent).items():
        torch.testing.assert_close(found[name], tensor)


@pytest.mark.parametrize("backend", BACKENDS)
def test_linearize(backend: str) -> None:
    u, theta = example()
    run = lambda theta: st_sample(u, theta, (2, 3), backend=backend)
    _, linear = torch.func.linearize(run, theta)
    along = torch.randn_like(theta)
    torch.testing.assert_close(linear(along), torch.func.jvp(run, (theta,), (along,))[1])


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_subclass_without_memory_of_its_own(backend: str) -> None:
    u, theta = example()
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
    u, theta = (tensor.requires_grad_() for tensor in example())
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
    """A subclass by `__torch_function__` alone."""


def test_results_of_a_subclass_are_of_it() -> None:
    u, theta = example()
    assert type(st_sample(u.as_subclass(Marked), theta, (2, 3))) is Marked


# `vectorize=True`, `is_grads_batched`


def second_derivative(run: Callable[..., Tensor], theta: Tensor) -> Tensor:
    return torch.func.hessian(lambda theta: run(theta).square().sum())(theta)


@pytest.mark.parametrize("backend", SLOW_TRITON)
@pytest.mark.parametrize("outer", ["reverse-mode", "forward-mode"])
def test_vectorized_hessian(outer: str, backend: str) -> None:
    u, theta = example()
    run = partial(st_sample, u, out_size=(2, 3), backend=backend)
    found = torch.autograd.functional.hessian(
        lambda theta: run(theta).square().sum(),
        theta,
        vectorize=True,
        outer_jacobian_strategy=outer,
    )
    torch.testing.assert_close(found, second_derivative(partial(exact, u, out_size=(2, 3)), theta))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("strategy", ["reverse-mode", "forward-mode"])
@pytest.mark.parametrize("transform", ["affine", "projective"])
def test_vectorized_jacobian(transform: str, strategy: str, backend: str) -> None:
    u, theta = example(transform)
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
    leaves = [tensor.requires_grad_() for tensor in example(channels=1)]
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
    u, theta = example(transform, 2, 64, torch.float32)
    run = lambda u, theta: st_sample(
        u, theta, (u.shape[2], 5), transform=transform, backend=backend
    )
    trace = traced(run, u.requires_grad_(gradients), theta)
    _, other = example(transform, 3)
    for factor in (1, 1e6):  # values that a trace must not have been decided by
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
    theta[0] = 3e38
    torch.testing.assert_close(trace(u, theta), run(u, theta), rtol=1e-4, atol=1e-4)


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


def test_the_first_trace_of_a_lattice_records_a_constant() -> None:
    side = 7  # of no other test: what is solved inside a trace must not be part of it
    u, theta = torch.rand(1, 1, 5, 5), identity_theta("tps", (1,), grid=side)
    trace = traced(lambda u, theta: st_sample(u, theta, (5, 5), transform="tps"), u, theta)
    assert "linalg" not in str(trace.graph)
    torch.testing.assert_close(trace(u, theta), u, rtol=1e-4, atol=1e-4)


# Memory: what lies there is not what a tensor says


@pytest.mark.parametrize("backend", BACKENDS)
def test_negative_bit(backend: str) -> None:
    u, theta = example(channels=1)
    g = torch.randn(1, 1, 2, 3, dtype=torch.float64)

    def negative(tensor: Tensor) -> Tensor:
        view = torch.complex(torch.zeros_like(tensor), -tensor).conj().imag
        assert view.is_neg()
        return view

    run = partial(st_sample, out_size=(2, 3), backend=backend)
    expected = with_gradients(run, u, theta, g)
    found = with_gradients(run, negative(u), negative(theta), negative(g))
    for name in expected:
        torch.testing.assert_close(found[name], expected[name])
    along = torch.randn_like(theta), torch.randn_like(u)
    for function, primal, tangent in (
        (partial(run, u), theta, along[0]),
        (lambda u: run(u, theta), u, along[1]),
    ):
        torch.testing.assert_close(
            torch.func.jvp(function, (primal,), (negative(tangent),))[1],
            torch.func.jvp(function, (primal,), (tangent,))[1],
        )


@pytest.mark.parametrize("backend", BACKENDS)
def test_tangents_that_are_zero_without_memory(backend: str) -> None:
    u, theta = example(channels=1)
    forward = torch.autograd.forward_ad
    with forward.dual_level():
        dual = forward.make_dual(theta, torch._efficientzerotensor(theta.shape, dtype=theta.dtype))
        out = st_sample(u, dual, (2, 3), backend=backend)
        tangent = forward.unpack_dual(out).tangent
        assert tangent is None or not tangent.any()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("transform", MAPS)
def test_theta_of_any_strides(transform: str, backend: str) -> None:
    u, theta = example(transform, 2, 3, torch.float32)
    run = partial(st_sample, u, out_size=(3, 4), transform=transform, backend=backend)
    turned = (
        theta.permute(*reversed(range(theta.dim())))
        .contiguous()
        .permute(*reversed(range(theta.dim())))
    )
    spread = torch.stack((theta, torch.zeros_like(theta)), -1)[..., 0]
    for other in (
        turned,
        spread,
        theta[:1].expand_as(theta) if (theta[0] == theta[1]).all() else turned,
    ):
        torch.testing.assert_close(run(other), run(theta), rtol=0, atol=0)


# Default devices


@pytest.mark.parametrize("transform", MAPS)
def test_a_default_device_moves_nothing(transform: str) -> None:
    u, theta = example(transform, 2, 64, torch.float32)
    cotangent = torch.randn(2, 64, 3, 4)
    run = partial(st_sample, out_size=(3, 4), transform=transform, backend="torch")
    expected = with_gradients(run, u, theta, cotangent)
    with torch.device("meta"):
        # The mode is off inside the call, as in PyTorch's own functions; the backward runs with it.
        found = with_gradients(run, u, theta, cotangent)
        direct = st_sample_torch(
            u.movedim(1, -1).contiguous().movedim(-1, 1), theta, (3, 4), Options(transform)
        )
        assert direct.device.type == "cpu"
        assert identity_theta(transform, device="cpu").device.type == "cpu"
        assert identity_theta(transform).device.type == "meta"
        assert identity_theta(transform, grid=5, device="cpu").isfinite().all()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name])


# Devices and threads


@needs_triton
def test_kernels_start_on_the_device_of_their_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    from stn_triton.kernels import launch as module

    current, seen = [0], []

    class Guard:
        def __init__(self, device: torch.device) -> None:
            self.index = device.index

        def __enter__(self) -> None:
            self.outer, current[0] = current[0], self.index

        def __exit__(self, *_: object) -> None:
            current[0] = self.outer

    class Kernel:
        def __getitem__(self, grid: Any) -> Callable[..., None]:
            return lambda *args, **_: seen.append((args[0].device.index, current[0]))

    monkeypatch.setattr(torch.cuda, "current_device", lambda: current[0])
    monkeypatch.setattr(torch.cuda, "device", Guard)
    with FakeTensorMode():
        for index in (0, 1, 3):
            module.launch(Kernel(), (1,), torch.empty(1, device=f"cuda:{index}"), num_warps=4)
    assert seen == [(0, 0), (1, 1), (3, 3)]
    assert current == [0]


@needs_triton
@pytest.mark.parametrize("transform", ["affine", "tps"])
def test_every_launch_begins_with_a_tensor(transform: str) -> None:
    """The one that tells the device: forward, backward and second order."""
    from stn_triton.autograd import _PRODUCTS, sample_backward
    from stn_triton.kernels.forward import sample_forward
    from stn_triton.kernels.launch import recorded

    u, theta = example(transform, dtype=torch.float32)
    options = Options(transform)
    with recorded() as launches:
        out = sample_forward(u, theta, (3, 4), options)
        for wanted in ((True, True), (True, False), (False, True)):
            sample_backward(out, u, theta, (3, 4), options, wanted)
        _PRODUCTS["tangent"].kernel(u, theta, theta, (3, 4), options)
        _PRODUCTS["adjoint"].kernel(out, u, theta, theta, (3, 4), options)
        _PRODUCTS["curvature"].kernel(out, u, theta, theta, (3, 4), options)
    assert len(launches) >= 7
    assert all(isinstance(each.args[0], Tensor) for each in launches)


@pytest.mark.gpu
def test_two_gpus() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    u, theta = example(dtype=torch.float32)
    expected = with_gradients(partial(st_sample, out_size=(3, 4)), u, theta, torch.ones(1, 2, 3, 4))
    with torch.cuda.device(0):
        found = with_gradients(
            partial(st_sample, out_size=(3, 4)),
            u.to("cuda:1"),
            theta.to("cuda:1"),
            torch.ones(1, 2, 3, 4, device="cuda:1"),
        )
    for name in expected:
        torch.testing.assert_close(found[name].cpu(), expected[name], rtol=1e-4, atol=1e-5)


@needs_triton
def test_recording_is_a_threads_own() -> None:
    from stn_triton.kernels.launch import recorded

    u, theta = example(dtype=torch.float32)
    expected = st_sample(u, theta, (3, 4), backend="triton")
    overlap, found = threading.Barrier(2, timeout=60), []

    def record() -> None:
        with recorded() as launches:
            overlap.wait()  # both record now
            st_sample(u, theta, (3, 4), backend="triton")
            overlap.wait()
            found.append(len(launches))

    def sample() -> None:
        with recorded() as launches:
            overlap.wait()
            overlap.wait()
            found.append(len(launches))
        found.append(st_sample(u, theta, (3, 4), backend="triton"))

    threads = [threading.Thread(target=each) for each in (record, sample)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(number for number in found if isinstance(number, int)) == [0, 1]
    for tensor in [each for each in found if isinstance(each, Tensor)] + [
        st_sample(u, theta, (3, 4), backend="triton")
    ]:
        assert torch.equal(tensor, expected)


def test_a_forward_mode_in_another_thread_changes_nothing() -> None:
    u, theta = example(channels=64, dtype=torch.float32)
    expected = st_sample(u, theta, (3, 4), backend="torch")
    inside, done = threading.Event(), threading.Event()

    def hold() -> None:
        with torch.autograd.forward_ad.dual_level():
            inside.set()
            done.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    inside.wait(60)
    try:
        assert torch.equal(st_sample(u, theta, (3, 4), backend="torch"), expected)
    finally:
        done.set()
        thread.join(60)


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
