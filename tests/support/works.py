"""What processes of `bench.workers` and `bench.hostile` do in tests: they import no more than this."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

from bench.hostile.calls import Outcome


def length(name: str) -> int:
    if name == "dies":
        os._exit(7)
    return len(name)


def slow(name: str) -> str:
    time.sleep(0.2)
    return name


def hostile(seed: int, number: int, backends: Sequence[str]) -> Outcome:
    if number == 1:
        os._exit(3)
    if number == 3:
        time.sleep(60)
    return Outcome(number, "sampled", "", ())
