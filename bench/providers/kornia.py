"""kornia's warps of whole images."""

from __future__ import annotations

import torch
from torch import Tensor

from bench.cases import Case, Grads
from bench.check import Sample
from bench.grids import control_points, parameters, solved_spline
from bench.sampling import per_map

from .provider import Provider, beyond_plain_images, finished, widened


class Kornia(Provider):
    """`warp_affine`, `homography_warp` and `warp_image_tps`; matrices go from source pixels to output pixels."""

    name = "kornia"
    modules = ("kornia",)
    packages = ("kornia",)
    rounding = 32.0  # it inverts its matrices in the dtype of the images

    def refuses(self, case: Case, grads: Grads | None) -> str | None:
        if case.transform not in ("affine", "attention", "projective", "tps"):
            return f"no {case.transform} maps of whole images"
        if case.transform == "tps" and (case.mode != "bilinear" or case.out_size != case.shape[2:]):
            return "splines only bilinear and at the input's size"
        return beyond_plain_images(case) or ("no bicubic" if case.mode == "bicubic" else None)

    def parameters(self, case: Case, theta: Tensor) -> Tensor:
        """N * K pixel matrices (2, 3), normalised homographies (3, 3), or solved splines (P + 3, 2)."""
        maps = parameters(case, theta)
        if case.transform == "tps":
            solved = solved_spline(case.control_points).to(theta.device)
            return (solved @ maps.double()).to(theta.dtype)
        return maps if case.transform == "projective" else _pixel_matrix(case, maps)

    def sample(self, case: Case) -> Sample:
        from kornia.geometry import transform as kornia

        height, width = case.out_size
        corners = case.align_corners

        def warp(x: Tensor, maps: Tensor) -> Tensor:
            if case.transform == "tps":
                lattice = control_points(case.control_points, maps.dtype, maps.device)
                lattice = lattice.expand(len(maps), -1, -1)
                bends, lines = maps[:, :-3], maps[:, -3:]
                return kornia.warp_image_tps(x, lattice, bends, lines, corners, case.padding_mode)
            whole = case.transform == "projective"
            function = kornia.homography_warp if whole else kornia.warp_affine
            return function(x, maps, (height, width), case.mode, case.padding_mode, corners)

        return lambda x, maps: finished(case, warp(per_map(case, widened(case, x)), maps))


def _pixel_matrix(case: Case, maps: Tensor) -> Tensor:
    """Matrices from source pixels to output pixels."""

    def normaliser(height: int, width: int) -> Tensor:
        off = 1 if case.align_corners else 0
        sx, sy = 2 / max(width - off, 1), 2 / max(height - off, 1)
        shift = (-1.0, -1.0) if case.align_corners else (1 / width - 1, 1 / height - 1)
        rows = [[sx, 0.0, shift[0]], [0.0, sy, shift[1]], [0.0, 0.0, 1.0]]
        return torch.tensor(rows, dtype=torch.float64, device=maps.device)

    matrix = maps.double()
    last = matrix.new_tensor([0.0, 0.0, 1.0]).expand(len(matrix), 1, 3)
    to_source = torch.cat((matrix, last), 1)
    whole = normaliser(*case.out_size).inverse() @ to_source.inverse() @ normaliser(*case.shape[2:])
    return whole[:, :2].to(maps.dtype)
