"""The spatial transformer as a module: localisation network, regression layer, sampler."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any, Literal, overload

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from .checks import check_name, check_theta, checked_options, checked_size
from .control_points import ControlPoints, as_given, points_or_usual
from .functional import st_sample
from .theta import theta_ndim
from .tracing import comparing_shapes
from .transforms import TRANSFORMS


class _Default(str):
    """The transform that nobody asked for: that of a parametrisation takes its place."""


_AFFINE = _Default("affine")


class _Regression(nn.Linear):
    """(N, in_features) -> (N, out_features) in float32 or wider, also under autocast; `initial` for any input at first.

    A theta rounded to bfloat16 would move samples by up to W / 512 pixels.
    """

    def __init__(self, in_features: int, initial: list[float]) -> None:
        self.initial = initial  # what `reset_parameters`, which the base class calls, needs
        super().__init__(in_features, len(initial))

    def reset_parameters(self) -> None:
        """Set zero weights and the initial numbers as bias."""
        initial = torch.tensor(self.initial, dtype=torch.float64, device="cpu")
        with torch.no_grad():
            self.weight.zero_()
            self.bias.copy_(initial)

    def forward(self, input: Tensor) -> Tensor:
        wide = torch.promote_types(input.dtype, self.weight.dtype)
        wide = torch.promote_types(wide, torch.float32)
        if input.device.type == "meta":
            return super().forward(input)
        with _without_autocast(input):
            return F.linear(input.to(wide), self.weight.to(wide), self.bias.to(wide))


class SpatialTransformer(nn.Module):
    """Predict theta from a feature map and sample the map (or another one) where theta points.

    Convention: theta maps **output** coordinates to **source** coordinates, both normalised to
    [-1, 1] in (x, y[, z]) order. With `align_corners=False` -1 and 1 are the outer edges of the image
    and pixel centres lie half a pixel inside; with `align_corners=True` they are the centres of
    the outermost pixels. A frame smaller than the image (|scale| < 1) therefore zooms in. Samples
    outside the source follow `padding_mode` and `padding_value`.

    Arguments:
        localisation: any module from x to features (N, in_features).
        out_size: (h, w) of the result in pixels, or (d, h, w) for volumes; None keeps the source's
            size: that of images, or of volumes if `initial_theta` is a volume's (its last axis is 4, or it
            has 12 numbers).
        in_features: the number of features that `localisation` gives.
        transform: "affine", theta (2, 3) or for volumes (3, 4); "attention", (s, tx, ty[, tz]);
            "projective", (8,); "tps" or "piecewise_affine", (P, 2).
        num_transformers: K thetas for each image, which sample one source in one call;
            None: one theta and no K axis.
        control_points: for "tps" and "piecewise_affine", as in `st_sample` (None: 4); kept as numbers,
            not as a buffer. The others ignore them.
        fixed_scale: attention only: s is this constant and only (tx, ty[, tz]) are predicted.
        initial_theta: tensor or nested sequence that broadcasts to ([K,] *theta shape), or a flat
            one of as many numbers as one theta or all K have; None: the identity. With
            `fixed_scale` its scale entries are replaced by that.
        parametrisation: for images: one of `stn_triton.parametrisations`, or any module from
            (N, [K,] num_parameters) to (N, [K,] *theta shape), of which 0 is the start, with the attributes
            `num_parameters` and `transform`; `transform` is then the module's own. It runs in float32 as
            the regression does, and excludes `initial_theta` and `fixed_scale`.
        mode, padding_mode, padding_value, align_corners, antialias, backend: as in `st_sample`.

    The module owns the last layer of the localisation, `self.regression`: zero weights and the
    bias `initial_theta`, with a `parametrisation` zero bias, so that at first every image gets the same theta.

    Shapes: x (N, C, H, W) and source (N, C', H', W') of any float dtype -> (N, [K,] C', h, w) in
    the source's dtype; volumes (N, C, D, H, W) likewise. theta is (N, [K,] *theta shape), in
    float32 also under autocast and for half-precision features, float64 for float64 ones.
    Differentiable in x, source and parameters.

    Raises:
        TypeError: an option of the wrong type, such as an int for `out_size` or a `parametrisation` without the two
            attributes.
        ValueError: an unknown transform or one that is not for volumes, a size below 1,
            `control_points` that the transform cannot follow, `fixed_scale` without attention, an
            `initial_theta` that does not broadcast, a
            `parametrisation` with one of these two, with another `transform` or for volumes,
            features that are not (N, in_features), images for volumes or volumes for images.

    Source: Jaderberg et al. 2015 (arXiv:1506.02025), section 3; K in parallel: section 3.4 and
    appendix A.1; zero weights and identity bias: section 4.2.
    """

    def __init__(
        self, localisation: nn.Module, out_size: Sequence[int] | None = None, *, in_features: int,
        transform: str = _AFFINE, num_transformers: int | None = None, control_points: ControlPoints = 4,
        fixed_scale: float | None = None, initial_theta: Tensor | Sequence[object] | None = None,
        parametrisation: nn.Module | None = None, mode: str = "bilinear", padding_mode: str = "zeros",
        padding_value: float = 0.0, align_corners: bool = False, antialias: bool | int = False,
        backend: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        if not isinstance(localisation, nn.Module):
            raise TypeError(f"localisation must be an nn.Module, got {type(localisation).__name__}")
        if parametrisation is not None:
            transform, count = _checked_parametrisation(
                parametrisation, transform, initial_theta, fixed_scale, out_size
            )
        check_name("transform", transform, tuple(TRANSFORMS))
        check_at_least("in_features", in_features, 1)
        if num_transformers is not None:
            check_at_least("num_transformers", num_transformers, 1)
        self.out_size = None if out_size is None else checked_size(out_size)
        self.in_features = in_features
        self.transform = str(transform)
        self.num_transformers = num_transformers
        lattice = TRANSFORMS[transform].lattice
        points = points_or_usual(control_points, transform, lattice)
        self.control_points = as_given(points) if points else None
        self.fixed_scale = _checked_scale(fixed_scale, transform)
        self.mode = mode
        self.padding_mode = padding_mode
        self.padding_value = padding_value
        self.align_corners = align_corners
        self.antialias = antialias
        self.backend = backend

        lead = () if num_transformers is None else (num_transformers,)
        given = _detached(initial_theta)
        self.ndim = _ndim(self.out_size, given, transform, num_transformers)
        checked_options(
            self.ndim, transform, mode, padding_mode, padding_value, align_corners, antialias,
            self.control_points, backend,
        )  # fmt: skip
        identity = TRANSFORMS[transform].identity(self.ndim, points)
        check_theta(identity.unsqueeze(0), transform, self.ndim, points)
        self.theta_shape = (*lead, *identity.shape)
        initial = _broadcast(
            identity if given is None else given, self.theta_shape, tuple(identity.shape), transform
        )
        self.initial_theta = None if parametrisation is not None else initial.tolist()
        self.localisation = localisation
        self.parametrisation = parametrisation
        start = initial if self.fixed_scale is None else initial[..., 1:]
        if parametrisation is not None:
            start = initial.new_zeros(*lead, count)
        self.predicted_shape = tuple(start.shape)
        self.regression = _Regression(in_features, start.flatten().tolist())

    def reset_parameters(self) -> None:
        """Set the regression layer back to zero weights and the initial theta as bias."""
        self.regression.reset_parameters()

    def localise(self, x: Tensor) -> Tensor:
        """The theta of each image: x (N, C, [D,] H, W) -> (N, [K,] *theta shape), float32 or wider."""
        features = self.localisation(x)
        if not isinstance(features, Tensor):
            raise TypeError(f"localisation must give a tensor, got {type(features).__name__}")
        wanted = (x.shape[0], self.in_features)
        with comparing_shapes():
            if tuple(features.shape) != wanted:
                raise ValueError(
                    f"localisation must give features of shape (N, in_features) = {wanted}, "
                    f"got {tuple(features.shape)}"
                )
        predicted = self.regression(features).unflatten(1, self.predicted_shape)
        if self.parametrisation is not None:
            with _without_autocast(predicted):
                theta: Tensor = self.parametrisation(predicted)
            return theta
        if self.fixed_scale is None:
            return predicted
        scale = torch.full_like(predicted[..., :1], self.fixed_scale)
        return torch.cat((scale, predicted), -1)

    def sample(
        self,
        source: Tensor,
        theta: Tensor,
        *,
        transform: str | None = None,
        out_size: Sequence[int] | None = None,
    ) -> Tensor:
        """Sample source (N, C, [D,] H, W) at a given theta (N, [K,] *theta shape).

        transform, out_size: in place of the module's own; a product of thetas is "affine", whatever made them.
        """
        if source.dim() != 2 + self.ndim:
            raise ValueError(
                f"source must have {self.ndim} spatial axes, got shape {tuple(source.shape)}; "
                "for volumes give out_size=(d, h, w) or the initial_theta of a volume"
            )
        # Not len(): it makes constants of both in a graph.
        localised, given = theta.shape[0], source.shape[0]
        with comparing_shapes():
            if localised != given:
                raise ValueError(
                    f"source must have as many images as were localised, {localised}, got {given}"
                )
        return st_sample(
            source,
            theta,
            out_size or self.out_size,
            transform=transform or self.transform,
            mode=self.mode,
            padding_mode=self.padding_mode,
            padding_value=self.padding_value,
            align_corners=self.align_corners,
            antialias=self.antialias,
            control_points=self.control_points,
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
        if isinstance(x, fx.Proxy):
            return _as_one_node(self, x, source=source, return_theta=return_theta)
        theta = self.localise(x)
        sampled = self.sample(x if source is None else source, theta)
        return (sampled, theta) if return_theta else sampled

    def extra_repr(self) -> str:
        """What `print` shows beside the submodules."""
        usual = {"num_transformers": None, "fixed_scale": None, "mode": "bilinear", "padding_mode": "zeros",
                 "padding_value": 0.0, "align_corners": False, "antialias": False, "backend": None}  # fmt: skip
        shown = [repr(self.transform), f"out_size={self.out_size}"]
        shown += [
            f"{name}={getattr(self, name)!r}"
            for name, value in usual.items()
            if getattr(self, name) != value
        ]
        return ", ".join(shown)


def _as_one_node(module: nn.Module, x: fx.Proxy, **options: object) -> Any:
    """What `torch.fx.symbolic_trace` gets: a call of the whole module, whose checks it could not look through."""
    assert isinstance(x.tracer, fx.Tracer)
    path = x.tracer.path_of_module(module)
    if not path:
        raise fx.proxy.TraceError(
            "torch.fx takes a SpatialTransformer as one node, a call of the module: trace the module that contains it"
        )
    return x.tracer.create_proxy("call_module", path, (x,), options)


def _without_autocast(tensor: Tensor) -> AbstractContextManager[object]:
    if tensor.device.type == "meta":  # of which autocast knows nothing
        return nullcontext()
    return torch.autocast(tensor.device.type, enabled=False)


def _checked_parametrisation(
    parametrisation: nn.Module,
    transform: str,
    initial_theta: object,
    fixed_scale: object,
    out_size: Sequence[int] | None,
) -> tuple[str, int]:
    """The transform and the number of parameters; refuses what is no parametrisation, and what it excludes."""
    own = getattr(parametrisation, "transform", None)
    count = getattr(parametrisation, "num_parameters", None)
    is_module = isinstance(parametrisation, nn.Module)
    if not (is_module and own in TRANSFORMS and isinstance(count, int) and count > 0):
        raise TypeError(
            "parametrisation must be an nn.Module with the attributes transform, one of "
            f"{', '.join(map(repr, TRANSFORMS))}, and num_parameters, an int above 0; got {parametrisation!r}"
        )
    for name, value in (("initial_theta", initial_theta), ("fixed_scale", fixed_scale)):
        if value is not None:
            raise ValueError(f"{name} must be None with a parametrisation, got {value!r}")
    if not isinstance(transform, _Default) and transform != own:
        raise ValueError(
            f"transform must be that of the parametrisation, {own!r}, or left out, got {transform!r}"
        )
    if out_size is not None and len(checked_size(out_size)) != 2:
        raise ValueError(f"out_size must be (h, w) with a parametrisation, got {out_size!r}")
    return own, count


def check_at_least(name: str, value: object, least: int) -> None:
    """Refuse what is not an int of at least `least`; the error begins with `name`."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int, got {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")


