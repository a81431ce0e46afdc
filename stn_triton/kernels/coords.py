"""From output pixels to source coordinates: the device side of `stn_triton.transforms`.

A map is a tuple of numbers in pixel units about the centre of the output, for affine maps (a, b, mx, c, d, my):
    sx = a (px - cx) + b (py - cy) + mx,    sy = c (px - cx) + d (py - cy) + my.
Linear maps are explicit fused multiply-adds, so that every kernel finds the same floor of a coordinate to the bit:
plain `*` and `+` would be contracted differently from kernel to kernel.

Sizes are tuples with x first: `size` of the input, `out` of the output.
"""

import triton
import triton.language as tl


@triton.jit
def divide(x, y):
    """x / y correctly rounded (float32 division is approximate by default)."""
    if x.dtype == tl.float64:
        quotient = x / y
    else:
        quotient = tl.div_rn(x, y)
    return quotient


@triton.jit
def centred(p, output_size, COMPUTE: tl.constexpr):
    """Output index -> its distance from the centre of the output, exact."""
    return p.to(COMPUTE) - (output_size - 1).to(COMPUTE) * 0.5


@triton.jit
def pixels_per_unit(source_size, output_size, align_corners, COMPUTE: tl.constexpr):
    """Source pixels per output pixel of the identity; 0 where aligned corners leave no extent."""
    span = output_size - align_corners
    ratio = divide((source_size - align_corners).to(COMPUTE), tl.maximum(span, 1).to(COMPUTE))
    return tl.where(span == 0, 0.0, ratio).to(COMPUTE)


@triton.jit
def affine_pixels_per_unit(known, size, out, align_corners, COMPUTE: tl.constexpr):
    """`pixels_per_unit` in 2-D: (x by x, x by y, y by x, y by y).

    known: the same from the host, or None where the host cannot say: outputs whose size it does not know, and double
    precision, which it cannot hand over.
    """
    W, H, _ = size
    OW, OH, _ = out
    if known is None:
        ratios = (
            pixels_per_unit(W, OW, align_corners, COMPUTE),
            pixels_per_unit(W, OH, align_corners, COMPUTE),
            pixels_per_unit(H, OW, align_corners, COMPUTE),
            pixels_per_unit(H, OH, align_corners, COMPUTE),
        )
    else:
        ratios = known
    return ratios


@triton.constexpr_function
def host_knows(ANTIALIAS, COMPUTE):
    """Whether the host hands over `affine_pixels_per_unit`."""
    return ANTIALIAS == "none" and tl.float32 == COMPUTE


@triton.jit
def half(size, align_corners, COMPUTE: tl.constexpr):
    """Pixels per normalised unit."""
    return (size - align_corners).to(COMPUTE) * 0.5


@triton.jit
def middle(size, COMPUTE: tl.constexpr):
    """The centre of an image, in pixels."""
    return (size - 1).to(COMPUTE) * 0.5


@triton.jit
def load_map(
    theta_ptr, nk, G, PARAMETERS, size, out, align_corners,
    TRANSFORM: tl.constexpr, NDIM: tl.constexpr, COMPUTE: tl.constexpr, TANGENT: tl.constexpr = False,
    known=None,
):  # fmt: skip
    """Transformation number nk as a map in pixel units; G: points along a side of its lattice, if it has one.

    known: see `affine_pixels_per_unit`.

    TANGENT: it is the change of a transformation, and has no origin of its own.
    """
    ORIGIN: tl.constexpr = 0.0 if TANGENT else 1.0
    row = theta_ptr + nk.to(tl.int64) * PARAMETERS
    if TRANSFORM == "projective":
        m = _load_homography(row, PARAMETERS, size, out, align_corners, ORIGIN, COMPUTE)
    elif TRANSFORM == "tps" or TRANSFORM == "piecewise_affine":
        m = _load_lattice(row, G, size, out, align_corners, ORIGIN, COMPUTE)
    elif NDIM == 3:
        m = _load_affine_3d(row, size, out, align_corners, TRANSFORM, ORIGIN, COMPUTE)
    else:
        per_unit = affine_pixels_per_unit(known, size, out, align_corners, COMPUTE)
        m = load_scaled_affine(row, size, align_corners, per_unit, TRANSFORM, COMPUTE, ORIGIN)
    return m


