"""Backward for the input of maps that have an inverse: a gather by pixels, without atomics.

Where cells (`backward_cells`) do not serve: projective maps, volumes, reflection, sixteen taps, second derivatives.

Tiling: one warp makes the gradient of a small tile of INPUT pixels for one block of channels, and sums over all K
transformers in registers. A lane owns a pixel. The outputs that may touch it lie between lines that the map's inverse
tells (`preimage`). It visits these, recomputes their coordinates as the forward kernel finds them, and adds the
gradients of those that do. A tile that no output reaches is known by a test of its corners.
"""

import triton
import triton.language as tl
from torch import Tensor

from stn_triton.formats import empty_input_gradient, like_output
from stn_triton.ragged import rows_of_images
from stn_triton.transforms import Options

from .blocks import pixel_blocks
from .geometry import call_of, geometry, parameters
from .launch import UNSPECIALISED, launch_tiles
from .layout import (
    block_channels,
    block_zeros,
    dense_image,
    program_image,
    rows_of,
    store_dense,
)
from .maps.volume import Volume
from .pixels.copies import Copy, copies_of
from .pixels.gather import gather, meets, plan_map
from .pixels.spec import Grid, PixelSpec, Tile, load_grid

COPIES_X, COPIES_Y = tl.constexpr(8), tl.constexpr(4)
"""Copies of the image that are looked at together, one a lane."""


@triton.jit
def _inner(first, last, grid, SPEC: tl.constexpr):
    """Whether all that touches pixels first to last lies inside the image, and not at its ends."""
    W, H, D = grid.size
    REACH: tl.constexpr = 2  # at most, in every mode
    inner = (first[0] > REACH) & (last[0] < W - 1 - REACH)
    inner &= (first[1] > REACH) & (last[1] < H - 1 - REACH)
    if SPEC.NDIM == 3:
        inner &= (first[2] > REACH) & (last[2] < D - 1 - REACH)
    return inner


@triton.jit
def _copies_at(copies, x, y, z, plain, SPEC: tl.constexpr):
    """The copies at a place among those that are reached: one or several."""
    COMPUTE: tl.constexpr = SPEC.COMPUTE
    numbers = (
        copies.first[0] + x.to(COMPUTE),
        copies.first[1] + y.to(COMPUTE),
        copies.first[2] + z.to(COMPUTE),
    )
    return Copy(numbers, copies.whole, plain, copies.free)


@triton.jit
def _kept_here(never, plan, grid, SPEC: tl.constexpr):
    """The same samples and plan for a volume, as numbers that only this round of a loop knows.

    Else the compiler does what copies share of a test of fifteen axes before the loop, and keeps that in registers.
    """
    if SPEC.NDIM == 3:
        a, b, c, mx, d, e, f, my, g, h, i, mz = grid.m
        zero = tl.zeros_like(a)
        m = Volume(
            tl.where(never, zero, a), tl.where(never, zero, b), tl.where(never, zero, c), mx,
            tl.where(never, zero, d), tl.where(never, zero, e), tl.where(never, zero, f), my,
            tl.where(never, zero, g), tl.where(never, zero, h), tl.where(never, zero, i), mz,
        )  # fmt: skip
        grid = Grid(
            m, grid.t, grid.size, grid.finer, grid.out, grid.samples, grid.align_corners,
            grid.ptr, grid.C, grid.channels,
        )  # fmt: skip
        plan = plan_map(m, grid.size, grid.finer, SPEC)
    return grid, plan


@triton.jit
def _gather_copies(total, tile, first, last, plan, grid, SPEC: tl.constexpr):
    """Add what outputs give on each mirrored copy of the image that they reach."""
    COPIES: tl.constexpr = COPIES_X * COPIES_Y
    copies = copies_of(plan, grid.size, grid.finer, grid.align_corners, SPEC)
    columns, rows, slices = copies.counts
    side = tl.full((), 1.0, SPEC.COMPUTE)
    lane = tl.arange(0, COPIES)
    inner = _inner(first, last, grid, SPEC)
    for z in range(slices):
        for top in range(0, rows, COPIES_Y):
            for left in range(0, columns, COPIES_X):
                here, of_here = _kept_here(left + columns < 0, plan, grid, SPEC)
                x, y = left + lane % COPIES_X, top + lane // COPIES_X
                some = _copies_at(copies, x, y, z + lane * 0, copies.plain, SPEC)
                met = meets(first, last, some, side, of_here, here, SPEC)
                met = tl.where(met & (x < columns) & (y < rows), lane, COPIES)
                at = tl.min(met)
                while at < COPIES:
                    copy = _copies_at(
                        copies, left + at % COPIES_X, top + at // COPIES_X, z + at * 0, copies.plain, SPEC
                    )  # fmt: skip
                    x_, y_, z_ = copy.numbers
                    itself = (x_ == 0) & (y_ == 0) & (z_ == 0)
                    copy = Copy(
                        copy.numbers, copies.whole, copies.plain | (inner & itself), copies.free
                    )
                    total = gather(total, tile, copy, side, plan, grid, SPEC)
                    at = tl.min(tl.where(met > at, met, COPIES))
    return total


