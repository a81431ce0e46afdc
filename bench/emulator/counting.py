"""What the kernels of a case cost: counted on some images of its batch, and scaled up to all.

Enough images are taken for the launchers to choose the block sizes of the whole batch, and their thetas
are spread evenly over those of the batch. Torch operations around the kernels, such as the sum of
partial gradients, are not counted.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from bench.cases import Case
from bench.check import OF_FEW_IMAGES, Expectation, expect, wrong_values
from bench.inputs import Inputs, make_inputs, make_theta
from bench.launches import Kind, call, launches, options_of, variant_of
from stn_triton.kernels.launch import Launch

from .calls import Run, ctas_of, emulate
from .model import Cost, cost

_FEWEST_IMAGES = 4
_ENOUGH_LANES = 1 << 18  # a pixel of the output and up to eight of its channels
_BUDGET = 1e8  # warp instructions, about a minute


@dataclass(frozen=True, kw_only=True)
class Row:
    """One kernel of one pass, as the JSON has it; `us`, `floor_us` and `h200_us` are of the whole pass."""

    case: str
    kind: Kind
    dtype: str
    memory_format: str
    kernel: str
    us: float
    floor_us: float
    binds: str
    h200_us: float
    sass_per_warp: float
    registers: int
    spill_bytes: int
    atomics: int
    errors: list[str]


@dataclass(frozen=True)
class Counted:
    """One pass of a case."""

    rows: list[Row]
    costs: list[Cost]
    images: int
    """How many images were emulated."""


def _alike(whole: list[Launch], part: list[Launch], times: int) -> bool:
    """Whether one call, of `times` as many images, starts the same kernels as the other with the same constants, warps
    and tiles.
    """
    if len(whole) != len(part):
        return False
    if any(ctas_of(w) != times * ctas_of(p) for w, p in zip(whole, part, strict=True)):
        return False
    facts = [
        [(e.kernel, e.constexprs, e.num_warps, e.maxnreg) for e in each] for each in (whole, part)
    ]
    return facts[0] == facts[1]


def _images(case: Case, kinds: Iterable[Kind]) -> int:
    """The fewest images that are enough, and whose kernels are those of the whole batch: a power of two.

    How many are enough does not depend on the kernels, so that counts of different kernels are of
    the same thetas.
    """
    whole = {kind: launches(variant_of(case, kind)) for kind in kinds}
    lanes = case.maps // case.shape[0] * math.prod(case.out_size) * -(-case.shape[1] // 8)
    images = _FEWEST_IMAGES
    while images < case.shape[0]:
        some = replace(case, shape=(images, *case.shape[1:]))
        divides = case.shape[0] % images == 0
        if (
            divides
            and images * lanes >= _ENOUGH_LANES
            and all(
                _alike(each, launches(variant_of(some, kind)), case.shape[0] // images)
                for kind, each in whole.items()
            )
        ):
            return images
        images *= 2
    return case.shape[0]


def count(case: Case, kinds: Iterable[Kind]) -> Iterator[Counted]:
    """Each pass of a case."""
    kinds = tuple(kinds)
    batch = case.shape[0]
    images = _images(case, kinds)
    chosen = [(2 * number + 1) * batch // (2 * images) for number in range(images)]
    part = replace(case, shape=(images, *case.shape[1:]))
    inputs = make_inputs(part, theta=make_theta(case)[chosen])
    expected = expect(part, inputs, "both")
    for kind in kinds:
        yield _count(case, kind, part, inputs, expected)


def _count(case: Case, kind: Kind, part: Case, inputs: Inputs, expected: Expectation) -> Counted:
    options = options_of(part)
    found, runs = emulate(lambda: call(kind, inputs, part.out_size, options), budget=_BUDGET)
    values = []
    if all(run.complete for run in runs):
        values = wrong_values(part, found, expected, OF_FEW_IMAGES)
    whole = [each for each in launches(variant_of(case, kind)) if 0 not in each.grid]
    costs = [
        cost(run, ctas_of(each) / run.counts.ctas) for run, each in zip(runs, whole, strict=True)
    ]
    total = {gpu: sum(each.seconds(gpu) for each in costs) for gpu in ("H100", "H200")}
    floor = sum(each.floor() for each in costs)
    rows = [
        Row(
            case=case.name,
            kind=kind,
            dtype=case.dtype_name,
            memory_format=case.memory_format,
            kernel=each.run.kernel.name,
            us=round(total["H100"] * 1e6, 3),
            floor_us=round(floor * 1e6, 3),
            binds=each.binds(),
            h200_us=round(total["H200"] * 1e6, 3),
            sass_per_warp=round(each.sass_per_warp, 1),
            registers=each.code.facts.registers,
            spill_bytes=each.code.facts.spill_bytes,
            atomics=each.code.facts.global_atomics,
            errors=[*each.run.counts.errors, *(values if each is costs[-1] else [])],
        )
        for each in costs
    ]
    return Counted(rows, costs, part.shape[0])


def errors_of(runs: Iterable[Run]) -> list[str]:
    """What went wrong in some launches."""
    return [f"{run.kernel.name}: {error}" for run in runs for error in run.counts.errors]
