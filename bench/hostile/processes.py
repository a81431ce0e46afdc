"""Many calls in a process of their own: one that crashes, hangs or takes all memory ends that process alone."""

from __future__ import annotations

import multiprocessing
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection

from .calls import Outcome, outcome

_MOST_MEMORY = 24 * 2**30
"""Bytes of address space: a size that is absurd fails at once, instead of taking the machine down."""
_START_SECONDS = 300
Judge = Callable[[int, int, Sequence[str]], Outcome]


def outcomes(
    seed: int,
    numbers: Sequence[int],
    backends: Sequence[str],
    limit: float,
    until: float,
    judge: Judge = outcome,
) -> Iterator[Outcome]:
    """The outcomes of some calls in turn, up to a time. limit: the most seconds for a call."""
    context = multiprocessing.get_context("spawn")
    left = list(numbers)
    while left and time.monotonic() < until:
        ours, theirs = context.Pipe()
        process = context.Process(
            target=_work, args=(theirs, seed, left, list(backends), until, judge), daemon=True
        )
        process.start()
        theirs.close()
        done, why = 0, ""
        with suppress(EOFError):
            while done < len(left):
                if not ours.poll(limit if done else limit + _START_SECONDS):
                    why = f"no end within {limit:g} s"
                    break
                found = ours.recv()
                if found is None:  # the time is over
                    left = []
                    break
                done += 1
                yield found
        if why:
            process.kill()
        process.join()
        if done < len(left):
            why = why or f"the process ended by itself, exit code {process.exitcode}"
            yield Outcome(left[done], "crash", "see --only", (why,))
            done += 1
        left = left[done:]


def _work(
    pipe: Connection,
    seed: int,
    numbers: Sequence[int],
    backends: Sequence[str],
    until: float,
    judge: Judge,
) -> None:
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (_MOST_MEMORY, _MOST_MEMORY))
    for number in numbers:
        if time.monotonic() > until:
            pipe.send(None)
            return
        pipe.send(judge(seed, number, backends))