@triton.jit
def load_map_and_tangent(
    map_ptr, nk, G, PARAMETERS, size, out, align_corners,
    TRANSFORM: tl.constexpr, NDIM: tl.constexpr, COMPUTE: tl.constexpr, TANGENT: tl.constexpr, known=None,
):  # fmt: skip
    """Transformation number nk and, where every one is followed by its tangent, that too; else the map again."""
    if TANGENT:
        m = load_map(
            map_ptr, 2 * nk, G, PARAMETERS, size, out, align_corners, TRANSFORM, NDIM, COMPUTE, False, known
        )  # fmt: skip
        t = load_map(
            map_ptr, 2 * nk + 1, G, PARAMETERS, size, out, align_corners, TRANSFORM, NDIM, COMPUTE, True, known
        )  # fmt: skip
    else:
        m = load_map(
            map_ptr, nk, G, PARAMETERS, size, out, align_corners, TRANSFORM, NDIM, COMPUTE, False, known
        )  # fmt: skip
        t = m
    return m, t


@triton.jit
def locate(m, dx, dy, dz, TRANSFORM: tl.constexpr, NDIM: tl.constexpr):
    """Source coordinates (sx, sy, sz) of the output pixels at (dx, dy, dz) from the centre; sz only in 3-D."""
    if TRANSFORM == "projective":
        sx, sy, _, _, _ = _project(m, dx, dy)
        sz = dz
    elif TRANSFORM == "tps" or TRANSFORM == "piecewise_affine":
        sx, sy = _locate_in_lattice(m, dx, dy, TRANSFORM)
        sz = dz
    elif NDIM == 3:
        a, b, c, mx, d, e, f, my, g, h, i, mz = m
        sx = tl.fma(a, dx, tl.fma(b, dy, tl.fma(c, dz, mx)))
        sy = tl.fma(d, dx, tl.fma(e, dy, tl.fma(f, dz, my)))
        sz = tl.fma(g, dx, tl.fma(h, dy, tl.fma(i, dz, mz)))
    else:
        a, b, mx, c, d, my = m
        sx, sy = source(a, b, mx, dx, dy), source(c, d, my, dx, dy)
        sz = dz
    return sx, sy, sz


@triton.jit
def locate_tangent(m, t, dx, dy, dz, TRANSFORM: tl.constexpr, NDIM: tl.constexpr):
    """How the source coordinates of `locate` change as the map changes along t."""
    if TRANSFORM == "projective":
        _, _, x, y, z = _project(m, dx, dy)
        _, _, x_along, y_along, z_along = _project(t, dx, dy)
        along_x = divide(x_along - divide(x, z) * z_along, z)
        along_y = divide(y_along - divide(y, z) * z_along, z)
        along_z = dz
    else:
        along_x, along_y, along_z = locate(t, dx, dy, dz, TRANSFORM, NDIM)
    return along_x, along_y, along_z


@triton.jit
def source(coefficient_x, coefficient_y, offset, dx, dy):
    """One source coordinate of the output pixel at (dx, dy) from the centre."""
    return tl.fma(coefficient_x, dx, tl.fma(coefficient_y, dy, offset))


@triton.jit
def map_sums(zero, TRANSFORM: tl.constexpr, NDIM: tl.constexpr):
    """The accumulators of `add_derivatives`, all of them `zero`."""
    if TRANSFORM == "projective":
        sums = (zero, zero, zero, zero, zero, zero, zero, zero, zero)
    elif NDIM == 3:
        sums = (zero, zero, zero, zero, zero, zero, zero, zero, zero, zero, zero, zero)
    else:
        sums = (zero, zero, zero, zero, zero, zero)
    return sums


