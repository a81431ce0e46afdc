"""The named cases: shapes, dtypes, layouts and options. `inputs` draws the theta of each.

A case is one line: its name, the input's shape, the output's size, then what differs from bilinear affine
sampling in float32 with zeros outside.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any, Literal

import torch

Grads = Literal["both", "theta", "input"]
"""Whose gradients a backward pass computes. Wherever None is allowed beside it, None is the forward pass alone."""

DTYPES = {
    "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "fp64": torch.float64,
}  # fmt: skip


def direction(grads: Grads | None) -> Literal["fwd", "fwd+bwd"]:
    """What tables and files call a measurement with these gradients."""
    return "fwd" if grads is None else "fwd+bwd"


def pass_name(grads: Grads | None) -> str:
    """The direction, with the gradients in brackets where they are not both: `fwd`, `fwd+bwd`, `fwd+bwd (theta)`."""
    return direction(grads) if grads in (None, "both") else f"{direction(grads)} ({grads})"


@dataclass(frozen=True)
class Case:
    """One sampling problem; `key` names it together with its dtype and layout."""

    name: str
    shape: tuple[int, ...]
    out_size: tuple[int, ...]
    _: KW_ONLY
    k: int | None = None
    crops: int | None = None
    """M ragged crops, of images in any order, instead of one or K of each image."""
    transform: str = "affine"
    mode: str = "bilinear"
    padding_mode: str = "zeros"
    padding_value: float = 0.0
    align_corners: bool = False
    antialias: bool | int = False
    control_points: tuple[tuple[float, float], ...] | None = None
    """The control points of a spline; None means a lattice of 4 x 4."""
    dtype: torch.dtype = torch.float32
    memory_format: Literal["contiguous", "channels_last"] = "contiguous"
    grads: tuple[Grads, ...] = ("both",)
    """The kinds of gradients that are measured after the forward pass."""
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

    @property
    def passes(self) -> tuple[Grads | None, ...]:
        """What is measured of this case: the forward pass, then each kind of gradients."""
        return None, *self.grads

    def output_elements(self) -> int:
        """Elements of the result."""
        return self.maps * self.shape[1] * math.prod(self.out_size)


FIDUCIALS = tuple((x / 10, y) for y in (-0.8, 0.8) for x in range(-9, 10, 2))
"""The 2 x 10 control points of text rectifiers, slightly inside the upper and the lower edge."""

# A transformer on the image itself trains theta alone; one on a feature map passes on a gradient to the input, too.
_IMAGE: tuple[Grads, ...] = ("both", "theta")
_EACH: tuple[Grads, ...] = ("both", "theta", "input")

_CROPS: dict[str, Any] = {"transform": "attention"}
_BOXES: dict[str, Any] = {"transform": "attention", "antialias": 2, "grads": _EACH}
_TEXT: dict[str, Any] = {"transform": "tps", "control_points": FIDUCIALS}
_PIECES: dict[str, Any] = {"transform": "piecewise_affine"}

BASE_CASES: tuple[Case, ...] = (
    Case("mnist-256x1x42", (256, 1, 42, 42), (42, 42), grads=_IMAGE),
    Case("addition-256x2x42", (256, 2, 42, 42), (42, 42), grads=_IMAGE),
    Case("svhn-128x3x64", (128, 3, 64, 64), (64, 64), grads=_IMAGE),
    Case("svhn-128x48x32", (128, 48, 32, 32), (32, 32)),
    Case("svhn-128x64x32", (128, 64, 32, 32), (32, 32)),
    Case("svhn-128x128x16", (128, 128, 16, 16), (16, 16)),
    Case("cub-32x3x448-k2", (32, 3, 448, 448), (224, 224), k=2, grads=_IMAGE),
    Case("cub-32x3x448-k4", (32, 3, 448, 448), (224, 224), k=4, grads=_IMAGE),
    Case("general-8x3x1234x1345", (8, 3, 1234, 1345), (1234, 1345), grads=_IMAGE),
    Case("general-2x3x345x456", (2, 3, 345, 456), (345, 456), grads=_IMAGE),
    Case("general-4x256x16", (4, 256, 16, 16), (16, 16)),
    Case("general-8x64x56", (8, 64, 56, 56), (56, 56)),
    Case("general-32x256x56", (32, 256, 56, 56), (56, 56)),
    Case("down-512x3x256-224", (512, 3, 256, 256), (224, 224), grads=_IMAGE),
    Case("down-512x3x256-32", (512, 3, 256, 256), (32, 32), grads=_IMAGE),
    Case("up-1024x1x28-56", (1024, 1, 28, 28), (56, 56), grads=_IMAGE),
    # Two peers have a path of their own here: cuDNN with aligned corners alone, RoIAlign for upright crops alone.
    Case("corners-8x3x1234x1345", (8, 3, 1234, 1345), (1234, 1345), align_corners=True),
    Case("corners-8x64x56", (8, 64, 56, 56), (56, 56), align_corners=True),
    Case("crops-32x3x448-k2", (32, 3, 448, 448), (224, 224), k=2, **_CROPS, grads=_EACH),
    Case("crops-32x3x448-k4", (32, 3, 448, 448), (224, 224), k=4, **_CROPS, grads=_EACH),
)
"""The shapes of the paper's networks, and general ones."""

