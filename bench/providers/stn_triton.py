"""Ours."""

from __future__ import annotations

from torch import Tensor

import stn_triton
from bench.cases import Case
from bench.check import Sample
from bench.inputs import make_index

from .provider import Provider


class StnTriton(Provider):
    """`st_sample`, which takes theta itself."""

    name = "stn_triton"
    turn = 0

    def parameters(self, case: Case, theta: Tensor) -> Tensor:
        return theta

    def sample(self, case: Case) -> Sample:
        return ours(case)


def ours(case: Case, backend: str | None = None) -> Sample:
    """`st_sample` with the options of a case."""

    def call(x: Tensor, theta: Tensor) -> Tensor:
        return stn_triton.st_sample(
            x,
            theta,
            case.out_size,
            transform=case.transform,
            mode=case.mode,
            padding_mode=case.padding_mode,
            padding_value=case.padding_value,
            align_corners=case.align_corners,
            antialias=case.antialias,
            control_points=case.control_points,
            index=make_index(case, x.device),
            backend=backend,
        )

    return call
