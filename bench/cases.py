"""The named cases: shapes, dtypes, layouts and options; what theta each one has is in `inputs`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

Grads = Literal["both", "theta", "input"]
Direction = Literal["fwd", "fwd+bwd"]

DTYPES = {
    "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "fp64": torch.float64,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Case:
    """One sampling problem; `key` names it together with its dtype and layout."""

    name: str
    shape: tuple[int, ...]
    out_size: tuple[int, ...]
    k: int | None = None
    crops: int | None = (
        None  # M ragged crops, of images in any order, instead of one or K of each image
    )
    transform: str = "affine"
    mode: str = "bilinear"
    padding_mode: str = "zeros"
    padding_value: float = 0.0
    align_corners: bool = False
    antialias: bool | int = False
    control_points: tuple[tuple[float, float], ...] | None = None  # of a spline; None: 4 x 4
    dtype: torch.dtype = torch.float32
    memory_format: Literal["contiguous", "channels_last"] = "contiguous"
    grads: tuple[Grads, ...] = ("both",)
    seed: int = 0

    @property
    def dtype_name(self) -> str:
        """`float32`, `bfloat16`, … as JSON spells it."""
        return str(self.dtype).removeprefix("torch.")

    @property
    def key(self) -> str:
        """Unique among the cases."""
        return f"{self.name}/{self.dtype_name}/{self.memory_format}"

    @property
    def ndim(self) -> int:
        """Number of spatial axes, 2 or 3."""
        return len(self.out_size)

    @property
    def maps(self) -> int:
        """Number of output maps: N times K, or M ragged crops."""
        return self.shape[0] * (self.k or 1) if self.crops is None else self.crops

    def output_elements(self) -> int:
        """Elements of the result."""
        return self.maps * self.shape[1] * math.prod(self.out_size)

    def directions(self) -> Iterator[tuple[Direction, Grads | None]]:
        """What is measured of this case, the forward pass first."""
        yield "fwd", None
        for grads in self.grads:
            yield "fwd+bwd", grads


_IMAGE: tuple[Grads, ...] = ("both", "theta")
"""A transformer on the image itself trains theta alone; on a feature map it passes a gradient to
both.
"""

_BACKWARD: tuple[Grads, ...] = ("both", "theta", "input")

_CROPS: dict[str, Any] = {
    "shape": (32, 3, 448, 448), "out_size": (112, 112), "k": 2, "transform": "attention",
    "grads": _BACKWARD,
}  # fmt: skip

_BOXES: dict[str, Any] = {
    "shape": (2, 256, 100, 152), "out_size": (7, 7), "crops": 512, "transform": "attention", "antialias": 2,
}  # fmt: skip

BASE_CASES: tuple[Case, ...] = (
    Case(name="mnist-256x1x42", shape=(256, 1, 42, 42), out_size=(42, 42), grads=_IMAGE),
    Case(name="addition-256x2x42", shape=(256, 2, 42, 42), out_size=(42, 42), grads=_IMAGE),
    Case(name="svhn-128x3x64", shape=(128, 3, 64, 64), out_size=(64, 64), grads=_IMAGE),
    Case(name="svhn-128x48x32", shape=(128, 48, 32, 32), out_size=(32, 32)),
    Case(name="svhn-128x64x32", shape=(128, 64, 32, 32), out_size=(32, 32)),
    Case(name="svhn-128x128x16", shape=(128, 128, 16, 16), out_size=(16, 16)),
    Case(name="cub-32x3x448-k2", shape=(32, 3, 448, 448), out_size=(224, 224), k=2, grads=_IMAGE),
    Case(name="cub-32x3x448-k4", shape=(32, 3, 448, 448), out_size=(224, 224), k=4, grads=_IMAGE),
    Case(
        name="general-8x3x1234x1345", shape=(8, 3, 1234, 1345), out_size=(1234, 1345), grads=_IMAGE
    ),
    Case(name="general-2x3x345x456", shape=(2, 3, 345, 456), out_size=(345, 456), grads=_IMAGE),
    Case(name="general-4x256x16", shape=(4, 256, 16, 16), out_size=(16, 16)),
    Case(name="general-8x64x56", shape=(8, 64, 56, 56), out_size=(56, 56)),
    Case(name="general-32x256x56", shape=(32, 256, 56, 56), out_size=(56, 56)),
    Case(name="down-512x3x256-224", shape=(512, 3, 256, 256), out_size=(224, 224), grads=_IMAGE),
    Case(name="down-512x3x256-32", shape=(512, 3, 256, 256), out_size=(32, 32), grads=_IMAGE),
    Case(name="up-1024x1x28-56", shape=(1024, 1, 28, 28), out_size=(56, 56), grads=_IMAGE),
    # Where single peers have a path of their own: cuDNN only with aligned corners, RoIAlign only
    # for upright crops.
    Case(
        name="corners-8x3x1234x1345",
        shape=(8, 3, 1234, 1345),
        out_size=(1234, 1345),
        align_corners=True,
    ),
    Case(name="corners-8x64x56", shape=(8, 64, 56, 56), out_size=(56, 56), align_corners=True),
    Case(
        name="crops-32x3x448-k2",
        shape=(32, 3, 448, 448),
        out_size=(224, 224),
        k=2,
        transform="attention",
        grads=_BACKWARD,
    ),
    Case(
        name="crops-32x3x448-k4",
        shape=(32, 3, 448, 448),
        out_size=(224, 224),
        k=4,
        transform="attention",
        grads=_BACKWARD,
    ),
)

FIDUCIALS = tuple((x / 10, y) for y in (-0.8, 0.8) for x in range(-9, 10, 2))
"""The 2 x 10 control points of text rectifiers, slightly inside the upper and the lower edge."""

OPTION_CASES: tuple[Case, ...] = (
    Case(
        name="projective-128x1x60",
        shape=(128, 1, 60, 60),
        out_size=(60, 60),
        transform="projective",
        grads=_IMAGE,
    ),
    Case(
        name="projective-8x3x512",
        shape=(8, 3, 512, 512),
        out_size=(512, 512),
        transform="projective",
        grads=_IMAGE,
    ),
    Case(
        name="tps-128x1x60",
        shape=(128, 1, 60, 60),
        out_size=(60, 60),
        transform="tps",
        grads=_IMAGE,
    ),
    Case(
        name="tps-8x3x512",
        shape=(8, 3, 512, 512),
        out_size=(512, 512),
        transform="tps",
        grads=_IMAGE,
    ),
    Case(
        name="fiducials-256x1x32x100",
        shape=(256, 1, 32, 100),
        out_size=(32, 100),
        transform="tps",
        control_points=FIDUCIALS,
        grads=_IMAGE,
    ),
    Case(name="volume-16x1x60", shape=(16, 1, 60, 60, 60), out_size=(60, 60, 60), grads=_IMAGE),
    Case(name="volume-2x32x64", shape=(2, 32, 64, 64, 64), out_size=(64, 64, 64)),
    Case(name="volume-2x1x64", shape=(2, 1, 64, 64, 64), out_size=(64, 64, 64), grads=_BACKWARD),
    Case(name="volume-2x8x32", shape=(2, 8, 32, 32, 32), out_size=(32, 32, 32), grads=_BACKWARD),
    # What RoIAlign is used for: the boxes of a detector on a map of features.
    Case(name="ragged-2x256x100x152-512", **_BOXES, grads=_BACKWARD),
    Case(name="antialias-4-32x3x448-k2", **_CROPS, antialias=4),
    Case(name="antialias-true-32x3x448-k2", **_CROPS, antialias=True),
    Case(
        name="bicubic-128x3x64",
        shape=(128, 3, 64, 64),
        out_size=(64, 64),
        mode="bicubic",
        grads=_IMAGE,
    ),
    Case(
        name="reflection-128x3x64",
        shape=(128, 3, 64, 64),
        out_size=(64, 64),
        padding_mode="reflection",
        grads=_IMAGE,
    ),
    Case(
        name="piecewise-128x1x60",
        shape=(128, 1, 60, 60),
        out_size=(60, 60),
        transform="piecewise_affine",
        grads=_IMAGE,
    ),
    Case(
        name="piecewise-8x3x512",
        shape=(8, 3, 512, 512),
        out_size=(512, 512),
        transform="piecewise_affine",
        grads=_IMAGE,
    ),
)
"""One or two sizes of every option beyond affine bilinear sampling; measured after the base cases."""

TINY_CASES: tuple[Case, ...] = (
    Case(name="tiny-4x1x12", shape=(4, 1, 12, 12), out_size=(12, 12), grads=_IMAGE),
    Case(name="tiny-2x8x9x7", shape=(2, 8, 9, 7), out_size=(6, 10)),
    Case(
        name="tiny-2x3x16-k2",
        shape=(2, 3, 16, 16),
        out_size=(8, 8),
        k=2,
        transform="attention",
        grads=_BACKWARD,
    ),
    Case(name="tiny-ragged", shape=(2, 3, 9, 12), out_size=(4, 5), crops=5, transform="attention"),
    Case(name="tiny-projective", shape=(2, 3, 9, 12), out_size=(10, 7), transform="projective"),
    Case(name="tiny-tps", shape=(2, 1, 9, 12), out_size=(9, 12), transform="tps"),
    Case(
        name="tiny-fiducials",
        shape=(2, 1, 9, 12),
        out_size=(6, 14),
        transform="tps",
        control_points=FIDUCIALS,
    ),
    Case(
        name="tiny-piecewise",
        shape=(2, 3, 9, 12),
        out_size=(10, 7),
        k=2,
        transform="piecewise_affine",
    ),
    Case(name="tiny-volume", shape=(2, 2, 5, 6, 7), out_size=(6, 5, 8)),
    Case(name="tiny-bicubic", shape=(2, 1, 9, 12), out_size=(10, 7), mode="bicubic"),
    Case(name="tiny-reflection", shape=(2, 1, 9, 12), out_size=(10, 7), padding_mode="reflection"),
    Case(name="tiny-antialias-2", shape=(2, 1, 16, 16), out_size=(6, 5), antialias=2),
    Case(
        name="tiny-antialias-true",
        shape=(3, 1, 16, 16),
        out_size=(4, 5),
        k=2,
        transform="attention",
        antialias=True,
    ),
)
"""For the dry run without a GPU: the same code path in seconds."""

CPU_CASES: tuple[Case, ...] = (
    Case(name="cpu-64x1x42", shape=(64, 1, 42, 42), out_size=(42, 42), grads=_IMAGE),
    Case(name="cpu-16x3x64", shape=(16, 3, 64, 64), out_size=(64, 64), grads=_IMAGE),
    Case(name="cpu-8x48x32", shape=(8, 48, 32, 32), out_size=(32, 32)),
    Case(name="cpu-8x128x16", shape=(8, 128, 16, 16), out_size=(16, 16)),
    Case(
        name="cpu-2x3x224-112-k2",
        shape=(2, 3, 224, 224),
        out_size=(112, 112),
        k=2,
        transform="attention",
        grads=_IMAGE,
    ),
    Case(
        name="cpu-projective-16x1x60",
        shape=(16, 1, 60, 60),
        out_size=(60, 60),
        transform="projective",
    ),
    Case(name="cpu-tps-16x1x60", shape=(16, 1, 60, 60), out_size=(60, 60), transform="tps"),
    Case(
        name="cpu-fiducials-16x1x32x100",
        shape=(16, 1, 32, 100),
        out_size=(32, 100),
        transform="tps",
        control_points=FIDUCIALS,
    ),
    Case(
        name="cpu-piecewise-16x1x60",
        shape=(16, 1, 60, 60),
        out_size=(60, 60),
        transform="piecewise_affine",
    ),
    Case(name="cpu-volume-2x1x24", shape=(2, 1, 24, 24, 24), out_size=(24, 24, 24)),
    Case(name="cpu-bicubic-16x1x42", shape=(16, 1, 42, 42), out_size=(42, 42), mode="bicubic"),
    Case(
        name="cpu-reflection-16x1x42",
        shape=(16, 1, 42, 42),
        out_size=(42, 42),
        padding_mode="reflection",
    ),
    Case(
        name="cpu-ragged-2x32x50x76-64",
        shape=(2, 32, 50, 76),
        out_size=(7, 7),
        crops=64,
        transform="attention",
        antialias=2,
        grads=_BACKWARD,
    ),
    Case(
        name="cpu-antialias-4-4x1x112-k2",
        shape=(4, 1, 112, 112),
        out_size=(28, 28),
        k=2,
        transform="attention",
        antialias=4,
    ),
    Case(
        name="cpu-antialias-true-4x1x112-k2",
        shape=(4, 1, 112, 112),
        out_size=(28, 28),
        k=2,
        transform="attention",
        antialias=True,
    ),
)
"""The cases above at a size that a CPU finishes in milliseconds."""


def expand(
    cases: tuple[Case, ...], dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.bfloat16)
) -> Iterator[Case]:
    """Every case in every dtype and memory format; one channel has one layout."""
    for dtype in dtypes:
        for case in cases:
            yield replace(case, dtype=dtype)
            if case.shape[1] > 1:
                yield replace(case, dtype=dtype, memory_format="channels_last")


def parse_case(text: str) -> Case:
    """`NAME[:DTYPE][:channels_last]` as a case."""
    name, *changes = text.split(":")
    every = (*BASE_CASES, *OPTION_CASES, *TINY_CASES, *CPU_CASES)
    case = next((c for c in every if c.name == name), None)
    if case is None:
        raise ValueError(f"no case {name!r} in bench/cases.py; there are {_listed(every)}")
    for change in changes:
        if change in DTYPES:
            case = replace(case, dtype=DTYPES[change])
        elif change == "channels_last":
            case = replace(case, memory_format="channels_last")
        else:
            wanted = ", ".join([*DTYPES, "channels_last"])
            raise ValueError(f"{text!r} has {change!r} behind a colon, not one of {wanted}")
    return case


def _listed(cases: Iterable[Case]) -> str:
    return ", ".join(case.name for case in cases)
