"""`python -m bench --shape NxCxHxW`: one's own case, ours beside every installed peer.

Each provider is compared with the definition in float64 before it is timed; one that is wrong, or
that cannot do the case, says so instead of a time. theta is drawn as for every case of this folder
(`bench.inputs`). On a CPU a peer and ours are timed in turn and the ratio is the median of
neighbours; on a GPU the times are those of the device, by graph replay.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial

import torch

import stn_triton
from architectures.errors import machine_trouble
from stn_triton.checks import checked_options

from .arguments import new_file, positive_count
from .cases import Case, Grads
from .check import Expectation, expect, run, verdict
from .inputs import Inputs, leading
from .providers import present
from .providers.provider import Provider
from .providers.stn_triton import ours
from .results import save_rows
from .timing import (
    Step,
    interleaved,
    make_steps,
    peak_bytes,
    rotating_inputs,
    time_cuda,
)

_DTYPES = ("float16", "bfloat16", "float32", "float64")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One provider in one pass, and what ours took beside it; `why_not` says why there is no time.

    ratio: of the two; on a CPU the median of neighbouring calls, which is steadier than the quotient of the medians.
    """

    provider: str
    grads: Grads | None
    first_call_s: float | None = None
    ms: float | None = None
    ours_ms: float | None = None
    ratio: float | None = None
    peak_bytes: int | None = None
    why_not: str | None = None


def compare(case: Case, grads: Grads | None, device: str, seconds: float) -> Iterator[Row]:
    """Ours, then every peer that is installed, in one pass."""
    sets = rotating_inputs(case, device)
    expected = expect(case, sets[0], grads)
    own, *peers = present(device)
    base: list[Step] = []
    base_ms = None
    for provider in (own, *peers):
        row = partial(Row, provider=provider.name, grads=grads)
        if (refused := provider.refuses(case, grads)) is not None:
            yield row(why_not=refused)
            continue
        try:
            first_call, wrong = _checked(provider, case, sets[0], expected, grads)
            if wrong is not None:
                yield row(why_not=wrong)
                continue
            steps = make_steps(provider, case, grads, sets)
            ms, ours_ms, ratio = _timed(steps, base, base_ms, device, seconds)
            peak = peak_bytes(steps[0], device)
        except (
            Exception
        ) as error:  # a peer may raise anything, and the others still have their turn
            yield row(why_not=f"{type(error).__name__}: {error}".splitlines()[0])
            continue
        if provider is own:
            base, base_ms = steps, ms
        yield row(first_call_s=first_call, ms=ms, ours_ms=ours_ms, ratio=ratio, peak_bytes=peak)


def _checked(
    provider: Provider, case: Case, inputs: Inputs, expected: Expectation, grads: Grads | None
) -> tuple[float, str | None]:
    """Seconds of a provider's first call, and what is wrong with its results."""
    sample = provider.on_theta(case)
    start = time.perf_counter()
    found = run(sample, inputs, grads)
    if inputs.input.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start, verdict(case, found, expected, provider.rounding)


def _timed(
    steps: list[Step], base: list[Step], base_ms: float | None, device: str, seconds: float
) -> tuple[float, float | None, float | None]:
    """Milliseconds of a call, of ours beside it, and their ratio; `base` is ours, where that was timed."""
    if device == "cuda":
        ms = time_cuda(steps).ms
        return ms, base_ms, ms / base_ms if base_ms else None
    pair = interleaved(steps[0], base[0] if base else steps[0], seconds=seconds)
    return (pair.first_ms, pair.second_ms, pair.ratio) if base else (pair.first_ms, None, None)


def table(rows: list[Row]) -> str:
    """The rows for people; providers without a time last."""
    heading = f"{'':22} {'ms':>10} {'ours beside':>12} {'times ours':>11} {'memory, MB':>11} {'first call, s':>14}"
    lines = [heading]
    for row in rows:
        if row.ms is not None:
            memory = "" if row.peak_bytes is None else f"{row.peak_bytes / 1e6:.1f}"
            ratio = "" if row.ratio is None else f"{row.ratio:.2f}x"
            beside = "" if row.ours_ms is None else f"{row.ours_ms:.4g}"
            times = f"{row.ms:10.4g} {beside:>12} {ratio:>11} {memory:>11} {row.first_call_s:14.3g}"
            lines.append(f"{row.provider:22} {times}")
    lines += [f"{row.provider}: {row.why_not}" for row in rows if row.ms is None]
    return "\n".join(lines)


def _size(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(length) for length in text.split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"a size is written as 56x56, got {text!r}") from None