@triton.jit
def add_derivatives(
    sums, m, by_x, by_y, by_z, dx, dy, dz, TRANSFORM: tl.constexpr, NDIM: tl.constexpr
):  # fmt: skip
    """Add the derivatives by the map's numbers, given those by the source coordinates (by_x, by_y, by_z)."""
    if TRANSFORM == "projective":
        a, b, c, d, e, f, g, h, i = sums
        _, _, x, y, z = _project(m, dx, dy)
        # Where a coordinate is not finite by_x and by_y are 0, and so must their products be.
        by_x = tl.where(by_x == 0, 0.0, divide(by_x, z)).to(by_x.dtype)
        by_y = tl.where(by_y == 0, 0.0, divide(by_y, z)).to(by_x.dtype)
        below = tl.where(by_x == 0, 0.0, by_x * divide(x, z))
        below = -(below + tl.where(by_y == 0, 0.0, by_y * divide(y, z))).to(by_x.dtype)
        sums = (a + by_x * dx, b + by_x * dy, c + by_x,
                d + by_y * dx, e + by_y * dy, f + by_y,
                g + below * dx, h + below * dy, i + below)  # fmt: skip
    elif NDIM == 3:
        a, b, c, mx, d, e, f, my, g, h, i, mz = sums
        sums = (a + by_x * dx, b + by_x * dy, c + by_x * dz, mx + by_x,
                d + by_y * dx, e + by_y * dy, f + by_y * dz, my + by_y,
                g + by_z * dx, h + by_z * dy, i + by_z * dz, mz + by_z)  # fmt: skip
    else:
        a, b, mx, c, d, my = sums
        sums = (a + by_x * dx, b + by_x * dy, mx + by_x,
                c + by_y * dx, d + by_y * dy, my + by_y)  # fmt: skip
    return sums


@triton.jit
def add_projective_curvature(sums, m, t, by_x, by_y, dx, dy):
    """What `add_derivatives` does not know: source coordinates are not linear in a homography.

    by_x, by_y: first derivatives by the source coordinates; t: the tangent along which they are taken.
    """
    a, b, c, d, e, f, g, h, i = sums
    _, _, x, y, z = _project(m, dx, dy)
    _, _, x_along, y_along, z_along = _project(t, dx, dy)
    # Where a coordinate is not finite by_x and by_y are 0, and so must their products be.
    shift_x = tl.where(by_x == 0, 0.0, -by_x * divide(divide(z_along, z), z)).to(x.dtype)
    shift_y = tl.where(by_y == 0, 0.0, -by_y * divide(divide(z_along, z), z)).to(x.dtype)
    below_x = 2 * divide(x, z) * z_along - x_along
    below_y = 2 * divide(y, z) * z_along - y_along
    below = tl.where(by_x == 0, 0.0, by_x * divide(divide(below_x, z), z)).to(x.dtype)
    below += tl.where(by_y == 0, 0.0, by_y * divide(divide(below_y, z), z)).to(x.dtype)
    return (a + shift_x * dx, b + shift_x * dy, c + shift_x,
            d + shift_y * dx, e + shift_y * dy, f + shift_y,
            g + below * dx, h + below * dy, i + below)  # fmt: skip


