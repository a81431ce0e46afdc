"""The verification matrix: what compiled kernels compute, against the definition in float64.

- Every variant of the compile report's covering set, on small images of odd sizes.
- Thetas that are hard: singular and nearly so, tiny, huge, far away, not finite.
- Approximate instructions off by up to 2 units in the last place.
- Maps that put coordinates on kinks or a rounding away from them: every kernel takes the same side.

A row fails on a wrong value, an access out of bounds, a wrong write, or a barrier that a part of a
CTA reaches. The error budget is that of `bench.check`. On hard thetas it holds for each map by itself
and is twice as wide, since few samples of such a map may hit the image.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bench.cases import Case
from bench.check import OF_FEW_IMAGES, Expectation, Results, expect, wrong_values
from bench.inputs import Inputs, in_format, leading, make_inputs
from bench.launches import KINDS, Kind, call, options_of
from bench.variants import Variant, covering_set
from stn_triton.torch_backend import st_sample_taps
from stn_triton.transforms import AUTO, TRANSFORMS

from .calls import emulate
from .counting import errors_of


@dataclass(frozen=True)
class Check:
    """One row of the matrix; `run` gives what is wrong."""

    name: str
    run: Callable[[], list[str]]


def _found(
    kind: Kind, case: Case, inputs: Inputs, tangent: Tensor | None = None, ulp: float = 0.0
) -> tuple[dict[str, Tensor], list[str]]:
    """(the results of one pass, what was wrong with its accesses)."""
    start = partial(call, kind, inputs, case.out_size, options_of(case), tangent)
    found, runs = emulate(start, ulp=ulp)
    return found, errors_of(runs)


# Variants


def small_case(variant: Variant) -> Case:
    """A variant on small images."""
    volume = len(variant.out_size) == 3
    return Case(
        name=variant.name,
        shape=(2, variant.shape[1], *((7, 9, 11) if volume else (23, 19))),
        out_size=(6, 7, 13) if volume else (21, 26),
        k=variant.k,
        crops=None if variant.crops is None else 5,
        transform=variant.transform,
        mode=variant.mode,
        padding_mode=variant.padding_mode,
        padding_value=variant.padding_value,
        antialias={1: False, AUTO: True}.get(variant.samples, variant.samples),
        control_points=tuple(
            zip(variant.control_points[::2], variant.control_points[1::2], strict=True)
        )
        or None,
        dtype=variant.dtype,
        memory_format=variant.memory_format,
    )


def check_variant(variant: Variant) -> list[str]:
    """What is wrong with one variant."""
    case = small_case(variant)
    kind: Kind = variant.grads or "fwd"
    inputs = make_inputs(case)
    if variant.tangent:
        tangent = torch.randn(inputs.theta.shape, generator=torch.Generator().manual_seed(1))
        expected = Expectation(
            _differences(case, inputs, tangent), _of_taps(case, inputs, tangent, kind)
        )
        found, errors = _found(kind, case, inputs, tangent)
    else:
        expected = expect(case, inputs, variant.grads)
        found, errors = _found(kind, case, inputs)
    # Where a coordinate is on a kink, the slope is either one; on a tie of nearest, the value.
    if "output" in found and (variant.tangent or case.mode == "nearest"):
        clear = inputs.grad != 0
        found["output"] = found["output"].where(clear, 0)
        expected = Expectation(
            *(
                replace(r, output=r.output.where(clear, 0))
                for r in (expected.exact, expected.pytorch)
            )
        )
    return errors + wrong_values(case, found, expected)


def _differences(case: Case, inputs: Inputs, tangent: Tensor) -> Results:
    """The changes of result and gradients along a change of theta: central differences in float64."""
    step = 1e-5  # less than 1e-3 pixels, which is how far kinks are

    def at(offset: float) -> Results:
        theta = inputs.theta.double() + offset * tangent.double()
        wide = Inputs(inputs.input.double(), theta, inputs.grad.double(), inputs.index)
        return expect(replace(case, dtype=torch.float64), wide, "both").exact

    high, low = at(step), at(-step)
    found = [(_tensor(high, name) - _tensor(low, name)) / (2 * step) for name in _NAMES]
    return Results(*found)


_NAMES = ("output", "grad_input", "grad_theta")


def _tensor(results: Results, name: str) -> Tensor:
    found = getattr(results, name)
    assert isinstance(found, Tensor)
    return found


def _of_taps(case: Case, inputs: Inputs, tangent: Tensor, kind: Kind) -> Results:
    """The same changes in the arithmetic of the case, by derivatives of torch operations."""
    wide = torch.promote_types(case.dtype, torch.float32)
    x, theta, grad = inputs.input.to(wide), inputs.theta.to(wide), inputs.grad.to(wide)
    sample = partial(
        st_sample_taps, index=inputs.index, out_size=case.out_size, options=options_of(case)
    )
    tangent = tangent.to(wide)
    if kind == "fwd":
        return Results(torch.func.jvp(partial(sample, x), (theta,), (tangent,))[1].to(case.dtype))

    def gradients(theta: Tensor) -> tuple[Tensor, Tensor]:
        of_input, of_theta = torch.func.vjp(sample, x, theta)[1](grad)
        return of_input, of_theta

    of_input, of_theta = torch.func.jvp(gradients, (theta,), (tangent,))[1]
    return Results(torch.zeros(0), of_input.to(case.dtype), of_theta.to(inputs.theta.dtype))


# Hard thetas

_TURN = [[0.8, -0.6, 0.1], [0.6, 0.8, -0.05]]
_HARD: dict[str, dict[str, Any]] = {
    "affine": {
        "identity": [[1, 0, 0], [0, 1, 0]],
        "turn": _TURN,
        "zoom": [[0.5, 0, 0.2], [0, 0.5, -0.1]],
        "shrink": [[2, 0, 0.1], [0, 2, 0.3]],
        "shrink and turn": [[2 * x for x in row] for row in _TURN],
        "zoom and turn": [[0.5 * x for x in row] for row in _TURN],
        "quarter turn": [[0, -1, 0], [1, 0, 0]],
        "mirror": [[-1, 0, 0], [0, 1, 0]],
        "nearly singular": [[0.7, 0.7, 0.01], [0.7, 0.7 + 1e-6, 0.02]],
        "singular": [[0.6, 0.3, 0.02], [0.6, 0.3, -0.03]],
        "zero": [[0, 0, 0.13], [0, 0, -0.21]],
        "tiny": [[1e-3, 2e-4, 0.11], [-3e-4, 1e-3, 0.07]],
        "huge": [[1e4, 3e3, 0.11], [-3e3, 1e4, 0.07]],
        "far": [[1, 0, 50], [0, 1, -50]],
        "nan": [[math.nan, 0, 0], [0, 1, 0]],
        "inf": [[1, 0, math.inf], [0, 1, 0]],
    },
    "attention": {
        "identity": [1, 0, 0],
        "crop": [0.5, 0.3, -0.2],
        "shrink": [2, 0.1, 0.1],
        "zero": [0, 0.2, 0.1],
        "mirror": [-0.7, 0.1, 0],
        "nan": [0.5, math.nan, 0],
    },
    "projective": {
        "identity": [1, 0, 0, 0, 1, 0, 0, 0],
        "tilted": [0.9, -0.2, 0.05, 0.15, 1.1, -0.1, 0.12, -0.08],
        "horizon": [0.9, 0.1, 0, -0.1, 0.8, 0.1, 0.9, 0.7],
        "nan": [math.nan, 0, 0, 0, 1, 0, 0, 0],
    },
    "affine of volumes": {
        "identity": [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]],
        "turn": [[0.6, -0.7, 0.2, 0.1], [0.7, 0.6, -0.1, 0], [0.1, 0.2, 0.9, 0.2]],
        "zoom": [[0.3, 0.1, 0, 0.2], [0, 0.3, 0.1, -0.1], [0.1, 0, 0.3, 0]],
        "shrink": [[2, 0.3, 0, 0.1], [0, 2, 0.3, 0.3], [0.3, 0, 2, 0]],
        "plate": [[0.6, 0.3, 0.2, 0.02], [0.1, 0.7, 0.2, -0.03], [0.7, 1, 0.4, 0]],
        "needle": [[0.6, 0.3, 0.2, 0.02], [0.6, 0.3, 0.2, -0.03], [-0.6, -0.3, -0.2, 0]],
        "zero": [[0, 0, 0, 0.13], [0, 0, 0, -0.21], [0, 0, 0, 0.05]],
        "far": [[1, 0, 0, 50], [0, 1, 0, -50], [0, 0, 1, 0]],
        "nan": [[math.nan, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]],
    },
}
_TAME: dict[str, Any] = {
    "affine nan": [[0, 0, -50], [0, 1, 0]],
    "affine inf": [[0, 0, 50], [0, 1, 0]],
    "attention nan": [0.5, -50, 0],
    "projective nan": [0, 0, -50, 0, 1, 0, 0, 0],
    "affine of volumes nan": [[0, 0, 0, -50], [0, 1, 0, 0], [0, 0, 1, 0]],
}
"""Finite maps that give what the hard ones must give: all samples outside; with "border", NaN counts as index 0."""


def _tame(case: Case, name: str) -> Tensor:
    """A finite map to where the hard map `name`, which is not finite, goes."""
    theta = torch.tensor(
        _TAME[f"{_kind_of(case.transform, case.ndim)} {name}"], dtype=torch.float32
    )
    if case.padding_mode == "reflection":  # at index 0 whatever is not finite
        width, aligned = case.shape[-1], case.align_corners
        start = -1.0 if aligned else -1 + 0.5 / width  # just outside its centre
        theta.view(-1)[case.ndim] = start
    return theta


def _kind_of(transform: str, ndim: int) -> str:
    return transform if ndim == 2 else f"{transform} of volumes"


def hard_thetas(transform: str, ndim: int = 2) -> tuple[list[str], Tensor]:
    """(names, thetas)."""
    made = _HARD.get(_kind_of(transform, ndim))
    if made is None:
        identity = TRANSFORMS[transform].identity(ndim, 4)
        noise = torch.randn(identity.shape, generator=torch.Generator().manual_seed(5))
        made = {"identity": identity, "bent": identity + 0.15 * noise}
        if TRANSFORMS[transform].lattice is not None:
            turn = torch.tensor(_TURN, dtype=identity.dtype)[:, :2]
            made["turned"] = 0.8 * identity @ turn.mT
    tensors = [torch.as_tensor(theta, dtype=torch.float32) for theta in made.values()]
    return list(made), torch.stack(tensors)


def hard_case(transform: str, channels: int, **options: Any) -> Case:
    """A case whose batch has all hard thetas of a transformation."""
    batch = len(hard_thetas(transform, len(options.get("out_size", (0, 0))))[0])
    usual = Case(
        name="hard", shape=(batch, channels, 33, 29), out_size=(31, 38), transform=transform
    )
    case = replace(usual, **options)
    return replace(case, shape=(batch, *case.shape[1:]))


def check_hard(case: Case, kinds: Sequence[Kind] = KINDS, ulp: float = 0.0) -> list[str]:
    """What is wrong on hard thetas, each map by itself."""
    names, flat = hard_thetas(case.transform, case.ndim)
    finite = flat.isfinite().flatten(1).all(1)
    tame = flat.clone()
    for number in (~finite).nonzero().flatten().tolist():
        tame[number] = _tame(case, names[number])
    rolls = range(case.k or 1)
    theta, tame, clear = (
        torch.stack([t.roll(number, 0) for number in rolls], 1) for t in (flat, tame, finite)
    )
    if case.k is None:
        theta, tame, clear = theta[:, 0], tame[:, 0], clear[:, 0]
    beside = make_inputs(case, theta=tame)
    wrong = []
    for kind in kinds:
        inputs = beside
        if kind == "input":  # which has no kinks
            grad = torch.randn(beside.grad.shape, generator=torch.Generator().manual_seed(2))
            inputs = replace(beside, grad=in_format(case, grad.to(case.dtype)))
        expected = expect(case, inputs, "both")
        found, errors = _found(kind, case, replace(inputs, theta=theta), ulp=ulp)
        wrong += [f"{kind}: {error}" for error in errors]
        for number, name in enumerate(names):
            mine = {key: tensor[number] for key, tensor in found.items()}
            if "grad_theta" in mine and not bool(clear[number].all()):
                of_wild = (
                    mine["grad_theta"] if case.k is None else mine["grad_theta"][~clear[number]]
                )
                # Elsewhere the tame map has its coordinates on kinks, and gets no gradient.
                folded = case.padding_mode == "reflection"
                if not folded and not (of_wild == 0).all():
                    wrong.append(f"{kind} {name}: the gradient of theta is not 0")
                del mine["grad_theta"]
            these = Expectation(_row(expected.exact, number), _row(expected.pytorch, number))
            texts = wrong_values(case, mine, these, OF_FEW_IMAGES)
            wrong += [f"{kind} {name}: {text}" for text in texts]
    return wrong


def _row(results: Results, number: int) -> Results:
    return Results(*(_tensor(results, name)[number] for name in _NAMES))


def check_sides(channels: int, memory_format: str, transform: str) -> list[str]:
    """Whether all kernels take the same side of a kink: theta's gradient alone and beside the input's."""
    identity = hard_thetas(transform)[1][:1]
    maps = [identity, identity * (1 + 2e-7), identity * (1 - 2e-7)]
    if transform == "affine":
        turn = torch.tensor([[[0.0, -1.0, 0.0], [1.0, 0.0, 0.0]]])
        maps += [turn, turn * (1 + 2e-7), 2 * turn]
    theta = torch.cat(maps)
    shape = (len(theta), channels, 40, 40)
    case = Case(name="sides", shape=shape, out_size=(40, 40), transform=transform)
    case = replace(case, memory_format="channels_last" if memory_format else "contiguous")
    inputs = make_inputs(case, theta=theta)
    grad = torch.randn(
        (*leading(case), channels, 40, 40), generator=torch.Generator().manual_seed(3)
    )
    inputs = replace(inputs, grad=in_format(case, grad))
    alone, wrong = _found("theta", case, inputs)
    beside, more = _found("both", case, inputs)
    found = [results["grad_theta"].flatten(1) for results in (alone, beside)]
    error = float(((found[0] - found[1]).abs().amax(1) / found[1].abs().amax(1)).max())
    return wrong + more + ([f"theta's gradients differ by {error:.3g}"] if error > 1e-4 else [])


# The matrix


def checks() -> Iterator[Check]:
    """Every row."""
    single, half = torch.float32, torch.bfloat16
    for variant in covering_set():
        yield Check(variant.name, partial(check_variant, variant))
    for transform in TRANSFORMS:
        for dtype in (single, half):
            for channels, layout in (
                (3, "contiguous"),
                (16, "channels_last"),
                (3, "channels_last"),
            ):
                case = hard_case(transform, channels, dtype=dtype, memory_format=layout)
                yield _hard(case)
    last: dict[str, Any] = {"memory_format": "channels_last"}
    border: dict[str, Any] = {"padding_mode": "border"}
    yield _hard(hard_case("affine", 5, align_corners=True))
    yield _hard(hard_case("affine", 3, **border))
    yield _hard(hard_case("affine", 16, **border, **last))
    yield _hard(hard_case("affine", 48, dtype=half, align_corners=True, **border, **last))
    folded: dict[str, Any] = {"padding_mode": "reflection"}
    volume: dict[str, Any] = {"shape": (0, 3, 9, 13, 11), "out_size": (8, 12, 15)}
    yield _hard(hard_case("affine", 3, **folded))
    yield _hard(hard_case("affine", 16, dtype=half, align_corners=True, **folded, **last))
    yield _hard(hard_case("projective", 3, **border))
    yield _hard(hard_case("affine", 3, mode="bicubic", **border))
    for padding in ({}, border, folded):
        yield _hard(hard_case("affine", 3, **volume, **padding))
    yield _hard(hard_case("affine", 1, k=2))
    yield _hard(hard_case("affine", 3, padding_value=-1.5))
    yield _hard(hard_case("affine", 16, padding_value=-1.5, **last))
    yield _hard(hard_case("projective", 3, padding_value=-1.5))
    yield _hard(hard_case("attention", 16, k=3, dtype=half, **last))
    yield _hard(hard_case("affine", 3, shape=(0, 3, 1, 7), out_size=(5, 1)))
    yield _hard(hard_case("affine", 3, shape=(0, 3, 64, 64), out_size=(64, 64)))
    yield _hard(hard_case("affine", 2, shape=(0, 2, 17, 17), out_size=(70, 70)))
    yield _hard(hard_case("affine", 3), ulp=2.0)
    yield _hard(hard_case("affine", 16, **last), ulp=2.0)
    yield _hard(hard_case("attention", 3), ulp=2.0)
    yield _hard(hard_case("projective", 3), ulp=2.0)
    for transform in ("affine", "attention"):
        for channels, layout in ((3, ""), (16, "channels_last")):
            name = f"sides of kinks {transform} C={channels} {layout}".strip()
            yield Check(name, partial(check_sides, channels, layout, transform))


def _hard(case: Case, ulp: float = 0.0) -> Check:
    words = ["hard", case.transform, case.dtype_name, case.memory_format, case.padding_mode]
    words += [f"{case.shape[1:]}-{case.out_size}".replace(", ", "x")]
    words += [f"padding={case.padding_value}"] * bool(case.padding_value)
    words += ["corners"] * case.align_corners + [f"K={case.k}"] * bool(case.k)
    words += [f"ulp={ulp}"] * bool(ulp)
    return Check(" ".join(words), partial(check_hard, case, ulp=ulp))


def verify(parts: Sequence[str] = (), *, every: int = 1, first: int = 0) -> int:
    """Run the rows whose names contain one of `parts` (all, if there are none); how many are wrong.

    every, first: run only every `every`-th of these, beginning with number `first`.
    """
    chosen = [c for c in checks() if not parts or any(part in c.name for part in parts)]
    ran = chosen[first::every]
    if not ran:
        print(f"no row has {' or '.join(map(repr, parts))} in its name")
        return 1
    failed = 0
    for check in ran:
        started = time.monotonic()
        try:
            wrong = check.run()
        except NotImplementedError as error:  # an instruction that the emulator does not know
            wrong = [str(error)]
        failed += bool(wrong)
        seconds = time.monotonic() - started
        print(f"{'WRONG' if wrong else 'ok   '} {check.name}  ({seconds:.0f} s)", flush=True)
        for text in wrong[:12]:
            print(f"      {text}", flush=True)
    print(f"{failed} of {len(ran)} rows are wrong")
    return failed
