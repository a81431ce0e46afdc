"""Ours and every peer that is installed, behind one face.

A provider works on its own parameters: what it wants instead of theta (a ready matrix, a
pixel matrix, a solved spline, boxes) is prepared by `parameters`, outside the timed call, and gradients are timed
with respect to it. Everything that brings the result to the dtype, memory format and (N, [K,] C,
*out_size) shape of the case is inside.
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

from . import cpu_peers
from .cases import Case, Direction, Grads
from .check import Sample, mean_of_samples, native, per_map
from .grids import control_points, parameters, sampling_grid, solved_spline
from .inputs import in_format, make_index


@dataclass(frozen=True, kw_only=True)
class Provider:
    """One implementation. `refuses` says why a case is not for it, or None; `sample` builds the
    call to be timed.
    """

    name: str
    rounding: float = 2.0
    """How many times PyTorch's own error its results may have and still be timed."""
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


def _installed(*modules: str) -> bool:
    return all(importlib.util.find_spec(module) is not None for module in modules)


def _wide(case: Case, x: Tensor) -> Tensor:
    """To the dtype of the coordinates, as autocast does: a grid in bfloat16 is off by a pixel at
    224.
    """
    return x.to(torch.promote_types(case.dtype, torch.float32))


def _finish(case: Case, out: Tensor) -> Tensor:
    """(N * K, C, *out_size) -> (N, [K,] C, *out_size) in the dtype and memory format of the case."""
    out = in_format(case, out.to(case.dtype))
    return out if case.k is None else out.unflatten(0, (case.shape[0], case.k))


def ours(case: Case, backend: str | None = None) -> Sample:
    """`st_sample` with the options of a case."""

    def call(x: Tensor, theta: Tensor) -> Tensor:
        return stn_triton.st_sample(
            x,
            theta,
            case.out_size,
            transform=case.transform,
            mode=case.mode,
            padding_mode=case.padding_mode,
            padding_value=case.padding_value,
            align_corners=case.align_corners,
            antialias=case.antialias,
            control_points=case.control_points,
            index=make_index(case, x.device),
            backend=backend,
        )

    return call


def _eager(case: Case) -> Sample:
    return lambda x, maps: _finish(case, native(case, _wide(case, x), maps))


@lru_cache(maxsize=1)
def _compiled(case: Case) -> Sample:
    # Kept for the next call on the same case: the check and the timing share one compilation.
    samples = case.antialias or 1

    def call(x: Tensor, maps: Tensor) -> Tensor:
        out = _grid_sample(case, per_map(case, _wide(case, x)), sampling_grid(case, maps, samples))
        return _finish(case, mean_of_samples(case, out, samples))

    compiled: Sample = torch.compile(call, fullgraph=True, dynamic=False)
    return compiled


def _grid_sample(
    case: Case, x: Tensor, grid: Tensor, sample: Callable[..., Tensor] = F.grid_sample
) -> Tensor:
    return sample(
        x,
        grid,
        mode=case.mode,
        padding_mode=case.padding_mode,
        align_corners=case.align_corners,
    )


def _compiled_refuses(case: Case, direction: Direction, grads: Grads | None) -> str | None:
    if case.padding_value:
        return _ZEROS
    if case.antialias is True:
        return "the number of samples depends on theta's values"
    # Each direction is a compilation of its own, of many seconds: the first kind of gradient stands for all.
    return None if grads in (None, case.grads[0]) else "timed with the first kind of gradient alone"


_ZEROS = "nothing but 0 outside"
_PLAIN_2D = "images only, one sample an output pixel"


def _cudnn(case: Case) -> Sample:
    def call(x: Tensor, maps: Tensor) -> Tensor:
        grid = sampling_grid(case, maps).to(x.dtype)
        return _finish(case, torch.cudnn_grid_sampler(per_map(case, x), grid))

    return call


def _cudnn_refuses(case: Case, direction: Direction, grads: Grads | None) -> str | None:
    if case.padding_value:
        return _ZEROS
    if case.ndim != 2 or case.antialias:
        return _PLAIN_2D
    if not case.align_corners or case.mode != "bilinear" or case.padding_mode != "zeros":
        return "bilinear with zeros padding and aligned corners only"
    if case.dtype not in (torch.float16, torch.float32, torch.float64):
        return f"no {case.dtype_name}"
    if case.memory_format != "contiguous" or case.shape[1] > 1024:
        return "contiguous input of at most 1024 channels only"
    return None


def _flaggems(case: Case) -> Sample:
    import flag_gems

    def call(x: Tensor, maps: Tensor) -> Tensor:
        size = torch.Size((case.maps, case.shape[1], *case.out_size))
        if maps.shape[1:] == (2, 3):
            grid = flag_gems.affine_grid_generator(maps, size, align_corners=case.align_corners)
        else:
            grid = sampling_grid(case, maps)
        x = per_map(case, _wide(case, x))
        return _finish(case, _grid_sample(case, x, grid, flag_gems.grid_sample))

    return call


def _flaggems_refuses(case: Case, direction: Direction, grads: Grads | None) -> str | None:
    if case.padding_value:
        return _ZEROS
    if case.ndim != 2 or case.antialias:
        return _PLAIN_2D
    if direction != "fwd":
        return "no gradients in 2-D"
    return None if case.memory_format == "contiguous" else "contiguous input only"


def _kornia_parameters(case: Case, theta: Tensor) -> Tensor:
    """What kornia's warps take, N * K each: pixel matrices (2, 3), homographies (3, 3), or splines (P + 3, 2)."""
    maps = parameters(case, theta)
    if case.transform == "tps":
        return (solved_spline(case.control_points).to(theta.device) @ maps.double()).to(theta.dtype)
    return maps if case.transform == "projective" else _pixel_matrix(case, maps)


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


