"""Transformations with bounds: from numbers without any to the theta of an image, for a localisation to predict.

Convention of the whole file: theta maps OUTPUT coordinates to SOURCE coordinates, both normalised to [-1, 1] in (x, y)
order, so that every number is one of the frame in the source: where it lies, how large it is, how it is turned.

- scale: of the frame. At 0.5 it covers half of the image along each axis, and the output shows that enlarged twice.
  Always positive: there are no flips.
- angle: in radians. The frame turns from x towards y, which is clockwise, and what the output shows the other way.
- shift: of the frame's centre, in normalised units: 1 is half of the image's width or height, to the right or down.
- shear: how far the frame's y axis leans along its x axis, the tangent of the angle.

Every parameter is squashed by `tanh`, so that 0 is the identity, where gradients are not 0, and infinity the bound. A
bound of 0 (of 1 for scales, both of them) leaves its parameter without effect.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from numbers import Real

import torch
from torch import Tensor, nn

from .checks import checked_size
from .matrices import widened
from .tracing import comparing_shapes


class Parametrisation(nn.Module, ABC):
    """What all of them share: a module without weights, from parameters (..., num_parameters) to theta.

    Shapes: parameters (..., num_parameters), 0 for the identity -> theta (..., 2, 3), or for transform "attention"
        (..., 3); float32, also for half-precision parameters, or float64.

    Arguments:
        image_size: (h, w) of the source in pixels: angles, scales and shears are measured there, so that a turned frame
            keeps its right angles. None: the image is square.

    Raises:
        TypeError: a bound that is not a number, an `image_size` that is not a sequence of ints; parameters that are not
            a tensor of a float dtype.
        ValueError: a bound outside its range, an `image_size` that is not (h, w); parameters of another length.
    """

    transform = "affine"
    num_parameters: int
    min_scale: float
    max_scale: float
    max_angle: float
    max_shift: float
    max_shear: float

    def __init__(self, image_size: Sequence[int] | None, **bounds: float) -> None:
        super().__init__()
        for name, value in bounds.items():
            setattr(self, name, _bound(name, value))
        self.image_size: tuple[int, ...] | None = None
        if image_size is not None:
            self.image_size = checked_size(image_size, "image_size", of_images=True)

    def forward(self, parameters: Tensor) -> Tensor:
        """theta of parameters (..., num_parameters)."""
        wide = widened("parameters", parameters)
        with comparing_shapes():
            if tuple(parameters.shape[-1:]) != (self.num_parameters,):
                raise ValueError(
                    f"parameters of {type(self).__name__} must be (..., {self.num_parameters}), "
                    f"got shape {tuple(parameters.shape)}"
                )
        return self._theta(*wide.unbind(-1))

    @abstractmethod
    def _theta(self, *parameters: Tensor) -> Tensor: ...

    def extra_repr(self) -> str:
        """What `print` shows."""
        shown = {name: value for name, value in vars(self).items() if name in _BOUNDS}
        if self.image_size is not None:
            shown["image_size"] = self.image_size
        return ", ".join(f"{name}={value}" for name, value in shown.items())

    def _frame(
        self,
        angle: Tensor,
        shift: tuple[Tensor, Tensor] | None = None,
        scale: tuple[Tensor, Tensor] | None = None,
        shear: Tensor | None = None,
    ) -> Tensor:
        """theta = D^-1 R [[1, shear], [0, 1]] diag(scale) D, and the shift; R turns, D goes to pixels of the image."""
        height, width = self.image_size or (1, 1)
        cos, sin = angle.cos(), angle.sin()
        first, second = (cos, sin), (0.0 - sin, cos)
        if shear is not None:
            second = shear * cos - sin, shear * sin + cos
        if scale is not None:
            first = scale[0] * first[0], scale[0] * first[1]
            second = scale[1] * second[0], scale[1] * second[1]
        x, y = (torch.zeros_like(angle),) * 2 if shift is None else shift
        upper = torch.stack((first[0], second[0] * (height / width), x), -1)
        lower = torch.stack((first[1] * (width / height), second[1], y), -1)
        return torch.stack((upper, lower), -2)


class Rotation(Parametrisation):
    """One parameter: the angle, between -max_angle and max_angle, pi at most, around the image's centre.

    Shapes, arguments and errors: those of `Parametrisation`; conventions: the file's.
    """

    num_parameters = 1

    def __init__(
        self, max_angle: float = math.pi, *, image_size: Sequence[int] | None = None
    ) -> None:
        super().__init__(image_size, max_angle=max_angle)

    def _theta(self, *parameters: Tensor) -> Tensor:
        return self._frame(_symmetric(parameters[0], self.max_angle))


class Similarity(Parametrisation):
    """Four parameters: scale, angle, shift along x, shift along y.

    Convention: min_scale <= scale <= max_scale, with 0 < min_scale <= 1 <= max_scale; angle and shifts are between the
        negative and the positive bound. Others: the file's.
    Shapes, arguments and errors: those of `Parametrisation`.
    """

    num_parameters = 4

    def __init__(
        self, min_scale: float = 0.5, max_scale: float = 2.0, max_angle: float = math.pi / 2,
        max_shift: float = 0.5, *, image_size: Sequence[int] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(
            image_size, min_scale=min_scale, max_scale=max_scale, max_angle=max_angle,
            max_shift=max_shift,
        )  # fmt: skip

    def _theta(self, *parameters: Tensor) -> Tensor:
        scale = _scale(parameters[0], self.min_scale, self.max_scale)
        angle = _symmetric(parameters[1], self.max_angle)
        x, y = (_symmetric(parameter, self.max_shift) for parameter in parameters[2:])
        return self._frame(angle, (x, y), (scale, scale))


class BoundedAffine(Parametrisation):
    """Six parameters: scale along x, scale along y, angle, shear, shift along x, shift along y.

    Convention: the frame is scaled along its own axes, sheared, turned and shifted, in this order. Bounds as in
        `Similarity`, and the shear between -max_shear and max_shear. Others: the file's.
    Shapes, arguments and errors: those of `Parametrisation`.
    """

    num_parameters = 6

    def __init__(
        self, min_scale: float = 0.5, max_scale: float = 2.0, max_angle: float = math.pi / 2,
        max_shift: float = 0.5, max_shear: float = 0.5, *, image_size: Sequence[int] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(
            image_size, min_scale=min_scale, max_scale=max_scale, max_angle=max_angle,
            max_shift=max_shift, max_shear=max_shear,
        )  # fmt: skip

    def _theta(self, *parameters: Tensor) -> Tensor:
        scale = tuple(_scale(each, self.min_scale, self.max_scale) for each in parameters[:2])
        angle = _symmetric(parameters[2], self.max_angle)
        shear = _symmetric(parameters[3], self.max_shear)
        x, y = (_symmetric(parameter, self.max_shift) for parameter in parameters[4:])
        return self._frame(angle, (x, y), (scale[0], scale[1]), shear)


class BoundedAttention(Parametrisation):
    """Three parameters: scale, shift along x, shift along y; theta (s, tx, ty) for transform "attention".

    Convention: bounds as in `Similarity`. Others: the file's. `image_size` makes no difference: nothing turns.
    Shapes, arguments and errors: those of `Parametrisation`.
    """

    transform = "attention"
    num_parameters = 3

    def __init__(
        self,
        min_scale: float = 0.5,
        max_scale: float = 2.0,
        max_shift: float = 0.5,
        *,
        image_size: Sequence[int] | None = None,
    ) -> None:
        super().__init__(image_size, min_scale=min_scale, max_scale=max_scale, max_shift=max_shift)

    def _theta(self, *parameters: Tensor) -> Tensor:
        scale = _scale(parameters[0], self.min_scale, self.max_scale)
        shifts = (_symmetric(parameter, self.max_shift) for parameter in parameters[1:])
        return torch.stack((scale, *shifts), -1)


_BOUNDS: dict[str, tuple[Callable[[float], bool], str]] = {
    "min_scale": (lambda value: 0 < value <= 1, "above 0 and at most 1, the scale of the identity"),
    "max_scale": (lambda value: value >= 1, "at least 1, the scale of the identity"),
    "max_angle": (lambda value: 0 <= value <= math.pi, "between 0 and pi, in radians"),
    "max_shift": (lambda value: value >= 0, "at least 0, in halves of the image's size"),
    "max_shear": (lambda value: value >= 0, "at least 0, the tangent of an angle"),
}
"""What a bound may be, and how an error says that."""


def _bound(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {value!r}")
    is_allowed, wanted = _BOUNDS[name]
    if not (math.isfinite(value) and is_allowed(value)):
        raise ValueError(f"{name} must be {wanted}, got {value}")
    return float(value)


def _inside(bound: float, rounded: Callable[[float], int]) -> float:
    """The float32 next to a bound, below it with `math.floor` and above it with `math.ceil`."""
    mantissa, exponent = math.frexp(bound)
    return math.ldexp(rounded(math.ldexp(mantissa, 24)), exponent - 24)


def _symmetric(parameter: Tensor, bound: float) -> Tensor:
    """0 at 0, and never beyond the bound, not by rounding either."""
    return parameter.tanh() * _inside(bound, math.floor)


def _scale(parameter: Tensor, least: float, most: float) -> Tensor:
    """1 at 0, and never beyond the bounds; its logarithm has the same slope on both sides of 0."""
    least, most = _inside(least, math.ceil), _inside(most, math.floor)
    down, up = -math.log(least), math.log(most)
    if not max(down, up):
        return torch.ones_like(parameter)
    # Where only one of the bounds is 1, the scale turns back at 1: if it stood still there, no gradient led away again.
    above, below = (
        reach * (parameter * (max(down, up) / abs(reach))).tanh()
        for reach in (up or -down, down or -up)
    )
    return torch.where(parameter > 0, above, below).exp().clamp(least, most)
