"""`python -m bench.device --out DIR`: all that needs a GPU, in one command, the most important
first.

Correctness, then every case against every peer, then whole networks. After each measurement the
files in DIR are replaced whole, so that nothing is lost when time runs out, and `--resume` goes on
with what is missing. Without a GPU (or with `--device cpu`) it is a dry run: tiny cases through the
same code, marked `"gpu": null`, never among the committed results.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from . import networks
from .cases import BASE_CASES, OPTION_CASES, TINY_CASES, Case, Direction, Grads, expand
from .check import Expectation, expect, run, verdict
from .correctness import Outcome, run_checks
from .inputs import Inputs
from .providers import Provider, present
from .report import markdown
from .results import (
    RESULTS,
    Results,
    environment,
    file_name,
    key_of,
    load,
    make_record,
    save,
    write_text,
)
from .timing import copy_gb_s, measure, rotating_inputs

_CORRECTNESS_SHARE = 0.25
_CASES_SHARE = 0.85
"""Parts of the time after which the next stage starts, finished or not."""

_FIRST = ("stn_triton", "torch_eager")
_TINY_NETWORKS = (networks.Setting("mnist_st_cnn_affine", 1, 28, 4),)


class DeviceLost(RuntimeError):
    """The GPU's context died under a peer; only a new process can go on."""


@dataclass(frozen=True)
class Plan:
    """Which providers run on which cases; earlier plans matter more."""

    providers: tuple[Provider, ...]
    cases: tuple[Case, ...]


def plans(device: str, base: tuple[Case, ...], options: tuple[Case, ...]) -> Iterator[Plan]:
    """Ours and eager on the base cases, then the other peers on these in float32; then the other options likewise;
    then what is left of both.
    """
    everyone = present(device)
    first = tuple(p for p in everyone if p.name in _FIRST)
    others = tuple(p for p in everyone if p.name not in _FIRST)
    yield Plan(first, tuple(expand(base)))
    yield Plan(others, base)
    yield Plan(everyone, options)
    yield Plan(first, tuple(expand(options)))
    yield Plan(others, tuple(expand((*base, *options))))


@dataclass
class Session:
    """One run of the command: where it writes, and when it must stop."""

    device: str
    results: Results
    folder: Path
    deadline: float
    started: float

    def until(self, share: float) -> float:
        """The time at which a stage has used up its share."""
        return self.started + share * (self.deadline - self.started)

    def save(self) -> None:
        """Write both files."""
        path = self.folder / file_name(self.results.gpu)
        save(self.results, path)
        write_text(path.with_suffix(".md"), markdown(self.results))

    def complain(self, what: str, why: str) -> None:
        """A line on the error stream and in `errors.txt`."""
        print(f"{what}: {why}", file=sys.stderr, flush=True)
        with (self.folder / "errors.txt").open("a") as file:
            file.write(f"{what}: {why}\n")


def check_all(session: Session, resume: bool) -> bool:
    """The correctness matrix, into `correctness.json`; whether everything was right.

    What passed before is not run again when going on.
    """
    path = session.folder / "correctness.json"
    before = json.loads(path.read_text()) if resume and path.exists() else []
    outcomes = [Outcome(**each) for each in before if each["wrong"] is None]
    passed = {outcome.name for outcome in outcomes}
    until = session.until(_CORRECTNESS_SHARE)
    for outcome in run_checks(session.device, until=until, without=passed):
        outcomes.append(outcome)
        if outcome.wrong is not None:
            session.complain(outcome.name, outcome.wrong)
        write_text(path, json.dumps([asdict(o) for o in outcomes], indent=1) + "\n")
    wrong = sum(outcome.wrong is not None for outcome in outcomes)
    print(f"correctness: {len(outcomes) - wrong} of {len(outcomes)} right", flush=True)
    return wrong == 0


def _alive(device: str) -> bool:
    try:
        if device == "cuda":
            torch.cuda.synchronize()
    except RuntimeError:
        return False
    return True


@dataclass(frozen=True)
class Measurement:
    """One case in one direction: its tensors, and what must come out of the first set of them."""

    case: Case
    direction: Direction
    grads: Grads | None
    sets: list[Inputs]
    expected: Expectation


