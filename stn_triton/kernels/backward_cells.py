"""Backward of affine maps in 2-D, "zeros" and "border", bilinear and nearest: both gradients in one gather, by cells.

The adjoint of sampling scatters: every output pixel adds to the four pixels around its source coordinate. Gathered by
cells the same products are added. Each output lies in one cell (`cells.plan`), whose lane adds up what its outputs give
to its four corners. A pixel is a corner of four cells, and its gradient is the sum of four corner sums. Nothing is met
twice or left out, and the order is the same on every run.

Tiling: one warp makes the gradient of a tile of input pixels, CELLS wide and ROWS high, for CHUNKS blocks of channels.
It walks down the rows with a cell in each lane (in VECTORS lanes, for channels_last). The sums of the lower corners
stay in registers for the next row, those of the right corners go to the next lane. Two phases come before the rows, for
cells outside the tile: the column on its left, with lanes along it, and the row above. Only what they give to pixels of
the tile is kept. Theta's sums of a cell belong to the tile of its upper left pixel; cells at -1 have none, and belong
to the tile beside them.

Where an output is much smaller than its input, most images' outputs share no pixel. Such an image stays as it was, all
zeros, which is noted in `apart`, and `backward_theta`, which visits every output anyway, stores what each gives.

Several transformers take turns at a tile. Their sums are kept in memory meanwhile: in the gradient itself, or where it
is in half precision in a float32 buffer, rounded once at the end.
"""

import triton
import triton.language as tl
from torch import Tensor

from stn_triton.formats import empty_input_gradient, like_output
from stn_triton.ragged import rows_of_images
from stn_triton.transforms import Options

from . import maps
from .blocks import cell_blocks
from .cells.images import Tile, channels_in, zero_row
from .cells.paths import Output
from .cells.pixel_by_pixel import pixel_by_pixel_pays
from .cells.plan import finite_map, moves, plan_cells
from .cells.tile import finish_tile, give_tile, give_tile_pixel_by_pixel
from .geometry import Call, geometry, parameters
from .launch import MOST_PROGRAMS, launch
from .layout import outside_value, rows_of
from .maps import affine
from .maps.units import divide, middle
from .preimage.affine import meets_tile
from .supersampling import load_finer_map
from .theta_sum import new_partial, sum_partial

SIZES = [
    *("K", "C", "BLOCKS", "PARAMETERS", "H", "W", "OH", "OW", "align_corners", "S"),
    *("x_by_x", "x_by_y", "y_by_x", "y_by_y", "padding_value"),
    *("ROWS", "STRIPS", "BANDS", "first_strip", "first_band"),
    *("stride_n", "stride_c", "stride_h", "stride_w"),
]
"""Arguments that no kernel is compiled for."""


@triton.jit
def _image(ptr, block, plane, vectors, outside, SPEC: tl.constexpr):
    """One image as a program of channel block number `block` sees it; plane: elements of a channel."""
    first = block * (SPEC.CHUNKS * SPEC.VECTORS)
    if SPEC.CHANNELS_LAST:
        step: tl.constexpr = SPEC.VECTORS * SPEC.VECTOR
        image = channels_in(ptr + first * SPEC.VECTOR, first, step, vectors, outside, SPEC)
    else:
        image = channels_in(
            ptr + first.to(SPEC.OFFSET) * plane, first, plane, vectors, outside, SPEC
        )
    return image


@triton.jit
def _output(grad_ptr, nk, block, C, size, samples, finer, SPEC: tl.constexpr):
    """The output of transformer nk, of `size` (x, y, z), as a program of channel block number `block` sees it."""
    row = size[0].to(SPEC.OFFSET)
    plane = size[1].to(SPEC.OFFSET) * row
    grad = _image(grad_ptr + nk * (plane * (C * SPEC.VECTOR)), block, plane, C, 0.0, SPEC)
    middles = middle(finer[0], SPEC), middle(finer[1], SPEC)
    return Output(grad, C, row, samples, _share(samples, SPEC), finer, middles[0], middles[1])


@triton.jit
def _share(samples, SPEC: tl.constexpr):
    """What a sample counts of an output pixel."""
    share = tl.full((), 1.0, SPEC.COMPUTE)
    if SPEC.ANTIALIAS != "none":
        share = divide(share, (samples * samples).to(SPEC.COMPUTE))
    return share


