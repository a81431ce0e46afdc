"""What a provider is, and what several of them need."""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from bench.cases import Case, Grads
from bench.check import OF_FEW_IMAGES, Sample
from bench.grids import parameters
from bench.inputs import in_format

NOT_ZERO_OUTSIDE = "nothing but 0 outside"
NO_GRADIENTS = "no gradients"

LAST = 9
"""The turn of what may take the GPU down."""


class Provider(ABC):
    """One implementation of the operation. A subclass with a `name` is a provider; nothing else registers it.

    A provider is timed on parameters of its own: what it wants instead of theta (a ready matrix, a matrix in pixels, a
    solved spline, boxes) is made by `parameters`, outside the timed call, and gradients are with respect to it.
    Everything that brings the result to the dtype, memory format and shape of the case is inside the timed call.
    """

    name: ClassVar[str]
    devices: ClassVar[tuple[str, ...]] = ("cpu", "cuda")
    modules: ClassVar[tuple[str, ...]] = ()
    """What must be installed, as it is imported."""
    packages: ClassVar[tuple[str, ...]] = ()
    """What the first module may be called in a package index; result files have the version of the one installed."""
    rounding: ClassVar[float] = OF_FEW_IMAGES
    """How many times PyTorch's own error its results may have and still be timed."""
    turn: ClassVar[int] = 2
    """When it is measured: ours 0, eager PyTorch 1, other peers 2, and LAST what may take the GPU down."""

    kinds: ClassVar[list[type[Provider]]] = []

    def __init_subclass__(cls) -> None:
        if "name" in vars(cls):
            Provider.kinds.append(cls)

    def available(self, device: str) -> bool:
        """Whether it can run here on a device, "cpu" or "cuda"."""
        return device in self.devices and installed(*self.modules)

    def refuses(self, case: Case, grads: Grads | None) -> str | None:
        """Why a pass of a case is not for it, or None."""
        return None

    def parameters(self, case: Case, theta: Tensor) -> Tensor:
        """What it takes instead of theta; by default a matrix, or control points, for each of the N * K maps."""
        return parameters(case, theta)

    @abstractmethod
    def sample(self, case: Case) -> Sample:
        """The call that is timed: (input, parameters) -> (N, [K,] C, *out_size)."""

    def can(self, case: Case, grads: Grads | None) -> bool:
        """Whether this provider computes this pass of this case."""
        return self.refuses(case, grads) is None

    def on_theta(self, case: Case) -> Sample:
        """The provider as a function of theta: what the check compares with the definition."""
        sample = self.sample(case)
        return lambda x, theta: sample(x, self.parameters(case, theta))


def installed(*modules: str) -> bool:
    """Whether these modules can be imported."""
    return all(importlib.util.find_spec(module) is not None for module in modules)


def beyond_plain_images(case: Case) -> str | None:
    """Why a case is not for a peer that knows 2-D images, one sample an output pixel, and zeros outside."""
    if case.padding_value:
        return NOT_ZERO_OUTSIDE
    return "images only, one sample an output pixel" if case.ndim != 2 or case.antialias else None


def beyond_one_map(case: Case) -> str | None:
    """Why a case is not for a peer that knows plain images in float32, one map each."""
    if case.k is not None or case.crops is not None:
        return "one map an image only"
    if case.dtype != torch.float32:
        return f"no {case.dtype_name}"
    return beyond_plain_images(case)


def widened(case: Case, x: Tensor) -> Tensor:
    """To the dtype of the coordinates, as autocast does: a grid in bfloat16 is off by a pixel at 224."""
    return x.to(torch.promote_types(case.dtype, torch.float32))


def finished(case: Case, out: Tensor) -> Tensor:
    """(N * K, C, *out_size) -> (N, [K,] C, *out_size) in the dtype and memory format of the case."""
    out = in_format(case, out.to(case.dtype))
    return out if case.k is None else out.unflatten(0, (case.shape[0], case.k))
