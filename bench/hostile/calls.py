"""The outcome of one numbered call."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from . import refused, sampled, utilities
from .drawing import Draw
from .sampled import Call

KINDS = ("sampled", "refused", "utility")


@dataclass(frozen=True)
class Outcome:
    """What a call was and what is wrong with it; kind: one of `KINDS`, or "crash"."""

    number: int
    kind: str
    what: str
    wrong: tuple[str, ...]


def outcome(seed: int, number: int, backends: Sequence[str]) -> Outcome:
    """Draw call `number`, run it on every backend and judge it. It depends on seed and number alone."""
    torch.set_num_threads(1)
    kind = Draw(seed, -1 - number).random.choices(KINDS, (70, 18, 12))[0]
    if backends == ["emulator"]:
        kind = "sampled"
    what = ""
    wrong: list[str] = []
    try:
        if kind == "utility":
            what, wrong = utilities.judged(Draw(seed, number))
        else:
            judge = _sampled if kind == "sampled" else _refused
            for backend in backends:
                what, mistakes = judge(Draw(seed, number), backend)
                wrong += [f"{backend}: {mistake}" for mistake in mistakes]
    except Exception:
        wrong.append(f"an unexpected error: {traceback.format_exc(limit=-6).strip()}")
    return Outcome(number, kind, what, tuple(wrong))


def _sampled(draw: Draw, backend: str) -> tuple[str, list[str]]:
    call = sampled.drawn(draw)
    if backend == "emulator":
        call.input = call.input[:2, :3]  # the rest of a batch shows no more, and takes long
        call.theta = call.theta[: len(call.input)] if "index" not in call.options else call.theta
    run = by_emulator if backend == "emulator" else sampled.by_backend(backend)
    what = str(call)
    try:
        return what, sampled.judged(call, run, draw, guard=backend == "native")
    except Exception as error:
        return what, [f"{type(error).__name__}: {error}\n{traceback.format_exc(limit=-4)}"]


def _refused(draw: Draw, backend: str) -> tuple[str, list[str]]:
    from stn_triton import st_sample

    call, errors, word = refused.spoiled(draw, sampled.drawn(draw))
    options = {"backend": backend} | call.options
    run = partial(st_sample, call.input, call.theta, call.out_size, **options)
    return str(call), refused.misjudged(run, errors, word)


def by_emulator(call: Call, cotangent: Tensor) -> dict[str, Tensor]:
    """The compiled kernels of a call, forward and backward, executed with every access checked."""
    from bench.emulator.calls import emulate
    from bench.emulator.counting import errors_of
    from stn_triton.checks import checked
    from stn_triton.kernels.backward import sample_backward
    from stn_triton.kernels.forward import sample_forward

    options: dict[str, Any] = {
        "mode": "bilinear",
        "padding_mode": "zeros",
        "padding_value": 0.0,
        "align_corners": False,
    }
    options |= {"antialias": False, **call.options}
    index = options.pop("index", None)
    size, chosen = checked(call.input, call.theta, index, call.out_size, **options)
    rest = index, size, chosen
    passes: tuple[Callable[[], Any], ...] = (
        lambda: (sample_forward(call.input, call.theta, *rest),),
        lambda: sample_backward(cotangent, call.input, call.theta, *rest, (True, True)),
    )
    found: list[Tensor] = []
    for each in passes:
        results, runs = emulate(each)
        if errors := errors_of(runs):
            raise AssertionError("; ".join(errors))
        found += results
    return dict(zip(("output", "input gradient", "theta gradient"), found, strict=True))
