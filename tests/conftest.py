"""Set up before any test: how kernels run, on which device, from which seed, on what memory."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
from collections.abc import Callable, Iterator
from typing import Any

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read as triton is imported

import signal

import pytest
from hypothesis import settings

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts what runs in the background with Ctrl-C ignored, and children inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("repeatable", derandomize=True, deadline=None, print_blob=True)
settings.load_profile("repeatable")

_ALLOCATORS = (
    *((torch, name) for name in ("empty", "empty_like", "empty_strided")),
    *((torch.Tensor, name) for name in ("new_empty", "new_empty_strided")),
)


if os.environ.get("TRITON_INTERPRET") == "1" and importlib.util.find_spec("triton"):
    importlib.import_module("interpreter").hasten()


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
    """Memory asked for and not written is NaN, instead of what happens to lie there."""
    for owner, name in _ALLOCATORS:
        monkeypatch.setattr(owner, name, _poisoned(getattr(owner, name)))
    probe = torch.zeros(1).new_empty(3)
    assert probe.isnan().all()


@pytest.fixture(scope="module")
def quick_digits() -> Iterator[None]:
    """Parsing the embedded digits takes seconds: once for all tests of a file."""
    from architectures.data import digits

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digits, "load_embedded", functools.cache(digits.load_embedded))
        yield
