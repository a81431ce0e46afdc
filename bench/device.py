"""`python -m bench.device --out DIR`: all that needs a GPU, in one command, the most important
first.

It checks correctness, then times every case in float32 beside its peers, then whole networks, then bfloat16.
The checks, with the compilations that they take, are not timed and run in `--jobs` processes at once. Every few
seconds the files in DIR are replaced whole, so that little is lost when time runs out; `--resume` then measures what
is missing. Without a GPU (or with `--device cpu`) it is a dry run: tiny cases go through the same code, and the file
says `"gpu": null` and does not belong to the committed results.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cache, partial
from itertools import chain, groupby, product
from operator import attrgetter
from pathlib import Path

import torch

from . import networks
from .cases import BASE_CASES, OPTION_CASES, TINY_CASES, Case, Grads, expand, pass_name
from .check import expect, run, verdict
from .check_matrix import Outcome, run_checks
from .inputs import Inputs, make_inputs
from .providers import present
from .providers.provider import LAST, Provider
from .report import markdown
from .results import (
    RESULTS,
    Key,
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
from .workers import DEFAULT_JOBS, device_alive, in_processes

_CORRECTNESS_SHARE = 0.15
_VERDICTS_SHARE = 0.45
_SINGLES_SHARE = 0.85
"""Parts of the time after which the next stage starts, finished or not."""

_NETWORKS_SHARE = 0.15
"""The part of the time that networks may take, whenever they start."""

_SAVE_SECONDS = 5.0
"""Between two writings of the files, whose time grows with what is in them."""

_FIRST = ("stn_triton", "torch_eager")
_TINY_NETWORKS = (networks.Setting("mnist_st_cnn_affine", 1, 28, 4),)


Known = Mapping[str, str | None]
"""What is wrong with the results of each measurement, by its name, that there was time to check."""

_UNKNOWN = "not known"
"""Instead of it: to be checked by the process that times."""


class DeviceLost(RuntimeError):
    """The GPU's context died under a peer; only a new process can go on."""


@dataclass(frozen=True)
class Measurement:
    """One provider on one pass of a case."""

    provider: Provider
    case: Case
    grads: Grads | None

    @property
    def key(self) -> Key:
        """The key of the record that it becomes."""
        return key_of(self.case, self.provider.name, self.grads)

    @property
    def name(self) -> str:
        """The measurement in words; unique, as `key` is."""
        return f"{self.case.key} {self.provider.name} {pass_name(self.grads)}"


def plan(
    device: str, base: tuple[Case, ...], options: tuple[Case, ...] = ()
) -> tuple[list[Measurement], list[Measurement]]:
    """What to measure before whole networks and what after them, the most important first and nothing twice.

    First all that is safe on the cases as they stand, float32 and contiguous, so that a run cut short has every peer.
    """
    everyone, every = list(present(device)), (*base, *options)
    safe = [provider for provider in everyone if provider.turn < LAST]
    first = [provider for provider in everyone if provider.name in _FIRST]
    single, half = (torch.float32,), (torch.bfloat16,)
    before = (safe, base), (safe, options), (first, expand(every, single))
    after = (
        (first, expand(every, half)),
        (everyone, every),
        (everyone, expand(every, half)),
        (everyone, expand(every, single)),
    )
    early, late = ({each.key: each for each in _passes(stage)} for stage in (before, after))
    return [*early.values()], [each for key, each in late.items() if key not in early]


def _passes(stage: Iterable[tuple[list[Provider], Iterable[Case]]]) -> Iterator[Measurement]:
    """Every pass of the cases by each of the providers beside them that computes it."""
    for providers, cases in stage:
        for case in cases:
            for grads, provider in product(case.passes, providers):
                if provider.can(case, grads):
                    yield Measurement(provider, case, grads)


@dataclass
class Session:
    """One run of the command: where it writes, and when it must stop."""

    device: str
    results: Results
    folder: Path
    deadline: float
    started: float
    jobs: int = 1
    saved: float = 0.0

    def until(self, share: float) -> float:
        """The time at which a stage has used up its share."""
        return self.started + share * (self.deadline - self.started)

    def save(self, *, every: float = 0.0) -> None:
        """Write both files, unless that was done less than `every` seconds ago."""
        if time.monotonic() < self.saved + every:
            return
        self.saved = time.monotonic()
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
    for outcome in run_checks(session.device, until=until, without=passed, jobs=session.jobs):
        outcomes.append(outcome)
        if outcome.wrong is not None:
            session.complain(outcome.name, outcome.wrong)
        write_text(path, json.dumps([asdict(o) for o in outcomes], indent=1) + "\n")
    wrong = sum(outcome.wrong is not None for outcome in outcomes)
    print(f"correctness: {len(outcomes) - wrong} of {len(outcomes)} right", flush=True)
    return wrong == 0


def _wrong(measurement: Measurement, inputs: Inputs) -> str | None:
    """What is wrong with a provider's results on a case, which are compared before they are timed."""
    provider, case, grads = measurement.provider, measurement.case, measurement.grads
    actual = run(provider.on_theta(case), inputs, grads)
    return verdict(case, actual, expect(case, inputs, grads), provider.rounding)


@cache
def _planned(
    device: str, base: tuple[Case, ...], options: tuple[Case, ...]
) -> dict[str, Measurement]:
    return {measurement.name: measurement for measurement in chain(*plan(device, base, options))}


