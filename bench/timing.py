"""Clocks. On a GPU: device time by graph replay over rotating inputs, host time, launches, memory. On a CPU: pairs
of calls timed in turn.
"""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor

from .cases import Case, Grads
from .inputs import Inputs, make_inputs
from .providers.provider import Provider

Step = Callable[[], object]

_MEASURE_MS = 45.0
_MOST_SETS = 64


@dataclass(frozen=True)
class Timing:
    """The times of one provider in one pass of a case, per call; None stands for what a device cannot tell."""

    ms: float
    ms_p20: float
    ms_p80: float
    host_us: float
    launches: int | None
    peak_bytes: int | None


def rotating_inputs(case: Case, device: str) -> list[Inputs]:
    """Enough copies of a case's tensors, each of its own seed, to be three times as large as the
    L2.
    """
    first = make_inputs(case, device)
    if device != "cuda":
        return [first]
    cache = int(torch.cuda.get_device_properties(0).L2_cache_size)
    size = sum(t.numel() * t.element_size() for t in (first.input, first.grad))
    # The values of theta stay those of seed 0, from which the bytes of the case are counted.
    copies = min(_MOST_SETS, math.ceil(3 * cache / max(size, 1)))
    return [first] + [
        replace(
            first, input=first.input.clone(), theta=first.theta.clone(), grad=first.grad.clone()
        )
        for _ in range(copies - 1)
    ]


def make_steps(
    provider: Provider, case: Case, grads: Grads | None, sets: Sequence[Inputs]
) -> list[Step]:
    """The timed calls, one for each set of inputs; each returns what it computed, so that it can be
    kept alive.
    """
    sample = provider.sample(case)

    def step(inputs: Inputs) -> Step:
        parameters = (
            provider.parameters(case, inputs.theta)
            .detach()
            .requires_grad_(grads in ("both", "theta"))
        )
        x = inputs.input.detach().requires_grad_(grads in ("both", "input"))
        wanted = [t for t in (x, parameters) if t.requires_grad]

        def forward() -> object:
            with torch.no_grad():
                return sample(x, parameters)

        def both_ways() -> object:
            output = sample(x, parameters)
            return output, torch.autograd.grad(output, wanted, inputs.grad)

        return forward if grads is None else both_ways

    return [step(inputs) for inputs in sets]


def _quantiles(samples: Sequence[float]) -> tuple[float, float, float]:
    """Median, 20 % and 80 % point."""
    ordered = torch.tensor(sorted(samples), dtype=torch.float64)
    points = torch.quantile(ordered, torch.tensor([0.5, 0.2, 0.8], dtype=torch.float64))
    median, low, high = points.tolist()
    return median, low, high


def _capture(steps: Sequence[Step]) -> Step | None:
    """All steps as one graph to replay, or None where something in them cannot be captured."""
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            kept = [step() for step in steps]
    except Exception:  # whatever the peer raises: it is then timed uncaptured
        return None

    def replay() -> object:
        graph.replay()
        return kept

    return replay


def _event_times(run: Step, calls: int) -> list[float]:
    """Milliseconds per call, one sample for each run of `calls` calls, for about `_MEASURE_MS`."""

    def timed(repeats: int) -> list[float]:
        events = [
            (torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True))
            for _ in range(repeats)
        ]
        for start, stop in events:
            start.record()
            run()
            stop.record()
        torch.cuda.synchronize()
        return [start.elapsed_time(stop) / calls for start, stop in events]

    once = statistics.median(timed(3)) * calls
    return timed(min(max(int(_MEASURE_MS / max(once, 1e-3)), 10), 400))


def _host_us(steps: Sequence[Step], ms: float) -> float:
    """Microseconds that one call takes on the host, which does not wait for the device.

    ms: what one takes on the device. Fewer calls of slow ones do, and a queue of many would fill.
    """
    calls = min(max(int(_MEASURE_MS / 7 / ms), 1), 8)
    samples = []
    for _ in range(7 if calls > 1 else 3):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for i in range(calls):
            steps[i % len(steps)]()
        samples.append((time.perf_counter() - start) / calls * 1e6)
    torch.cuda.synchronize()
    return statistics.median(samples)