OPTION_CASES: tuple[Case, ...] = (
    Case("projective-128x1x60", (128, 1, 60, 60), (60, 60), transform="projective", grads=_IMAGE),
    Case("projective-8x3x512", (8, 3, 512, 512), (512, 512), transform="projective", grads=_IMAGE),
    Case("tps-128x1x60", (128, 1, 60, 60), (60, 60), transform="tps", grads=_IMAGE),
    Case("tps-8x3x512", (8, 3, 512, 512), (512, 512), transform="tps", grads=_IMAGE),
    Case("fiducials-256x1x32x100", (256, 1, 32, 100), (32, 100), **_TEXT, grads=_IMAGE),
    Case("volume-16x1x60", (16, 1, 60, 60, 60), (60, 60, 60), grads=_IMAGE),
    Case("volume-2x32x64", (2, 32, 64, 64, 64), (64, 64, 64)),
    Case("volume-2x1x64", (2, 1, 64, 64, 64), (64, 64, 64), grads=_EACH),
    Case("volume-2x8x32", (2, 8, 32, 32, 32), (32, 32, 32), grads=_EACH),
    # What RoIAlign is used for: the boxes of a detector on a map of features.
    Case("ragged-2x256x100x152-512", (2, 256, 100, 152), (7, 7), crops=512, **_BOXES),
    Case("antialias-4-32x3x448-k2", (32, 3, 448, 448), (112, 112), k=2, **_CROPS, antialias=4, grads=_EACH),
    Case("antialias-true-32x3x448-k2", (32, 3, 448, 448), (112, 112), k=2, **_CROPS, antialias=True, grads=_EACH),
    Case("bicubic-128x3x64", (128, 3, 64, 64), (64, 64), mode="bicubic", grads=_IMAGE),
    Case("reflection-128x3x64", (128, 3, 64, 64), (64, 64), padding_mode="reflection", grads=_IMAGE),
    Case("piecewise-128x1x60", (128, 1, 60, 60), (60, 60), **_PIECES, grads=_IMAGE),
    Case("piecewise-8x3x512", (8, 3, 512, 512), (512, 512), **_PIECES, grads=_IMAGE),
)  # fmt: skip
"""One or two sizes of every option beyond affine bilinear sampling; measured after the base cases."""

TINY_CASES: tuple[Case, ...] = (
    Case("tiny-4x1x12", (4, 1, 12, 12), (12, 12), grads=_IMAGE),
    Case("tiny-2x8x9x7", (2, 8, 9, 7), (6, 10)),
    Case("tiny-2x3x16-k2", (2, 3, 16, 16), (8, 8), k=2, **_CROPS, grads=_EACH),
    Case("tiny-ragged", (2, 3, 9, 12), (4, 5), crops=5, **_CROPS),
    Case("tiny-projective", (2, 3, 9, 12), (10, 7), transform="projective"),
    Case("tiny-tps", (2, 1, 9, 12), (9, 12), transform="tps"),
    Case("tiny-fiducials", (2, 1, 9, 12), (6, 14), **_TEXT),
    Case("tiny-piecewise", (2, 3, 9, 12), (10, 7), k=2, **_PIECES),
    Case("tiny-volume", (2, 2, 5, 6, 7), (6, 5, 8)),
    Case("tiny-bicubic", (2, 1, 9, 12), (10, 7), mode="bicubic"),
    Case("tiny-reflection", (2, 1, 9, 12), (10, 7), padding_mode="reflection"),
    Case("tiny-antialias-2", (2, 1, 16, 16), (6, 5), antialias=2),
    Case("tiny-antialias-true", (3, 1, 16, 16), (4, 5), k=2, **_CROPS, antialias=True),
)
"""For the dry run without a GPU: the same code path in seconds."""

CPU_CASES: tuple[Case, ...] = (
    Case("cpu-64x1x42", (64, 1, 42, 42), (42, 42), grads=_IMAGE),
    Case("cpu-16x3x64", (16, 3, 64, 64), (64, 64), grads=_IMAGE),
    Case("cpu-8x48x32", (8, 48, 32, 32), (32, 32)),
    Case("cpu-8x128x16", (8, 128, 16, 16), (16, 16)),
    Case("cpu-2x3x224-112-k2", (2, 3, 224, 224), (112, 112), k=2, **_CROPS, grads=_IMAGE),
    Case("cpu-projective-16x1x60", (16, 1, 60, 60), (60, 60), transform="projective"),
    Case("cpu-tps-16x1x60", (16, 1, 60, 60), (60, 60), transform="tps"),
    Case("cpu-fiducials-16x1x32x100", (16, 1, 32, 100), (32, 100), **_TEXT),
    Case("cpu-piecewise-16x1x60", (16, 1, 60, 60), (60, 60), **_PIECES),
    Case("cpu-volume-2x1x24", (2, 1, 24, 24, 24), (24, 24, 24)),
    Case("cpu-bicubic-16x1x42", (16, 1, 42, 42), (42, 42), mode="bicubic"),
    Case("cpu-reflection-16x1x42", (16, 1, 42, 42), (42, 42), padding_mode="reflection"),
    Case("cpu-ragged-2x32x50x76-64", (2, 32, 50, 76), (7, 7), crops=64, **_BOXES),
    Case("cpu-antialias-4-4x1x112-k2", (4, 1, 112, 112), (28, 28), k=2, **_CROPS, antialias=4),
    Case("cpu-antialias-true-4x1x112-k2", (4, 1, 112, 112), (28, 28), k=2, **_CROPS, antialias=True),
)  # fmt: skip
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
        raise ValueError(
            f"no case {name!r} in bench/cases.py; there are {', '.join(c.name for c in every)}"
        )
    for change in changes:
        if change in DTYPES:
            case = replace(case, dtype=DTYPES[change])
        elif change == "channels_last":
            case = replace(case, memory_format="channels_last")
        else:
            wanted = ", ".join([*DTYPES, "channels_last"])
            raise ValueError(f"{text!r} has {change!r} behind a colon, not one of {wanted}")
    return case
