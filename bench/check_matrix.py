"""A compact matrix of checks on one device; before they hold, no time is worth taking."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib.util import find_spec
from itertools import combinations, product
from typing import Any

import torch
from torch import Tensor

import stn_triton
from stn_triton.checks import MODES, PADDING_MODES
from stn_triton.transforms import TRANSFORMS

from .cases import Case, Grads, expand
from .check import OF_FEW_IMAGES, Sample, expect, run, verdict
from .inputs import make_inputs
from .providers.stn_triton import ours
from .workers import in_processes


@dataclass(frozen=True)
class Outcome:
    """One check: `wrong` is None where it passed."""

    name: str
    wrong: str | None
    seconds: float


_SHAPES: tuple[Case, ...] = (
    Case("3x17x23", (2, 3, 17, 23), (19, 15)),
    Case("8x33x20", (2, 8, 33, 20), (40, 37), k=2),
    Case("1x1x1", (1, 1, 1, 1), (3, 2)),
)
"""Odd sizes, more than one tile, a row of one pixel, with and without the K axis."""

_VOLUMES: tuple[Case, ...] = (
    Case("3x7x9x11", (2, 3, 7, 9, 11), (8, 7, 13)),
    Case("8x12x9x10", (2, 8, 12, 9, 10), (9, 14, 11), k=2),
)
_LINEAR = ("affine", "attention")
_OTHERS = tuple(name for name in TRANSFORMS if name not in _LINEAR)

_THETA_KINDS: tuple[Grads, ...] = ("theta", "both")
_LARGE = Case("70x130x150", (3, 70, 130, 150), (141, 90))
_WITH_OPTIONS: tuple[Case, ...] = (
    _LARGE,
    *(replace(_LARGE, name=f"{_LARGE.name} {name}", transform=name) for name in _OTHERS),
    replace(_LARGE, name=f"{_LARGE.name} reflection", padding_mode="reflection"),
    replace(_LARGE, name=f"{_LARGE.name} bicubic", mode="bicubic"),
    Case(
        name="4x140x150 antialias",
        shape=(3, 4, 140, 150),
        out_size=(50, 40),
        transform="attention",
        antialias=True,
    ),
    Case("20x30x25x20", (3, 20, 30, 25, 20), (21, 26, 31)),
)


def _against_definition(case: Case, sample: Sample, device: str) -> str | None:
    inputs = make_inputs(case, device)
    grads: Grads = "input" if case.mode == "nearest" else "both"
    expected = expect(case, inputs, grads)
    actual = run(sample, inputs, grads)
    if case.mode == "nearest":
        # Beside a tie either neighbour is right; the gradient is 0 there by construction.
        keep = inputs.grad != 0
        actual = replace(actual, output=actual.output.where(keep, 0))
        exact = replace(expected.exact, output=expected.exact.output.where(keep, 0))
        pytorch = replace(expected.pytorch, output=expected.pytorch.output.where(keep, 0))
        expected = replace(expected, exact=exact, pytorch=pytorch)
    return verdict(case, actual, expected, OF_FEW_IMAGES)


def _crossing(
    shapes: tuple[Case, ...],
    transforms: tuple[str, ...],
    modes: tuple[str, ...] = MODES,
    antialias: tuple[bool | int, ...] = (False,),
) -> Iterator[Case]:
    """Every option with every other, in both layouts, float32."""
    for shape, transform, mode, padding, corners, samples in product(
        shapes, transforms, modes, PADDING_MODES, (False, True), antialias
    ):
        if corners and samples:
            continue
        words = [shape.name, transform, mode, padding]
        words += ["corners"] * corners + [f"antialias={samples}"] * bool(samples)
        case = replace(
            shape,
            name=" ".join(words),
            transform=transform,
            mode=mode,
            padding_mode=padding,
            align_corners=corners,
            antialias=samples,
        )
        yield from expand((case,), (torch.float32,))


def _options(case: Case) -> set[tuple[str, Any]]:
    """The options of a case, as pairs of name and value."""
    plain = ("transform", "mode", "padding_mode", "align_corners", "antialias", "memory_format")
    facts = {name: getattr(case, name) for name in (*plain, "dtype_name", "ndim")}
    return set(facts.items()) | {("channels", case.shape[1] == 3)}


def _most_pairs_first(cases: list[Case]) -> list[Case]:
    """The cases in such an order that a run cut short has met as many pairs of options as possible."""
    pairs = [set(combinations(sorted(_options(case), key=repr), 2)) for case in cases]
    left, order = list(range(len(cases))), []
    unseen = set().union(*pairs)
    while unseen:
        best = max(left, key=lambda index: len(pairs[index] & unseen))
        unseen -= pairs[best]
        left.remove(best)
        order.append(best)
    return [cases[index] for index in (*order, *left)]


@cache
def _matrix() -> list[Case]:
    return _most_pairs_first(list(_crossings()))


def _crossings() -> Iterator[Case]:
    yield from _crossing(_SHAPES, _LINEAR)
    dtypes = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
    for case in (*_SHAPES, *_WITH_OPTIONS):
        yield from expand((case,), dtypes)
    yield from _crossing(_SHAPES[:2], _OTHERS)
    yield from _crossing(_VOLUMES, _LINEAR, MODES[:2])
    yield from _crossing(_SHAPES[:2], _LINEAR, antialias=(3, True))
    yield from _crossing(_SHAPES[:2], _OTHERS, antialias=(2,))
    yield from _crossing(_VOLUMES, _LINEAR, MODES[:2], antialias=(2, True))


def _bitwise(case: Case, device: str) -> str | None:
    """Whether every run gives the same bits."""
    inputs, sample = make_inputs(case, device), ours(case)
    first = run(sample, inputs, "both")
    for _ in range(3):
        again = run(sample, inputs, "both")
        for name in ("output", "grad_input", "grad_theta"):
            if not torch.equal(getattr(first, name), getattr(again, name)):
                return f"{name} differs from run to run"
    return None


def _second_derivatives(case: Case, device: str) -> str | None:
    """Forward mode and the derivatives of a squared gradient, alike with both backends, in float64."""
    inputs = make_inputs(replace(case, dtype=torch.float64), device)
    primals = inputs.input, inputs.theta.double()

    def found(backend: str) -> tuple[Tensor, ...]:
        sample = ours(case, backend)
        x, theta = (primal.clone().requires_grad_() for primal in primals)
        first = torch.autograd.grad(sample(x, theta), (x, theta), inputs.grad, create_graph=True)
        squared = torch.stack([gradient.square().sum() for gradient in first]).sum()
        along = torch.func.jvp(sample, primals, primals)[1]
        return *torch.autograd.grad(squared, (x, theta)), along * (inputs.grad != 0)

    names = ("grad_input", "grad_theta", "jvp")
    for name, triton, plain in zip(names, found("triton"), found("torch"), strict=True):
        error = float((triton - plain).abs().max() / plain.abs().max())
        if not error < 1e-8:
            return f"{name} differs by {error:.3g} between the backends"
    return None


def _floors(device: str) -> str | None:
    """Whether all kernels take the same side of a kink: theta's gradient is asked for alone, then beside the input's.

    These maps put coordinates on whole pixels or a rounding away from them, where a floor taken
    differently changes the derivative of that pixel altogether.
    """
    size = (64, 64)
    turn = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0]])
    identity = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    near, past = 1 - 2e-7, 1 + 2e-7
    maps = [identity, identity * past, identity * near, turn, turn * past, 2 * turn]
    for channels in (3, 64):
        case = Case(name="floors", shape=(len(maps), channels, *size), out_size=size)
        for each in expand((case,), (torch.float32,)):
            inputs = replace(make_inputs(each, device), theta=torch.stack(maps).to(device))
            inputs = replace(inputs, grad=torch.randn_like(inputs.grad))
            alone, beside = (run(ours(each), inputs, g).grad_theta for g in _THETA_KINDS)
            assert alone is not None
            assert beside is not None
            error = float((alone - beside).abs().max() / beside.abs().max())
            if error > 1e-4:
                return f"{each.key}: theta's gradients differ by {error:.3g}"
    return None


def _exact(device: str) -> str | None:
    """The identity at the same size and flips return the input to the bit (on a GPU; the CPU path rounds)."""
    x = torch.randn(2, 5, 37, 50, device=device)
    for sx, sy, dims in ((1, 1, ()), (-1, 1, (3,)), (1, -1, (2,)), (-1, -1, (2, 3))):
        theta = torch.tensor([[sx, 0.0, 0.0], [0.0, sy, 0.0]], device=device).expand(2, 2, 3)
        got = stn_triton.st_sample(x, theta, x.shape[2:])
        error = float((got - x.flip(dims)).abs().max())
        if error > (0 if device == "cuda" else 2e-7 * max(x.shape) * float(x.abs().max())):
            return f"flip {dims} is off by {error:.3g}"
    return None


def _compiled(case: Case, device: str) -> str | None:
    """`torch.compile(fullgraph=True)`, forward and backward, at two sizes with dynamic shapes."""
    torch._dynamo.reset()
    case = replace(case, k=None)
    compiled = torch.compile(ours(case), fullgraph=True, dynamic=True)
    for height in (17, 30):
        shape = (*case.shape[:-2], height, 25)
        wrong = _against_definition(replace(case, shape=shape), compiled, device)
        if wrong is not None:
            return f"height {height}: {wrong}"
    return None


def _registered(case: Case, device: str) -> str | None:
    """`opcheck`: schema, fakes, autograd registration and dynamic shapes of the registered op."""
    from stn_triton.ops import sample

    from .launches import options_of

    inputs = make_inputs(case, device)
    x, theta = inputs.input.requires_grad_(), inputs.theta.requires_grad_()
    torch.library.opcheck(sample, (x, theta, inputs.index, case.out_size, *options_of(case)))
    return None


def _far_offsets(device: str) -> str | None:
    """An image of more than 2^31 elements: the last pixels, reached only with 64-bit offsets."""
    side, crop = 46400, 64
    x = torch.randn(1, 1, side, side, device=device, dtype=torch.bfloat16)
    scale, shift = crop / side, 1 - crop / side
    theta = torch.tensor([[scale, shift, shift]], device=device, dtype=torch.float64)
    got = stn_triton.st_sample(x, theta.float(), (crop, crop), transform="attention")
    # float32 coordinates this far out are 2^-8 pixels apart, so neighbours mix by about that much.
    error = float((got - x[..., -crop:, -crop:]).abs().max())
    return (
        None if error <= 0.1 * float(x[..., -crop:, -crop:].abs().max()) else f"off by {error:.3g}"
    )


def checks(device: str) -> Iterator[tuple[str, Callable[[], str | None]]]:
    """Every check by name, the most telling first."""
    yield "identity and flips", partial(_exact, device)
    yield "floors alike in all kernels", partial(_floors, device)
    for case in expand(_WITH_OPTIONS, (torch.float32,)):
        yield f"same bits {case.key}", partial(_bitwise, case, device)
    if device == "cuda":
        for case in expand(_WITH_OPTIONS, (torch.float32,)):
            yield f"torch.compile {case.key}", partial(_compiled, case, device)
        if find_spec("expecttest") is not None:  # which opcheck needs
            for case in expand((*_SHAPES[:2], *_VOLUMES[1:]), (torch.float32, torch.bfloat16)):
                yield f"opcheck {case.key}", partial(_registered, case, device)
        yield "more than 2^31 elements", partial(_far_offsets, device)
        for transform in TRANSFORMS:
            case = replace(_SHAPES[1], name=f"{_SHAPES[1].name} {transform}", transform=transform)
            yield f"second derivatives {case.key}", partial(_second_derivatives, case, device)
    for case in _matrix():
        yield f"definition {case.key}", partial(_against_definition, case, ours(case), device)
    if device == "cuda":
        for case in _matrix():
            sample = ours(case, "torch")
            yield (
                f"definition, torch backend {case.key}",
                partial(_against_definition, case, sample, device),
            )


@cache
def _by_name(device: str) -> dict[str, Callable[[], str | None]]:
    return dict(checks(device))


def _outcome(device: str, name: str) -> Outcome:
    start = time.monotonic()
    try:
        wrong = _by_name(device)[name]()
    except Exception as error:  # a check that cannot run has failed
        wrong = f"{type(error).__name__}: {error}"
    return Outcome(name, wrong, time.monotonic() - start)


def run_checks(
    device: str, *, until: float, without: Set[str] = frozenset(), jobs: int = 1
) -> Iterator[Outcome]:
    """Run the checks that `without` does not name, until a `time.monotonic()`. A check that raises has failed."""
    names = [name for name in _by_name(device) if name not in without]
    found = in_processes(partial(_outcome, device), names, jobs=jobs, device=device, until=until)
    return (outcome for _, outcome in found)