def _launches(step: Step) -> int:
    """Kernels, copies and fills that one call puts on the device."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        step()
        torch.cuda.synchronize()
    return sum("CUDA" in str(event.device_type) for event in profiler.events())


def peak_bytes(step: Step, device: str) -> int:
    """The most memory that one call adds to what was there, its results included; on a CPU, memory of tensors alone."""
    if device != "cuda":
        return _peak_bytes_on_cpu(step)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    torch.cuda.synchronize()
    return int(torch.cuda.max_memory_allocated() - before)


def _peak_bytes_on_cpu(step: Step) -> int:
    from torch.profiler import ProfilerActivity, profile

    with (
        _silent_stderr(),  # the profiler writes lines of its own
        profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler,
    ):
        step()
    assert profiler.profiler is not None
    changes = [
        (event.start_ns(), event.nbytes())
        for event in profiler.profiler.kineto_results.events()
        if event.name() == "[memory]"
    ]
    return max(accumulate((change for _, change in sorted(changes)), initial=0))


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Drop what C++ writes to the error stream."""
    kept = os.dup(2)
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def time_cuda(steps: Sequence[Step]) -> Timing:
    """Device time by graph replay of all steps in a row, or by events around them where they cannot
    be captured.
    """
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for step in (*steps[:3], steps[0]):
            step()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    launches, peak = _launches(steps[0]), peak_bytes(steps[0], "cuda")
    ms, low, high = device_ms(steps)
    return Timing(ms, low, high, _host_us(steps, ms), launches, peak)


def device_ms(steps: Sequence[Step]) -> tuple[float, float, float]:
    """(median, 20 % point, 80 % point) of a call's time on the device; every step has run before."""
    run = _capture(steps) or (lambda: [step() for step in steps])
    run()
    return _quantiles(_event_times(run, len(steps)))


def time_cpu(steps: Sequence[Step], repeats: int = 5) -> Timing:
    """Wall time; on a CPU, host and device are one."""
    steps[0]()
    samples = []
    for i in range(repeats):
        start = time.perf_counter()
        steps[i % len(steps)]()
        samples.append((time.perf_counter() - start) * 1e3)
    ms, low, high = _quantiles(samples)
    return Timing(ms, low, high, ms * 1e3, None, None)


def measure(provider: Provider, case: Case, grads: Grads | None, sets: Sequence[Inputs]) -> Timing:
    """Time a provider on a case, on the device that its inputs are on."""
    steps = make_steps(provider, case, grads, sets)
    return time_cuda(steps) if sets[0].input.is_cuda else time_cpu(steps)


def copy_gb_s(device: str) -> float:
    """Bandwidth of a large copy inside the device's memory, bytes read plus bytes written: that of the fastest way."""
    elements = 2**28 if device == "cuda" else 2**22
    source = torch.randn(elements, device=device)
    target = torch.empty_like(source)

    def copy() -> Tensor:
        return target.copy_(source)

    def add() -> Tensor:
        return torch.add(source, 1, out=target)

    if device == "cuda":
        copy(), add()
        # Captured, `copy_` is no kernel but a node that copies memory: on an H100 at 2,430 GB/s instead of 3,005.
        ms = min(statistics.median(_event_times(copy, 1)), device_ms([add])[0])
    else:
        ms = min(time_cpu([step], repeats=9).ms for step in (copy, add))
    return 2 * elements * 4 / ms / 1e6


@dataclass(frozen=True)
class Pair:
    """Two steps timed in turn: their median times, and the median of the ratios of neighbours."""

    first_ms: float
    second_ms: float
    ratio: float


def interleaved(first: Step, second: Step, *, seconds: float = 0.5, least: int = 11) -> Pair:
    """Time two CPU steps alternately, so that whatever else the machine does meets both alike."""

    def clock(step: Step) -> float:
        start = time.perf_counter()
        step()
        return time.perf_counter() - start

    for step in (first, second, first, second):
        step()
    times: list[tuple[float, float]] = []
    end = time.perf_counter() + seconds
    while len(times) < least or time.perf_counter() < end:
        if len(times) % 2:
            late = clock(second)
            times.append((clock(first), late))
        else:
            times.append((clock(first), clock(second)))
    return Pair(
        statistics.median(a for a, _ in times) * 1e3,
        statistics.median(b for _, b in times) * 1e3,
        statistics.median(a / b for a, b in times),
    )
