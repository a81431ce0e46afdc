"""The Triton kernels and their launchers: notation, derivation, and where to begin reading.

Notation
    u, v, g     input, output, gradient of the output: images of C channels
    n, k, nk    image, transformer of an image, and n * K + k
                (ragged crops: nk is any number, and index[nk] its image; `ragged.rows_of_images` has the nk of each n)
    p, d        an output pixel (px, py, pz), and its distance (dx, dy, dz) from the centre of the output
    q           an input pixel (ix, iy, iz), or its whole coordinates (qx, qy, qz)
    s           source coordinates (sx, sy, sz) in pixels: pixel q has its centre at s = q
    m           a map, from d to s; its numbers are theta's in pixel units (`maps`)
    w           the weight of a tap, a product over the axes: of 1 - |s - q| for "bilinear", 1 or 0 for "nearest", Keys'
                kernel for "bicubic"
    S           antialias: samples of an output pixel along each axis, pixels of a finer output that is averaged
    SPEC        what a kernel is compiled for (`geometry.Spec`), handed on whole
    call        what a kernel knows of the call when it runs (`geometry.Call`)
    size, out   of the input and of the output, x first: (W, H, D) and (OW, OH, OD)

The map, in units
    theta lives in normalised units, where -1 and 1 are the edges of an image (align_corners: the centres of its outer
    pixels). `maps` turns it into pixels once for an image, about the centre of the output:
        s = A d + (mx, my),    A_ij = theta_ij * (source pixels per output pixel of the identity),
        (mx, my) = the source's centre + the shift,    A = ((a, b), (c, d)) in `maps.affine`
    so that the identity is exact, and little cancels. The last step of a backward pass multiplies by the same ratios.

Sampling
    (1)  v[p] = sum over q of w(s(p) - q) u[q]
    For a fixed theta this is linear in u: v = S(theta) u, a sparse matrix with a row for each output pixel (and
    not the S of antialias). Padding
    decides which u[q] a tap outside the image stands for; with "zeros" it is left out, or counts as `padding_value`: a
    constant, which (1), (3) and (5) see, and (2) does not.

The two gradients
    (2)  d loss / d u[q] = sum over p of w(s(p) - q) g[p]                  the transpose, S(theta)^T g
    (3)  d loss / d s[p] = sum over q of (dw / ds)(s(p) - q) u[q] g[p]     pixel by pixel, summed over the channels
    (4)  d loss / d theta = sum over p of (d s[p] / d theta)^T d loss / d s[p]
    Everyone else scatters (2): each p adds to its taps, by atomics, in an order that changes. Gathering adds the same
    products: for each q the p with w(s(p) - q) != 0, which lie in the preimage of the square around q. The preimage is
    bounded from the inverse map, a little too large; the recomputed s(p) decides. All kernels compute it by the same
    fused multiply-adds (`maps.units.linear`), so that each product of (2) is found once, whatever the rounding.

Kinks
    w has kinks at whole s, the ends of "border" and "reflection", and nothing but them. There (3) takes the right
    derivative at whole coordinates, and 0 at and beyond an end. A coordinate that is not finite has the derivative 0.

Second order
    Along a change t of theta, s changes by ds = (d s / d theta) t and the result by
    (5)  v' = S'(theta) u,    S'[p, q] = (dw / ds)(s(p) - q) . ds[p],
    the forward kernel with another weight (`SPEC.TANGENT`). The transpose of S' and the derivative of <g, S' u> by
    theta are the other kernels with that weight and with the second derivatives of w.

Reading order
    geometry, layout, maps (affine first), interpolation: what every kernel is made of. supersampling: antialias.
    forward          (1) and (5)
    backward         which of those below give the gradients of a call
    backward_theta   (3) and (4), where theta alone wants a gradient;  theta_sum adds up what its programs found
    backward_cells   (2) to (4) in one pass: affine maps in 2-D, bilinear or nearest; `cells` has its parts
    backward_pixels  (2) for every other map that has an inverse
    backward_boxes   (2) for maps without one: lattices;  coefficients: from theta of a lattice to what a map needs
    blocks           how much one program holds;  launch: the one place where kernels are started
"""
