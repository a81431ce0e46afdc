"""Ours and every peer that is installed, behind one face.

A provider works on its own parameters: what it wants instead of theta (a ready 2 x 3 matrix, a
pixel matrix, boxes) is prepared by `parameters`, outside the timed call, and gradients are timed
with respect to it. Everything that brings the result to the dtype, memory format and (N, [K,] C, h,
w) shape of the case is inside.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

import stn_triton

from .cases import Case, Direction, Grads, affine_matrix, in_format
from .check import Sample, affine_grid, native, per_map


@dataclass(frozen=True, kw_only=True)
class Provider:
    """One implementation. `refuses` says why a case is not for it, or None; `sample` builds the
    call to be timed.
    """

    name: str
    available: Callable[[str], bool]
    refuses: Callable[[Case, Direction, Grads | None], str | None]
    parameters: Callable[[Case, Tensor], Tensor]
    sample: Callable[[Case], Sample]

    def can(self, case: Case, direction: Direction, grads: Grads | None) -> bool:
        """Whether this provider computes this case in this direction."""
        return self.refuses(case, direction, grads) is None

    def on_theta(self, case: Case) -> Sample:
        """The provider as a function of theta: what the check compares with the definition."""
        sample = self.sample(case)
        return lambda x, theta: sample(x, self.parameters(case, theta))


def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _wide(case: Case, x: Tensor) -> Tensor:
    """To the dtype of the coordinates, as autocast does: a grid in bfloat16 is off by a pixel at
    224.
    """
    return x.to(torch.promote_types(case.dtype, torch.float32))


def _finish(case: Case, out: Tensor) -> Tensor:
    """(N * K, C, h, w) -> (N, [K,] C, h, w) in the dtype and memory format of the case."""
    out = in_format(case, out.to(case.dtype))
    return out if case.k is None else out.unflatten(0, (case.shape[0], case.k))


def _ours(case: Case) -> Sample:
    def call(x: Tensor, theta: Tensor) -> Tensor:
        return stn_triton.st_sample(
            x,
            theta,
            case.out_size,
            transform=case.transform,
            mode=case.mode,
            padding_mode=case.padding_mode,
            align_corners=case.align_corners,
        )

    return call


def _eager(case: Case) -> Sample:
    return lambda x, matrix: _finish(case, native(case, _wide(case, x), matrix))


@lru_cache(maxsize=1)
def _compiled(case: Case) -> Sample:
    # Kept for the next call on the same case: the check and the timing share one compilation.
    def call(x: Tensor, matrix: Tensor) -> Tensor:
        out = F.grid_sample(
            per_map(case, _wide(case, x)),
            affine_grid(case, matrix),
            mode=case.mode,
            padding_mode=case.padding_mode,
            align_corners=case.align_corners,
        )
        return _finish(case, out)

    compiled: Sample = torch.compile(call, fullgraph=True, dynamic=False)
    return compiled


def _cudnn(case: Case) -> Sample:
    def call(x: Tensor, matrix: Tensor) -> Tensor:
        return _finish(
            case, torch.cudnn_grid_sampler(per_map(case, x), affine_grid(case, matrix.to(x.dtype)))
        )

    return call


def _cudnn_refuses(case: Case, direction: Direction, grads: Grads | None) -> str | None:
    if not case.align_corners or case.mode != "bilinear" or case.padding_mode != "zeros":
        return "bilinear with zeros padding and aligned corners only"
    if case.dtype not in (torch.float16, torch.float32, torch.float64):
        return f"no {case.dtype_name}"
    if case.memory_format != "contiguous" or case.shape[1] > 1024:
        return "contiguous input of at most 1024 channels only"
    return None


def _flaggems(case: Case) -> Sample:
    import flag_gems

    def call(x: Tensor, matrix: Tensor) -> Tensor:
        size = torch.Size((case.maps, case.shape[1], *case.out_size))
        grid = flag_gems.affine_grid_generator(matrix, size, align_corners=case.align_corners)
        out = flag_gems.grid_sample(
            per_map(case, _wide(case, x)),
            grid,
            mode=case.mode,
            padding_mode=case.padding_mode,
            align_corners=case.align_corners,
        )
        return _finish(case, out)

    return call


def _flaggems_refuses(case: Case, direction: Direction, grads: Grads | None) -> str | None:
    if direction != "fwd":
        return "no gradients in 2-D"
    return None if case.memory_format == "contiguous" else "contiguous input only"


def _pixel_matrix(case: Case, theta: Tensor) -> Tensor:
    """theta as kornia's matrices (N * K, 2, 3): source pixels to output pixels."""

    def normaliser(height: int, width: int) -> Tensor:
        off = 1 if case.align_corners else 0
        sx, sy = 2 / max(width - off, 1), 2 / max(height - off, 1)
        shift = (-1.0, -1.0) if case.align_corners else (1 / width - 1, 1 / height - 1)
        rows = [[sx, 0.0, shift[0]], [0.0, sy, shift[1]], [0.0, 0.0, 1.0]]
        return torch.tensor(rows, dtype=torch.float64, device=theta.device)

    matrix = affine_matrix(case, theta).double()
    last = matrix.new_tensor([0.0, 0.0, 1.0]).expand(len(matrix), 1, 3)
    to_source = torch.cat((matrix, last), 1)
    whole = normaliser(*case.out_size).inverse() @ to_source.inverse() @ normaliser(*case.shape[2:])
    return whole[:, :2].to(theta.dtype)


