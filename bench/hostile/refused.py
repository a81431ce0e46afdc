"""Calls of `st_sample` that cannot be: a good one with one argument spoiled, and the error that must come."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench import definition

from .drawing import Draw
from .sampled import Call

Errors = tuple[type[Exception], ...]
_OF_TYPE: Errors = (TypeError,)
_OF_VALUE: Errors = (ValueError,)
_EITHER: Errors = (TypeError, ValueError)
NOT_TENSORS: tuple[Any, ...] = (
    None,
    3,
    0.5,
    "tensor",
    [[1.0, 2.0]],
    np.ones((1, 2, 3)),
    {},
    object(),
)
NOT_NAMES: tuple[Any, ...] = (
    None, "", "Affine", "bilinear ", 0, True, 2.5, ["bilinear"], {}, b"zeros", math.nan, object(),
    np.array(["zeros", "border"]), torch.zeros(2), torch.zeros(()), ("affine", "tps"),
)  # fmt: skip
NOT_SIZES: tuple[tuple[Any, Errors], ...] = (
    (5, _OF_TYPE), (True, _OF_TYPE), (2.5, _OF_TYPE), ("44", _OF_TYPE), ({4, 5}, _OF_TYPE), ({}, _OF_TYPE),
    ((4.0, 4), _OF_TYPE), ((True, 4), _OF_TYPE), (("4", 4), _OF_TYPE), ((None, 4), _OF_TYPE), (object(), _OF_TYPE),
    (([1], [2]), _OF_TYPE), ((4 + 0j, 4), _OF_TYPE), ((), _OF_VALUE), ((4,), _OF_VALUE), ((4, 4, 4, 4), _OF_VALUE),
    ((0, 4), _OF_VALUE), ((4, -1), _OF_VALUE), ((-(10**30), 4), _OF_VALUE), ((math.nan, 4), _OF_TYPE),
    ((2**63, 4), _EITHER), ((10**30, 4), _EITHER), ((2**40, 2**40), _EITHER), ((2**62, 1), _EITHER),
    ((2**31, 2**31), _EITHER), (np.array([4, 4]), _EITHER), (torch.tensor([4, 4]), _EITHER), (b"44", _EITHER),
)  # fmt: skip
NOT_POINTS: tuple[Any, ...] = (
    "4", True, 1, 0, -3, 2.5, (), (3,), (1, 3), (0, 0), (3.5, 3), (True, 3), (3, 3, 3), [[0.0, 0.0], [1.0, 1.0]],
    [[0.0, 0.0]] * 4, [[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]], [[0, 0], [1, 0], [math.nan, 1]],
    [[0, 0], [1, 0], [0, math.inf]],
    [["a", "b"], ["c", "d"], ["e", "f"]], [[0, 0], [1, 0], [0]], [[0, 0, 0], [1, 0, 0], [0, 1, 0]], {}, {3, 4},
    torch.zeros(3), torch.zeros(3, 3), torch.zeros(4, 2), torch.zeros(0, 2), torch.ones(3, 2).int(), object(),
    [[10**400, 0], [1, 0], [0, 1]], [[0j, 0], [1, 0], [0, 1]], [None, None, None], [[None, 0], [1, 0], [0, 1]],
)  # fmt: skip
_NOT_BOOLS: tuple[Any, ...] = (
    None,
    0,
    1,
    "True",
    1.0,
    np.bool_(True),
    torch.tensor(True),
    [],
    object(),
)
_NOT_SAMPLES: tuple[tuple[Any, Errors], ...] = (
    (0, _OF_VALUE), (-1, _OF_VALUE), (None, _OF_TYPE), (2.0, _OF_TYPE), ("2", _OF_TYPE), ([2], _OF_TYPE),
    (math.nan, _OF_TYPE), (object(), _OF_TYPE), (-(10**30), _OF_VALUE), (10**30, _EITHER), (2**62, _EITHER),
    (2**31, _EITHER),
)  # fmt: skip
_NOT_PADDING: tuple[tuple[Any, Errors], ...] = (
    (None, _OF_TYPE), ("0", _OF_TYPE), (True, _OF_TYPE), (1j, _OF_TYPE), (torch.ones(()), _OF_TYPE), ([0.0], _OF_TYPE),
    (math.nan, _OF_VALUE), (math.inf, _OF_VALUE), (-math.inf, _OF_VALUE), (10**400, _OF_VALUE), (-(10**400), _OF_VALUE),
)  # fmt: skip

Spoiled = tuple[Call, Errors]


def _with(call: Call, errors: Errors, **options: Any) -> Spoiled:
    return replace(call, options=call.options | options), errors


def _bad_input(draw: Draw, call: Call) -> Spoiled:
    u: Tensor = call.input
    made = draw.one((
        *((value, _OF_TYPE) for value in NOT_TENSORS),
        (u.to(torch.int32), _OF_TYPE), (u.to(torch.bool), _OF_TYPE), (u.to(torch.complex64), _OF_TYPE),
        (u.to(torch.uint8), _OF_TYPE), (u.double().to_sparse(), _OF_TYPE), (u.flatten(), _OF_VALUE),
        (u.sum(), _OF_VALUE), (u[0:1].flatten(0, 1), _EITHER), (u[..., :0], _OF_VALUE), (u[..., None, None], _OF_VALUE),
        (u.float().to(torch.float8_e5m2), _OF_TYPE),
    ))  # fmt: skip
    return replace(call, input=made[0]), made[1]


def _bad_theta(draw: Draw, call: Call) -> Spoiled:
    theta: Tensor = call.theta
    wrong = (
        theta[..., :-1],
        theta.flatten(),
        theta.sum(),
        theta[..., None],
        torch.cat((theta, theta), -1),
        theta[None, None, None],
    )
    made = draw.one((
        *((value, _OF_TYPE) for value in NOT_TENSORS),
        *((value, _OF_VALUE) for value in wrong),
        (theta.to(torch.int64), _OF_TYPE), (theta.to(torch.complex128), _OF_TYPE), (theta.to(torch.bool), _OF_TYPE),
        (torch.cat((theta, theta[:1] if len(theta) else theta.new_zeros(1, *theta.shape[1:]))), _OF_VALUE),
        (theta.to("meta"), _OF_VALUE),
    ))  # fmt: skip
    return replace(call, theta=made[0]), made[1]


def _bad_index(draw: Draw, call: Call) -> Spoiled:
    images, theta = call.input.shape[0], call.theta
    if "index" not in call.options:
        trailing = definition.theta_dims(theta, call.options["transform"])
        theta = theta.new_zeros(3, *theta.shape[-trailing:])
    good = torch.zeros(len(theta), dtype=torch.int64)
    call = replace(call, theta=theta)
    out: list[tuple[Any, Errors]] = [
        ([0] * len(theta), _OF_TYPE), (3, _OF_TYPE), ("0", _OF_TYPE), (good.int(), _OF_TYPE), (good.double(), _OF_TYPE),
        (good.bool(), _OF_TYPE), (good[None], _OF_VALUE), (good.sum(), _OF_VALUE),
        (torch.cat((good, good.new_zeros(1))), _OF_VALUE), (np.zeros(len(theta), np.int64), _OF_TYPE),
    ]  # fmt: skip
    if len(theta):
        out += [
            (torch.full_like(good, value), (IndexError,))
            for value in (-1, images, 2**31, 2**62, -(2**63))
        ] * 2
    index, errors = draw.one(out)
    return _with(call, errors, index=index)


def _bad_size(draw: Draw, call: Call) -> Spoiled:
    size, errors = draw.one(NOT_SIZES)
    ndim = call.input.dim() - 2
    if draw.chance(0.1):
        size, errors = (4,) * (5 - ndim), _OF_VALUE
    elif isinstance(size, tuple) and len(size) == 2 and ndim == 3:
        size = (*size, 1)
    return replace(call, out_size=size), errors


def _bad_points(draw: Draw, call: Call) -> Spoiled:
    return _with(call, _EITHER, control_points=draw.one(NOT_POINTS))


def _bad_name(name: str) -> Callable[[Draw, Call], Spoiled]:
    def spoil(draw: Draw, call: Call) -> Spoiled:
        names = [value for value in NOT_NAMES if not (name == "backend" and value is None)]
        return _with(call, _EITHER, **{name: draw.one(names)})

    return spoil


def _bad_align(draw: Draw, call: Call) -> Spoiled:
    return _with(call, _OF_TYPE, align_corners=draw.one(_NOT_BOOLS))


def _bad_samples(draw: Draw, call: Call) -> Spoiled:
    samples, errors = draw.one(_NOT_SAMPLES)
    return _with(call, errors, antialias=samples, align_corners=False)


def _bad_padding(draw: Draw, call: Call) -> Spoiled:
    value, errors = draw.one(_NOT_PADDING)
    return _with(call, errors, padding_value=value, padding_mode="zeros")


def _bad_pair(draw: Draw, call: Call) -> Spoiled:
    """Options that exclude each other."""
    pairs: tuple[tuple[str, dict[str, Any]], ...] = (
        ("antialias", {"antialias": 2, "align_corners": True}),
        (
            "padding_value",
            {"padding_value": 1.0, "padding_mode": draw.one(("border", "reflection"))},
        ),
    )
    word, options = draw.one(pairs)
    spoiled, errors = _with(call, _OF_VALUE, **options)
    return replace(spoiled, about=word), errors


SPOILERS: dict[str, Callable[[Draw, Call], Spoiled]] = {
    "input": _bad_input,
    "theta": _bad_theta,
    "index": _bad_index,
    "out_size": _bad_size,
    "control_points": _bad_points,
    "transform": _bad_name("transform"),
    "mode": _bad_name("mode"),
    "padding_mode": _bad_name("padding_mode"),
    "backend": _bad_name("backend"),
    "align_corners": _bad_align,
    "antialias": _bad_samples,
    "padding_value": _bad_padding,
    "pair": _bad_pair,
}


def spoiled(draw: Draw, call: Call) -> tuple[Call, Errors, str]:
    """(the call with one bad argument, the errors that may come, what their message must name)."""
    name = draw.one(list(SPOILERS))
    found, errors = SPOILERS[name](draw, call)
    word = found.about if name == "pair" else name
    return replace(found, about=f"bad {word}"), errors, word


def misjudged(run: Callable[[], object], errors: Errors, word: str) -> list[str]:
    """What is wrong with how a bad call is refused."""
    wanted = " or ".join(error.__name__ for error in errors)
    try:
        run()
    except errors as error:
        if type(error) not in errors:
            return [f"{type(error).__name__} instead of {wanted}: {error}"]
        return (
            []
            if word in str(error)
            else [f"the message does not name {word}: {type(error).__name__}: {error}"]
        )
    except Exception as error:
        return [f"{type(error).__name__} instead of {wanted}: {error}"]
    return [f"accepted, where {wanted} was due"]