@triton.jit
def _reaches(tile, m, size, out, SPEC: tl.constexpr):
    """(Whether an output may give something to the tile, whether "border" moves any output onto the image's edges)."""
    W, H, _ = size
    half_x = (tl.minimum(SPEC.CELLS, W - tile.x) + 1).to(SPEC.COMPUTE) * 0.5
    half_y = (tile.rows + 1).to(SPEC.COMPUTE) * 0.5
    reached = meets_tile(tile.x - 1 + half_x, tile.y - 1 + half_y, half_x, half_y, m, size, out)
    reached &= finite_map(m)
    clipped = reached
    if SPEC.PADDING == "border":
        clipped = moves(m, size, out, SPEC)
        edge = (tile.x == 0) | (tile.x + SPEC.CELLS >= W)
        edge |= (tile.y == 0) | (tile.y + tile.rows >= H)
        reached |= clipped & edge
    return reached, clipped


@triton.jit
def _transformer_number(k, n, K, order_ptr, SPEC: tl.constexpr):
    """The number of the transformer that an image n meets in round k."""
    if SPEC.INDEXED:
        nk = tl.load(order_ptr + k)
    else:
        nk = (n * K + k).to(tl.int64) if SPEC.SEVERAL else n.to(tl.int64)
    return nk


@triton.jit
def _note_apart(apart_ptr, n, part, m, size, out, SPEC: tl.constexpr):
    """Whether no two outputs of image n share a pixel, which the program of its part 0 stores for `backward_theta`."""
    apart = plan_cells(m, size, out, SPEC).apart & finite_map(m)
    if part == 0:
        tl.store(apart_ptr + n, apart.to(tl.int32))
    return apart


@triton.jit(do_not_specialize=SIZES)
def _cell_backward_kernel(
    input_ptr, map_ptr, grad_output_ptr,        # (N, C, H, W), (N * K, PARAMETERS), (N * K, C, OH, OW)
    grad_input_ptr, sum_ptr, partial_ptr,       # (N, C, H, W) twice, (N * K, programs of an image, PARAMETERS)
    order_ptr, starts_ptr, apart_ptr,           # indexed: `ragged.rows_of_images`; LEAVE_APART: (N)
    K, C, BLOCKS, PARAMETERS, H, W, OH, OW, align_corners, S,       # as in `launch.UNSPECIALISED`
    x_by_x, x_by_y, y_by_x, y_by_y, padding_value,
    ROWS, STRIPS, BANDS, first_strip, first_band, stride_n, stride_c, stride_h, stride_w, SPEC: tl.constexpr,
):  # fmt: skip
    size, ratios = (W, H, 1), (x_by_x, x_by_y, y_by_x, y_by_y)
    call = Call(map_ptr, 0, 0, PARAMETERS, size, (OW, OH, 1), align_corners, S, ratios, map_ptr)
    n, block = tl.program_id(0), tl.program_id(0) * 0
    if BLOCKS > 1:
        n, block = n // BLOCKS, n % BLOCKS
    strip, band = first_strip + tl.program_id(1), first_band + tl.program_id(2)
    part = (block * BANDS + band) * STRIPS + strip
    lane = tl.arange(0, SPEC.CELLS)[None, :] + zero_row(tl.int32, SPEC)
    x0, y0 = strip * SPEC.CELLS, band * ROWS
    tile = Tile(x0, y0, tl.minimum(ROWS, H - y0), lane, x0 + lane < W)

    plane = H.to(SPEC.OFFSET) * W
    image = n.to(tl.int64) * (plane * (C * SPEC.VECTOR))
    at_u = input_ptr + n.to(tl.int64) * stride_n * SPEC.VECTOR
    u = _image(at_u, block, stride_c, C, outside_value(padding_value, SPEC), SPEC)
    grad_input = _image(grad_input_ptr + image, block, plane, C, 0.0, SPEC)
    total = _image(sum_ptr + image, block, plane, C, 0.0, SPEC)
    if SPEC.DENSE:
        stride_w = 1

    # Whether `total` holds something, whether the image stays all zeros: false, as a value that the loop may change.
    stored, left_out = n < 0, n < 0
    first_k, end_k = 0, K
    if SPEC.INDEXED:
        first_k, end_k = rows_of(n, starts_ptr)
    for k in range(first_k if SPEC.INDEXED else 0, end_k if SPEC.SEVERAL else 1):
        nk = _transformer_number(k, n, K, order_ptr, SPEC)
        samples, finer, m, _tangent = load_finer_map(call, nk, SPEC)
        sums = affine.sums(zero_row(SPEC.COMPUTE, SPEC))
        reached, clipped = _reaches(tile, m, size, finer, SPEC)
        if SPEC.LEAVE_APART:
            apart = _note_apart(apart_ptr, n, part, m, size, finer, SPEC)
            reached &= apart == 0
            left_out = apart != 0
        if reached:
            plan = plan_cells(m, size, finer, SPEC)
            out = _output(grad_output_ptr, nk, block, C, call.out, samples, finer, SPEC)
            if pixel_by_pixel_pays(tile, plan, m, size, out, SPEC):
                sums = give_tile_pixel_by_pixel(
                    sums, tile, u, stride_h, stride_w, total, stored, m, size, out, SPEC
                )  # fmt: skip
            else:
                sums = give_tile(
                    sums, tile, u, stride_h, stride_w, total, stored, plan, m, size, out, clipped, SPEC
                )  # fmt: skip
            stored = n >= 0  # true
        if SPEC.WITH_THETA:
            slot = nk * (STRIPS * BANDS * BLOCKS * PARAMETERS) + part * PARAMETERS
            maps.store_gradient(partial_ptr + slot, sums, call, finer, SPEC)
    ROUNDED: tl.constexpr = sum_ptr.dtype.element_ty != grad_input_ptr.dtype.element_ty
    if (ROUNDED | (stored == 0)) & (left_out == 0):
        finish_tile(tile, total, grad_input, stored, C, W, SPEC)


