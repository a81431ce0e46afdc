"""The kernel variants that the compile report covers.

`covering_set()` takes every transformation, mode, padding, dtype, layout and kind of gradient, each
at least once with the others at their usual values, and the crossings that change a kernel's shape;
`every_variant()` crosses them all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Literal

import torch

from stn_triton.checks import MODES, PADDING_MODES
from stn_triton.transforms import AUTO, TRANSFORMS

from .cases import FIDUCIALS, Grads

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One call of a launcher, up to the values in its tensors; `grads` is None for the forward
    pass.
    """

    shape: tuple[int, ...] = (32, 3, 64, 64)
    out_size: tuple[int, ...] = (64, 64)
    k: int | None = None
    crops: int | None = None  # ragged
    transform: str = "affine"
    mode: str = "bilinear"
    padding_mode: str = "zeros"
    padding_value: float = 0.0
    samples: int = 1
    control_points: tuple[float, ...] = ()  # as in `Options`
    tangent: bool = False  # the change of the result, or of a gradient, along a change of theta
    dtype: torch.dtype = torch.float32
    memory_format: Literal["contiguous", "channels_last"] = "contiguous"
    grads: Grads | None = None

    @property
    def direction(self) -> str:
        """`fwd` or `bwd`."""
        return "fwd" if self.grads is None else "bwd"

    @property
    def dtype_name(self) -> str:
        """`float32`, … as the report spells it."""
        return str(self.dtype).removeprefix("torch.")

    @property
    def flags(self) -> str:
        """What is compiled in besides the dtype."""
        channels = f"C={self.shape[1]}"
        parts = [self.transform, self.mode, self.padding_mode, self.memory_format, channels]
        parts += [] if self.grads is None else [f"grads={self.grads}"]
        parts += [] if self.k is None else [f"K={self.k}"]
        parts += [f"padding={self.padding_value}"] if self.padding_value else []
        parts += [] if self.crops is None else [f"crops={self.crops}"]
        parts += ["tangent"] if self.tangent else []
        parts += [f"points={len(self.control_points) // 2}"] if self.control_points else []
        if self.samples != 1:
            parts.append("antialias" if self.samples == AUTO else f"antialias={self.samples}")
        return " ".join(parts)

    @property
    def name(self) -> str:
        """Unique among the variants."""
        sizes = "x".join(map(str, self.shape)) + "-" + "x".join(map(str, self.out_size))
        return f"{self.direction} {self.dtype_name} {self.flags} {sizes}"

    def wide_loads(self) -> bool:
        """Whether 16 bytes of channels lie side by side and stay aligned, so that loads can be 128
        bits wide.
        """
        bits = torch.finfo(self.dtype).bits
        return self.memory_format == "channels_last" and self.shape[1] * bits % 128 == 0


_LAYOUTS: tuple[dict[str, Any], ...] = (
    {"shape": (32, 1, 42, 42), "out_size": (42, 42)},
    {"shape": (32, 3, 64, 64), "out_size": (64, 64)},
    {"shape": (32, 3, 64, 64), "out_size": (64, 64), "memory_format": "channels_last"},
    {"shape": (32, 64, 32, 32), "out_size": (32, 32)},
    {"shape": (32, 64, 32, 32), "out_size": (32, 32), "memory_format": "channels_last"},
)
_VOLUMES: tuple[dict[str, Any], ...] = (
    {"shape": (8, 1, 60, 60, 60), "out_size": (60, 60, 60)},
    {"shape": (8, 32, 30, 30, 30), "out_size": (30, 30, 30), "memory_format": "channels_last"},
)
_KINDS: tuple[Grads | None, ...] = (None, "both", "theta", "input")
_FORWARD_AND_BOTH = _KINDS[:2]
_OF_A_TANGENT: tuple[Grads | None, ...] = (None, "theta", "input")


def _unique(variants: Iterator[Variant]) -> tuple[Variant, ...]:
    return tuple(dict.fromkeys(variants))


def _allowed(variant: Variant) -> bool:
    ndim = len(variant.out_size)
    if ndim not in TRANSFORMS[variant.transform].ndims or (ndim == 3 and variant.mode == "bicubic"):
        return False
    # Nearest has no theta gradient: asking for both is asking for the input's.
    return variant.mode != "nearest" or variant.grads in (None, "input")


def core_set() -> tuple[Variant, ...]:
    """The handful that a quick test compiles: each kind of kernel in each layout, and bfloat16."""
    narrow, wide = _LAYOUTS[1], _LAYOUTS[4]
    found = [Variant(**layout, grads=grads) for layout in (narrow, wide) for grads in _KINDS]
    found += [replace(v, dtype=torch.bfloat16) for v in found[4:6]]
    # What is gathered by pixels, and through boxes.
    found += [
        Variant(**layout, padding_mode="reflection", grads="input") for layout in (narrow, wide)
    ]
    found += [
        Variant(**layout, transform="piecewise_affine", grads="input") for layout in (narrow, wide)
    ]
    return tuple(found)