def _kornia(case: Case) -> Sample:
    from kornia.geometry import transform as kornia

    height, width = case.out_size
    options = (case.mode, case.padding_mode, case.align_corners)

    def warp(x: Tensor, maps: Tensor) -> Tensor:
        if case.transform == "tps":
            lattice = control_points(case.control_points, maps.dtype, maps.device)
            lattice = lattice.expand(len(maps), -1, -1)
            bends, lines = maps[:, :-3], maps[:, -3:]
            return kornia.warp_image_tps(x, lattice, bends, lines, *options[:0:-1])
        if case.transform == "projective":
            return kornia.homography_warp(x, maps, (height, width), *options)
        return kornia.warp_affine(x, maps, (height, width), *options)

    return lambda x, maps: _finish(case, warp(per_map(case, _wide(case, x)), maps))


def _kornia_refuses(case: Case, direction: Direction, grads: Grads | None) -> str | None:
    if case.padding_value:
        return _ZEROS
    if case.ndim != 2 or case.antialias:
        return _PLAIN_2D
    if case.transform == "piecewise_affine":
        return "no piecewise affine maps of whole images"
    if case.transform == "tps" and (case.mode != "bilinear" or case.out_size != case.shape[2:]):
        return "splines only bilinear and at the input's size"
    return "no bicubic" if case.mode == "bicubic" else None


def _boxes(case: Case, theta: Tensor) -> Tensor:
    """theta of upright crops as RoIAlign's rows (image, x0, y0, x1, y1), pixel edges at whole
    numbers.
    """
    scale, tx, ty = theta.reshape(-1, 3).unbind(-1)
    height, width = case.shape[2:]
    index = make_index(case, theta.device)
    if index is None:
        index = torch.arange(case.shape[0], device=theta.device).repeat_interleave(case.k or 1)
    centre = ((tx + 1) * width / 2, (ty + 1) * height / 2)
    half = (scale * width / 2, scale * height / 2)
    low, high = ([c + sign * r for c, r in zip(centre, half, strict=True)] for sign in (-1, 1))
    return torch.stack((index.to(theta.dtype), *low, *high), -1)


def _roi_align(case: Case) -> Sample:
    from torchvision.ops import roi_align

    # 0 samples: as many as a pixel of the output spans, as `antialias=True` takes.
    samples = 0 if case.antialias is True else case.antialias or 1

    def call(x: Tensor, boxes: Tensor) -> Tensor:
        out = roi_align(_wide(case, x), boxes, case.out_size, sampling_ratio=samples, aligned=True)
        return _finish(case, out)

    return call


def _roi_align_refuses(case: Case, direction: Direction, grads: Grads | None) -> str | None:
    if case.padding_value:
        return _ZEROS
    if case.transform != "attention" or case.ndim != 2:
        return "upright crops of images only"
    if case.mode != "bilinear" or case.padding_mode != "zeros" or case.align_corners:
        return "bilinear with zeros padding and without aligned corners only"
    return "no gradient of the boxes" if grads in ("both", "theta") else None


def _anything(case: Case, direction: Direction, grads: Grads | None) -> str | None:
    return None


def _finished(peer: Callable[[Case], Sample]) -> Callable[[Case], Sample]:
    """A peer whose results are brought into the form of the case."""

    def sample(case: Case) -> Sample:
        call = peer(case)
        return lambda x, maps: _finish(case, call(x, maps))

    return sample


def _own_theta(case: Case, theta: Tensor) -> Tensor:
    return theta


PROVIDERS: tuple[Provider, ...] = (
    Provider(
        name="stn_triton",
        available=lambda device: True,
        refuses=_anything,
        parameters=_own_theta,
        sample=ours,
    ),
    Provider(
        name="torch_eager",
        available=lambda device: True,
        refuses=_anything,
        parameters=parameters,
        sample=_eager,
    ),
    Provider(
        name="torch_compile",
        available=lambda device: device == "cuda",
        refuses=_compiled_refuses,
        parameters=parameters,
        sample=_compiled,
    ),
    Provider(
        name="cudnn",
        available=lambda device: device == "cuda" and torch.backends.cudnn.is_available(),
        refuses=_cudnn_refuses,
        parameters=parameters,
        sample=_cudnn,
    ),
    Provider(
        name="kornia",
        rounding=32.0,  # it inverts its matrices in the dtype of the images
        available=lambda device: _installed("kornia"),
        refuses=_kornia_refuses,
        parameters=_kornia_parameters,
        sample=_kornia,
    ),
    Provider(
        name="opencv",
        rounding=2.0,
        available=lambda device: device == "cpu" and _installed("cv2"),
        refuses=cpu_peers.opencv_refuses,
        parameters=lambda case, theta: cpu_peers.source_matrices(case, parameters(case, theta)),
        sample=_finished(cpu_peers.opencv),
    ),
    Provider(
        name="onnxruntime",
        available=lambda device: device == "cpu" and _installed("onnxruntime", "onnx"),
        refuses=cpu_peers.onnxruntime_refuses,
        parameters=lambda case, theta: sampling_grid(case, parameters(case, theta)),
        sample=_finished(cpu_peers.onnxruntime),
    ),
    Provider(
        name="jax",
        available=lambda device: device == "cpu" and _installed("jax"),
        refuses=cpu_peers.jax_refuses,
        parameters=parameters,
        sample=_finished(cpu_peers.jax),
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
        parameters=parameters,
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
