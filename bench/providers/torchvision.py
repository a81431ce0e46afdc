"""torchvision's RoIAlign."""

from __future__ import annotations

import torch
from torch import Tensor

from bench.cases import Case, Grads
from bench.check import Sample
from bench.inputs import make_index

from .provider import NOT_ZERO_OUTSIDE, Provider, finished, widened


class RoIAlign(Provider):
    """Upright crops by boxes (image, x0, y0, x1, y1), to which it gives no gradient."""

    name = "torchvision_roi_align"
    modules = ("torchvision",)
    packages = ("torchvision",)

    def refuses(self, case: Case, grads: Grads | None) -> str | None:
        if case.padding_value:
            return NOT_ZERO_OUTSIDE
        if case.transform != "attention" or case.ndim != 2:
            return "upright crops of images only"
        if case.mode != "bilinear" or case.padding_mode != "zeros" or case.align_corners:
            return "bilinear with zeros padding and without aligned corners only"
        return "no gradient of the boxes" if grads in ("both", "theta") else None

    def parameters(self, case: Case, theta: Tensor) -> Tensor:
        """Boxes whose pixel edges are at whole numbers."""
        scale, tx, ty = theta.reshape(-1, 3).unbind(-1)
        height, width = case.shape[2:]
        index = make_index(case, theta.device)
        if index is None:
            index = torch.arange(case.shape[0], device=theta.device).repeat_interleave(case.k or 1)
        centre = ((tx + 1) * width / 2, (ty + 1) * height / 2)
        half = (scale * width / 2, scale * height / 2)
        low, high = ([c + sign * r for c, r in zip(centre, half, strict=True)] for sign in (-1, 1))
        return torch.stack((index.to(theta.dtype), *low, *high), -1)

    def sample(self, case: Case) -> Sample:
        from torchvision.ops import roi_align

        # 0 samples: as many as a pixel of the output spans, as `antialias=True` takes.
        samples = 0 if case.antialias is True else case.antialias or 1

        def call(x: Tensor, boxes: Tensor) -> Tensor:
            x = widened(case, x)
            found = roi_align(x, boxes, case.out_size, sampling_ratio=samples, aligned=True)
            return finished(case, found)

        return call
