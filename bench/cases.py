"""The named cases: shapes, dtypes and layouts, the tensors that each one runs on, and the bytes
that each must move.

theta is a rotation by any angle, scaled by 0.5 to 1.5 and shifted by up to a tenth of the frame,
drawn from a seed on the CPU, so that a case means the same samples on every machine. The `crops`
cases use the paper's attention transformation as CUB does: scale 0.5 and a shift that keeps the
crop inside the image.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Grads = Literal["both", "theta", "input"]
Direction = Literal["fwd", "fwd+bwd"]

KINK_BAND = 1e-3
"""Distance in pixels from a kink or tie within which a rounded coordinate may take the other side.
"""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One sampling problem; `key` names it together with its dtype and layout."""

    name: str
    shape: tuple[int, int, int, int]
    out_size: tuple[int, int]
    k: int | None = None
    transform: str = "affine"
    mode: str = "bilinear"
    padding_mode: str = "zeros"
    align_corners: bool = False
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
    def maps(self) -> int:
        """Number of output maps, N times K."""
        return self.shape[0] * (self.k or 1)

    def output_elements(self) -> int:
        """Elements of the result."""
        return self.maps * self.shape[1] * self.out_size[0] * self.out_size[1]

    def directions(self) -> Iterator[tuple[Direction, Grads | None]]:
        """What is measured of this case, the forward pass first."""
        yield "fwd", None
        for grads in self.grads:
            yield "fwd+bwd", grads


@dataclass(frozen=True)
class Inputs:
    """The tensors of one case; `theta` is float32 whatever the storage dtype, `grad` is that of the
    result.
    """

    input: Tensor
    theta: Tensor
    grad: Tensor


_IMAGE: tuple[Grads, ...] = ("both", "theta")
"""A transformer on the image itself trains theta alone; on a feature map it passes a gradient to
both.
"""

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
        grads=("both", "theta", "input"),
    ),
    Case(
        name="crops-32x3x448-k4",
        shape=(32, 3, 448, 448),
        out_size=(224, 224),
        k=4,
        transform="attention",
        grads=("both", "theta", "input"),
    ),
)

