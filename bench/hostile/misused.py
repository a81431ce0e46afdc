"""One bad argument of a utility, a parametrisation or the module, and the error that must come."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from stn_triton import (
    SpatialTransformer,
    box_to_theta,
    compose,
    identity_theta,
    invert,
    outside_penalty,
    pixel_matrix_to_theta,
    sampling_grid,
    theta_to_box,
    theta_to_pixel_matrix,
    to_affine,
)
from stn_triton.parametrisations import BoundedAffine, BoundedAttention, Rotation, Similarity

from .drawing import Draw
from .refused import NOT_NAMES, NOT_POINTS, NOT_SIZES, NOT_TENSORS, Errors, misjudged

_EITHER: Errors = (TypeError, ValueError)
_THETA, _SIZE = torch.eye(2, 3)[None], (4, 4)
_NOT_ANGLES = (None, "1", True, -1.0, 4.0, math.nan, math.inf, [1], 1j)
_NOT_COUNTS = (None, 0, -1, 2.5, True, "1")
_NOT_SHAPES = (5, None, (-1,), (2.5,), ("2",), (None,), "2", {2}, (True, "2"))
_NOT_DTYPES = ("float", torch.int32, 5, torch.bool, float, torch.strided)
_NOT_SCALES = (None, 0, -1, 2.0, math.nan, "x", True)


class Constant(nn.Module):
    """A localisation network whose one feature is always 1."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.ones(x.shape[0], 1)


def _stn(**options: Any) -> SpatialTransformer:
    arguments: dict[str, Any] = {"localisation": Constant(), "in_features": 1}
    return SpatialTransformer(**(arguments | options))


class Misuse(NamedTuple):
    """`call` takes a bad value of the argument `word`."""

    function: str
    word: str
    values: tuple[Any, ...]
    call: Callable[[Any], Any]