@triton.jit
def store_theta_gradient(
    ptr, sums, PARAMETERS, size, out, align_corners,
    TRANSFORM: tl.constexpr, NDIM: tl.constexpr, COMPUTE: tl.constexpr, known=None,
):  # fmt: skip
    """The chain from the map, whose derivatives `sums` holds lane by lane, back to theta."""
    W, H, D = size
    OW, OH, OD = out
    if TRANSFORM == "projective":
        a, b, c, d, e, f, g, h, i = sums
        tl.store(ptr, tl.sum(a) * pixels_per_unit(W, OW, align_corners, COMPUTE))
        tl.store(ptr + 1, tl.sum(b) * pixels_per_unit(W, OH, align_corners, COMPUTE))
        tl.store(ptr + 2, tl.sum(c) * half(W, align_corners, COMPUTE))
        tl.store(ptr + 3, tl.sum(d) * pixels_per_unit(H, OW, align_corners, COMPUTE))
        tl.store(ptr + 4, tl.sum(e) * pixels_per_unit(H, OH, align_corners, COMPUTE))
        tl.store(ptr + 5, tl.sum(f) * half(H, align_corners, COMPUTE))
        tl.store(ptr + 6, tl.sum(g) * _units_per_pixel(OW, align_corners, COMPUTE))
        tl.store(ptr + 7, tl.sum(h) * _units_per_pixel(OH, align_corners, COMPUTE))
        tl.store(ptr + 8, tl.sum(i), mask=PARAMETERS == 9)
    elif NDIM == 3:
        a, b, c, mx, d, e, f, my, g, h, i, mz = sums
        a, e, i = tl.sum(a), tl.sum(e), tl.sum(i)
        a *= pixels_per_unit(W, OW, align_corners, COMPUTE)
        e *= pixels_per_unit(H, OH, align_corners, COMPUTE)
        i *= pixels_per_unit(D, OD, align_corners, COMPUTE)
        mx = tl.sum(mx) * half(W, align_corners, COMPUTE)
        my = tl.sum(my) * half(H, align_corners, COMPUTE)
        mz = tl.sum(mz) * half(D, align_corners, COMPUTE)
        if TRANSFORM == "attention":
            tl.store(ptr, a + e + i)
            tl.store(ptr + 1, mx)
            tl.store(ptr + 2, my)
            tl.store(ptr + 3, mz)
        else:
            tl.store(ptr, a)
            tl.store(ptr + 1, tl.sum(b) * pixels_per_unit(W, OH, align_corners, COMPUTE))
            tl.store(ptr + 2, tl.sum(c) * pixels_per_unit(W, OD, align_corners, COMPUTE))
            tl.store(ptr + 3, mx)
            tl.store(ptr + 4, tl.sum(d) * pixels_per_unit(H, OW, align_corners, COMPUTE))
            tl.store(ptr + 5, e)
            tl.store(ptr + 6, tl.sum(f) * pixels_per_unit(H, OD, align_corners, COMPUTE))
            tl.store(ptr + 7, my)
            tl.store(ptr + 8, tl.sum(g) * pixels_per_unit(D, OW, align_corners, COMPUTE))
            tl.store(ptr + 9, tl.sum(h) * pixels_per_unit(D, OH, align_corners, COMPUTE))
            tl.store(ptr + 10, i)
            tl.store(ptr + 11, mz)
    else:
        a, b, mx, c, d, my = sums
        x_by_x, x_by_y, y_by_x, y_by_y = affine_pixels_per_unit(
            known, size, out, align_corners, COMPUTE
        )
        a, d = tl.sum(a) * x_by_x, tl.sum(d) * y_by_y
        mx = tl.sum(mx) * half(W, align_corners, COMPUTE)
        my = tl.sum(my) * half(H, align_corners, COMPUTE)
        if TRANSFORM == "attention":
            tl.store(ptr, a + d)
            tl.store(ptr + 1, mx)
            tl.store(ptr + 2, my)
        else:
            tl.store(ptr, a)
            tl.store(ptr + 1, tl.sum(b) * x_by_y)
            tl.store(ptr + 2, mx)
            tl.store(ptr + 3, tl.sum(c) * y_by_x)
            tl.store(ptr + 4, d)
            tl.store(ptr + 5, my)


@triton.jit
def load_scaled_affine(
    row, size, align_corners, per_unit,
    TRANSFORM: tl.constexpr, COMPUTE: tl.constexpr, ORIGIN: tl.constexpr = 1.0,
):  # fmt: skip
    """An affine map in pixel units; per_unit: its `affine_pixels_per_unit`."""
    W, H, _ = size
    x_by_x, x_by_y, y_by_x, y_by_y = per_unit
    if TRANSFORM == "attention":
        t00 = tl.load(row).to(COMPUTE)
        t02 = tl.load(row + 1).to(COMPUTE)
        t12 = tl.load(row + 2).to(COMPUTE)
        t01 = tl.full((), 0.0, COMPUTE)
        t10 = tl.full((), 0.0, COMPUTE)
        t11 = t00
    else:
        t00 = tl.load(row).to(COMPUTE)
        t01 = tl.load(row + 1).to(COMPUTE)
        t02 = tl.load(row + 2).to(COMPUTE)
        t10 = tl.load(row + 3).to(COMPUTE)
        t11 = tl.load(row + 4).to(COMPUTE)
        t12 = tl.load(row + 5).to(COMPUTE)
    mx = tl.fma(t02, half(W, align_corners, COMPUTE), ORIGIN * middle(W, COMPUTE))
    my = tl.fma(t12, half(H, align_corners, COMPUTE), ORIGIN * middle(H, COMPUTE))
    return t00 * x_by_x, t01 * x_by_y, mx, t10 * y_by_x, t11 * y_by_y, my


