"""Source coordinates in memory, where several kernels need them and finding them costs hundreds of instructions.

That is so of lattices. Afterwards the coordinates are what the kernels know of a map: `Spec.LOCATED`.

Tiling: one program finds those of one tile of output pixels of one transformer.
"""

import triton
import triton.language as tl
from torch import Tensor

from stn_triton.transforms import TRANSFORMS, Options

from . import maps
from .blocks import Blocks
from .geometry import Geometry, Spec, call_of, geometry, parameters, scattered_points
from .launch import UNSPECIALISED, launch_tiles
from .layout import program_image, program_tile
from .supersampling import load_finer_map, sample_position


@triton.jit(do_not_specialize=UNSPECIALISED)
def _coordinates_kernel(
    map_ptr, points_ptr, found_ptr,                 # (N * K, PARAMETERS), (P, 2), (N * K, 2, OH, OW)
    K, C, G, ROWS, PARAMETERS, D, H, W, OD, OH, OW, align_corners, S,
    x_by_x, x_by_y, y_by_x, y_by_y, first_row, first_image, SPEC: tl.constexpr, TILING: tl.constexpr,
):  # fmt: skip
    ratios = x_by_x, x_by_y, y_by_x, y_by_y
    call = call_of(map_ptr, points_ptr, G, ROWS, PARAMETERS, D, H, W, OD, OH, OW, align_corners, S, ratios)  # fmt: skip
    px, py, pz, _tile = program_tile(call.out, first_row, SPEC, TILING)
    nk, _block = program_image(first_image, C, SPEC, TILING)
    samples, finer, m, _tangent = load_finer_map(call, nk, SPEC)
    sx, sy, _sz = maps.locate(m, sample_position((px, py, pz), 0, samples, finer, SPEC), SPEC)
    plane = OW.to(tl.int64) * OH
    at = found_ptr + nk * 2 * plane + (py.to(SPEC.OFFSET) * OW + px)
    exists = (px < OW) & (py < OH)
    tl.store(at, sx, mask=exists)
    tl.store(at + plane, sy, mask=exists)


def known_by(
    g: Geometry, spec: Spec, theta: Tensor, tangent: Tensor | None, coordinates: Tensor | None
) -> tuple[Tensor, Spec]:
    """The numbers by which kernels of that `spec` know the maps, and the spec that says so."""
    if coordinates is None:
        return parameters(g, theta, tangent), spec
    return coordinates, spec._replace(LOCATED=True)


def source_coordinates(
    input: Tensor, theta: Tensor, index: Tensor | None, out_size: tuple[int, ...], options: Options
) -> Tensor | None:
    """Those of every output pixel, (N * K, 2, OH, OW); None where kernels had better find them anew."""
    if TRANSFORMS[options.transform].lattice is None or options.samples != 1:
        return None
    g = geometry(input, theta, index, out_size, options)
    _, height, width = g.out_size
    map_ = parameters(g, theta)
    found = map_.new_empty((g.maps, 2, height, width))
    launch_tiles(
        _coordinates_kernel,
        g.maps, g.out_size, 1, Blocks(16, 16, 1, 2),
        map_, scattered_points(g, map_), found, *g.sizes, *g.ratios,
        SPEC=g.linear_spec,
    )  # fmt: skip
    return found