_WITH_SIZES = (
    ("sampling_grid", "out_size", lambda bad: sampling_grid(_THETA, bad)),
    ("box_to_theta", "image_size", lambda bad: box_to_theta(torch.zeros(1, 4), bad)),
    ("theta_to_box", "image_size", lambda bad: theta_to_box(_THETA, bad)),
    ("pixel_matrix_to_theta", "out_size", lambda bad: pixel_matrix_to_theta(_THETA, _SIZE, bad)),
    ("theta_to_pixel_matrix", "image_size", lambda bad: theta_to_pixel_matrix(_THETA, bad, _SIZE)),
    ("Rotation", "image_size", lambda bad: Rotation(image_size=bad)),
    ("SpatialTransformer", "out_size", lambda bad: _stn(out_size=bad)),
)
_MISUSES = (
    Misuse("sampling_grid", "theta", NOT_TENSORS, lambda bad: sampling_grid(bad, _SIZE)),
    Misuse("sampling_grid", "transform", NOT_NAMES, lambda bad: sampling_grid(_THETA, _SIZE, transform=bad)),
    Misuse(
        "sampling_grid", "control_points", NOT_POINTS,
        lambda bad: sampling_grid(torch.zeros(1, 5, 2), _SIZE, transform="tps", control_points=bad),
    ),
    Misuse("identity_theta", "transform", NOT_NAMES, identity_theta),
    Misuse("identity_theta", "control_points", NOT_POINTS, lambda bad: identity_theta("tps", control_points=bad)),
    Misuse("identity_theta", "ndim", NOT_NAMES, lambda bad: identity_theta("affine", ndim=bad)),
    Misuse("identity_theta", "dtype", _NOT_DTYPES, lambda bad: identity_theta("affine", dtype=bad)),
    Misuse("identity_theta", "batch_shape", _NOT_SHAPES, lambda bad: identity_theta("affine", bad)),
    Misuse("compose", "first", NOT_TENSORS, lambda bad: compose(bad, _THETA)),
    Misuse("compose", "second", NOT_TENSORS, lambda bad: compose(_THETA, bad)),
    Misuse("compose", "transform", NOT_NAMES, lambda bad: compose(_THETA, _THETA, transform=bad)),
    Misuse("invert", "theta", NOT_TENSORS, invert),
    Misuse("invert", "transform", NOT_NAMES, lambda bad: invert(_THETA, transform=bad)),
    Misuse("to_affine", "theta", NOT_TENSORS, lambda bad: to_affine(bad, transform="affine")),
    Misuse("to_affine", "transform", NOT_NAMES, lambda bad: to_affine(_THETA, transform=bad)),
    Misuse("box_to_theta", "boxes", NOT_TENSORS, lambda bad: box_to_theta(bad, _SIZE)),
    Misuse("theta_to_box", "theta", NOT_TENSORS, lambda bad: theta_to_box(bad, _SIZE)),
    Misuse("pixel_matrix_to_theta", "matrix", NOT_TENSORS, lambda bad: pixel_matrix_to_theta(bad, _SIZE, _SIZE)),
    Misuse(
        "pixel_matrix_to_theta", "direction", NOT_NAMES,
        lambda bad: pixel_matrix_to_theta(_THETA, _SIZE, _SIZE, direction=bad),
    ),
    Misuse("outside_penalty", "theta", NOT_TENSORS, outside_penalty),
    Misuse("outside_penalty", "transform", NOT_NAMES, lambda bad: outside_penalty(_THETA, transform=bad)),
    Misuse("Rotation", "max_angle", _NOT_ANGLES, Rotation),
    Misuse("Similarity", "min_scale", _NOT_SCALES, Similarity),
    Misuse("BoundedAttention", "min_scale", _NOT_SCALES, BoundedAttention),
    Misuse("Similarity", "parameters", NOT_TENSORS, lambda bad: Similarity()(bad)),
    Misuse("BoundedAffine", "parameters", NOT_TENSORS, lambda bad: BoundedAffine()(bad)),
    Misuse("SpatialTransformer", "localisation", NOT_TENSORS, lambda bad: _stn(localisation=bad)),
    Misuse("SpatialTransformer", "in_features", _NOT_COUNTS, lambda bad: _stn(in_features=bad)),
    Misuse("SpatialTransformer", "num_transformers", _NOT_COUNTS[1:], lambda bad: _stn(num_transformers=bad)),
    Misuse("SpatialTransformer", "transform", NOT_NAMES, lambda bad: _stn(transform=bad)),
    Misuse("SpatialTransformer", "mode", NOT_NAMES, lambda bad: _stn(mode=bad)),
    Misuse("SpatialTransformer", "padding_mode", NOT_NAMES, lambda bad: _stn(padding_mode=bad)),
    Misuse("SpatialTransformer", "backend", NOT_NAMES[1:], lambda bad: _stn(backend=bad)),
    Misuse(
        "SpatialTransformer", "control_points", NOT_POINTS,
        lambda bad: _stn(transform="tps", control_points=bad),
    ),
    Misuse(
        "SpatialTransformer", "fixed_scale", ("1", True, math.nan, math.inf, [1.0], 1j),
        lambda bad: _stn(transform="attention", fixed_scale=bad),
    ),
    Misuse(
        "SpatialTransformer", "initial_theta", ("1", [[1.0], [1.0, 2.0]], [math.nan] * 6, [1j] * 6, [1.0] * 5, {}),
        lambda bad: _stn(initial_theta=bad),
    ),
    Misuse("SpatialTransformer", "parametrisation", (3, "x", Constant(), {}), lambda bad: _stn(parametrisation=bad)),
)  # fmt: skip


def judged(draw: Draw) -> tuple[str, list[str]]:
    """(what was called, what is wrong with how it is refused)."""
    if draw.chance(0.25):
        function, word, call = draw.one(_WITH_SIZES)
        bad, errors = draw.one(NOT_SIZES)
        if function == "SpatialTransformer" and bad is None:
            bad, errors = 5, (TypeError,)
    else:
        function, word, values, call = draw.one(_MISUSES)
        bad, errors = draw.one(values), _EITHER
    return f"{function}, bad {word}: {bad!r}", misjudged(lambda: call(bad), errors, word)
