"""ONNX export: standard nodes, and onnxruntime gives what `st_sample` gives."""

from __future__ import annotations

import logging
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

from stn_triton import SpatialTransformer, identity_theta, onnx_translations, st_sample
from support.thetas import SPACES

ort = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:# The axis name"),
]

SIZE = {2: (9, 7), 3: (6, 5, 7)}
OUT = {2: (5, 8), 3: (4, 5, 3)}


class Calls(nn.Module):
    """Several calls on one input in one model: an export takes seconds."""

    def __init__(self, out_size: tuple[int, ...] | None, *calls: dict[str, Any]) -> None:
        super().__init__()
        self.out_size, self.calls = out_size, calls

    def forward(self, u: Tensor, theta: Tensor) -> list[Tensor]:
        return [st_sample(u, theta, self.out_size, **call) for call in self.calls]


def export(model: Any, inputs: tuple[Tensor, ...], dynamic_shapes: Any = None) -> Any:
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    model = model.eval() if isinstance(model, nn.Module) else model
    return torch.onnx.export(
        model, inputs, dynamo=True, custom_translation_table=onnx_translations(),
        dynamic_shapes=dynamic_shapes, verbose=False,
    )  # fmt: skip


def run(program: Any, *inputs: Tensor) -> list[Tensor]:
    session = ort.InferenceSession(
        program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    names = [each.name for each in session.get_inputs()]
    arrays = [tensor.numpy() for tensor in inputs]
    return [torch.from_numpy(y) for y in session.run(None, dict(zip(names, arrays, strict=True)))]


def operators(program: Any) -> list[str]:
    assert {node.domain for node in program.model.graph} == {""}
    return [node.op_type for node in program.model.graph]


def inputs_for(
    transform: str, ndim: int, *outer: int, spread: float = 0.15
) -> tuple[Tensor, Tensor]:
    """Homographies must keep their horizon away from the output, where rounding errors have no bound."""
    theta = identity_theta(transform, outer, ndim=ndim)
    return torch.randn(outer[0], 3, *SIZE[ndim]), theta + spread * torch.randn_like(theta)


def assert_same(program: Any, model: nn.Module, u: Tensor, theta: Tensor) -> None:
    wanted = model(u, theta)
    got = run(program, u, theta)
    assert len(got) == len(wanted)
    budget = 1e-6 * max(u.shape[2:]) * float(u.abs().max())
    for ours, theirs in zip(wanted, got, strict=True):
        torch.testing.assert_close(theirs, ours, rtol=0, atol=budget)


@pytest.mark.parametrize(
    "several", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["one", "K"]
)
@pytest.mark.parametrize(("transform", "ndim"), SPACES)
def test_same_numbers(transform: str, ndim: int, several: bool) -> None:
    calls = [
        {"transform": transform},
        {"transform": transform, "padding_mode": "border", "antialias": 2},
        {"transform": transform, "padding_mode": "reflection", "align_corners": True},
        {"transform": transform, "padding_value": -0.6, "antialias": 2},
    ]
    model = Calls(OUT[ndim], *calls)
    u, theta = inputs_for(transform, ndim, *((2, 3) if several else (2,)))
    assert_same(export(model, (u, theta)), model, u, theta)


@pytest.mark.slow
@pytest.mark.parametrize("ndim", [2, 3])
def test_every_mode_and_padding(ndim: int) -> None:
    modes = ["bilinear", "nearest", "bicubic"][: 5 - ndim]
    calls = [
        {"mode": mode, "padding_mode": padding_mode, "align_corners": align_corners}
        for mode, padding_mode, align_corners in product(
            modes, ["zeros", "border", "reflection"], [False, True]
        )
    ]
    model = Calls(OUT[ndim], *calls)
    u, theta = inputs_for("affine", ndim, 2, spread=1.0)
    assert_same(export(model, (u, theta)), model, u, theta)


@pytest.mark.slow
@pytest.mark.parametrize("transform", ["affine", "projective", "tps"])
@pytest.mark.parametrize("out_size", [(1, 8), (5, 1)], ids=str)
def test_one_pixel_between_aligned_corners(transform: str, out_size: tuple[int, int]) -> None:
    model = Calls(out_size, {"transform": transform, "align_corners": True})
    u, theta = inputs_for(transform, 2, 2)
    assert_same(export(model, (u, theta)), model, u, theta)


@pytest.mark.slow
def test_homography_of_any_scale() -> None:
    model = Calls((5, 8), {"transform": "projective"})
    u, theta = inputs_for("projective", 2, 2)
    whole = -3 * torch.cat((theta, torch.ones(2, 1)), 1).view(2, 3, 3)
    assert_same(export(model, (u, whole)), model, u, whole)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float16, torch.float64], ids=str)
def test_other_dtypes(dtype: torch.dtype) -> None:
    model = Calls((5, 8), {})
    u, theta = inputs_for("affine", 2, 2)
    u, theta = u.to(dtype), theta.to(torch.promote_types(dtype, torch.float32))
    (ours,), (theirs,) = model(u, theta), run(export(model, (u, theta)), u, theta)
    assert theirs.dtype == dtype
    torch.testing.assert_close(theirs, ours, rtol=torch.finfo(dtype).eps, atol=1e-5)


