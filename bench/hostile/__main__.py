"""`python -m bench.hostile`: random calls of the public interface that try to make it crash, hang or be wrong.

Prints each call that fails with the line that repeats it, and in the end how many there were of each kind; the exit
status is 1 if one failed. What is tried and what counts as right is written in `bench.hostile`.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections import Counter
from importlib.util import find_spec

BACKENDS = ("native", "torch", "triton", "emulator")
_LIMITS = {"triton": 300.0, "emulator": 900.0}
"""Seconds for a call: interpreted and emulated kernels take their time."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.hostile", description=__doc__)
    parser.add_argument(
        "--backend",
        choices=BACKENDS,
        help="triton: in Triton's interpreter; emulator: the compiled kernels, see bench.emulator "
        "(default: every call on native and torch)",
    )
    parser.add_argument(
        "--calls", type=int, default=1000, metavar="N", help="how many (default: 1000)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="S")
    parser.add_argument(
        "--minutes", type=float, default=math.inf, metavar="M", help="stop after that"
    )
    parser.add_argument(
        "--only", type=int, metavar="NUMBER", help="this call alone, in this process"
    )
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Command line; 1 if a call failed."""
    parser = _parser()
    chosen = parser.parse_args(arguments)
    backends = [chosen.backend] if chosen.backend else ["native", "torch"]
    if chosen.backend in ("triton", "emulator") and find_spec("triton") is None:
        parser.error("this needs Triton and numpy: pip install 'stn-triton[triton]'")
    # Read as Triton is imported, which happens below and in the process of the calls.
    os.environ.pop("TRITON_INTERPRET", None)
    if chosen.backend == "triton":
        os.environ["TRITON_INTERPRET"] = "1"
    os.environ.setdefault("OMP_NUM_THREADS", "1")

    from .calls import Outcome, outcome
    from .processes import outcomes

    option = f" --backend {chosen.backend}" if chosen.backend else ""

    def show(found: Outcome) -> None:
        if found.wrong:
            print(
                f"FAILED: python -m bench.hostile{option} --seed {chosen.seed} --only {found.number}"
            )
            print(f"  {found.what}")
            for mistake in found.wrong:
                print(f"  {mistake}", flush=True)

    if chosen.only is not None:
        found = outcome(chosen.seed, chosen.only, backends)
        print(f"{found.kind}: {found.what}")
        show(found)
        return 1 if found.wrong else 0
    start = time.monotonic()
    limit = _LIMITS.get(chosen.backend, 60.0)
    counts: Counter[str] = Counter()
    failed = 0
    for found in outcomes(
        chosen.seed, range(chosen.calls), backends, limit, start + 60 * chosen.minutes
    ):
        show(found)
        counts[found.kind] += 1
        failed += bool(found.wrong)
    seconds = time.monotonic() - start
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))
    total = sum(counts.values())
    print(
        f"{'+'.join(backends)}, seed {chosen.seed}: {total} calls ({kinds}), {failed} failed; "
        f"{total / seconds:.1f} calls a second"
    )
    return 1 if failed or not total else 0


if __name__ == "__main__":
    sys.exit(main())
