"""What a call is: as the launchers see it, as kernels are compiled for it, and as they see it when they run."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from stn_triton.control_points import Points, count_of, lattice_constants, points_of
from stn_triton.formats import compute_dtype, is_channels_last
from stn_triton.transforms import AUTO, TRANSFORMS, Options

from .coefficients import write_coefficients

_TRITON_DTYPES = {torch.float32: tl.float32, torch.float64: tl.float64}


class Spec(NamedTuple):
    """What a kernel is compiled for."""

    TRANSFORM: str
    NDIM: int
    MODE: str
    PADDING: str
    HAS_PADDING_VALUE: bool  # other than 0
    ANTIALIAS: str  # none, fixed (S is the same for all) or auto (theta's own)
    TANGENT: bool  # every map is followed by its change, and the change of the result is asked for
    INDEXED: bool  # ragged crops: each transformation reads the image that it names
    COMPUTE: Any  # dtype of coordinates, weights and sums
    OFFSET: Any  # dtype of offsets inside an image
    CHANNELS_LAST: bool
    CHANNEL_LANES: bool  # whether neighbouring lanes hold channels; pixels else
    VECTOR: int  # channels that are loaded together; 1 unless CHANNELS_LAST
    SCATTERED: bool  # control points lie anywhere; else on a regular lattice
    LOCATED: bool  # the map's numbers are the source coordinates themselves (`coordinates`)


class Call(NamedTuple):
    """What device functions need to know of a call. Sizes are (x, y, z)."""

    map_ptr: Any  # (N * K, [2,] PARAMETERS)
    G: Any  # control points in a row of a lattice, and rows; all those that lie anywhere, and 1
    ROWS: Any
    PARAMETERS: Any
    size: Any  # of the input
    out: Any  # of the output
    align_corners: Any  # 0 or 1
    S: Any  # antialias: samples of an output pixel along each axis
    ratios: Any  # `pixels_per_unit_of`
    points_ptr: Any  # (P, 2): control points that lie anywhere


@triton.jit
def call_of(
    map_ptr, points_ptr, G, ROWS, PARAMETERS, D, H, W, OD, OH, OW, align_corners, S, ratios
):  # fmt: skip
    """The call, from what every kernel over tiles has among its arguments."""
    size, out = (W, H, D), (OW, OH, OD)
    return Call(map_ptr, G, ROWS, PARAMETERS, size, out, align_corners, S, ratios, points_ptr)


@dataclass(frozen=True, eq=False)
class Geometry:
    """Sizes, strides and compile-time facts of one call; the same object for every call like it."""

    outer: tuple[int, ...]  # of the result, before its channels: (N,) or (N, K); indexed: (M,)
    n: int
    k: int  # transformations of an image; indexed: 1
    channels: int
    size: tuple[int, ...]  # of input, (D, H, W)
    out_size: tuple[int, ...]  # (OD, OH, OW)
    points: Points  # a lattice's
    rows: tuple[int, int]  # G and ROWS, as in `Call`
    parameters: int  # numbers by which the kernels know a transformation
    align_corners: int
    samples: int
    padding_value: float
    strides: tuple[int, ...]  # of input (n, c, d, h, w), in vectors
    dtype: torch.dtype  # of coordinates, weights and sums
    spec: Spec

    @property
    def vectors(self) -> int:
        """Channels in vectors."""
        return self.channels // self.spec.VECTOR

    @property
    def maps(self) -> int:
        """Transformations in all."""
        return math.prod(self.outer)

    @property
    def several(self) -> bool:
        """Whether an image may have another number of transformations than one."""
        return self.k != 1 or self.spec.INDEXED

    @property
    def sparse(self) -> bool:
        """Whether the outputs of an image's one transformer may well lie far apart, each read by itself."""
        one = not self.several and self.spec.ANTIALIAS == "none"
        return one and math.prod(self.size) >= 16 * math.prod(self.out_size)

    @property
    def linear_spec(self) -> Spec:
        """Of kernels that are linear in images: what lies outside is a constant to them."""
        return self.spec._replace(HAS_PADDING_VALUE=False)

    @cached_property
    def padding(self) -> float | int:
        """`padding_value` as an argument of a kernel: Triton takes a float as float32, so in float64 its bits."""
        if self.dtype == torch.float32:
            return self.padding_value
        (bits,) = struct.unpack("q", struct.pack("d", self.padding_value))
        return int(bits)

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Every kernel over tiles takes these after its pointers: from K (indexed: N) and C to S."""
        return (
            *(self.n if self.spec.INDEXED else self.k, self.vectors, *self.rows, self.parameters),
            *(*self.size, *self.out_size),
            *(self.align_corners, self.samples),
        )

    @cached_property
    def ratios(self) -> tuple[float, ...]:
        """`maps.units.pixels_per_unit` of the source's width by the output's width and height, then of its height.

        Quotients of numbers below 2**24 round to the same float32 by way of float64.
        """
        _, height, width = self.size
        align = self.align_corners
        return tuple(
            (source - align) / (output - align) if output > align else 0.0
            for source in (width, height)
            for output in (self.out_size[2], self.out_size[1])
        )


def needs_int64(elements: int) -> bool:
    """Whether offsets of that many elements pass the range of int32."""
    return elements > 2**31 - 1


def parameter_count(trailing: tuple[int, ...], options: Options) -> int:
    """Numbers by which the kernels know a transformation: theta's, or the coefficients of a lattice's basis."""
    lattice = TRANSFORMS[options.transform].lattice
    if lattice is None:
        return math.prod(trailing)
    return 2 * (trailing[0] + lattice.extra)


def parameters(g: Geometry, theta: Tensor, tangent: Tensor | None = None) -> Tensor:
    """Those numbers, transformation after transformation; with a tangent of theta, each followed by its own."""
    lattice = TRANSFORMS[g.spec.TRANSFORM].lattice
    if lattice is None:
        if tangent is None:
            return theta.contiguous()
        return torch.stack((theta.to(g.dtype), tangent.to(g.dtype)), len(g.outer))
    maps, given = g.maps, (theta,) if tangent is None else (theta, tangent)
    found = theta.new_empty((maps, len(given), g.parameters // 2, 2), dtype=g.dtype)
    for number, points in enumerate(given):
        flat = points.contiguous().view(maps, count_of(g.points), 2)
        write_coefficients(flat, g.points, lattice, found[:, number], from_points=number == 0)
    return found


def _rows_of(points: Points) -> tuple[int, int]:
    """(Points in a row, rows) of a lattice; points anywhere are one row."""
    return (int(points[1]), int(points[0])) if len(points) == 2 else (count_of(points), 1)


def scattered_points(g: Geometry, map_: Tensor) -> Tensor:
    """Where kernels find control points that lie anywhere; without them any tensor, here the map's numbers."""
    if not g.spec.SCATTERED:
        return map_
    lattice = TRANSFORMS[g.spec.TRANSFORM].lattice
    assert lattice is not None
    return lattice_constants(lattice.weights, g.points, g.dtype, map_.device)[0]


