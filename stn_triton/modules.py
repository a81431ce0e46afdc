"""The spatial transformer as a module: localisation network, regression layer, sampler."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Literal, overload

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .functional import st_sample
from .transforms import TRANSFORMS


class _WideLinear(nn.Linear):
    """(N, in_features) -> (N, out_features) in float32 or wider, also under autocast.

    A theta rounded to bfloat16 would move samples by up to W / 512 pixels.
    """

    def forward(self, input: Tensor) -> Tensor:
        wide = torch.promote_types(input.dtype, self.weight.dtype)
        wide = torch.promote_types(wide, torch.float32)
        with torch.autocast(input.device.type, enabled=False):
            return F.linear(input.to(wide), self.weight.to(wide), self.bias.to(wide))


class SpatialTransformer(nn.Module):
    """Predict theta from a feature map and sample the map (or another one) where theta points.

    Convention: theta maps **output** coordinates to **source** coordinates, both normalised to
    [-1, 1] in (x, y) order. With `align_corners=False` -1 and 1 are the outer edges of the image
    and pixel centres lie half a pixel inside; with `align_corners=True` they are the centres of
    the outermost pixels. A frame smaller than the image (|scale| < 1) therefore zooms in. Samples
    outside the source follow `padding_mode`.

    Arguments:
        localisation: any module from x to features (N, in_features).
        out_size: (h, w) of the result in pixels; None keeps the source's size.
        in_features: the number of features that `localisation` gives.
        transform: "affine", theta (2, 3), or "attention", theta (3,) = (s, tx, ty).
        num_transformers: K thetas for each image, which sample one source in one call;
            None: one theta and no K axis.
        grid: control points along each side for lattice transforms; the others ignore it.
        fixed_scale: attention only: s is this constant and only (tx, ty) are predicted.
        initial_theta: tensor or nested sequence that broadcasts to ([K,] *theta shape); None: the
            identity. With `fixed_scale` its scale entries are replaced by that.
        mode, padding_mode, align_corners, antialias, backend: as in `st_sample`.

    The module owns the last layer of the localisation, `self.regression`: zero weights and the
    bias `initial_theta`, so that at first every image gets the same theta.

    Shapes: x (N, C, H, W) and source (N, C', H', W') of any float dtype -> (N, [K,] C', h, w) in
    the source's dtype. theta is (N, [K,] *theta shape), in float32 also under autocast and for
    half-precision features, float64 for float64 ones. Differentiable in x, source and parameters.

    Raises:
        TypeError: an option of the wrong type, such as an int for `out_size`.
        ValueError: an unknown transform, a size below 1, `fixed_scale` without attention, an
            `initial_theta` that does not broadcast, features that are not (N, in_features).

    Source: Jaderberg et al. 2015 (arXiv:1506.02025), section 3; K in parallel: section 3.4 and
    appendix A.1; zero weights and identity bias: section 4.2.
    """

    def __init__(
        self,
        localisation: nn.Module,
        out_size: Sequence[int] | None,
        *,
        in_features: int,
        transform: str = "affine",
        num_transformers: int | None = None,
        grid: int = 4,
        fixed_scale: float | None = None,
        initial_theta: Tensor | Sequence[object] | None = None,
        mode: str = "bilinear",
        padding_mode: str = "zeros",
        align_corners: bool = False,
        antialias: bool | int = False,
        backend: str | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(localisation, nn.Module):
            raise TypeError(f"localisation must be an nn.Module, got {type(localisation).__name__}")
        if transform not in TRANSFORMS:
            raise ValueError(_unknown("transform", transform, TRANSFORMS))
        check_positive("in_features", in_features)
        check_positive("grid", grid)
        if num_transformers is not None:
            check_positive("num_transformers", num_transformers)
        self.out_size = None if out_size is None else _checked_size(out_size)
        self.in_features = in_features
        self.transform = transform
        self.num_transformers = num_transformers
        self.grid = grid
        self.fixed_scale = _checked_scale(fixed_scale, transform)
        self.mode = mode
        self.padding_mode = padding_mode
        self.align_corners = align_corners
        self.antialias = antialias
        self.backend = backend

        lead = () if num_transformers is None else (num_transformers,)
        self.theta_shape = (*lead, *TRANSFORMS[transform].shape)
        if initial_theta is None:
            initial_theta = TRANSFORMS[transform].identity_theta()
        initial = broadcast_theta(initial_theta, self.theta_shape)
        # s is the first entry of attention's theta; a fixed one is not predicted.
        free = initial if self.fixed_scale is None else initial[..., 1:]
        self._free_shape = tuple(free.shape)
        self._initial = tuple(free.flatten().tolist())
        self.localisation = localisation
        self.regression = _WideLinear(in_features, len(self._initial))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the regression layer back to zero weights and the initial theta as bias."""
        with torch.no_grad():
            self.regression.weight.zero_()
            self.regression.bias.copy_(torch.tensor(self._initial, dtype=torch.float64))

    def localise(self, x: Tensor) -> Tensor:
        """The theta of each image: x (N, C, H, W) -> (N, [K,] *theta shape), float32 or wider."""
        features = self.localisation(x)
        wanted = (x.shape[0], self.in_features)
        if tuple(features.shape) != wanted:
            raise ValueError(
                f"localisation must give features of shape (N, in_features) = {wanted}, "
                f"got {tuple(features.shape)}"
            )
        theta = self.regression(features).unflatten(1, self._free_shape)
        if self.fixed_scale is None:
            return theta
        scale = torch.full_like(theta[..., :1], self.fixed_scale)
        return torch.cat((scale, theta), -1)

    def sample(self, source: Tensor, theta: Tensor) -> Tensor:
        """Sample source (N, C, H, W) at a given theta (N, [K,] *theta shape)."""
        return st_sample(
            source,
            theta,
            tuple(source.shape[2:]) if self.out_size is None else self.out_size,
            transform=self.transform,
            mode=self.mode,
            padding_mode=self.padding_mode,
            align_corners=self.align_corners,
            antialias=self.antialias,
            backend=self.backend,
        )

    @overload
    def forward(
        self, x: Tensor, *, source: Tensor | None = None, return_theta: Literal[False] = False
    ) -> Tensor: ...

    @overload
    def forward(
        self, x: Tensor, *, source: Tensor | None = None, return_theta: Literal[True]
    ) -> tuple[Tensor, Tensor]: ...

    def forward(
        self, x: Tensor, *, source: Tensor | None = None, return_theta: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Localise on x and sample source (x itself if None): the map, or (map, theta)."""
        theta = self.localise(x)
        sampled = self.sample(x if source is None else source, theta)
        return (sampled, theta) if return_theta else sampled

    def extra_repr(self) -> str:
        """What `print` shows beside the submodules."""
        shown = f"{self.transform!r}, out_size={self.out_size}"
        if self.num_transformers is not None:
            shown += f", num_transformers={self.num_transformers}"
        return shown if self.fixed_scale is None else f"{shown}, fixed_scale={self.fixed_scale}"


def _unknown(what: str, got: object, allowed: Iterable[str]) -> str:
    names = sorted(allowed)
    near = get_close_matches(str(got), names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"{what} must be one of {', '.join(map(repr, names))}, got {got!r}{hint}"


def check_positive(name: str, value: object) -> None:
    """Refuse what is not an int of at least 1; the error begins with `name`."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int, got {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")