TINY_CASES: tuple[Case, ...] = (
    Case(name="tiny-4x1x12", shape=(4, 1, 12, 12), out_size=(12, 12), grads=_IMAGE),
    Case(name="tiny-2x8x9x7", shape=(2, 8, 9, 7), out_size=(6, 10)),
    Case(
        name="tiny-2x3x16-k2",
        shape=(2, 3, 16, 16),
        out_size=(8, 8),
        k=2,
        transform="attention",
        grads=("both", "theta", "input"),
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


def make_theta(case: Case, *, seed: int = 0) -> Tensor:
    """theta of a case on the CPU, float32: (N, [K,] 2, 3), or (N, [K,] 3) for attention."""
    generator = torch.Generator().manual_seed(1_000_003 * case.seed + seed)
    lead = (case.shape[0],) if case.k is None else (case.shape[0], case.k)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(*lead, *shape, generator=generator)

    if case.transform == "attention":
        return torch.cat((torch.full((*lead, 1), 0.5), uniform(-0.45, 0.45, 2)), -1)
    angle, scale = uniform(-torch.pi, torch.pi), uniform(0.5, 1.5)
    cos, sin = scale * angle.cos(), scale * angle.sin()
    linear = torch.stack((cos, -sin, sin, cos), -1).unflatten(-1, (2, 2))
    return torch.cat((linear, uniform(-0.2, 0.2, 2, 1)), -1)


def affine_matrix(case: Case, theta: Tensor) -> Tensor:
    """theta as the matrices (N * K, 2, 3) of `affine_grid`, differentiably."""
    if case.transform == "affine":
        return theta.reshape(-1, 2, 3)
    if case.transform != "attention":
        raise ValueError(f"benchmark cases are affine or attention, not {case.transform!r}")
    scale, tx, ty = theta.reshape(-1, 3).unbind(-1)
    zero = torch.zeros_like(scale)
    return torch.stack((scale, zero, tx, zero, scale, ty), -1).unflatten(-1, (2, 3))


def source_pixels(case: Case, matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Source (x, y) in pixels, float64, each (maps, h, w), by the definition: `affine_grid`, then
    unnormalised.
    """
    grid = F.affine_grid(
        matrix.double(), [len(matrix), 1, *case.out_size], align_corners=case.align_corners
    )

    def pixels(coordinate: Tensor, size: int) -> Tensor:
        return (
            (coordinate + 1) / 2 * (size - 1)
            if case.align_corners
            else ((coordinate + 1) * size - 1) / 2
        )

    return pixels(grid[..., 0], case.shape[3]), pixels(grid[..., 1], case.shape[2])


def clear_of_kinks(case: Case, theta: Tensor) -> Tensor:
    """(N, [K,] 1, h, w) bool: the outputs whose coordinates lie at least `KINK_BAND` from every
    kink and tie.
    """
    # Kinks are at whole pixels, ties of nearest at half ones; reflection without aligned corners
    # folds at half ones.
    both = case.padding_mode == "reflection"
    clear = torch.ones((), dtype=torch.bool, device=theta.device)
    for coordinate in source_pixels(case, affine_matrix(case, theta)):
        if case.mode != "nearest" or both:
            clear = clear & ((coordinate - coordinate.round()).abs() > KINK_BAND)
        if case.mode == "nearest" or both:
            clear = clear & (((coordinate - 0.5) - (coordinate - 0.5).round()).abs() > KINK_BAND)
    return clear.reshape(*theta.shape[: 1 if case.k is None else 2], 1, *case.out_size)


def in_format(case: Case, x: Tensor) -> Tensor:
    """`x` (N, [K,] C, h, w) in the memory format of the case, K counting as part of the batch."""
    if case.memory_format == "contiguous":
        return x.contiguous()
    flat = x.reshape(-1, *x.shape[-3:]).contiguous(memory_format=torch.channels_last)
    return flat if x.dim() == 4 else flat.unflatten(0, x.shape[:2])


def make_inputs(case: Case, device: str | torch.device = "cpu", *, seed: int = 0) -> Inputs:
    """Random input, theta and gradient of the result; the gradient is 0 beside kinks, where either
    slope is right.
    """
    generator = torch.Generator(device).manual_seed(seed)
    lead = (case.shape[0],) if case.k is None else (case.shape[0], case.k)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device=device).to(case.dtype)

    theta = make_theta(case, seed=seed).to(device)
    grad = normal(*lead, case.shape[1], *case.out_size) * clear_of_kinks(case, theta)
    return Inputs(in_format(case, normal(*case.shape)), theta, in_format(case, grad))


@dataclass(frozen=True)
class Reach:
    """How much of a case its theta touches, in pixels of one channel, summed over the batch."""

    source: int
    """Distinct source pixels that any output of any of the K maps reads."""
    outputs: int
    """Outputs that read at least one source pixel: the others are 0 and pass no gradient on."""


_TAPS = {"nearest": range(1), "bilinear": range(2), "bicubic": range(-1, 3)}


@cache
def _reach(case: Case, device: str) -> Reach:
    height, width = case.shape[2:]
    matrices = affine_matrix(case, make_theta(case)).to(device).reshape(case.shape[0], -1, 2, 3)
    source = outputs = 0
    for matrix in matrices:
        x, y = (s.clamp(-3, 2 * max(height, width)) for s in source_pixels(case, matrix))
        if case.padding_mode == "border":
            x, y = x.clamp(0, width - 1), y.clamp(0, height - 1)
        ix, iy = (s.round().long() if case.mode == "nearest" else s.floor().long() for s in (x, y))
        touched = torch.zeros(height * width, dtype=torch.bool, device=device)
        reads = torch.zeros_like(ix, dtype=torch.bool)
        for dy in _TAPS[case.mode]:
            for dx in _TAPS[case.mode]:
                tx, ty = ix + dx, iy + dy
                inside = (tx >= 0) & (tx < width) & (ty >= 0) & (ty < height)
                touched[(ty * width + tx)[inside]] = True
                reads |= inside
        source += int(touched.sum())
        outputs += int(reads.sum())
    return Reach(source, outputs)


def reach(case: Case, device: str = "cpu") -> Reach:
    """The reach of a case, counted exactly from its theta (zeros and border padding)."""
    if case.padding_mode not in ("zeros", "border"):
        raise ValueError(
            f"the reach is counted for zeros and border padding, not {case.padding_mode!r}"
        )
    plain = replace(case, name="", dtype=torch.float32, memory_format="contiguous", grads=("both",))
    return _reach(plain, device)


def min_bytes(case: Case, direction: Direction, grads: Grads | None, device: str = "cpu") -> int:
    """The bytes that must cross device memory: every tensor's needed part once per pass, theta's
    few bytes left out.

    Forward: the source pixels touched, and the whole result. Backward adds the gradient of the
    result where it passes anything on; the touched source once more if theta wants a gradient; and
    the whole input gradient, zeros included, if the input does.
    """
    touched = reach(case, device)
    element = torch.finfo(case.dtype).bits // 8
    per_pixel = case.shape[1] * element
    source = touched.source * per_pixel
    total = source + case.output_elements() * element
    if direction == "fwd+bwd":
        total += touched.outputs * per_pixel
        total += source if grads in ("both", "theta") else 0
        total += (
            case.shape[0] * case.shape[2] * case.shape[3] * per_pixel
            if grads in ("both", "input")
            else 0
        )
    return total


def least_peak_bytes(case: Case, direction: Direction, grads: Grads | None) -> int:
    """The memory that a call must add to what it is given: the result and each gradient wanted."""
    element = torch.finfo(case.dtype).bits // 8
    total = case.output_elements() * element
    if direction == "fwd+bwd":
        n, c, height, width = case.shape
        total += n * c * height * width * element if grads in ("both", "input") else 0
        total += make_theta(case).numel() * 4 if grads in ("both", "theta") else 0
    return total