def _checked_scale(fixed_scale: float | None, transform: str) -> float | None:
    if fixed_scale is None:
        return None
    if transform != "attention":
        raise ValueError(f"fixed_scale is for transform='attention', got transform={transform!r}")
    if isinstance(fixed_scale, bool) or not isinstance(fixed_scale, int | float):
        raise TypeError(f"fixed_scale must be a float, got {fixed_scale!r}")
    if not math.isfinite(fixed_scale):
        raise ValueError(f"fixed_scale must be finite, got {fixed_scale}")
    return float(fixed_scale)


def _detached(theta: Tensor | Sequence[object] | None) -> Tensor | None:
    if theta is None:
        return None
    try:
        if isinstance(theta, Tensor) and theta.is_complex():
            raise TypeError
        given = torch.as_tensor(theta, dtype=torch.float64, device="cpu").detach()
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(
            f"initial_theta must be a tensor or nested sequence of reals, got {theta!r}"
        ) from None
    if not given.isfinite().all():
        raise ValueError(f"initial_theta must be finite, got {theta!r}")
    return given


def _ndim(
    out_size: tuple[int, ...] | None,
    initial: Tensor | None,
    transform: str,
    num_transformers: int | None,
) -> int:
    """The number of spatial axes that theta is for."""
    if out_size is not None:
        return len(out_size)
    if initial is None:
        return 2
    if transform == "affine" and initial.dim() == 1:  # flat: a row of 4 numbers is no theta
        return 3 if num_transformers is None and len(initial) == 12 else 2
    return theta_ndim(initial, transform)


def _broadcast(
    initial: Tensor, shape: tuple[int, ...], one: tuple[int, ...], transform: str
) -> Tensor:
    """The initial theta in its shape ([K,] *one): broadcast, or from a flat one of as many numbers.

    A row of numbers is never repeated to make all rows of one theta: that would be a singular map, and is the theta of
    another transform, such as (s, tx, ty) where (2, 3) is wanted.
    """
    for flat in (one, shape):
        if initial.dim() == 1 and len(initial) == math.prod(flat):
            return initial.view(flat).expand(shape)
    if initial.dim() == 0 or initial.dim() >= len(one):
        with suppress(RuntimeError):
            return initial.expand(shape)
    raise ValueError(
        f"initial_theta must broadcast to {shape} for transform {str(transform)!r}, or be flat with "
        + f"{math.prod(one)} numbers"
        + (f" or {math.prod(shape)}" if shape != one else "")
        + f", got shape {tuple(initial.shape)}"
    )