@triton.jit
def _load_affine_3d(
    row, size, out, align_corners,
    TRANSFORM: tl.constexpr, ORIGIN: tl.constexpr, COMPUTE: tl.constexpr,
):  # fmt: skip
    W, H, D = size
    OW, OH, OD = out
    a = tl.load(row).to(COMPUTE)
    if TRANSFORM == "attention":
        tx = tl.load(row + 1).to(COMPUTE)
        ty = tl.load(row + 2).to(COMPUTE)
        tz = tl.load(row + 3).to(COMPUTE)
        b = tl.full((), 0.0, COMPUTE)
        c, d, f, g, h = b, b, b, b, b
        e, i = a, a
    else:
        b = tl.load(row + 1).to(COMPUTE)
        c = tl.load(row + 2).to(COMPUTE)
        tx = tl.load(row + 3).to(COMPUTE)
        d = tl.load(row + 4).to(COMPUTE)
        e = tl.load(row + 5).to(COMPUTE)
        f = tl.load(row + 6).to(COMPUTE)
        ty = tl.load(row + 7).to(COMPUTE)
        g = tl.load(row + 8).to(COMPUTE)
        h = tl.load(row + 9).to(COMPUTE)
        i = tl.load(row + 10).to(COMPUTE)
        tz = tl.load(row + 11).to(COMPUTE)
    return (
        a * pixels_per_unit(W, OW, align_corners, COMPUTE),
        b * pixels_per_unit(W, OH, align_corners, COMPUTE),
        c * pixels_per_unit(W, OD, align_corners, COMPUTE),
        tl.fma(tx, half(W, align_corners, COMPUTE), ORIGIN * middle(W, COMPUTE)),
        d * pixels_per_unit(H, OW, align_corners, COMPUTE),
        e * pixels_per_unit(H, OH, align_corners, COMPUTE),
        f * pixels_per_unit(H, OD, align_corners, COMPUTE),
        tl.fma(ty, half(H, align_corners, COMPUTE), ORIGIN * middle(H, COMPUTE)),
        g * pixels_per_unit(D, OW, align_corners, COMPUTE),
        h * pixels_per_unit(D, OH, align_corners, COMPUTE),
        i * pixels_per_unit(D, OD, align_corners, COMPUTE),
        tl.fma(tz, half(D, align_corners, COMPUTE), ORIGIN * middle(D, COMPUTE)),
    )


@triton.jit
def _units_per_pixel(output_size, align_corners, COMPUTE: tl.constexpr):
    """Normalised units from one output pixel to the next; 0 where aligned corners leave no extent."""
    span = output_size - align_corners
    step = divide(tl.full((), 2.0, COMPUTE), tl.maximum(span, 1).to(COMPUTE))
    return tl.where(span == 0, 0.0, step).to(COMPUTE)


@triton.jit
def _load_homography(
    row, PARAMETERS, size, out, align_corners, ORIGIN: tl.constexpr, COMPUTE: tl.constexpr
):  # fmt: skip
    """Nine numbers in pixel units (the last row's for a third coordinate without unit), then the source's centre."""
    W, H, _ = size
    OW, OH, _ = out
    return (
        tl.load(row).to(COMPUTE) * pixels_per_unit(W, OW, align_corners, COMPUTE),
        tl.load(row + 1).to(COMPUTE) * pixels_per_unit(W, OH, align_corners, COMPUTE),
        tl.load(row + 2).to(COMPUTE) * half(W, align_corners, COMPUTE),
        tl.load(row + 3).to(COMPUTE) * pixels_per_unit(H, OW, align_corners, COMPUTE),
        tl.load(row + 4).to(COMPUTE) * pixels_per_unit(H, OH, align_corners, COMPUTE),
        tl.load(row + 5).to(COMPUTE) * half(H, align_corners, COMPUTE),
        tl.load(row + 6).to(COMPUTE) * _units_per_pixel(OW, align_corners, COMPUTE),
        tl.load(row + 7).to(COMPUTE) * _units_per_pixel(OH, align_corners, COMPUTE),
        tl.load(row + 8, mask=PARAMETERS == 9, other=ORIGIN).to(COMPUTE),
        middle(W, COMPUTE),
        middle(H, COMPUTE),
    )


@triton.jit
def _project(m, dx, dy):
    """Source coordinates, then the homogeneous ones (x, y, z); a third coordinate of 0 lies outside."""
    a, b, c, d, e, f, g, h, i, mx, my = m
    x, y, z = source(a, b, c, dx, dy), source(d, e, f, dx, dy), source(g, h, i, dx, dy)
    outside = z == 0
    infinity = float("inf")
    sx = tl.where(outside, infinity, divide(x, z)).to(x.dtype) + mx
    sy = tl.where(outside, infinity, divide(y, z)).to(x.dtype) + my
    return sx, sy, x, y, z


