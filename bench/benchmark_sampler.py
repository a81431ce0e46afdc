"""Collected by `pytest --benchmark`: one group a pass of a case, ours and the peers one after another in it.

pytest-benchmark times the host, so a timed call on a GPU waits for the device; the device's own
time, by graph replay, stands beside it in `extra_info` (as do the bytes that must move).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import pytest
import torch

from .cases import BASE_CASES, CPU_CASES, Case, Grads, expand, pass_name
from .check import Expectation, expect, run, verdict
from .providers import present
from .providers.provider import Provider
from .timing import make_steps, measure, rotating_inputs
from .traffic import min_bytes

Run = tuple[str, Case, Grads | None, Provider]


def _runs() -> list[Run]:
    devices = [("cpu", tuple(expand(CPU_CASES, (torch.float32,))))]
    if torch.cuda.is_available():
        devices.insert(0, ("cuda", tuple(expand(BASE_CASES))))
    return [
        (device, case, grads, provider)
        for device, cases in devices
        for case in cases
        for grads in case.passes
        for provider in present(device)
        if provider.can(case, grads)
    ]


def _group(each: Run) -> str:
    device, case, grads, _ = each
    return f"{device} {case.key} {pass_name(grads)}"


@lru_cache(maxsize=1)
def _expected(device: str, case: Case, grads: Grads | None) -> tuple[Any, Expectation]:
    """The tensors of a group and what must come out of them; kept for the group's next provider."""
    sets = rotating_inputs(case, device)
    return sets, expect(case, sets[0], grads)


@pytest.mark.parametrize(
    "each", _runs(), ids=lambda each: f"{_group(each)}-{each[-1].name}".replace(" ", "-")
)
def test_throughput(each: Run, benchmark: Any) -> None:
    """Check one provider against the definition, then time it."""
    device, case, grads, provider = each
    sets, expected = _expected(device, case, grads)
    wrong = verdict(case, run(provider.on_theta(case), sets[0], grads), expected, provider.rounding)
    if wrong is not None:
        pytest.fail(f"{provider.name} is not timed: {wrong}")
    benchmark.group = _group(each)
    benchmark.name = provider.name
    benchmark.extra_info["min_bytes"] = min_bytes(case, grads, device)
    step: Callable[[], object] = make_steps(provider, case, grads, sets[:1])[0]
    if device == "cuda":
        timing = measure(provider, case, grads, sets)
        benchmark.extra_info.update(
            device_ms=timing.ms, host_us=timing.host_us, launches=timing.launches
        )

    def call() -> None:
        step()
        if device == "cuda":
            torch.cuda.synchronize()

    benchmark.pedantic(call, rounds=20, iterations=1, warmup_rounds=3)