def _checked_size(out_size: Sequence[int]) -> tuple[int, int]:
    if not isinstance(out_size, Sequence) or isinstance(out_size, str):
        raise TypeError(f"out_size must be (h, w) or None, got {out_size!r}")
    if len(out_size) != 2:
        raise ValueError(f"out_size must be (h, w), got {len(out_size)} entries: {tuple(out_size)}")
    for value in out_size:
        check_positive("every entry of out_size", value)
    return int(out_size[0]), int(out_size[1])


def _checked_scale(fixed_scale: float | None, transform: str) -> float | None:
    if fixed_scale is None:
        return None
    if transform != "attention":
        raise ValueError(f"fixed_scale is for transform='attention', got transform={transform!r}")
    if isinstance(fixed_scale, bool) or not isinstance(fixed_scale, int | float):
        raise TypeError(f"fixed_scale must be a float, got {fixed_scale!r}")
    return float(fixed_scale)


def broadcast_theta(theta: Tensor | Sequence[object], shape: tuple[int, ...]) -> Tensor:
    """An initial theta, tensor or nested sequence, as a float64 tensor of `shape` on the CPU."""
    given = torch.as_tensor(theta, dtype=torch.float64, device="cpu").detach()
    try:
        return given.expand(shape)
    except RuntimeError:
        raise ValueError(
            f"initial_theta must broadcast to {shape}, got shape {tuple(given.shape)}"
        ) from None
