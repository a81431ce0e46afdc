"""Tensors and thetas that nobody would choose."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from bench.layouts import laid_out

Size = tuple[int, ...]
Value = TypeVar("Value")
DTYPES = (torch.float32, torch.float32, torch.float32, torch.float64, torch.float16, torch.bfloat16)
_LENGTHS = (1, 1, 2, 2, 3, 4, 5, 7, 8, 9, 13, 16, 17)
_ODD_LENGTHS = (31, 32, 33, 64, 67)


class Draw:
    """Random choices of one call."""

    def __init__(self, seed: int, number: int) -> None:
        self.random = random.Random(f"{seed}/{number}")
        self.generator = torch.Generator().manual_seed(self.random.getrandbits(62))

    def one(self, values: Sequence[Value]) -> Value:
        return self.random.choice(values)

    def chance(self, probability: float) -> bool:
        return self.random.random() < probability

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator, dtype=torch.float64)

    def size(self, ndim: int) -> Size:
        lengths = (1, 1, 2, 3, 4, 5, 6) if ndim == 3 else _LENGTHS
        size = [self.one(lengths) for _ in range(ndim)]
        if self.chance(0.03):
            size[self.random.randrange(ndim)] = self.one(_ODD_LENGTHS)
        return tuple(size)

    def tensor(self, shape: Size, dtype: torch.dtype, *, last: bool = False) -> tuple[Tensor, str]:
        """Normal numbers in some memory layout, and its name. last: the channels may be last."""
        layout = self.one(
            ("contiguous", "contiguous", "transposed", "strided", "repeated", "expanded", "offset")
            + (("channels_last",) * 2 if last else ())
        )
        return laid_out(self.normal(*shape).to(dtype), layout), layout


def with_pixels_not_finite(draw: Draw, tensor: Tensor) -> Tensor:
    """The same with one to three numbers that are NaN or infinite."""
    found = tensor.clone(memory_format=torch.preserve_format)
    for _ in range(draw.random.randint(1, 3) if tensor.numel() else 0):
        at = tuple(draw.random.randrange(length) for length in tensor.shape)
        found[at] = draw.one((math.nan, math.inf, -math.inf))
    return found


# Thetas

HUGE = (1e10, -1e15, 1e30, -1e30, 1e37, 3e38, -3.4e38)
TINY = (1e-3, 1e-7, 1e-20, 1e-38, 1e-42, 5e-324)
NOT_FINITE = (math.nan, math.inf, -math.inf)


def _spread(draw: Draw, start: Tensor, by: float) -> Tensor:
    return start + by * draw.normal(*start.shape)


def _on_kinks(draw: Draw, start: Tensor) -> Tensor:
    """Halves and quarters: coordinates lie on whole pixels and on ties."""
    return start + (draw.normal(*start.shape) * 2).round() / draw.one((2, 4, 8))


def _flipped(draw: Draw, start: Tensor) -> Tensor:
    return start * torch.tensor([draw.one((-1.0, 1.0)) for _ in range(start.numel())]).view_as(
        start
    )


def _turned(draw: Draw, start: Tensor) -> Tensor:
    return start.roll(1, 0) if start.dim() == 2 else -start


def _singular(draw: Draw, start: Tensor) -> Tensor:
    theta = _spread(draw, start, 0.5)
    if theta.dim() == 2:
        theta[-1] = theta[0] * (1 + draw.one((0.0, 1e-4, 1e-8)))
    else:
        theta[0] = draw.one((0.0, 1e-8))
    return theta


def _one_entry(values: Sequence[float]) -> Callable[[Draw, Tensor], Tensor]:
    def spoil(draw: Draw, start: Tensor) -> Tensor:
        theta = _spread(draw, start, 0.3)
        for _ in range(draw.one((1, 1, 2))):
            theta.view(-1)[draw.random.randrange(theta.numel())] = draw.one(values)
        return theta

    return spoil


STYLES: dict[str, Callable[[Draw, Tensor], Tensor]] = {
    "near": lambda draw, start: _spread(draw, start, 0.3),
    "identity": lambda draw, start: start.clone(),
    "wide": lambda draw, start: _spread(draw, start, 3.0),
    "far": lambda draw, start: _spread(draw, start, 0.3) + draw.one((-5.0, 2.0, 100.0)),
    "kinks": _on_kinks,
    "flipped": _flipped,
    "turned": _turned,
    "zero": lambda draw, start: torch.zeros_like(start),
    "singular": _singular,
    "shrunk": lambda draw, start: start * draw.one(TINY),
    "tiny": _one_entry(TINY),
    "huge": _one_entry(HUGE),
    "all huge": lambda draw, start: draw.normal(*start.shape) * draw.one(HUGE),
    "not finite": _one_entry(NOT_FINITE),
    "nowhere": lambda draw, start: torch.full_like(start, draw.one(NOT_FINITE)),
}


def thetas(draw: Draw, lead: Size, start: Tensor, dtype: torch.dtype) -> tuple[Tensor, str]:
    """Thetas of the shape (*lead, *start.shape), each of a style of its own or all of one; and the styles' names."""
    count = math.prod(lead)
    common = "near" if draw.chance(0.35) else draw.one(list(STYLES))
    names = [common if draw.chance(0.7) else draw.one(list(STYLES)) for _ in range(count)]
    made = [STYLES[name](draw, start) for name in names]
    stacked = torch.stack(made) if made else start.new_empty((0, *start.shape))
    # One axis more, since theta of attention without a batch has but one.
    theta = stacked.to(dtype).view(1, *lead, *start.shape)
    layout = draw.one(("contiguous", "contiguous", "transposed", "strided", "offset"))
    return laid_out(theta, layout)[0], f"{'/'.join(names) or 'none'}, {layout}"