def _one(session: Session, provider: Provider, measurement: Measurement) -> None:
    """Check, time and record one provider; if anything goes wrong its record is unchecked."""
    case, direction, grads, sets = (
        measurement.case,
        measurement.direction,
        measurement.grads,
        measurement.sets,
    )
    what = f"{case.key} {direction} {grads or ''} {provider.name}"
    timing = None
    try:
        if provider.name == "torch_compile":
            torch._dynamo.reset()
        actual = run(provider.on_theta(case), sets[0], grads)
        wrong = verdict(case, actual, measurement.expected, provider.rounding)
        if wrong is None:
            timing = measure(provider, case, grads, sets)
        else:
            session.complain(what, wrong)
    except Exception as error:  # a peer may raise anything; the others still want their turn
        session.complain(what, f"{type(error).__name__}: {error}")
    alive = _alive(session.device)
    area_on = session.device if alive else "cpu"
    session.results.records.append(
        make_record(
            case, provider.name, direction, grads, timing, session.results.copy_gb_s, area_on
        )
    )
    session.save()
    if not alive:
        raise DeviceLost(f"{what} took the GPU down: run again with --resume")
    print(f"{what}: {f'{timing.ms:.4f} ms' if timing else 'not timed'}", flush=True)


def measure_cases(session: Session, base: tuple[Case, ...], options: tuple[Case, ...] = ()) -> bool:
    """Every plan in order, leaving out what has been recorded; whether there was time for all."""
    for plan in plans(session.device, base, options):
        done = session.results.keys()
        for case in plan.cases:
            for direction, grads in case.directions():
                missing = [
                    p
                    for p in plan.providers
                    if p.can(case, direction, grads)
                    and key_of(case, p.name, direction, grads) not in done
                ]
                if not missing:
                    continue
                if time.monotonic() > session.until(_CASES_SHARE):
                    return False
                sets = rotating_inputs(case, session.device)
                measurement = Measurement(
                    case, direction, grads, sets, expect(case, sets[0], grads)
                )
                for provider in missing:
                    _one(session, provider, measurement)
                del sets, measurement
                if session.device == "cuda":
                    gc.collect()
                    torch.cuda.empty_cache()
    return True


def measure_networks(session: Session, settings: tuple[networks.Setting, ...]) -> bool:
    """Whole networks, leaving out those recorded; whether there was time for all."""
    done = {(n.name, n.image_size, n.provider) for n in session.results.networks}
    for setting, sampler in networks.runs(settings):
        if (setting.name, setting.image_size, sampler) in done:
            continue
        if time.monotonic() > session.deadline:
            return False
        try:
            session.results.networks.append(
                networks.measure_network(setting, sampler, session.device)
            )
        except (
            Exception
        ) as error:  # a network may lack an option or not fit: the next may still run
            session.complain(
                f"network {setting.name} with {sampler}", f"{type(error).__name__}: {error}"
            )
        session.save()
    return True


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.device",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument(
        "--minutes", type=float, default=60.0, metavar="M", help="stop after so long (default 60)"
    )
    parser.add_argument(
        "--resume", action="store_true", help="keep what DIR has and measure the rest"
    )
    parser.add_argument("--commit", help="what is measured, where there is no repository to ask")
    parser.add_argument(
        "--device", choices=("cuda", "cpu"), help="default: cuda where there is a GPU"
    )
    parser.add_argument(
        "--skip-correctness",
        action="store_true",
        help="each case is still checked before its timing",
    )
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Command line; 0 if all was right, 1 if something was wrong, 2 for bad arguments, 3 if the GPU
    was lost.
    """
    parser = _parser()
    chosen = parser.parse_args(arguments)
    device = chosen.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: no GPU is visible")
    if device == "cpu" and chosen.out.resolve().is_relative_to(RESULTS):
        parser.error(f"--out {chosen.out}: a dry run without a GPU is no result")
    chosen.out.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    results = environment(copy_gb_s(device), chosen.commit)
    if device == "cpu":
        results.gpu = None
    previous = chosen.out / file_name(results.gpu)
    if chosen.resume and previous.exists():
        before = load(previous)
        results.records, results.networks = before.records, before.networks
    session = Session(device, results, chosen.out, started + 60 * chosen.minutes, started)
    session.save()
    right = chosen.skip_correctness or check_all(session, chosen.resume)
    try:
        finished = (
            measure_cases(session, BASE_CASES, OPTION_CASES)
            if device == "cuda"
            else measure_cases(session, TINY_CASES)
        )
        finished &= measure_networks(
            session, networks.SETTINGS if device == "cuda" else _TINY_NETWORKS
        )
    except DeviceLost as error:
        print(error, file=sys.stderr)
        return 3
    if not finished:
        print("time is up: go on with --resume", flush=True)
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
