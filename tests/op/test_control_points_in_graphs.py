"""Control points under derivatives of higher order, compile, export, tracing and ONNX."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stn_triton import ops, st_sample
from stn_triton.transforms import Options
from support.checks import BACKENDS, NATIVE, SLOW_TRITON, exact, needs_triton
from support.control_points import OUT_SIZE, POINTS, fiducials, make

# Derivatives


@pytest.mark.parametrize("backend", SLOW_TRITON)
@pytest.mark.parametrize("points", ["fiducials", "(4, 2)", "triangles (2, 5)"])
def test_second_order(points: str, backend: str, device: torch.device) -> None:
    u, theta, options = make(points, n=1, device=device, padding_mode="border")

    def second(run: Any) -> tuple[Tensor, ...]:
        tensors = [t.detach().requires_grad_() for t in (u, theta)]
        loss = run(*tensors, OUT_SIZE, **options).square().sum()
        first = torch.autograd.grad(loss, tensors, create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in first), tensors)

    for ours, true in zip(second(partial(st_sample, backend=backend)), second(exact), strict=True):
        torch.testing.assert_close(ours, true)


@pytest.mark.parametrize("backend", ["torch", NATIVE])
@pytest.mark.parametrize("points", POINTS)
def test_gradcheck(points: str, backend: str) -> None:
    u, theta, options = make(points, n=1)
    run = partial(st_sample, out_size=OUT_SIZE, backend=backend, **options)
    u, theta = u.requires_grad_(), theta.requires_grad_()
    torch.autograd.gradcheck(run, (u, theta), fast_mode=True, check_batched_grad=True)
    torch.autograd.gradgradcheck(run, (u, theta), fast_mode=True)


@pytest.mark.parametrize("backend", SLOW_TRITON)
def test_functorch(backend: str, device: torch.device) -> None:
    u, theta, options = make("fiducials", n=1, device=device)
    thetas = torch.stack((theta, theta.roll(1, -1)))

    def both(run: Any) -> list[Tensor]:
        sample = lambda theta: run(u, theta, OUT_SIZE, **options)
        loss = lambda theta: sample(theta).square().sum()
        return [
            torch.func.vmap(sample)(thetas),
            torch.func.vmap(torch.func.grad(loss))(thetas),
            torch.func.jvp(sample, (theta,), (torch.ones_like(theta),))[1],
        ]

    for ours, true in zip(both(partial(st_sample, backend=backend)), both(exact), strict=True):
        torch.testing.assert_close(ours, true)


def test_points_are_constants_without_gradient() -> None:
    u, theta, options = make("fiducials")
    points = fiducials().requires_grad_()
    theta.requires_grad_()
    out = st_sample(u, theta, OUT_SIZE, transform="tps", control_points=points)
    torch.testing.assert_close(out, st_sample(u, theta, OUT_SIZE, **options))
    of_theta, of_points = torch.autograd.grad(out.sum(), (theta, points), allow_unused=True)
    assert of_theta is not None and of_points is None
    call = lambda points: st_sample(u, theta, OUT_SIZE, transform="tps", control_points=points)
    with pytest.raises(ValueError, match="vmap"):
        torch.func.vmap(call)(torch.stack((fiducials(), fiducials())))
    grads = torch.func.vmap(torch.func.grad(lambda t: call(points).sum() + t.sum()))(theta)
    assert grads.shape == theta.shape


# Recorded graphs


@pytest.mark.usefixtures("fresh_dynamo")
@pytest.mark.parametrize("backend", [None, *BACKENDS])
@pytest.mark.parametrize("points", ["fiducials", "(2, 10)", "triangles (2, 5)"])
def test_compile(points: str, backend: str | None, device: torch.device) -> None:
    u, theta, options = make(points, device=device)
    theta.requires_grad_()
    run = partial(st_sample, out_size=OUT_SIZE, backend=backend, **options)
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    found, true = compiled(u, theta), run(u, theta)
    torch.testing.assert_close(found, true)
    grads = [torch.autograd.grad(out.square().sum(), theta)[0] for out in (found, true)]
    torch.testing.assert_close(*grads)


@pytest.mark.usefixtures("fresh_dynamo")
def test_compile_reads_an_argument_as_a_constant() -> None:
    u, theta, options = make("fiducials", torch.float64)

    def run(u: Tensor, theta: Tensor, points: Tensor) -> Tensor:
        return st_sample(u, theta, OUT_SIZE, transform="tps", control_points=points)

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(
        compiled(u, theta, fiducials()), st_sample(u, theta, OUT_SIZE, **options)
    )
    wrong = torch.compile(run, backend="eager")
    with pytest.raises(ValueError, match="one line"):
        wrong(u, theta[:, :3], torch.tensor(((-1.0, 0), (0, 0), (1, 0))))


class Rectifier(nn.Module):
    def __init__(self, points: Any, transform: str = "tps") -> None:
        super().__init__()
        self.points, self.transform = points, transform

    def forward(self, u: Tensor, theta: Tensor) -> Tensor:
        return st_sample(u, theta, OUT_SIZE, transform=self.transform, control_points=self.points)


@pytest.mark.usefixtures("fresh_dynamo")
@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("points", ["fiducials", "triangles (2, 5)"])
def test_export(points: str, strict: bool) -> None:
    u, theta, options = make(points, torch.float64)
    model = Rectifier(options["control_points"], options["transform"])
    program = torch.export.export(model, (u, theta), strict=strict)
    torch.testing.assert_close(program.module()(u, theta), model(u, theta))


@pytest.mark.filterwarnings("error::torch.jit.TracerWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_traces_hold_a_constant() -> None:
    u, theta, options = make("fiducials", torch.float32)
    model = Rectifier(options["control_points"])
    traced = torch.jit.trace(model, (u, theta))
    torch.testing.assert_close(traced(u, theta), model(u, theta))
    traced = torch.fx.symbolic_trace(model)
    torch.testing.assert_close(traced(u, theta), model(u, theta))


@needs_triton
@pytest.mark.parametrize("points", ["fiducials", "triangles (2, 5)"])
def test_opcheck(points: str, device: torch.device) -> None:
    transform, given = POINTS[points]
    numbers = tuple(given.flatten().tolist()) if isinstance(given, Tensor) else given
    u, theta, _ = make(points, torch.float32, n=1, device=device)
    u, theta = u.requires_grad_(), theta.requires_grad_()
    options = Options(transform, control_points=numbers)
    torch.library.opcheck(ops.sample, (u, theta, None, OUT_SIZE, *options))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("exporter", ["dynamo", "without a table", "tracer"])
@pytest.mark.parametrize("points", ["fiducials", pytest.param("(2, 10)", marks=pytest.mark.slow)])
def test_onnx(points: str, exporter: str, tmp_path: Path) -> None:
    ort = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    from stn_triton import onnx_translations

    u, theta, options = make(points, torch.float32)
    model = Rectifier(options["control_points"], options["transform"]).eval()
    how: dict[str, Any] = {"dynamo": True, "verbose": False}
    if exporter == "dynamo":
        how["custom_translation_table"] = onnx_translations()
    elif exporter == "tracer":
        how = {"dynamo": False, "opset_version": 20}
    torch.onnx.export(model, (u, theta), tmp_path / "m.onnx", input_names=["u", "theta"], **how)
    session = ort.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"u": u.numpy(), "theta": theta.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), model(u, theta), rtol=0, atol=1e-4)


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiled_lists_of_points_are_constants(dynamic: bool) -> None:
    def run(u: Tensor, theta: Tensor, points: list[list[float]]) -> Tensor:
        return st_sample(u, theta, (4, 5), transform="tps", control_points=points)

    torch._dynamo.reset()
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    u, theta = torch.rand(2, 1, 5, 6), 0.8 * torch.rand(2, 4, 2)
    for height in (-1, 0.25, 0.75):  # each a graph of its own, also where it is an int
        points = [[-1, height], [1.0, -0.5], [0.125, 0.5], [-0.75, 1]]
        torch.testing.assert_close(compiled(u, theta, points), run(u, theta, points))
