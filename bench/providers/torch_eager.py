"""PyTorch as one writes it: `affine_grid`, or another map's grid, and `grid_sample`."""

from __future__ import annotations

from bench.cases import Case
from bench.check import Sample
from bench.sampling import native

from .provider import Provider, finished, widened


class TorchEager(Provider):
    """What every speed is compared with."""

    name = "torch_eager"
    turn = 1

    def sample(self, case: Case) -> Sample:
        return lambda x, maps: finished(case, native(case, widened(case, x), maps))