def geometry(
    input: Tensor, theta: Tensor, index: Tensor | None, out_size: tuple[int, ...], options: Options,
    tangent: Tensor | None = None,
) -> Geometry:  # fmt: skip
    """Read off the geometry of one call; tangent: of one along that change of theta."""
    return _geometry(
        tuple(input.shape), input.stride(), input.element_size(), is_channels_last(input),
        tuple(theta.shape), compute_dtype(input, theta), out_size, options, tangent is not None, index is not None,
    )  # fmt: skip


@lru_cache(maxsize=1024)  # a network calls with the same few shapes again and again
def _geometry(
    shape: tuple[int, ...], strides: tuple[int, ...], element_size: int, channels_last: bool,
    theta_shape: tuple[int, ...], dtype: torch.dtype, out_size: tuple[int, ...], options: Options, tangent: bool,
    indexed: bool,
) -> Geometry:  # fmt: skip
    n, channels, *size = shape
    stride_n, stride_c, *steps = strides
    ndim = len(size)
    if ndim == 2:  # one slice
        size, steps, out_size = [1, *size], [0, *steps], (1, *out_size)
    trailing = TRANSFORMS[options.transform].trailing_shape(
        theta_shape, ndim, options.control_points
    )
    assert trailing is not None
    lattice = TRANSFORMS[options.transform].lattice
    points = () if lattice is None else points_of(options.control_points, trailing[0])
    outer = theta_shape[: len(theta_shape) - len(trailing)]
    vector = math.gcd(channels, 16 // element_size) if channels_last else 1
    # Three channels would leave a lane in four idle, and make four find out about the same pixel.
    channel_lanes = channels_last and (vector > 1 or channels > 4)
    span = sum(
        (length - 1) * stride
        for length, stride in zip((channels, *size), (stride_c, *steps), strict=True)
    )
    largest = max(span + 1, channels * math.prod(size), channels * math.prod(out_size))
    spec = Spec(
        options.transform, ndim, options.mode, options.padding_mode, options.padding_value != 0,
        {1: "none", AUTO: "auto"}.get(options.samples, "fixed"), tangent, indexed,
        _TRITON_DTYPES[dtype], tl.int64 if needs_int64(largest) else tl.int32, channels_last, channel_lanes, vector,
        len(points) > 2, False,
    )  # fmt: skip
    return Geometry(
        outer, n, 1 if indexed else math.prod(outer[1:]), channels, tuple(size), out_size,
        points, _rows_of(points), parameter_count(trailing, options),
        int(options.align_corners), options.samples, options.padding_value,
        tuple(stride // vector for stride in (stride_n, stride_c, *steps)), dtype, spec,
    )  # fmt: skip