def covering_set() -> tuple[Variant, ...]:
    """At most about 150 variants that together show every option and every kernel.

    Every layout with every kind of gradient; every dtype; every transformation with every padding,
    and every mode with every padding on affine maps, the layouts in turn.
    """

    def variants() -> Iterator[Variant]:
        yield from core_set()
        for layout, grads in product(_LAYOUTS, _KINDS):
            yield Variant(**layout, grads=grads)
        narrow, wide = _LAYOUTS[1], _LAYOUTS[4]
        for layout, grads in product((narrow, wide), _KINDS):
            yield Variant(**layout, dtype=torch.bfloat16, grads=grads)
        for layout, dtype in product((narrow, wide), (torch.float16, torch.float64)):
            for grads in _FORWARD_AND_BOTH:
                yield Variant(**layout, dtype=dtype, grads=grads)
            yield Variant(**layout, dtype=dtype, padding_mode="reflection", grads="input")
        by_transform = product(TRANSFORMS, MODES[:1], PADDING_MODES)
        by_mode = product(("affine",), MODES, PADDING_MODES)
        for turn, (transform, mode, padding) in enumerate((*by_transform, *by_mode)):
            # Only the gather by cells has a form of its own for both gradients.
            linear = TRANSFORMS[transform].matrix is not None
            for each, grads in enumerate(_KINDS if linear else _FORWARD_AND_BOTH):
                usual = Variant(**(narrow, wide)[(turn + each) % 2], grads=grads)
                yield replace(usual, transform=transform, mode=mode, padding_mode=padding)
        for layout, samples in ((narrow, 2), (wide, AUTO)):
            for grads in _FORWARD_AND_BOTH:
                yield Variant(**layout, samples=samples, grads=grads)
        yield Variant(**narrow, padding_value=0.5)
        yield Variant(**wide, padding_value=0.5, grads="both")
        yield Variant(**_VOLUMES[0], padding_value=0.5, grads="theta")
        yield Variant(**wide, padding_value=0.5, grads="theta", tangent=True)
        yield Variant(**narrow, crops=512, padding_value=0.5)
        yield Variant(**narrow, crops=512, grads="both")
        yield Variant(**wide, crops=512, grads="theta")
        yield Variant(**wide, crops=512, grads="input")
        for padding, transform in (("reflection", "affine"), ("zeros", "tps")):
            usual = Variant(**narrow, crops=512, grads="input")
            yield replace(usual, padding_mode=padding, transform=transform)
        for turn, transform in enumerate(TRANSFORMS):
            for grads in _OF_A_TANGENT:
                usual = Variant(**(narrow, wide)[turn % 2], grads=grads, tangent=True)
                yield replace(usual, transform=transform, mode=MODES[::2][turn % 2])
        options = product(("affine", "attention"), MODES[:2], PADDING_MODES)
        for turn, (transform, mode, padding) in enumerate(options):
            for grads in _FORWARD_AND_BOTH:
                usual = Variant(**_VOLUMES[turn % 2], grads=grads)
                yield replace(usual, transform=transform, mode=mode, padding_mode=padding)
        for grads in _FORWARD_AND_BOTH:
            yield Variant(shape=(32, 3, 448, 448), out_size=(224, 224), k=2, grads=grads)
            yield Variant(shape=(128, 128, 16, 16), out_size=(16, 16), grads=grads)
        yield from _of_points_anywhere()
        for layout, grads in product((*_LAYOUTS[1:3], wide), _FORWARD_AND_BOTH):
            # Outputs so far apart that each is read, and stored, by itself.
            yield replace(Variant(**layout, grads=grads), out_size=(7, 6))

    return tuple(v for v in _unique(variants()) if _allowed(v))


def _of_points_anywhere() -> Iterator[Variant]:
    """The kernels that read their control points: forward, gradients, and what changes along a tangent."""
    narrow, wide = _LAYOUTS[1], _LAYOUTS[4]
    for turn, (grads, tangent) in enumerate(product(_OF_A_TANGENT, (False, True))):
        usual = Variant(**(narrow, wide)[turn // 2 % 2], grads=grads, tangent=tangent)
        yield replace(usual, transform="tps", control_points=tuple(sum(FIDUCIALS, ())))


def every_variant() -> tuple[Variant, ...]:
    """The full crossing of options, dtypes, layouts and gradients."""

    def variants() -> Iterator[Variant]:
        yield from covering_set()
        crossing = product(TRANSFORMS, MODES, PADDING_MODES)
        for (transform, mode, padding), dtype in product(crossing, DTYPES):
            for layout, grads in product((*_LAYOUTS, *_VOLUMES), _KINDS):
                usual = Variant(**layout, dtype=dtype, grads=grads)
                yield replace(usual, transform=transform, mode=mode, padding_mode=padding)

    return tuple(v for v in _unique(variants()) if _allowed(v))