def _verdict_of(
    device: str, base: tuple[Case, ...], options: tuple[Case, ...], name: str
) -> str | None:
    """What is wrong with the results of a planned measurement; what it compiles the timing finds on disk."""
    measurement = _planned(device, base, options)[name]
    try:
        return _wrong(measurement, make_inputs(measurement.case, device))
    except torch.OutOfMemoryError:
        return (
            _UNKNOWN  # other processes take too much memory: it is checked again when it is alone
        )
    except Exception as error:  # a peer may raise anything
        return f"{type(error).__name__}: {error}"
    finally:
        if device == "cuda":
            torch.cuda.empty_cache()


def verdicts(
    session: Session, base: tuple[Case, ...], options: tuple[Case, ...], names: list[str]
) -> Known:
    """Check the named measurements in several processes, if there are to be several, until the time for it is up."""
    if session.jobs == 1:
        return dict.fromkeys(names, _UNKNOWN)
    until = session.until(_VERDICTS_SHARE)
    work = partial(_verdict_of, session.device, base, options)
    device, jobs = session.device, session.jobs
    found = dict(in_processes(work, names, jobs=jobs, device=device, until=until))
    print(f"verdicts: {len(found)} of {len(names)}", flush=True)
    return found


def _one(session: Session, measurement: Measurement, sets: list[Inputs], known: Known) -> None:
    """Check, time and record one measurement; if anything goes wrong its record is unchecked."""
    provider, case, grads = measurement.provider, measurement.case, measurement.grads
    timing = None
    try:
        wrong = known.get(measurement.name, _UNKNOWN)
        if wrong == _UNKNOWN:
            wrong = _wrong(measurement, sets[0])
        if wrong is None:
            timing = measure(provider, case, grads, sets)
        else:
            session.complain(measurement.name, wrong)
    except Exception as error:  # a peer may raise anything; the others still want their turn
        session.complain(measurement.name, f"{type(error).__name__}: {error}")
    alive = device_alive(session.device)
    area_on = session.device if alive else "cpu"
    copy = session.results.copy_gb_s
    session.results.records.append(make_record(case, provider.name, grads, timing, copy, area_on))
    session.save(every=_SAVE_SECONDS if alive else 0)
    if not alive:
        raise DeviceLost(f"{measurement.name} took the GPU down: run again with --resume")
    print(f"{measurement.name}: {f'{timing.ms:.4f} ms' if timing else 'not timed'}", flush=True)


def measure_cases(session: Session, missing: list[Measurement], known: Known, until: float) -> bool:
    """Measurements in their order; whether there was time for all."""
    finished = True
    for case, measurements in groupby(missing, key=attrgetter("case")):
        if time.monotonic() > until:
            return False
        sets = rotating_inputs(case, session.device)
        for measurement in measurements:
            if measurement.provider.name == "torch_compile" and measurement.name not in known:
                finished = False  # its compiler would take the time of many measurements
            else:
                _one(session, measurement, sets, known)
        del sets
        if session.device == "cuda":
            gc.collect()
            torch.cuda.empty_cache()
    return finished


def measure_networks(
    session: Session, settings: tuple[networks.Setting, ...], until: float
) -> bool:
    """Whole networks, leaving out those recorded; whether there was time for all."""
    done = {(n.name, n.image_size, n.dtype, n.provider) for n in session.results.networks}
    for setting, sampler in networks.runs(settings):
        if (setting.name, setting.image_size, setting.dtype, sampler) in done:
            continue
        if time.monotonic() > until:
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


def measure_all(
    session: Session,
    base: tuple[Case, ...],
    options: tuple[Case, ...],
    settings: tuple[networks.Setting, ...],
) -> bool:
    """The plan with the networks in its middle, leaving out what has been recorded; whether there was time for all."""
    done, planned = session.results.keys(), plan(session.device, base, options)
    before, after = ([each for each in part if each.key not in done] for part in planned)
    known = verdicts(session, base, options, [each.name for each in (*before, *after)])
    finished = measure_cases(session, before, known, session.until(_SINGLES_SHARE))
    share = session.until(_NETWORKS_SHARE) - session.started
    until = min(time.monotonic() + share, session.deadline)
    finished &= measure_networks(session, settings, until)
    return measure_cases(session, after, known, session.deadline) and finished


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
        "--jobs",
        type=int,
        default=DEFAULT_JOBS,
        metavar="N",
        help="processes for what is not timed (default: the processors but two)",
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
        if before.commit != results.commit:
            parser.error(
                f"--resume: {previous} was measured at commit {before.commit}, this is {results.commit}; "
                "take another folder"
            )
        results.records, results.networks = before.records, before.networks
    deadline = started + 60 * chosen.minutes
    session = Session(device, results, chosen.out, deadline, started, chosen.jobs)
    session.save()
    right = chosen.skip_correctness or check_all(session, chosen.resume)
    try:
        finished = (
            measure_all(session, BASE_CASES, OPTION_CASES, networks.SETTINGS)
            if device == "cuda"
            else measure_all(session, TINY_CASES, (), _TINY_NETWORKS)
        )
    except DeviceLost as error:
        print(error, file=sys.stderr)
        return 3
    finally:
        session.save()
    if not finished:
        print("time is up: go on with --resume", flush=True)
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
