"""`st_sample` under what PyTorch does to functions: compile, export, autocast, `torch.func`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from stn_triton import SpatialTransformer, ops, st_sample
from stn_triton.transforms import TRANSFORMS, Options
from support.checks import BACKENDS, exact, make_input, needs_triton, slow

pytestmark = pytest.mark.usefixtures("fresh_dynamo")

OPTIONS = Options()
BORDER = Options("attention", padding_mode="border", align_corners=True)
NEAREST = Options(mode="nearest")
PADDED = Options(padding_value=0.5)
OTHERS = [
    Options("projective", "bicubic", "reflection"),
    Options("tps", samples=2),
    Options("piecewise_affine", padding_mode="border"),
]


def example(
    n: int = 2, size: tuple[int, int] = (3, 4), *, k: int | None = None, channels: int = 2,
    dtype: torch.dtype = torch.float32, layout: str = "contiguous", transform: str = "affine",
    device: torch.device | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    u = make_input((n, channels, *size), dtype, layout, device or torch.device("cpu"))
    identity = TRANSFORMS[transform].identity(2, 2)
    shape = (*((n,) if k is None else (n, k)), *identity.shape)
    theta = identity + 0.3 * torch.randn(shape)
    return u, theta.to(u.device, torch.float64 if dtype == torch.float64 else torch.float32)


@needs_triton
@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize(
    ("options", "k", "layout", "channels", "dtype"),
    [
        (OPTIONS, None, "contiguous", 2, torch.float32),
        (OPTIONS, 2, "channels_last", 8, torch.float16),
        (BORDER, 1, "strided", 1, torch.float64),
        (NEAREST, None, "channels_last", 3, torch.bfloat16),
        (PADDED, 2, "contiguous", 2, torch.float64),
        *(slow(options, 2, "channels_last", 2, torch.float32) for options in OTHERS),
    ],
)
def test_opcheck(
    options: Options, k: int | None, layout: str, channels: int, dtype: torch.dtype,
    grad: bool, device: torch.device,
) -> None:  # fmt: skip
    from stn_triton import ops

    u, theta = example(
        1, k=k, layout=layout, channels=channels, dtype=dtype, transform=options[0], device=device
    )
    # The copies that opcheck makes for the tests with gradients are dense.
    u, theta = u.requires_grad_(grad), theta.requires_grad_(grad)
    torch.library.opcheck(ops.sample, (u, theta, None, (2, 3), *options))


@needs_triton
@pytest.mark.parametrize("wanted", [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize(
    ("options", "k", "layout"),
    [
        (OPTIONS, None, "contiguous"),
        (BORDER, 2, "channels_last"),
        (NEAREST, 1, "transposed"),
        *(slow(options, None, "contiguous") for options in OTHERS),
    ],
)
def test_opcheck_of_the_backward(
    options: Options, k: int | None, layout: str, wanted: tuple[bool, bool],
    device: torch.device,
) -> None:  # fmt: skip
    from stn_triton import ops

    u, theta = example(1, k=k, layout=layout, transform=options[0], device=device)
    g = torch.randn_like(ops.sample(u, theta, None, (2, 3), *options))
    torch.library.opcheck(ops.sample_backward_op, (g, u, theta, None, (2, 3), *options, *wanted))


@needs_triton
@pytest.mark.parametrize("k", [None, 2])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "expanded"])
def test_fakes_have_the_strides_of_results(layout: str, k: int | None) -> None:
    from stn_triton import ops

    arguments = example(k=k, layout=layout, channels=3)
    real = ops.sample(*arguments, None, (2, 3), *OPTIONS)
    back = ops.sample_backward_op(real, *arguments, None, (2, 3), *OPTIONS, True, True)
    with torch._subclasses.FakeTensorMode() as mode:
        u, theta = (mode.from_tensor(tensor) for tensor in arguments)
        fake = ops.sample(u, theta, None, (2, 3), *OPTIONS)
        fakes = ops.sample_backward_op(fake, u, theta, None, (2, 3), *OPTIONS, True, True)
    for one, other in zip((real, *back), (fake, *fakes), strict=True):
        assert (one.shape, one.stride(), one.dtype) == (other.shape, other.stride(), other.dtype)


def step(run: Callable[..., Tensor], u: Tensor, theta: Tensor, *args: Any) -> tuple[Tensor, ...]:
    u, theta = u.detach().requires_grad_(), theta.detach().requires_grad_()
    out = run(u, theta, *args)
    weights = torch.linspace(-1, 1, out.numel(), device=u.device, dtype=out.dtype).view(out.shape)
    return out.detach(), *torch.autograd.grad(out, (u, theta), weights)


COMPILERS = ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize(("k", "layout"), [(None, "contiguous"), (2, "channels_last")])
def test_compile(
    k: int | None, layout: str, compiler: str, backend: str, device: torch.device
) -> None:
    def run(u: Tensor, theta: Tensor) -> Tensor:
        return st_sample(2 * u, theta + 0.01, (2, 3), padding_mode="border", backend=backend) + 1

    compiled = torch.compile(run, fullgraph=True, backend=compiler, dynamic=False)
    arguments = example(k=k, layout=layout, channels=4, device=device)
    found, expected = step(compiled, *arguments), step(run, *arguments)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    # A compiler that sees inside the operation lays out the input's gradient as it likes.
    opaque = backend == "triton" and compiler != "inductor"
    for one, other in list(zip(found, expected, strict=True))[: 2 if opaque else 1]:
        assert one.stride() == other.stride()


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("compiler", COMPILERS)
def test_compile_once_for_all_sizes(compiler: str, backend: str, device: torch.device) -> None:
    def run(u: Tensor, theta: Tensor, h: int, w: int) -> Tensor:
        return st_sample(u, theta, (h, w), backend=backend)

    counter = CompileCounterWithBackend(compiler)
    compiled = torch.compile(run, fullgraph=True, backend=counter, dynamic=True)
    frames = set()
    # No two lengths are alike, or the compiler takes them for one; nor is one 2 or 3, which theta's are.
    for n, size, out_size in ((4, (5, 6), (7, 8)), (5, (4, 7), (8, 6))):
        arguments = (*example(n, size, channels=1, device=device), *out_size)
        found = step(compiled, *arguments)
        frames.add(counter.frame_count)
        for one, other in zip(found, step(run, *arguments), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    assert len(frames) == 1, f"compiled again for other sizes: {frames}"


@pytest.mark.parametrize("backend", BACKENDS)
def test_compile_needs_no_gradient(backend: str, device: torch.device) -> None:
    run = partial(st_sample, out_size=(2, 3), transform="attention", backend=backend)
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    arguments = example(transform="attention", device=device)
    with torch.no_grad():
        torch.testing.assert_close(compiled(*arguments), run(*arguments))
    u, theta = arguments
    theta.requires_grad_()
    grads = [torch.autograd.grad(f(u, theta).square().sum(), theta) for f in (compiled, run)]
    torch.testing.assert_close(*grads, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_errors_survive_compilation(backend: str) -> None:
    u, theta = example()
    compiled = torch.compile(partial(st_sample, backend=backend), backend="eager")
    with pytest.raises(ValueError, match="expand"):
        compiled(u, theta[:1], (2, 2))


class Crop(torch.nn.Module):
    def __init__(self, backend: str) -> None:
        super().__init__()
        self.options = {"padding_mode": "border", "backend": backend}

    def forward(self, u: Tensor, theta: Tensor) -> Tensor:
        return st_sample(u.relu(), theta, (2, 3), **self.options)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dynamic", [False, True])
def test_export(dynamic: bool, backend: str, device: torch.device) -> None:
    module = Crop(backend)
    u, theta = example(device=device)
    shapes = None
    if dynamic:
        auto = torch.export.Dim.AUTO
        shapes = {"u": {0: auto, 2: auto, 3: auto}, "theta": {0: auto}}
    program = torch.export.export(module, (u, theta), dynamic_shapes=shapes)
    exported = program.module()
    torch.testing.assert_close(exported(u, theta), module(u, theta))
    if dynamic:
        other = example(3, (5, 7), device=device)
        torch.testing.assert_close(exported(*other), module(*other))


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"transform": "tps", "num_transformers": 2}], ids=str)
def test_modules_export_with_any_number_of_images(options: dict[str, Any]) -> None:
    localisation = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(2 * 9 * 7, 5))
    module = SpatialTransformer(localisation, (4, 5), in_features=5, **options).eval()
    torch.nn.init.normal_(module.regression.weight, std=0.2)
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(module, (torch.rand(4, 2, 9, 7),), dynamic_shapes=({0: batch},))
    x = torch.rand(7, 2, 9, 7)
    torch.testing.assert_close(program.module()(x), module(x))


@pytest.mark.slow
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_fake_tensors_and_traced_functions(transform: str) -> None:
    u, theta = example(transform=transform)
    sample = partial(st_sample, out_size=(2, 3), transform=transform, backend="torch")
    with FakeTensorMode() as mode:
        fake = sample(mode.from_tensor(u), mode.from_tensor(theta))
    assert fake.shape == sample(u, theta).shape
    for tracing_mode in ("real", "fake", "symbolic"):
        traced = make_fx(lambda u, theta: sample(u, theta), tracing_mode=tracing_mode)(u, theta)
        torch.testing.assert_close(traced(u, theta), sample(u, theta))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("compiled", [False, True])
def test_autocast_casts_nothing(
    compiled: bool, dtype: torch.dtype, backend: str, device: torch.device
) -> None:
    if compiled and backend == "native" and ops.INTERPRET:
        pytest.skip("the registered operator takes the interpreted kernels here")
    # A theta in bfloat16 would move samples by a good part of a pixel.
    u, theta = example(dtype=dtype, device=device)
    run = partial(st_sample, out_size=(2, 3), backend=backend)
    expected = run(u, theta)
    if compiled:
        run = torch.compile(run, fullgraph=True, backend="aot_eager")
    with torch.autocast(device.type, torch.bfloat16):
        out = run(u, theta)
    assert out.dtype == dtype
    torch.testing.assert_close(out, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_func_grad_and_vjp(backend: str, device: torch.device) -> None:
    u, theta = example(dtype=torch.float64, device=device)

    def run(u: Tensor, theta: Tensor) -> Tensor:
        return st_sample(u, theta, (2, 3), padding_mode="border", backend=backend)

    def loss(u: Tensor, theta: Tensor) -> Tensor:
        return run(u, theta).square().sum()

    truth = [x.detach().requires_grad_() for x in (u, theta)]
    wanted = torch.autograd.grad(exact(*truth, (2, 3), padding_mode="border").square().sum(), truth)
    found = torch.func.grad(loss, argnums=(0, 1))(u, theta)
    out, pull = torch.func.vjp(run, u, theta)
    for one, other, true in zip(found, pull(2 * out), wanted, strict=True):
        torch.testing.assert_close(one, true)
        torch.testing.assert_close(other, true)


def along(run: Callable[..., Tensor], u: Tensor, theta: Tensor) -> Tensor:
    return torch.func.jvp(partial(run, u), (theta,), (torch.ones_like(theta),))[1]


def along_the_input(run: Callable[..., Tensor], u: Tensor, theta: Tensor) -> Tensor:
    return torch.func.jvp(lambda u: run(u, theta), (u,), (torch.ones_like(u),))[1]


def dual_numbers(run: Callable[..., Tensor], u: Tensor, theta: Tensor) -> Tensor:
    forward = torch.autograd.forward_ad
    with forward.dual_level():
        out = run(u, forward.make_dual(theta, torch.ones_like(theta)))
        tangent = forward.unpack_dual(out).tangent
        return torch.zeros_like(out) if tangent is None else tangent.clone()


def mapped(run: Callable[..., Tensor], u: Tensor, theta: Tensor) -> Tensor:
    return torch.func.vmap(run)(torch.stack((u, -u)), torch.stack((theta, theta / 2)))


def mapped_over_theta(run: Callable[..., Tensor], u: Tensor, theta: Tensor) -> Tensor:
    return torch.func.vmap(run, (None, 0))(u, torch.stack((theta, theta / 2)))


def mapped_gradient(run: Callable[..., Tensor], u: Tensor, theta: Tensor) -> Tensor:
    loss = lambda theta: run(u, theta).square().sum()
    return torch.func.vmap(torch.func.grad(loss))(torch.stack((theta, theta / 2)))


def jacobian_forward(run: Callable[..., Tensor], u: Tensor, theta: Tensor) -> Tensor:
    return torch.func.jacfwd(partial(run, u))(theta)


def jacobian_reverse(run: Callable[..., Tensor], u: Tensor, theta: Tensor) -> Tensor:
    return torch.func.jacrev(partial(run, u))(theta)


def hessian(run: Callable[..., Tensor], u: Tensor, theta: Tensor) -> Tensor:
    return torch.func.hessian(lambda theta: run(u, theta).square().sum())(theta)


def gradient_of_gradient(run: Callable[..., Tensor], u: Tensor, theta: Tensor) -> Tensor:
    first = torch.func.grad(lambda theta: run(u, theta).square().sum())
    return torch.func.grad(lambda theta: first(theta).square().sum())(theta)


def double_backward(run: Callable[..., Tensor], u: Tensor, theta: Tensor) -> Tensor:
    theta = theta.detach().requires_grad_()
    loss = run(u, theta).square().sum()
    (first,) = torch.autograd.grad(loss, theta, create_graph=True)
    return torch.autograd.grad(first.square().sum(), theta)[0]


def double_backward_to_the_gradient(run: Callable[..., Tensor], u: Tensor, theta: Tensor) -> Tensor:
    theta = theta.detach().requires_grad_()
    out = run(u, theta)
    g = torch.ones_like(out).requires_grad_()
    (first,) = torch.autograd.grad(out, theta, g, create_graph=True)
    return torch.autograd.grad(first.square().sum(), g)[0]


COMBINATIONS = [
    along, along_the_input, dual_numbers, mapped, mapped_over_theta, mapped_gradient, jacobian_forward,
    jacobian_reverse, hessian, gradient_of_gradient, double_backward, double_backward_to_the_gradient,
]  # fmt: skip


def outcome(
    combination: Callable[..., Tensor], run: Callable[..., Tensor], compiled: str = "",
    fullgraph: bool = True,
) -> str:  # fmt: skip
    """Either "right" or the name of the error; anything else fails here."""
    u, theta = example(1, channels=1, dtype=torch.float64)
    true = combination(lambda u, theta: exact(u, theta, (2, 3)), u, theta)
    assert true.abs().amax() > 1e-3, "the truth must not be zero"
    if compiled == "whole":
        combination = torch.compile(combination, backend="aot_eager", fullgraph=fullgraph)
    elif compiled == "inside":
        run = torch.compile(run, backend="aot_eager", fullgraph=fullgraph)
    try:
        found = combination(run, u, theta)
    except Exception as error:
        return type(error).__name__
    torch.testing.assert_close(found.detach(), true.detach())
    return "right"


@pytest.mark.parametrize("compiled", [pytest.param("whole", marks=pytest.mark.slow), "inside"])
@pytest.mark.parametrize("fullgraph", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("combination", COMBINATIONS, ids=lambda f: f.__name__)
def test_compiled_is_right_or_raises(
    combination: Callable[..., Tensor], backend: str, fullgraph: bool, compiled: str
) -> None:
    if backend == "triton" and not fullgraph and combination is not COMBINATIONS[0]:
        pytest.skip("where a graph breaks the torch backend shows as much in a tenth of the time")
    run = partial(st_sample, out_size=(2, 3), backend=backend)
    outcome(combination, run, compiled, fullgraph)