def test_nodes() -> None:
    u, theta = inputs_for("affine", 2, 2)
    plain = export(Calls((5, 8), {}), (u, theta))
    assert operators(plain) == ["AffineGrid", "GridSample"]
    smooth = export(Calls((5, 8), {"antialias": 3}), (u, theta))
    assert operators(smooth) == ["AffineGrid", "GridSample", "AveragePool"]
    u, theta = inputs_for("attention", 3, 2, 3)
    several = operators(export(Calls((5, 8, 2), {"transform": "attention"}), (u, theta)))
    assert several.count("AffineGrid") == several.count("GridSample") == 1


@pytest.mark.slow
@pytest.mark.parametrize("transform", ["affine", "attention", "projective"])
def test_symbolic_sizes(transform: str) -> None:
    model = Calls(None, {"transform": transform}, {"transform": transform, "antialias": 2})
    u, theta = inputs_for(transform, 2, 2, 3)
    free = {0: Dim("n"), 2: Dim("h"), 3: Dim("w")}
    program = export(model, (u, theta), (free, {0: Dim("n")}))
    assert_same(program, model, u, theta)
    _, theta = inputs_for(transform, 2, 4, 3)
    assert_same(program, model, torch.randn(4, 3, 6, 11), theta)


@pytest.mark.slow
@pytest.mark.parametrize("transform", ["tps", "piecewise_affine"])
def test_symbolic_batch(transform: str) -> None:
    model = Calls((5, 8), {"transform": transform})
    u, theta = inputs_for(transform, 2, 2, 3)
    program = export(model, (u, theta), ({0: Dim("n")}, {0: Dim("n")}))
    u, theta = inputs_for(transform, 2, 5, 3)
    assert_same(program, model, u, theta)


def causes(error: BaseException) -> str:
    said = str(error)
    return said if error.__cause__ is None else said + causes(error.__cause__)


@pytest.mark.slow
def test_refuses_what_onnx_has_not() -> None:
    u, theta = inputs_for("affine", 2, 2)
    with pytest.raises(Exception, match="ONNX") as raised:
        export(Calls((5, 8), {"antialias": True}), (u, theta))
    assert "antialias=True" in causes(raised.value)

    u, theta = inputs_for("tps", 2, 2)
    with pytest.raises(Exception, match="ONNX") as raised:
        export(Calls(None, {"transform": "tps"}), (u, theta), ({2: Dim("h")}, None))
    assert "out_size of numbers" in causes(raised.value)


@pytest.mark.parametrize("exported_first", [False, True])
def test_module(exported_first: bool) -> None:
    localisation = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten())
    module = SpatialTransformer(
        localisation, (5, 8), in_features=12, transform="attention", num_transformers=2,
        fixed_scale=0.5,
    ).eval()  # fmt: skip
    nn.init.normal_(module.regression.weight, std=0.3)
    u = torch.randn(2, 3, 8, 6)
    model = torch.export.export(module, (u,)) if exported_first else module
    (theirs,) = run(export(model, (u,)), u)
    budget = 1e-6 * 8 * float(u.abs().max())
    torch.testing.assert_close(theirs, module(u), rtol=0, atol=budget)


EXPORTED = [
    {},
    {"transform": "attention", "padding_mode": "reflection"},
    {"transform": "projective", "mode": "bicubic"},
    {"transform": "tps", "mode": "nearest", "padding_mode": "border"},
    {"transform": "piecewise_affine", "align_corners": True},
    {"antialias": 2},
]
"""What the exporter makes of PyTorch's own operators."""


@pytest.mark.slow
@pytest.mark.parametrize("options", EXPORTED, ids=str)
def test_without_a_translation_table(options: dict[str, Any]) -> None:
    u, theta = inputs_for(options.get("transform", "affine"), 2, 2, 3)
    model = Calls(OUT[2], options).eval()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    assert_same(torch.onnx.export(model, (u, theta), dynamo=True, verbose=False), model, u, theta)


@pytest.mark.slow
@pytest.mark.parametrize("options", EXPORTED, ids=str)
def test_the_exporter_built_on_the_tracer(options: dict[str, Any], tmp_path: Path) -> None:
    u, theta = inputs_for(options.get("transform", "affine"), 2, 2)
    model, file = Calls(None, options).eval(), tmp_path / "model.onnx"
    axes = {"u": {0: "n", 2: "h", 3: "w"}, "theta": {0: "n"}}
    torch.onnx.export(
        model, (u, theta), file, dynamo=False, opset_version=20, input_names=["u", "theta"],
        dynamic_axes=axes,
    )  # fmt: skip
    session = ort.InferenceSession(file, providers=["CPUExecutionProvider"])
    u, theta = torch.randn(3, 3, 6, 11), theta[:1].repeat(3, *[1] * (theta.dim() - 1))
    (got,) = session.run(None, {"u": u.numpy(), "theta": theta.numpy()})
    torch.testing.assert_close(torch.from_numpy(got), model(u, theta)[0], rtol=0, atol=1e-4)


def test_an_operator_that_needs_the_table_names_it() -> None:
    program = torch.export.export(Calls(OUT[2], {}).eval(), inputs_for("affine", 2, 2))
    with pytest.raises(Exception, match="onnx_translations"):
        torch.onnx.export(program, dynamo=True, verbose=False)


@pytest.mark.slow
def test_import_does_without_onnx() -> None:
    code = (
        "import sys, stn_triton; stn_triton.onnx_translations(); print('onnxscript' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.strip() == "False"
