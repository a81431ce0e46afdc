"""What is refused, by which error, and that the message says what was wanted and what came."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from typing import Any

import pytest
import torch

from stn_triton import st_sample
from support import ROOT
from support.checks import BACKENDS, check_refused, needs_triton

U = torch.zeros(2, 3, 4, 5)
THETA = torch.zeros(2, 2, 3)
ATTENTION = torch.zeros(2, 3)
VOLUME = torch.zeros(2, 3, 4, 5, 6)

WRONG: dict[str, tuple[Any, Any, Any, dict[str, Any], type[Exception], list[str]]] = {
    # what is wrong: input, theta, out_size, options, error, what the message says
    "input, a list": ([1.0], THETA, (2, 2), {}, TypeError, ["input", "tensor", "list"]),
    "theta, None": (U, None, (2, 2), {}, TypeError, ["theta", "tensor", "NoneType"]),
    "input, integers": (U.long(), THETA, (2, 2), {}, TypeError, ["input", "float32", "int64"]),
    "input, uint8": (U.byte(), THETA, (2, 2), {}, TypeError, ["input", "float16", "uint8"]),
    "theta, complex": (U, THETA.cfloat(), (2, 2), {}, TypeError, ["theta", "bfloat16", "complex64"]),
    "theta, bool": (U, THETA.bool(), (2, 2), {}, TypeError, ["theta", "float64", "bool"]),
    "out_size, an int": (U, THETA, 2, {}, TypeError, ["out_size", "(h, w)", "2"]),
    "out_size, a float": (U, THETA, 2.5, {}, TypeError, ["out_size", "(h, w)", "2.5"]),
    "out_size, a bool": (U, THETA, True, {}, TypeError, ["out_size", "(h, w)", "True"]),
    "out_size, floats": (U, THETA, (2.0, 2), {}, TypeError, ["out_size", "ints", "(2.0, 2)"]),
    "out_size, bools": (U, THETA, (True, 2), {}, TypeError, ["out_size", "ints", "(True, 2)"]),
    "out_size, text": (U, THETA, "22", {}, TypeError, ["out_size", "ints", "'22'"]),
    "out_size, None": (U, THETA, (2, None), {}, TypeError, ["out_size", "ints", "None"]),
    "out_size, one": (U, THETA, (2,), {}, ValueError, ["out_size", "2", "got 1"]),
    "out_size, three": (U, THETA, (2, 2, 2), {}, ValueError, ["out_size", "(h, w)", "got 3"]),
    "out_size, zero": (U, THETA, (0, 2), {}, ValueError, ["out_size", "positive", "(0, 2)"]),
    "out_size, negative": (U, THETA, (2, -1), {}, ValueError, ["out_size", "positive", "(2, -1)"]),
    "input, 3-D": (U[0], THETA, (2, 2), {}, ValueError, ["(N, C, H, W)", "(3, 4, 5)"]),
    "input, no rows": (U[:, :, :0], THETA, (2, 2), {}, ValueError, ["positive", "(2, 3, 0, 5)"]),
    "input, no columns": (U[..., :0], THETA, (2, 2), {}, ValueError, ["positive", "(2, 3, 4, 0)"]),
    "theta, transposed": (
        U, THETA.mT, (2, 2), {}, ValueError, ["(N, 2, 3)", "(N, K, 2, 3)", "'affine'", "(2, 3, 2)"],
    ),
    "theta, one matrix": (U, THETA[0], (2, 2), {}, ValueError, ["(N, 2, 3)", "got shape (2, 3)"]),
    "theta, two more axes": (
        U, THETA[:, None, None], (2, 2), {}, ValueError, ["(N, K, 2, 3)", "(2, 1, 1, 2, 3)"],
    ),
    "attention, too few": (
        U, ATTENTION[:, :2], (2, 2), {"transform": "attention"}, ValueError,
        ["(N, 3)", "(N, K, 3)", "'attention'", "(2, 2)"],
    ),
    "attention, for affine": (U, ATTENTION, (2, 2), {}, ValueError, ["(N, 2, 3)", "(2, 3)"]),
    "theta, other batch": (
        U, THETA[:1], (2, 2), {}, ValueError, ["N = 2", "got 1", "K", "expand"],
    ),
    "theta, K first": (
        U, torch.zeros(4, 2, 2, 3), (2, 2), {}, ValueError, ["N = 2", "got 4", "(N, K", "expand"],
    ),
    "transform": (
        U, THETA, (2, 2), {"transform": "afine"}, ValueError,
        ["transform", "'affine'", "'attention'", "'projective'", "'tps'", "'piecewise_affine'", "'afine'"],
    ),
    "mode": (
        U, THETA, (2, 2), {"mode": "linear"}, ValueError,
        ["mode", "'bilinear'", "'nearest'", "'bicubic'", "'linear'"],
    ),
    "padding_mode": (
        U, THETA, (2, 2), {"padding_mode": "wrap"}, ValueError,
        ["padding_mode", "'zeros'", "'border'", "'reflection'", "'wrap'"],
    ),
    "padding_value, a bool": (
        U, THETA, (2, 2), {"padding_value": True}, TypeError, ["padding_value", "int or a float", "bool"],
    ),
    "padding_value, a tensor": (
        U, THETA, (2, 2), {"padding_value": torch.ones(())}, TypeError, ["padding_value", "float", "Tensor"],
    ),
    "padding_value, NaN": (
        U, THETA, (2, 2), {"padding_value": float("nan")}, ValueError, ["padding_value", "finite", "nan"],
    ),
    "padding_value, too large for anything": (
        U, THETA, (2, 2), {"padding_value": 10**400}, ValueError, ["padding_value", "finite", "inf"],
    ),
    "padding_value, too large for float32": (
        U, THETA, (2, 2), {"padding_value": 1e39}, ValueError, ["padding_value", "float32", "1e+39"],
    ),
    "padding_value of the border": (
        U, THETA, (2, 2), {"padding_value": 2, "padding_mode": "border"}, ValueError,
        ["padding_value", "'zeros'", "2.0", "'border'"],
    ),
    "antialias, 0": (U, THETA, (2, 2), {"antialias": 0}, ValueError, ["antialias", "True", "at least 1", "0"]),
    "antialias, a float": (U, THETA, (2, 2), {"antialias": 2.0}, TypeError, ["antialias", "int", "float"]),
    "antialias, None": (U, THETA, (2, 2), {"antialias": None}, TypeError, ["antialias", "bool", "NoneType"]),
    "antialias, aligned corners": (
        U, THETA, (2, 2), {"antialias": 2, "align_corners": True}, ValueError,
        ["antialias", "align_corners=False", "got 2"],
    ),
    "antialias 1, aligned corners": (
        U, THETA, (2, 2), {"antialias": 1, "align_corners": True}, ValueError,
        ["antialias", "align_corners=False", "got 1"],
    ),
    "antialias True, aligned corners": (
        U, THETA, (2, 2), {"antialias": True, "align_corners": True}, ValueError,
        ["antialias", "align_corners=False", "got True"],
    ),
    "antialias True, projective": (
        U, torch.zeros(2, 8), (2, 2), {"antialias": True, "transform": "projective"}, ValueError,
        ["antialias=True", "'affine'", "'attention'", "'projective'"],
    ),
    "bicubic, 5-D": (
        VOLUME, torch.zeros(2, 3, 4), (2, 2, 2), {"mode": "bicubic"}, ValueError,
        ["'bicubic'", "(N, C, H, W)", "not (N, C, D, H, W)"],
    ),
    "projective, 5-D": (
        VOLUME, torch.zeros(2, 8), (2, 2, 2), {"transform": "projective"}, ValueError,
        ["'projective'", "(N, C, H, W)", "not (N, C, D, H, W)"],
    ),
    "out_size, two for a volume": (
        VOLUME, torch.zeros(2, 3, 4), (2, 2), {}, ValueError, ["out_size", "(d, h, w)", "got 2"],
    ),
    "out_size, four": (U, THETA, (2, 2, 2, 2), {}, ValueError, ["out_size", "2 or 3", "got 4"]),
    "input, no slices": (
        VOLUME[:, :, :0], torch.zeros(2, 3, 4), (2, 2, 2), {}, ValueError, ["D, H and W", "(2, 3, 0, 5, 6)"],
    ),
    "affine, 2-D for a volume": (VOLUME, THETA, (2, 2, 2), {}, ValueError, ["(N, 3, 4)", "(2, 2, 3)"]),
    "attention, 2-D for a volume": (
        VOLUME, ATTENTION, (2, 2, 2), {"transform": "attention"}, ValueError, ["(N, 4)", "(N, K, 4)", "(2, 3)"],
    ),
    "projective, a row too few": (
        U, torch.zeros(2, 2, 3), (2, 2), {"transform": "projective"}, ValueError,
        ["(N, 8)", "(N, K, 8)", "(N, 3, 3)", "(2, 2, 3)"],
    ),
    "tps, not a square": (
        U, torch.zeros(2, 6, 2), (2, 2), {"transform": "tps"}, ValueError,
        ["(N, P, 2)", "(N, K, P, 2)", "G * G", "'tps'", "(2, 6, 2)"],
    ),
    "piecewise_affine, one point": (
        U, torch.zeros(2, 1, 2), (2, 2), {"transform": "piecewise_affine"}, ValueError, ["G >= 2", "(2, 1, 2)"],
    ),
    "align_corners": (U, THETA, (2, 2), {"align_corners": 1}, TypeError, ["align_corners", "bool", "int"]),
    "device": (U, THETA.to("meta"), (2, 2), {}, ValueError, ["device", "cpu", "meta"]),
}  # fmt: skip


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("what", WRONG)
def test_refused(what: str, backend: str) -> None:
    u, theta, out_size, options, error, words = WRONG[what]
    run = partial(st_sample, u, theta, out_size, **{"backend": backend, **options})
    check_refused(run, error, words)


def test_unknown_backend() -> None:
    with pytest.raises(
        ValueError, match=r"backend must be one of 'triton', 'native', 'torch', None.*'cuda'"
    ):
        st_sample(U, THETA, (2, 2), backend="cuda")


def test_options_go_by_name() -> None:
    with pytest.raises(TypeError, match="positional"):
        st_sample(U, THETA, (2, 2), "affine")  # type: ignore[misc]


@pytest.mark.parametrize("backend", BACKENDS)
def test_accepted(backend: str) -> None:
    """What resembles a mistake and is accepted: sizes as lists, torch.Size and NumPy integers."""
    run = partial(st_sample, U, THETA, backend=backend)
    sizes: list[Any] = [[2, 2], torch.Size((2, 2)), (torch.tensor(2), 2)]
    numpy = pytest.importorskip("numpy")
    for size in (*sizes, (numpy.int64(2), 2)):
        assert run(size).shape == (2, 3, 2, 2)


def run_python(code: str, **environment: str) -> str:
    """The output of code in a fresh interpreter, so that the code decides what is imported first."""
    inherited = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    root = str(ROOT)
    paths = os.pathsep.join(filter(None, [root, inherited.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**inherited, "PYTHONPATH": paths, **environment},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


ON_THE_CPU = """
import sys
import torch
{first}
from stn_triton import st_sample
assert "torch._dynamo" not in sys.modules, "the import brings the compiler along, which takes a second"
u, theta = torch.rand(1, 1, 3, 3), torch.eye(2, 3)[None]
print(st_sample(u, theta, (3, 3)).sub(u).abs().max() < 1e-5)
try:
    print(st_sample(u, theta, (3, 3), backend="triton").shape)
except RuntimeError as error:
    print(error)
"""
HIDE_TRITON = """
import importlib.util, sys
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *a: None if name == "triton" else find_spec(name, *a)
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "triton":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Hidden())
assert "triton" not in sys.modules
"""


@needs_triton
def test_triton_on_the_cpu_needs_the_interpreter() -> None:
    plain, message = run_python(ON_THE_CPU.format(first="")).strip().splitlines()
    assert plain == "tensor(True)"
    for word in ("triton", "GPU", "cpu", "TRITON_INTERPRET=1"):
        assert word in message


@needs_triton
def test_triton_on_the_cpu_with_the_interpreter() -> None:
    printed = run_python(ON_THE_CPU.format(first=""), TRITON_INTERPRET="1").strip().splitlines()
    assert printed == ["tensor(True)", "torch.Size([1, 1, 3, 3])"]


def test_without_triton() -> None:
    plain, message = run_python(ON_THE_CPU.format(first=HIDE_TRITON)).strip().splitlines()
    assert plain == "tensor(True)"
    assert "triton" in message
    assert "not installed" in message
