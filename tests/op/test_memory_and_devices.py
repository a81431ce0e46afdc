"""Where tensors lie: memory that says something else, strides, default devices, other devices, other threads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from bench.layouts import laid_out
from stn_triton import identity_theta, st_sample
from stn_triton.torch_backend import st_sample_torch
from stn_triton.transforms import TRANSFORMS, Options
from support.checks import BACKENDS, SLOW_TRITON, example_of, needs_triton, with_gradients

MAPS = list(TRANSFORMS)

# Memory that does not hold a tensor's values as they are


@pytest.mark.parametrize("backend", SLOW_TRITON)
def test_negative_bit(backend: str) -> None:
    u, theta = example_of(channels=1)
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
    u, theta = example_of(channels=1)
    forward = torch.autograd.forward_ad
    with forward.dual_level():
        dual = forward.make_dual(theta, torch._efficientzerotensor(theta.shape, dtype=theta.dtype))
        out = st_sample(u, dual, (2, 3), backend=backend)
        tangent = forward.unpack_dual(out).tangent
        assert tangent is None or not tangent.any()


@pytest.mark.parametrize("backend", SLOW_TRITON)
@pytest.mark.parametrize("transform", MAPS)
def test_theta_of_any_strides(transform: str, backend: str) -> None:
    u, theta = example_of(transform, 2, 3, torch.float32)
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
    u, theta = example_of(transform, 2, 64, torch.float32)
    cotangent = torch.randn(2, 64, 3, 4)
    run = partial(st_sample, out_size=(3, 4), transform=transform, backend="torch")
    expected = with_gradients(run, u, theta, cotangent)
    with torch.device("meta"):
        # The mode is off inside the call, as in PyTorch's own functions; the backward runs with it.
        found = with_gradients(run, u, theta, cotangent)
        direct = st_sample_torch(
            laid_out(u, "channels_last"), theta, None, (3, 4), Options(transform)
        )
        assert direct.device.type == "cpu"
        assert identity_theta(transform, device="cpu").device.type == "cpu"
        assert identity_theta(transform).device.type == "meta"
        assert identity_theta(transform, control_points=5, device="cpu").isfinite().all()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name])


# Devices and threads


@needs_triton
def test_kernels_start_on_the_device_of_their_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    from stn_triton.kernels import launch as module

    current: list[int] = [0]
    seen: list[Any] = []
    compiled: list[Any] = []

    class Guard:
        def __init__(self, device: torch.device) -> None:
            self.index = device.index

        def __enter__(self) -> None:
            self.outer, current[0] = current[0], self.index

        def __exit__(self, *_: object) -> None:
            current[0] = self.outer

    class Compiled:
        def __getitem__(self, grid: Any) -> Callable[..., None]:
            return lambda *args: seen.append((grid, args[0].device.index, current[0], args[1:]))

    class Kernel:
        arg_names = ("x", "size", "B", "A")

        def __getitem__(self, grid: Any) -> Callable[..., Compiled]:
            return lambda x, _, **options: (
                compiled.append((x.device.index, current[0], options)) or Compiled()  # type: ignore[func-returns-value]
            )

    kernel = Kernel()
    monkeypatch.setattr(torch.cuda, "current_device", lambda: current[0])
    monkeypatch.setattr(torch.cuda, "device", Guard)
    monkeypatch.setattr(module, "_capability", lambda index: 9)
    monkeypatch.setattr(module, "_trait", lambda x: x.dtype)  # fake tensors have no address

    def launch(index: int, size: int = 7, **constants: int) -> None:
        x = torch.empty(1, device=f"cuda:{index}")
        limit = module.Registers(96, 80)
        module.launch(
            kernel, (5,), x, size, num_warps=4, maxnreg=limit, A=2, B=3 | constants.get("b", 0)
        )

    with FakeTensorMode():
        for index in (0, 1, 3):
            launch(index)
        assert compiled == [
            (index, index, {"num_warps": 4, "maxnreg": 80, "A": 2, "B": 3}) for index in (0, 1, 3)
        ]
        assert not seen
        # Once more: the compiled kernel is known, with its constants in order.
        for index in (0, 1, 3):
            launch(index)
        assert seen == [((5, 1, 1), index, index, (7, 3, 2)) for index in (0, 1, 3)]
        launch(0, size=8)
        launch(0, b=4)
    assert len(compiled) == 5
    assert len(seen) == 3
    assert current == [0]


@needs_triton
@pytest.mark.parametrize("transform", ["affine", "tps"])
def test_every_launch_begins_with_a_tensor(transform: str) -> None:
    """Forward, backward and second order: the first argument of a launch tells the device."""
    from stn_triton.autograd import _PRODUCTS
    from stn_triton.kernels.backward import sample_backward
    from stn_triton.kernels.forward import sample_forward
    from stn_triton.kernels.launch import recorded

    u, theta = example_of(transform, dtype=torch.float32)
    options = Options(transform)
    with recorded() as launches:
        out = sample_forward(u, theta, None, (3, 4), options)
        for wanted in ((True, True), (True, False), (False, True)):
            sample_backward(out, u, theta, None, (3, 4), options, wanted)
        _PRODUCTS["tangent"].kernel(None, (3, 4), options, u, theta, theta)
        _PRODUCTS["adjoint"].kernel(None, (3, 4), options, out, u, theta, theta)
        _PRODUCTS["curvature"].kernel(None, (3, 4), options, out, u, theta, theta)
    assert len(launches) >= 7
    assert all(isinstance(each.args[0], Tensor) for each in launches)


@pytest.mark.gpu
def test_two_gpus() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    u, theta = example_of(dtype=torch.float32)
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

    u, theta = example_of(dtype=torch.float32)
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
    u, theta = example_of(channels=64, dtype=torch.float32)
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