def cell_backward(
    grad_output: Tensor, input: Tensor, theta: Tensor, index: Tensor | None, out_size: tuple[int, ...],
    options: Options, *, with_theta: bool, apart: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """The gradient of the input and, `with_theta`, that of theta (None else).

    apart: (N,) int32, written here: 1 for the images that are left as zeros, 0 for the others. None: none is.
    """
    g = geometry(input, theta, index, out_size, options)
    smooth = with_theta and options.mode != "nearest"
    spec, blocks = cell_blocks(g, with_theta=smooth)
    spec = spec._replace(LEAVE_APART=apart is not None)
    _, height, width = g.size
    strips, bands = -(-width // spec.CELLS), -(-height // blocks.rows)
    grad_input = empty_input_gradient(input)
    if apart is not None:
        grad_input.zero_()
    rounded = spec.SEVERAL and input.dtype != g.dtype
    total = empty_input_gradient(input, g.dtype) if rounded else grad_input
    partial = new_partial(g, theta, strips * bands * blocks.channels if smooth else 0)
    stride_n, stride_c, _, stride_h, stride_w = g.strides
    grad_output, map_ = like_output(grad_output, input), parameters(g, theta)
    # The map stands in for tensors that the kernel does not read.
    rows = (map_, map_) if index is None else rows_of_images(index, g.n)
    if index is not None:
        partial.zero_()  # of transformations that no image has nobody writes any
    for first_band in range(0, bands, MOST_PROGRAMS):
        for first_strip in range(0, strips, MOST_PROGRAMS):
            launch(
                _cell_backward_kernel,
                (
                    g.n * blocks.channels,
                    min(strips - first_strip, MOST_PROGRAMS),
                    min(bands - first_band, MOST_PROGRAMS),
                ),
                input, map_, grad_output, grad_input, total, partial, *rows,
                map_ if apart is None else apart,
                g.k, g.vectors, blocks.channels, g.parameters, *g.size[1:], *g.out_size[1:],
                g.align_corners, g.samples, *g.ratios, g.padding, blocks.rows, strips, bands, first_strip, first_band,
                stride_n, stride_c, stride_h, stride_w,
                num_warps=1, maxnreg=blocks.maxnreg, SPEC=spec,
            )  # fmt: skip
    return grad_input, sum_partial(g, partial, theta) if with_theta else None
