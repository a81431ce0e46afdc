"""The native library writes nothing beside its results, and runs in several threads and processes."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from stn_triton.native import library, sampler
from support import ROOT
from support.cases import make
from support.checks import make_input, needs_native, with_gradients
from support.native import CPU, native

pytestmark = needs_native


# Memory


PAGE = 64


def arena(like: Tensor) -> tuple[Tensor, Any]:
    """A tensor of the same numbers between guards, and a function that says whether the guards are unchanged."""
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


def memory_flags(address: int) -> list[str]:
    """What the kernel says about the mapping that holds an address."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first, *rest = line.split()
        if not first.endswith(":"):
            start, end = (int(part, 16) for part in first.split("-"))
            inside = start <= address < end
        elif inside and first == "VmFlags:":
            return rest
    return []


@pytest.mark.skipif(
    not Path("/sys/kernel/mm/transparent_hugepage").is_dir(), reason="no large pages on this system"
)
@pytest.mark.parametrize("ragged", [False, True])
def test_results_that_are_mapped_anew_lie_in_large_pages(ragged: bool) -> None:
    u = make_input((3, 1, 30, 30), torch.float32, "contiguous", CPU)
    theta = torch.eye(2, 3) * 0.7 + 0.1 * torch.randn(4 if ragged else 3, 2, 3)
    index = torch.tensor([0, 0, 2, 2]) if ragged else None
    output = native(u, theta, (1700, 1701), index=index)
    small = native(u, theta, (17, 18), index=index)
    assert output.numel() * output.element_size() > 32 * 2**20
    assert "hg" in memory_flags(output.data_ptr() + 4 * 2**20)
    assert "hg" not in memory_flags(small.data_ptr())
    for image, number in enumerate([0, 0, 2, 2] if ragged else [0, 1, 2]):
        alone = native(u[number : number + 1], theta[image : image + 1], (1700, 1701))
        assert torch.equal(output[image], alone[0])


@pytest.mark.slow
def test_sanitizers() -> None:
    script = ROOT / "tests" / "support" / "native_fuzz" / "run.py"
    done = subprocess.run(
        [sys.executable, str(script), "300", "7"], capture_output=True, text=True, check=False
    )
    if done.returncode == 77:
        pytest.skip(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr


# Threads and processes


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


@pytest.mark.parametrize(
    "case",
    [
        {"map": "affine", "layout": "channels_last", "k": 2},
        {"map": "affine", "dtype": torch.bfloat16, "padding_mode": "border"},
        {"map": "affine", "mode": "bicubic", "padding_value": 0.5},
        {"map": "projective", "padding_mode": "reflection", "dtype": torch.float64},
        {"map": "tps", "layout": "channels_last", "dtype": torch.float16},
        {"map": "attention", "antialias": True},
        {"map": "affine", "ndim": 3, "channels": 9},
        {"map": "attention", "ndim": 3, "mode": "nearest", "layout": "channels_last"},
    ],
    ids=str,
)
def test_one_image_in_parts(case: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    ndim = case.get("ndim", 2)
    _, theta, options = make(case, CPU, ndim)
    channels, size = case.get("channels", 3), (7, 20, 30) if ndim == 3 else (90, 400)
    layout, dtype = case.get("layout", "contiguous"), case.get("dtype", torch.float32)
    u = make_input((1, channels, *size), dtype, layout, CPU)
    found = []
    for threads in (1, 2, 3, 7, 16, 100):
        monkeypatch.setattr(sampler, "_threads", lambda call, threads=threads: threads)
        found.append(native(u, theta[:1], (6, 5, 40) if ndim == 3 else (67, 300), **options))
        assert torch.equal(found[-1], found[0]), threads


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
    assert (sampler._threads(call), sampler._row_parts(call, 8)) == (8, 2)
    call.output = None  # gradients: an image is one thread's
    assert (sampler._threads(call), sampler._row_parts(call, 5)) == (5, 1)


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
    queue.put({name: tensor.tolist() for name, tensor in sampled(3, "contiguous").items()})


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
    for name, tensor in expected.items():
        assert torch.equal(torch.tensor(found[name], dtype=tensor.dtype), tensor)


def test_nothing_is_written_where_a_mode_looks_on() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        assert native(torch.empty(1, 2, 5, 5), torch.empty(1, 2, 3), (3, 4)).shape == (1, 2, 3, 4)
