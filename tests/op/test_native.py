"""The native library for CPUs: options against the definition, exactness, foreign memory, threads, processes."""

from __future__ import annotations

import ctypes
import math
import multiprocessing
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from stn_triton import functional, show_config, st_sample
from stn_triton.native import library, sampler, sources
from stn_triton.transforms import TRANSFORMS, Options
from support.checks import (
    DTYPES,
    draw_theta,
    exact,
    identity,
    label,
    make_input,
    pairwise,
    peer,
    plain,
    with_gradients,
    within_budget,
)

pytestmark = pytest.mark.skipif(library.MISSING is not None, reason=f"{library.MISSING}")

native = partial(st_sample, backend="native")
CPU = torch.device("cpu")
FORMS: dict[str, tuple[int, ...]] = {
    "affine": (2, 3), "attention": (3,), "projective": (8,), "tps": (9, 2), "piecewise_affine": (16, 2),
}  # fmt: skip
PLANE = {
    "transform": list(FORMS),
    "mode": ["bilinear", "nearest", "bicubic"],
    "padding_mode": ["zeros", "border", "reflection"],
    "align_corners": [False, True],
    "layout": ["contiguous", "channels_last", "strided", "transposed"],
    "channels": [1, 3, 5, 8, 19],
    "k": [None, 2],
    "dtype": DTYPES,
}
VOLUME = {
    **PLANE,
    "transform": ["affine", "attention"],
    "mode": ["bilinear", "nearest"],
    "channels": [1, 4, 9],
}