@triton.jit
def _load_lattice(
    row, G, size, out, align_corners, ORIGIN: tl.constexpr, COMPUTE: tl.constexpr
):  # fmt: skip
    """The coefficients of the displacement (their address), and the identity they are added to."""
    W, H, _ = size
    OW, OH, _ = out
    return (
        row, G,
        _units_per_pixel(OW, align_corners, COMPUTE), _units_per_pixel(OH, align_corners, COMPUTE),
        half(W, align_corners, COMPUTE), half(H, align_corners, COMPUTE),
        ORIGIN * pixels_per_unit(W, OW, align_corners, COMPUTE), ORIGIN * middle(W, COMPUTE),
        ORIGIN * pixels_per_unit(H, OH, align_corners, COMPUTE), ORIGIN * middle(H, COMPUTE),
    )  # fmt: skip


@triton.jit
def lattice_basis(x, y, point, G, TRANSFORM: tl.constexpr):
    """The basis function of control point number `point` at normalised output coordinates (x, y)."""
    if TRANSFORM == "tps":
        step = divide(tl.full((), 2.0, x.dtype), (G - 1).to(x.dtype))
        across = x - tl.fma((point % G).to(x.dtype), step, -1.0)
        down = y - tl.fma((point // G).to(x.dtype), step, -1.0)
        squared = tl.fma(across, across, down * down)
        basis = 0.5 * squared * tl.log(tl.where(squared > 0, squared, 1.0).to(x.dtype))
    else:
        across = tl.fma(x, middle(G, x.dtype), middle(G, x.dtype) - (point % G).to(x.dtype))
        down = tl.fma(y, middle(G, x.dtype), middle(G, x.dtype) - (point // G).to(x.dtype))
        farthest = tl.maximum(tl.abs(across), tl.abs(down))
        basis = tl.maximum(1 - tl.maximum(farthest, tl.abs(across - down)), 0.0).to(x.dtype)
    return basis


@triton.jit
def _locate_in_lattice(m, dx, dy, TRANSFORM: tl.constexpr):
    row, G, unit_x, unit_y, half_x, half_y, a, mx, d, my = m
    x, y = dx * unit_x, dy * unit_y
    by_x, by_y = x * 0, x * 0
    for point in range(G * G):
        basis = lattice_basis(x, y, point, G, TRANSFORM)
        by_x = tl.fma(tl.load(row + 2 * point), basis, by_x)
        by_y = tl.fma(tl.load(row + 2 * point + 1), basis, by_y)
    if TRANSFORM == "tps":
        row += 2 * G * G
        by_x += tl.fma(tl.load(row + 4), y, tl.fma(tl.load(row + 2), x, tl.load(row)))
        by_y += tl.fma(tl.load(row + 5), y, tl.fma(tl.load(row + 3), x, tl.load(row + 1)))
    sx = tl.fma(by_x, half_x, tl.fma(a, dx, mx))
    sy = tl.fma(by_y, half_y, tl.fma(d, dy, my))
    return sx, sy


@triton.jit
def store_lattice_gradient(ptr, m, by_x, by_y, dx, dy, TRANSFORM: tl.constexpr):
    """The derivatives by the coefficients of a lattice's basis, given those by the source coordinates."""
    _, G, unit_x, unit_y, half_x, half_y, _, _, _, _ = m
    x, y = dx * unit_x, dy * unit_y
    by_x, by_y = by_x * half_x, by_y * half_y
    for point in range(G * G):
        basis = lattice_basis(x, y, point, G, TRANSFORM)
        tl.store(ptr + 2 * point, tl.sum(by_x * basis))
        tl.store(ptr + 2 * point + 1, tl.sum(by_y * basis))
    if TRANSFORM == "tps":
        ptr += 2 * G * G
        tl.store(ptr, tl.sum(by_x))
        tl.store(ptr + 1, tl.sum(by_y))
        tl.store(ptr + 2, tl.sum(by_x * x))
        tl.store(ptr + 3, tl.sum(by_y * x))
        tl.store(ptr + 4, tl.sum(by_x * y))
        tl.store(ptr + 5, tl.sum(by_y * y))
