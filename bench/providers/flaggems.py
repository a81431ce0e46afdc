"""FlagGems, PyTorch's operators in Triton."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from bench.cases import Case, Grads
from bench.check import Sample
from bench.grids import sampling_grid
from bench.sampling import per_map

from .provider import LAST, NO_GRADIENTS, Provider, beyond_plain_images, finished, widened


class FlagGems(Provider):
    """Its own `affine_grid_generator` and `grid_sample`, of 5.3 and later. It comes last, since it may read outside its
    tensors.
    """

    name = "flaggems"
    devices = ("cuda",)
    modules = ("flag_gems",)
    turn = LAST

    def available(self, device: str) -> bool:
        return super().available(device) and _samples()

    def refuses(self, case: Case, grads: Grads | None) -> str | None:
        if grads is not None:
            return NO_GRADIENTS
        if case.memory_format != "contiguous":
            return "contiguous input only"
        return beyond_plain_images(case)

    def sample(self, case: Case) -> Sample:
        import flag_gems

        size = torch.Size((case.maps, case.shape[1], *case.out_size))

        def call(x: Tensor, maps: Tensor) -> Tensor:
            if maps.shape[1:] == (2, 3):
                grid = flag_gems.affine_grid_generator(maps, size, align_corners=case.align_corners)
            else:
                grid = sampling_grid(case, maps)
            found = flag_gems.grid_sample(
                per_map(case, widened(case, x)),
                grid,
                mode=case.mode,
                padding_mode=case.padding_mode,
                align_corners=case.align_corners,
            )
            return finished(case, found)

        return call


def _samples() -> bool:
    """Whether the one installed has a sampler; to import it takes seconds and a GPU."""
    found = find_spec("flag_gems")
    folders = (found and found.submodule_search_locations) or []
    return any(Path(folder, "ops", "grid_sample.py").exists() for folder in folders)
