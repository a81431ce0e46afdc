"""cuDNN's sampler, which `grid_sample` takes for aligned corners."""

from __future__ import annotations

import torch
from torch import Tensor

from bench.cases import Case, Grads
from bench.check import Sample
from bench.grids import sampling_grid
from bench.sampling import per_map

from .provider import Provider, beyond_plain_images, finished


class CuDNN(Provider):
    """Its grid has the dtype of the images."""

    name = "cudnn"
    devices = ("cuda",)

    def available(self, device: str) -> bool:
        return super().available(device) and torch.backends.cudnn.is_available()

    def refuses(self, case: Case, grads: Grads | None) -> str | None:
        if not case.align_corners or case.mode != "bilinear" or case.padding_mode != "zeros":
            return "bilinear with zeros padding and aligned corners only"
        if case.dtype not in (torch.float16, torch.float32, torch.float64):
            return f"no {case.dtype_name}"
        if case.memory_format != "contiguous" or case.shape[1] > 1024:
            return "contiguous input of at most 1024 channels only"
        return beyond_plain_images(case)

    def sample(self, case: Case) -> Sample:
        def call(x: Tensor, maps: Tensor) -> Tensor:
            grid = sampling_grid(case, maps).to(x.dtype)
            return finished(case, torch.cudnn_grid_sampler(per_map(case, x), grid))

        return call