@pytest.fixture(params=["x86-64-v2", "best"])
def level(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every instruction set that this processor has."""
    best = library.level()
    if request.param == "best":
        yield str(best)
        return
    if best != "x86-64-v3":
        pytest.skip("one instruction set here")
    assert library.LIBRARY.stn_choose(0) == 0
    assert library.level() == "x86-64-v2"
    yield request.param
    assert library.LIBRARY.stn_choose(1) == 0


def agrees(
    in_size: tuple[int, ...], out_size: tuple[int, ...], transform: str, layout: str, channels: int,
    k: int | None, dtype: torch.dtype, theta_dtype: torch.dtype | None = None, **options: Any,
) -> None:  # fmt: skip
    """Result and gradients of random images against the definition in float64."""
    n = 2
    u = make_input((n, channels, *in_size), dtype, layout, CPU)
    antialias = options.get("antialias", False)
    theta = draw_theta(
        (n,) if k is None else (n, k), theta_dtype or dtype, CPU, in_size, out_size, transform=transform,
        mode=options.get("mode", "bilinear"), align=options.get("align_corners", False), spread=0.3,
        form=FORMS[transform] if len(in_size) == 2 else None, antialias=antialias,
    )  # fmt: skip
    usual = options.get("mode") != "bicubic" and antialias is not True
    run = partial(native, transform=transform, **options)
    reference = partial(peer if usual else plain, transform=transform, **options)
    truth = partial(exact, transform=transform, **options)
    outer = (n,) if k is None else (n, k)
    cotangent = torch.randn(*outer, channels, *out_size).to(dtype)
    ours = with_gradients(run, u, theta, cotangent, out_size)
    low = with_gradients(reference, u, theta, cotangent, out_size)
    true = with_gradients(truth, u.double(), theta.double(), cotangent, out_size)
    for name in ours:
        # The reference's error in double precision is that of the truth itself.
        pixels = 64 * max(*in_size, *out_size) * (4 if options.get("mode") == "bicubic" else 1)
        within_budget(ours[name], low[name], true[name], name, pixels)


@pytest.mark.parametrize("case", pairwise(PLANE), ids=label)
def test_images(case: dict[str, Any], level: str) -> None:
    agrees((7, 9), (6, 11), **case)


@pytest.mark.parametrize("case", pairwise(VOLUME), ids=label)
def test_volumes(case: dict[str, Any], level: str) -> None:
    agrees((4, 5, 6), (3, 5, 4), **case)


@pytest.mark.parametrize("antialias", [2, 3, True])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("channels", [3, 9])
@pytest.mark.parametrize("transform", FORMS)
def test_antialias(antialias: bool | int, layout: str, channels: int, transform: str) -> None:
    if antialias is True and TRANSFORMS[transform].matrix is None:
        pytest.skip("refused")
    agrees((9, 8), (4, 3), transform, layout, channels, 2, torch.float32, antialias=antialias)


@pytest.mark.parametrize("padding_mode", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("mode", ["bilinear", "nearest", "bicubic"])
@pytest.mark.parametrize("in_size", [(1, 1), (1, 7), (6, 1), (2, 3), (3, 2)])
def test_images_smaller_than_a_window(
    in_size: tuple[int, int], mode: str, padding_mode: str
) -> None:
    for layout, channels in (("contiguous", 2), ("contiguous", 9), ("channels_last", 9)):
        if layout == "channels_last" and in_size == (1, 1):
            continue
        agrees(
            in_size, (4, 5), "affine", layout, channels, None, torch.float32,
            mode=mode, padding_mode=padding_mode,
        )  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("theta_dtype", DTYPES)
def test_theta_of_another_dtype(dtype: torch.dtype, theta_dtype: torch.dtype) -> None:
    for channels in (3, 9):
        agrees((6, 5), (4, 7), "affine", "contiguous", channels, None, dtype, theta_dtype)
    agrees((6, 5), (4, 7), "tps", "channels_last", 3, None, dtype, theta_dtype)


LONG_ROWS = [
    ("affine", (3, 700)),
    ("affine", (300, 300)),
    ("projective", (4, 530)),
    ("tps", (3, 600)),
]


@pytest.mark.parametrize(("transform", "size"), LONG_ROWS)
@pytest.mark.parametrize(
    ("layout", "channels"), [("contiguous", 1), ("contiguous", 8), ("channels_last", 3)]
)
def test_rows_of_several_pieces(
    transform: str, size: tuple[int, int], layout: str, channels: int
) -> None:
    """And images that are read ahead in bands."""
    u = make_input((1, channels, *size), torch.float32, layout, CPU)
    theta = (identity(transform, 2, FORMS[transform]) * 0.9 + 0.01).float()[None]
    true = exact(u, theta, size, transform=transform)
    found = native(u, theta, size, transform=transform)
    within_budget(found, plain(u, theta, size, transform=transform), true, "output", 700)
    double = native(u.double(), theta.double(), size, transform=transform)
    torch.testing.assert_close(double, true, rtol=0, atol=1e-9)


def test_a_large_output() -> None:
    u = torch.randn(1, 1, 3, 4)
    found = native(u, torch.eye(2, 3)[None], (2050, 2100), mode="nearest")
    true = exact(u, torch.eye(2, 3)[None], (2050, 2100), mode="nearest")
    assert (found.double() != true).double().mean() < 1e-3


# ---- Exactness


TURNS = {
    "identity": (((1, 0, 0), (0, 1, 0)), lambda u: u),
    "flip": (((-1, 0, 0), (0, 1, 0)), lambda u: u.flip(-1)),
    "half turn": (((-1, 0, 0), (0, -1, 0)), lambda u: u.flip(-1, -2)),
    "quarter turn": (((0, 1, 0), (-1, 0, 0)), lambda u: u.transpose(-1, -2).flip(-1)),
    "transpose": (((0, 1, 0), (1, 0, 0)), lambda u: u.transpose(-1, -2)),
}  # fmt: skip


@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize("mode", ["bilinear", "nearest", "bicubic"])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_turns_are_exact(turn: str, mode: str, layout: str, level: str) -> None:
    entries, expected = TURNS[turn]
    theta = torch.tensor([entries], dtype=torch.float32)
    factors = {
        "size": [1, 2, 31, 42],
        "dtype": [torch.float32, torch.bfloat16, torch.float64],
        "channels": [1, 3, 9],
        "padding_mode": ["zeros", "border", "reflection"],
        "align_corners": [False, True],
    }
    for case in pairwise(factors):
        size, dtype, channels = case.pop("size"), case.pop("dtype"), case.pop("channels")
        u = make_input((1, channels, size, size), dtype, layout, CPU)
        found = native(u, theta, (size, size), mode=mode, **case)
        assert torch.equal(found, expected(u)), (size, dtype, channels, case)


@pytest.mark.parametrize("transform", FORMS)
def test_identities_are_exact(transform: str, level: str) -> None:
    for size in ((5, 7), (33, 64)):
        for channels in (2, 8):
            u = torch.randn(2, channels, *size)
            theta = identity(transform, 2, FORMS[transform]).float().expand(2, *FORMS[transform])
            assert torch.equal(native(u, theta, size, transform=transform), u)


def test_the_derivative_at_whole_coordinates_is_the_right_one() -> None:
    u = torch.randn(1, 2, 6, 7).requires_grad_()
    theta = torch.eye(2, 3)[None].requires_grad_()
    cotangent = torch.randn(1, 2, 6, 7)
    ours = with_gradients(native, u, theta, cotangent, (6, 7))
    true = with_gradients(exact, u.double(), theta.double(), cotangent, (6, 7))
    low = with_gradients(plain, u, theta, cotangent, (6, 7))
    within_budget(ours["theta gradient"], low["theta gradient"], true["theta gradient"])


def test_results_do_not_hang_on_the_batch() -> None:
    for channels in (3, 9):
        u, theta = torch.randn(5, channels, 20, 30), torch.eye(2, 3) + 0.3 * torch.randn(5, 2, 3)
        together = with_gradients(native, u, theta, torch.ones(5, channels, 9, 17), (9, 17))
        for n in range(5):
            alone = with_gradients(
                native, u[n : n + 1], theta[n : n + 1], torch.ones(1, channels, 9, 17), (9, 17)
            )
            for name, found in alone.items():
                assert torch.equal(found, together[name][n : n + 1]), name


# ---- Hostile values


@pytest.mark.parametrize("padding_mode", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("transform", FORMS)
def test_hostile_thetas(transform: str, padding_mode: str) -> None:
    values = [math.nan, math.inf, -math.inf, 1e30, -1e30, 3e38, 1e-40, 0.0]
    start = identity(transform, 2, FORMS[transform]).float()
    thetas = [torch.full_like(start, value) for value in values]
    for value in values:
        for place in range(start.numel()):
            theta = start.clone()
            theta.view(-1)[place] = value
            thetas.append(theta)
    theta = torch.stack(thetas)
    for mode in ("bilinear", "nearest", "bicubic"):
        for layout, channels in (("contiguous", 2), ("contiguous", 8), ("channels_last", 3)):
            u = make_input((len(theta), channels, 5, 6), torch.float32, layout, CPU)
            found = with_gradients(
                partial(native, transform=transform, mode=mode, padding_mode=padding_mode),
                u, theta, torch.ones(len(theta), channels, 4, 7), (4, 7),
            )  # fmt: skip
            assert found["output"].isfinite().all()
            assert found["input gradient"].isfinite().all()
            lost = found["theta gradient"].isnan().flatten(1).any(1)
            assert not lost[: len(values)].any(), lost.nonzero()


@pytest.mark.parametrize(
    ("layout", "channels"),
    [("contiguous", 1), ("contiguous", 8), ("channels_last", 3), ("channels_last", 8)],
)
@pytest.mark.parametrize("mode", ["bilinear", "nearest", "bicubic"])
def test_what_is_outside_changes_nothing(layout: str, channels: int, mode: str) -> None:
    """Pixels that are not finite and no tap, and incoming gradients that are not finite and have none."""
    theta = torch.tensor([[[0.5, 0.0, -1.2], [0.0, 0.5, -0.9]]])
    options = {"mode": mode, "padding_mode": "zeros"}
    u = make_input((1, channels, 12, 13), torch.float32, layout, CPU)
    cotangent = torch.randn(1, channels, 11, 10)
    true = with_gradients(
        partial(exact, **options), u.double(), theta.double(), cotangent, (11, 10)
    )
    touched = with_gradients(
        partial(exact, **options), u.double().abs() + 1, theta.double(), cotangent.abs() + 1, (11, 10)
    )  # fmt: skip
    unread = touched["input gradient"] == 0
    spoiled = torch.where(unread, math.nan, u)
    spoiled = (
        spoiled.contiguous(memory_format=torch.channels_last)
        if layout == "channels_last"
        else spoiled
    )
    blank = touched["output"] == 0
    assert unread.any()
    assert blank.any() or mode == "bicubic"
    loud = torch.where(blank, math.inf, cotangent)
    found = with_gradients(partial(native, **options), spoiled, theta, loud, (11, 10))
    low = with_gradients(partial(plain, **options), u, theta, cotangent, (11, 10))
    for name in true:
        within_budget(found[name], low[name], true[name], name)


# ---- Memory


PAGE = 64


def arena(like: Tensor) -> tuple[Tensor, Any]:
    """A tensor of the same numbers between guards, and a function that says whether these are whole."""
    count = like.numel() * like.element_size()
    memory = torch.full((count + 2 * PAGE,), 0xA5, dtype=torch.uint8)
    flat = memory[PAGE : PAGE + count].view(like.dtype)
    tensor = torch.as_strided(flat, like.shape, like.stride())
    tensor.copy_(like)
    return tensor, lambda: bool((memory[:PAGE] == 0xA5).all() and (memory[-PAGE:] == 0xA5).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_nothing_is_written_beside_results(
    dtype: torch.dtype, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole: list[Any] = []

    def guarded(make: Any) -> Any:
        def allocate(*args: Any, **kwargs: Any) -> Tensor:
            tensor, check_guards = arena(torch.zeros_like(make(*args, **kwargs)))
            whole.append(check_guards)
            return tensor

        return allocate

    for name in ("empty_output", "empty_input_gradient"):
        monkeypatch.setattr(sampler, name, guarded(getattr(sampler, name)))
    for size in ((1, 1), (1, 9), (5, 1), (7, 11), (16, 33)):
        for channels in (1, 3, 5, 8, 11):
            for mode in ("bilinear", "nearest", "bicubic"):
                u = make_input((2, channels, *size), dtype, layout, CPU)
                theta = torch.eye(2, 3) * 1.3 + 0.2 * torch.randn(2, 2, 3)
                with_gradients(
                    partial(native, mode=mode), u, theta, torch.ones(2, channels, 5, 9), (5, 9)
                )
    assert len(whole) == 2 * 75
    assert all(each() for each in whole)


@pytest.mark.slow
def test_sanitizers() -> None:
    script = Path(__file__).parents[1] / "support" / "native_fuzz" / "run.py"
    done = subprocess.run(
        [sys.executable, str(script), "300", "7"], capture_output=True, text=True, check=False
    )
    if done.returncode == 77:
        pytest.skip(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr


# ---- Threads and processes


def sampled(channels: int, layout: str) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    u = torch.randn(9, channels, 64, 65, generator=generator)
    u = u.contiguous(memory_format=torch.channels_last) if layout == "channels_last" else u
    theta = torch.eye(2, 3) + 0.3 * torch.randn(9, 2, 3, generator=generator)
    return with_gradients(native, u, theta, torch.ones(9, channels, 60, 61), (60, 61))


@pytest.mark.parametrize(
    ("channels", "layout"), [(3, "contiguous"), (17, "contiguous"), (16, "channels_last")]
)
def test_every_number_of_threads(
    channels: int, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = None
    for threads in range(1, 17):
        monkeypatch.setattr(sampler, "_threads", lambda call, threads=threads: threads)
        found = sampled(channels, layout)
        first = first or found
        assert all(torch.equal(found[name], first[name]) for name in first), threads


def test_how_many_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    call = library.Call(
        images=64, transformers=1, channels=3, taps=2, dimensions=2, samples=1, output=1
    )
    call.out_x = call.out_y = call.out_z = 1
    assert sampler._threads(call) == 1
    call.out_x = call.out_y = 2048
    assert sampler._threads(call) == 8
    call.images = 5
    assert sampler._threads(call) == 5


def test_several_python_threads() -> None:
    expected = sampled(3, "contiguous")
    wrong: list[Any] = []

    def run() -> None:
        for _ in range(5):
            found = sampled(3, "contiguous")
            wrong.extend(name for name in found if not torch.equal(found[name], expected[name]))

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def _in_a_process(queue: Any) -> None:
    torch.set_num_threads(2)
    queue.put({name: tensor.numpy() for name, tensor in sampled(3, "contiguous").items()})


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_other_processes(method: str) -> None:
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} here")
    expected = sampled(3, "contiguous")
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    process = context.Process(target=_in_a_process, args=(queue,))
    process.start()
    found = queue.get(timeout=120)
    process.join(60)
    assert process.exitcode == 0
    assert all(torch.equal(torch.from_numpy(found[name]), expected[name]) for name in expected)


# ---- The library itself


def test_a_missing_library(tmp_path: Path) -> None:
    loaded, missing = library.load(tmp_path / "stn_native.so")
    assert loaded is None
    assert missing is not None
    assert "without its native library" in missing


def test_a_damaged_library(tmp_path: Path) -> None:
    path = tmp_path / "stn_native.so"
    path.write_bytes(b"no library")
    assert "cannot be loaded" in str(library.load(path)[1])


@pytest.mark.skipif(sys.platform != "linux", reason="how to make one is known for Linux")
def test_a_library_of_other_sources(tmp_path: Path) -> None:
    built = (sources.FOLDER / sources.LIBRARY).read_bytes()
    path = tmp_path / "stn_native.so"
    path.write_bytes(built.replace(sources.digest().encode(), b"0" * 16))
    assert "make native" in str(library.load(path)[1])


def test_a_call_is_as_long_here_as_there() -> None:
    assert library.LIBRARY.stn_call_size() == ctypes.sizeof(library.Call)


WITHOUT = """
import torch
from stn_triton import show_config, st_sample
u, theta = torch.rand(1, 2, 3, 3), torch.eye(2, 3)[None]
print(st_sample(u, theta, (3, 3)).shape)
try:
    st_sample(u, theta, (3, 3), backend="native")
except RuntimeError as error:
    print(error)
print(show_config())
"""


@pytest.mark.slow
def test_without_the_library(tmp_path: Path) -> None:
    """A pure wheel: the torch backend on a CPU, and "native" says why not."""
    package = Path(functional.__file__).parent
    shutil.copytree(
        package,
        tmp_path / "stn_triton",
        ignore=shutil.ignore_patterns("stn_native.*", "__pycache__"),
    )
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT], capture_output=True, text=True, check=True, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)}, timeout=300,
    )  # fmt: skip
    shape, error, *config = done.stdout.splitlines()
    assert shape == "torch.Size([1, 2, 3, 3])"
    assert "backend='native' is not there" in error
    assert "without its native library" in error
    assert any(line.startswith("native: not there") for line in config)


def test_another_device() -> None:
    with pytest.raises(RuntimeError, match="needs a tensor on a CPU, got one on meta"):
        native(torch.empty(1, 1, 2, 2, device="meta"), torch.empty(1, 2, 3, device="meta"), (2, 2))


def test_show_config() -> None:
    text = show_config()
    assert f"native: there, {library.level()}" in text
    assert torch.__version__ in text
    assert "native on a CPU" in text


def test_the_default_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    library_call = sampler._run
    monkeypatch.setattr(sampler, "_run", lambda *a, **k: calls.append(k) or library_call(*a, **k))
    u, theta = torch.rand(2, 3, 5, 5).requires_grad_(), torch.eye(2, 3).repeat(2, 1, 1)
    st_sample(u, theta, (4, 4)).sum().backward()
    assert len(calls) == 2
    with torch.no_grad():
        st_sample(u, theta, (4, 4), backend="torch")
    assert len(calls) == 2


COMPILED = """
import torch
from stn_triton import st_sample
from stn_triton.native import sampler
calls, run = [], sampler._run
sampler._run = lambda *a, **k: calls.append(k) or run(*a, **k)
compiled = torch.compile(st_sample, fullgraph=True, backend="aot_eager")
u = torch.rand(2, 3, 5, 5).requires_grad_()
theta = torch.eye(2, 3).repeat(2, 1, 1)
for backend in (None, "native"):
    compiled(u, theta, (4, 4), backend=backend).sum().backward()
print(len(calls), u.grad.shape)
"""


@pytest.mark.slow
def test_compiled() -> None:
    """The operator of a compiled graph takes the library, where no kernels are interpreted."""
    root = Path(functional.__file__).parents[1]
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", COMPILED], capture_output=True, text=True, check=False, timeout=300,
        env={**environment, "PYTHONPATH": str(root)},
    )  # fmt: skip
    assert done.stdout.strip() == "4 torch.Size([2, 3, 5, 5])", done.stderr


def test_nothing_is_written_where_a_mode_looks_on() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        assert native(torch.empty(1, 2, 5, 5), torch.empty(1, 2, 3), (3, 4)).shape == (1, 2, 3, 4)


def test_higher_derivatives() -> None:
    u = torch.randn(1, 1, 4, 5, dtype=torch.float64, requires_grad=True)
    theta = draw_theta(
        (1,), torch.float64, CPU, (4, 5), (3, 3), transform="affine", mode="bilinear", align=False, spread=0.2
    ).requires_grad_()  # fmt: skip
    run = partial(native, out_size=(3, 3))
    assert torch.autograd.gradcheck(run, (u, theta))
    assert torch.autograd.gradgradcheck(run, (u, theta))


def test_empty() -> None:
    for shape, k in (((0, 2, 3, 4), 2), ((2, 0, 3, 4), 2), ((2, 2, 3, 4), 0)):
        u, theta = (
            torch.randn(shape, requires_grad=True),
            torch.zeros(shape[0], k, 2, 3).requires_grad_(),
        )
        out = native(u, theta, (5, 6))
        assert out.shape == (shape[0], k, shape[1], 5, 6)
        of_u, of_theta = torch.autograd.grad(out.sum(), (u, theta))
        assert of_u.shape == u.shape
        assert not of_u.any()
        assert of_theta.shape == theta.shape
        assert not of_theta.any()


def test_the_basis_is_the_same_kept_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    u, theta = torch.randn(1, 2, 6, 7), identity("tps", 2, (9, 2)).float()[None] * 0.9
    kept = native(u, theta, (5, 5), transform="tps")
    monkeypatch.setattr(sampler, "_LARGEST_KEPT_BASIS", 0)
    assert torch.equal(native(u, theta, (5, 5), transform="tps"), kept)
    assert sampler.can_sample(u)
    assert not sampler.can_sample(torch.empty(1, 1, 2**16, 2**15, device="meta"))
    assert Options().transform == "affine"