def _kornia(case: Case) -> Sample:
    from kornia.geometry.transform import warp_affine

    def call(x: Tensor, pixel_matrix: Tensor) -> Tensor:
        out = warp_affine(
            per_map(case, _wide(case, x)),
            pixel_matrix,
            case.out_size,
            mode=case.mode,
            padding_mode=case.padding_mode,
            align_corners=case.align_corners,
        )
        return _finish(case, out)

    return call


def _boxes(case: Case, theta: Tensor) -> Tensor:
    """theta of upright crops as RoIAlign's rows (image, x0, y0, x1, y1), pixel edges at whole
    numbers.
    """
    scale, tx, ty = theta.reshape(-1, 3).unbind(-1)
    height, width = case.shape[2:]
    index = torch.arange(case.shape[0], device=theta.device, dtype=theta.dtype).repeat_interleave(
        case.k or 1
    )
    centre = ((tx + 1) * width / 2, (ty + 1) * height / 2)
    half = (scale * width / 2, scale * height / 2)
    low, high = ([c + sign * r for c, r in zip(centre, half, strict=True)] for sign in (-1, 1))
    return torch.stack((index, *low, *high), -1)


def _roi_align(case: Case) -> Sample:
    from torchvision.ops import roi_align

    def call(x: Tensor, boxes: Tensor) -> Tensor:
        out = roi_align(_wide(case, x), boxes, case.out_size, sampling_ratio=1, aligned=True)
        return _finish(case, out)

    return call


def _roi_align_refuses(case: Case, direction: Direction, grads: Grads | None) -> str | None:
    if case.transform != "attention" or case.mode != "bilinear" or case.align_corners:
        return "upright bilinear crops without aligned corners only"
    return "no gradient of the boxes" if grads in ("both", "theta") else None


def _anything(case: Case, direction: Direction, grads: Grads | None) -> str | None:
    return None


def _own_theta(case: Case, theta: Tensor) -> Tensor:
    return theta


PROVIDERS: tuple[Provider, ...] = (
    Provider(
        name="stn_triton",
        available=lambda device: True,
        refuses=_anything,
        parameters=_own_theta,
        sample=_ours,
    ),
    Provider(
        name="torch_eager",
        available=lambda device: True,
        refuses=_anything,
        parameters=affine_matrix,
        sample=_eager,
    ),
    Provider(
        name="torch_compile",
        available=lambda device: device == "cuda",
        refuses=_anything,
        parameters=affine_matrix,
        sample=_compiled,
    ),
    Provider(
        name="cudnn",
        available=lambda device: device == "cuda" and torch.backends.cudnn.is_available(),
        refuses=_cudnn_refuses,
        parameters=affine_matrix,
        sample=_cudnn,
    ),
    Provider(
        name="kornia",
        available=lambda device: _installed("kornia"),
        refuses=lambda case, direction, grads: None if case.mode != "bicubic" else "no bicubic",
        parameters=_pixel_matrix,
        sample=_kornia,
    ),
    Provider(
        name="torchvision_roi_align",
        available=lambda device: _installed("torchvision"),
        refuses=_roi_align_refuses,
        parameters=_boxes,
        sample=_roi_align,
    ),
    Provider(
        name="flaggems",
        available=lambda device: device == "cuda" and _installed("flag_gems"),
        refuses=_flaggems_refuses,
        parameters=affine_matrix,
        sample=_flaggems,
    ),
)
"""In the order in which they are measured: FlagGems last, since it may read outside its tensors."""


def present(device: str, names: Iterable[str] | None = None) -> tuple[Provider, ...]:
    """The providers that can run here, or of those the named ones."""
    wanted = None if names is None else set(names)
    unknown = (wanted or set()) - {p.name for p in PROVIDERS}
    if unknown:
        raise ValueError(f"no provider {sorted(unknown)}; there are {[p.name for p in PROVIDERS]}")
    return tuple(
        p for p in PROVIDERS if (wanted is None or p.name in wanted) and p.available(device)
    )
