"""How fast the operation is on this machine, beside PyTorch's own: the table at the end of the demo."""

from __future__ import annotations

import math
import statistics
import time
import warnings
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from stn_triton import st_sample

SHAPES = ((256, 1, 42, 42), (128, 3, 64, 64), (16, 64, 32, 32))
_ROUNDING = 8 * torch.finfo(torch.float32).eps
"""How far two correct results may differ, for each pixel of the longer side. Each of two samplers rounds a coordinate,
on each of two axes, by about twice eps of the side; values in [0, 1] change by at most 1 from a pixel to the next."""
_Sampler = Callable[[Tensor, Tensor], Tensor]


def _eager(x: Tensor, theta: Tensor) -> Tensor:
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, align_corners=False)


def _ours(x: Tensor, theta: Tensor) -> Tensor:
    return st_sample(x, theta, x.shape[2:])


def throughput_table(device: torch.device, *, seconds: float = 1.0) -> str:
    """A table of ours, eager PyTorch and `torch.compile`: million output values a second, forward and with gradients.

    Times are medians. The samplers take turns, so that other work on the machine slows all of them alike. A sampler
    whose results differ from ours by more than rounding explains is not timed.
    """
    samplers: dict[str, _Sampler] = {
        "stn_triton": _ours,
        "eager": _eager,
        "compiled": torch.compile(_eager, dynamic=False),
    }
    lines = [
        f"throughput on {_name(device)}: million output values a second, forward | forward + backward"
    ]
    lines.append(f"{'':18s}" + "".join(f"{name:>22s}" for name in samplers))
    notes = []
    for shape in SHAPES:
        x = torch.rand(shape, device=device, requires_grad=True)
        theta = _random_theta(shape[0], device)
        cells = {}
        steps = {}
        for name, sampler in samplers.items():
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    torch.testing.assert_close(
                        sampler(x, theta), _ours(x, theta), atol=_ROUNDING * max(shape[2:]), rtol=0
                    )
                    steps[name] = _steps(sampler, x, theta)
                    for step in steps[name]:
                        step()
            except Exception as error:  # a missing compiler is told by many kinds of errors
                steps.pop(name, None)
                cells[name] = "-"
                notes.append(
                    f"{name}: {type(error).__name__}: {str(error).strip().splitlines()[0][:80]}"
                )
        for name, times in _interleaved(steps, device, seconds).items():
            cells[name] = " | ".join(f"{math.prod(shape) / t / 1e6:.1f}" for t in times)
        label = "x".join(map(str, shape))
        lines.append(f"{label:18s}" + "".join(f"{cells[name]:>22s}" for name in samplers))
    return "\n".join(lines + sorted(set(notes)))


def _random_theta(n: int, device: torch.device) -> Tensor:
    generator = torch.Generator(device).manual_seed(0)
    noise = torch.rand((n, 2, 3), generator=generator, device=device) - 0.5
    return (torch.eye(2, 3, device=device) + 0.6 * noise).requires_grad_()


def _steps(sampler: _Sampler, x: Tensor, theta: Tensor) -> tuple[Callable[[], object], ...]:
    """One forward pass, and one with both gradients."""
    gradient = torch.rand_like(x)

    def forward() -> Tensor:
        with torch.no_grad():
            return sampler(x, theta)

    return forward, lambda: torch.autograd.grad(sampler(x, theta), (x, theta), gradient)


def _interleaved(
    steps: dict[str, tuple[Callable[[], object], ...]], device: torch.device, seconds: float
) -> dict[str, list[float]]:
    """The median time of every step in seconds, all steps in turn."""
    times: dict[tuple[str, int], list[float]] = {
        (name, i): [] for name, pair in steps.items() for i in range(len(pair))
    }
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or any(len(found) < 3 for found in times.values()):
        for name, i in times:
            start = time.perf_counter()
            steps[name][i]()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            times[name, i].append(time.perf_counter() - start)
    return {
        name: [statistics.median(times[name, i]) for i in range(len(pair))]
        for name, pair in steps.items()
    }


def _name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{torch.get_num_threads()} CPU threads"