@triton.jit
def _gather_image(total, tile, first, last, plan, grid, SPEC: tl.constexpr):
    """Add what outputs give on the image itself, on each side of the horizon if there is one."""
    zero = tl.full((), 0.0, SPEC.COMPUTE)
    no = zero > 0
    copy = Copy((zero, zero, zero), no, no, (no, no, no))
    for number in range(2 if SPEC.TRANSFORM == "projective" else 1):
        side = 1.0 - 2.0 * (number + zero)
        if meets(first, last, copy, side, plan, grid, SPEC):
            total = gather(total, tile, copy, side, plan, grid, SPEC)
    return total


@triton.jit
def _transformer(call, grad_output_ptr, nk, C, channels, SPEC: tl.constexpr):
    """Transformer number nk: (its samples, what the pixels of an image share)."""
    grid = load_grid(call, grad_output_ptr, nk, C, channels, SPEC)
    return grid, plan_map(grid.m, call.size, grid.finer, SPEC)


@triton.jit(do_not_specialize=UNSPECIALISED)
def _pixel_backward_kernel(
    map_ptr, order_ptr, starts_ptr,             # (N * K, [2,] PARAMETERS); indexed: `ragged.rows_of_images`
    grad_output_ptr, grad_input_ptr,            # (N * K, C, OD, OH, OW), (N, C, D, H, W)
    K, C, G, ROWS, PARAMETERS, D, H, W, OD, OH, OW, align_corners, S,
    x_by_x, x_by_y, y_by_x, y_by_y, first_row, first_image, SPEC: tl.constexpr, TILING: tl.constexpr,
):  # fmt: skip
    TILE_X: tl.constexpr = TILING.TILE_X
    LANES_Y: tl.constexpr = SPEC.LANES_Y
    PIXELS: tl.constexpr = TILE_X * LANES_Y
    ratios = x_by_x, x_by_y, y_by_x, y_by_y
    call = call_of(map_ptr, map_ptr, G, ROWS, PARAMETERS, D, H, W, OD, OH, OW, align_corners, S, ratios)  # fmt: skip
    n, block = program_image(first_image, C, SPEC, TILING)
    channels = block_channels(block, C, SPEC, TILING)
    left, row = tl.program_id(0) * TILE_X, first_row + tl.program_id(1)
    iz = row * 0
    if SPEC.NDIM == 3:
        tiles_y = tl.cdiv(H, TILING.TILE_Y)
        iz, row = row // tiles_y, row % tiles_y

    nk = n.to(tl.int64)
    if not SPEC.SEVERAL:
        grid, plan = _transformer(call, grad_output_ptr, nk, C, channels, SPEC)
    lane = tl.arange(0, PIXELS)
    image = dense_image(grad_input_ptr, n, call.size, C, SPEC)
    before, after = 0, K
    if SPEC.INDEXED:
        before, after = rows_of(n, starts_ptr)
    for down in range(0, tl.minimum(TILING.TILE_Y, H - row * TILING.TILE_Y), LANES_Y):
        top = row * TILING.TILE_Y + down
        ix, iy = left + lane % TILE_X, top + lane // TILE_X
        tile = Tile(ix, iy, iz, (ix < W) & (iy < H))
        first = left, top, iz
        last = tl.minimum(left + TILE_X, W) - 1, tl.minimum(top + LANES_Y, H) - 1, iz
        total = block_zeros(PIXELS, TILING.BLOCK_C, SPEC)
        for k in range(before if SPEC.INDEXED else 0, after if SPEC.SEVERAL else 1):
            if SPEC.INDEXED:
                of_image = tl.load(order_ptr + k)
                grid, plan = _transformer(call, grad_output_ptr, of_image, C, channels, SPEC)
            elif SPEC.SEVERAL:
                grid, plan = _transformer(call, grad_output_ptr, nk * K + k, C, channels, SPEC)
            if SPEC.PADDING == "reflection":
                total = _gather_copies(total, tile, first, last, plan, grid, SPEC)
            else:
                total = _gather_image(total, tile, first, last, plan, grid, SPEC)
        store_dense(image, (ix, iy, iz), call.size, C, channels, tile.exists, total, SPEC)


def pixel_backward(
    grad_output: Tensor, input: Tensor, theta: Tensor, index: Tensor | None, out_size: tuple[int, ...],
    options: Options, tangent: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """The gradient of the input, or its change as theta changes along `tangent`."""
    g = geometry(input, theta, index, out_size, options, tangent)
    blocks, lanes_y = pixel_blocks(g)
    grad_input, map_ = empty_input_gradient(input), parameters(g, theta, tangent)
    rows = (map_, map_) if index is None else rows_of_images(index, g.n)
    launch_tiles(
        _pixel_backward_kernel,
        g.n, g.size, g.channels, blocks,
        map_, *rows, like_output(grad_output, input), grad_input, *g.sizes, *g.ratios,
        SPEC=PixelSpec(*g.linear_spec, SEVERAL=g.several, LANES_Y=lanes_y),
    )  # fmt: skip
    return grad_input
