"""What the tests of the native library share."""

from __future__ import annotations

from functools import partial

import torch

from stn_triton import st_sample

native = partial(st_sample, backend="native")
CPU = torch.device("cpu")
FORMS: dict[str, tuple[int, ...]] = {
    "affine": (2, 3), "attention": (3,), "projective": (8,), "tps": (9, 2), "piecewise_affine": (16, 2),
}  # fmt: skip
