"""Eager PyTorch's code through `torch.compile`."""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.cases import Case, Grads
from bench.check import Sample
from bench.grids import sampling_grid
from bench.sampling import mean_of_samples, per_map

from .provider import NOT_ZERO_OUTSIDE, Provider, finished, widened


class TorchCompile(Provider):
    """One compilation for each case and each kind of pass, with static shapes."""

    name = "torch_compile"
    devices = ("cuda",)

    def refuses(self, case: Case, grads: Grads | None) -> str | None:
        if case.padding_value:
            return NOT_ZERO_OUTSIDE
        if case.antialias is True:
            return "the number of samples depends on theta's values"
        # Each kind of pass is a compilation of many seconds: the first kind of gradients stands for all.
        first = grads in (None, case.grads[0])
        return None if first else "timed with the first kind of gradient alone"

    def sample(self, case: Case) -> Sample:
        return _compiled(case)


@lru_cache(maxsize=1)
def _compiled(case: Case) -> Sample:
    """Kept until another case comes: the check and the timing share a compilation."""
    from torch._inductor import config

    # Dynamo counts the compilations of one piece of code, here of all cases, and refuses the ninth.
    torch._dynamo.reset()
    config.compile_threads = 1  # `workers` has a process for every processor already
    samples = case.antialias or 1

    def call(x: Tensor, maps: Tensor) -> Tensor:
        x = per_map(case, widened(case, x))
        grid = sampling_grid(case, maps, samples)
        found = F.grid_sample(x, grid, case.mode, case.padding_mode, case.align_corners)
        return finished(case, mean_of_samples(case, found, samples))

    compiled: Sample = torch.compile(call, fullgraph=True, dynamic=False)
    return compiled