def _antialias(text: str) -> bool | int:
    if text in ("True", "False"):
        return text == "True"
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"True or a number of samples, got {text!r}") from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "--shape", type=_size, required=True, metavar="NxCxHxW", help="or NxCxDxHxW"
    )
    parser.add_argument("--out-size", type=_size, metavar="HxW", help="default: the input's size")
    parser.add_argument("--transform", default="affine")
    parser.add_argument("--mode", default="bilinear")
    parser.add_argument("--padding-mode", default="zeros")
    parser.add_argument("--padding-value", type=float, default=0.0)
    parser.add_argument("--align-corners", action="store_true")
    parser.add_argument("--antialias", type=_antialias, default=False, metavar="S")
    parser.add_argument("--dtype", choices=_DTYPES, default="float32")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--k", type=int, help="transformers that read each image")
    parser.add_argument(
        "--grads", choices=("both", "theta", "input", "none"), default="both",
        help="whose gradients are timed after the forward pass (default: both)",
    )  # fmt: skip
    parser.add_argument("--device", choices=("cuda", "cpu"), help="default: cuda if there is one")
    parser.add_argument("--threads", type=positive_count, help="of PyTorch on a CPU")
    parser.add_argument(
        "--seconds", type=float, default=1.0, help="for each comparison on a CPU (default 1)"
    )
    parser.add_argument("--json", type=new_file, metavar="FILE", help="write the rows, too")
    return parser


def _case(chosen: argparse.Namespace) -> Case:
    """The case of a command line; `ValueError` or `TypeError` where `st_sample` refuses it."""
    if not 0 < chosen.seconds < math.inf:
        raise ValueError(f"--seconds must be positive and finite, got {chosen.seconds}")
    if chosen.k is not None and chosen.k < 1:
        raise ValueError(f"--k must be at least 1, got {chosen.k}")
    if len(chosen.shape) not in (4, 5):
        raise ValueError(f"--shape must be NxCxHxW or NxCxDxHxW, got {len(chosen.shape)} numbers")
    if min(chosen.shape) < 1:
        raise ValueError(f"--shape must be of positive numbers, got {chosen.shape}")
    if chosen.out_size is not None and len(chosen.out_size) != len(chosen.shape) - 2:
        raise ValueError(
            f"--out-size must have {len(chosen.shape) - 2} numbers, got {chosen.out_size}"
        )
    case = Case(
        name="own", shape=chosen.shape, out_size=chosen.out_size or chosen.shape[2:], k=chosen.k,
        transform=chosen.transform, mode=chosen.mode, padding_mode=chosen.padding_mode,
        padding_value=chosen.padding_value,
        align_corners=chosen.align_corners, antialias=chosen.antialias,
        dtype=getattr(torch, chosen.dtype),
        memory_format="channels_last" if chosen.channels_last else "contiguous",
    )  # fmt: skip
    checked_options(
        case.ndim,
        case.transform,
        case.mode,
        case.padding_mode,
        case.padding_value,
        case.align_corners,
        case.antialias,
    )
    identity = stn_triton.identity_theta(
        case.transform, leading(case), ndim=case.ndim, device="meta"
    )
    image = torch.empty(case.shape, dtype=case.dtype, device="meta")
    ours(case)(image, identity)
    return case


def _fail(parser: argparse.ArgumentParser, error: Exception) -> int:
    """Say in one line that there is not enough memory; any other error is raised."""
    trouble = machine_trouble(error)
    if trouble is None:
        raise error
    print(f"{parser.prog}: {trouble}; try a smaller --shape or --out-size", file=sys.stderr)
    return 1


def main(arguments: list[str] | None = None) -> int:
    """Command line: a table for each pass; 1 if our own results are wrong."""
    parser = _parser()
    chosen = parser.parse_args(arguments)
    device = chosen.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: no GPU is visible")
    try:
        case = _case(chosen)
    except (TypeError, ValueError) as error:
        parser.error(str(error))
    except RuntimeError as error:  # more bytes than a number of 64 bits counts
        return _fail(parser, error)
    if chosen.threads is not None:
        torch.set_num_threads(chosen.threads)
    where = (
        torch.cuda.get_device_name()
        if device == "cuda"
        else f"CPU, {torch.get_num_threads()} threads"
    )
    print(f"{where}, torch {torch.__version__}")
    rows: list[Row] = []
    for grads in (None,) if chosen.grads == "none" else (None, chosen.grads):
        try:
            found = list(compare(case, grads, device, chosen.seconds))
        except (MemoryError, RuntimeError) as error:
            return _fail(parser, error)
        print(f"\n{'forward' if grads is None else f'forward + backward, gradients: {grads}'}")
        print(table(found), flush=True)
        rows += found
    if chosen.json is not None:
        about = {**asdict(case), "dtype": case.dtype_name, "device": where}
        print(save_rows(chosen.json, about, rows))
    return int(any(row.why_not for row in rows if row.provider == "stn_triton"))


if __name__ == "__main__":
    sys.exit(main())
