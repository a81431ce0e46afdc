"""Makes a call of the library's launchers run its kernels in the emulator, on CPU tensors.

The launches are recorded by `stn_triton.kernels.launch.recorded`; each is executed before the next
torch operation of the call, which may use its results, or at the end. From the operations it is also
known which tensors the call made itself and which of those nobody has written yet.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from bench.aot import compile_launch
from stn_triton.kernels import launch as starting
from stn_triton.kernels.launch import Launch, recorded

from . import ptx
from .arithmetic import Array
from .machine import Machine
from .memory import BASE, Arena, Counts

Result = TypeVar("Result")
ARCH = "sm_90"

_EMPTY = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"}


@dataclass
class Run:
    """One launch that was executed."""

    launch: Launch
    compiled: Any
    kernel: ptx.Kernel
    counts: Counts

    @property
    def complete(self) -> bool:
        """Whether all of its CTAs ran."""
        return self.counts.ctas == ctas_of(self.launch)


def emulate(
    function: Callable[[], Result], *, ulp: float = 0.0, budget: float = math.inf
) -> tuple[Result, list[Run]]:
    """(what `function` returns, its launches); the launches of it run in the emulator.

    ulp: approximate instructions are wrong by up to so many units in the last place, at random.
    budget: the most warp instructions; of a launch that would need more, only a part runs.
    """
    if starting.INTERPRET:
        raise RuntimeError(
            "the emulator needs compiled kernels, but this process interprets them: "
            "start it without TRITON_INTERPRET"
        )
    with recorded() as found:
        call = _Call(found, ulp, budget)
        with call:
            result = function()
    call.start_recorded()
    call.check_unwritten(result)
    return result, call.runs


@dataclass
class _Made:
    """A storage that the call made; `unwritten` marks the bytes that nothing has written yet."""

    storage: torch.UntypedStorage
    unwritten: Array | None
    stored: bool = False  # by a kernel


class _Call(TorchDispatchMode):
    """Watches the torch operations of a call, and runs before each what was recorded up to then."""

    def __init__(self, found: list[Launch], ulp: float, budget: float):
        super().__init__()
        self.runs: list[Run] = []
        self._found, self._started, self._ulp, self._budget = found, 0, ulp, budget
        self._made: dict[int, _Made] = {}
        self._read: set[int] = set()  # storages that torch operations computed with

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.start_recorded()
        kwargs = kwargs or {}
        known = {t.untyped_storage().data_ptr() for t in _tensors((args, kwargs))}
        schema, empty = func._schema, func.overloadpacket.__name__ in _EMPTY
        if not empty and not schema.is_mutable and not any(r.alias_info for r in schema.returns):
            self._read |= known
        result = func(*args, **kwargs)
        for tensor in _tensors(result):
            storage = tensor.untyped_storage()
            place = storage.data_ptr()
            if tensor.is_meta or not storage.nbytes():
                continue
            if place not in known:
                unwritten = np.ones(storage.nbytes(), np.bool_) if empty else None
                self._made[place] = _Made(storage, unwritten)
            elif place in self._made and schema.is_mutable:
                self._made[place].unwritten = None
        return result

    def start_recorded(self) -> None:
        """Execute the recorded launches that were not executed yet."""
        while self._started < len(self._found):
            launch = self._found[self._started]
            self._started += 1
            if 0 not in launch.grid:
                self.runs.append(self._run(launch))

    def check_unwritten(self, result: Any) -> None:
        """Complain about bytes that are left unwritten in a tensor that a kernel wrote to, if it is a result.

        Or if a torch operation computed with it. What only kernels read may stay unwritten: each of their reads is
        checked by itself.
        """
        results = {tensor.untyped_storage().data_ptr() for tensor in _tensors(result)} | self._read
        for place, made in self._made.items():
            if (
                place in results
                and made.stored
                and made.unwritten is not None
                and made.unwritten.any()
            ):
                count = int(made.unwritten.sum())
                first = int(np.flatnonzero(made.unwritten)[0])
                self.runs[-1].counts.complain(
                    f"{count} of {made.unwritten.size} bytes of a tensor are never written, "
                    f"the first is byte {first}"
                )

    def _run(self, launch: Launch) -> Run:
        compiled, machine = _prepare(launch, self._ulp)
        parameters = list(launch.kernel.signature.parameters)
        named = dict(zip(parameters, launch.args, strict=False))
        storages: dict[int, tuple[torch.UntypedStorage, list[str]]] = {}
        for name, argument in named.items():
            for tensor in _tensors(argument):
                storage = tensor.untyped_storage()
                storages.setdefault(storage.data_ptr(), (storage, []))[1].append(name)
        arena = Arena([storage.nbytes() for storage, _ in storages.values()], machine.grain)
        starts: dict[int, int] = {}
        for place, (storage, names) in storages.items():
            made = self._made.get(place)
            readable: Array | bool = True
            if made is not None and made.unwritten is not None:
                readable = ~made.unwritten
            content = _bytes(storage)
            starts[place] = arena.add("/".join(names), content, readable, made is not None)
        values = [_as_bits(value, kind, starts) for value, kind in _arguments(compiled, named)]
        scratch = len(machine.kernel.parameters) - len(values)
        if not 0 <= scratch <= 2:  # Triton's own pointers, of which our kernels make no use
            raise ValueError(f"{len(values)} arguments for {len(machine.kernel.parameters)}")
        counts = machine.run(arena, values + [0] * scratch, launch.grid, budget=self._budget)
        run = Run(launch, compiled, machine.kernel, counts)
        self._take_back(arena, starts, run.complete)
        return run

    def _take_back(self, arena: Arena, starts: dict[int, int], complete: bool) -> None:
        """Copy what was written into the tensors. After a part of a launch all bytes count as written."""
        for place, start in starts.items():
            made = self._made.get(place)
            if made is None:
                continue
            end = start + made.storage.nbytes()
            _bytes(made.storage)[:] = arena.bytes[start:end]
            written = arena.written(start, end)
            made.stored |= bool(written.any())
            if made.unwritten is not None:
                made.unwritten &= ~written & complete


_machines: dict[tuple[str, float], Machine] = {}


def _prepare(launch: Launch, ulp: float) -> tuple[Any, Machine]:
    compiled = compile_launch(launch, ARCH)
    key = compiled.hash, ulp
    if key not in _machines:
        kernel = ptx.parse(compiled.asm["ptx"])
        _machines[key] = Machine(kernel, compiled.metadata.shared, ulp=ulp)
    return compiled, _machines[key]


def _tensors(tree: Any) -> Iterator[torch.Tensor]:
    """Every tensor in nested tuples, lists and dictionaries."""
    if isinstance(tree, torch.Tensor):
        yield tree
    elif isinstance(tree, (tuple, list)):
        for each in tree:
            yield from _tensors(each)
    elif isinstance(tree, dict):
        yield from _tensors(list(tree.values()))


def _arguments(compiled: Any, named: dict[str, Any]) -> Iterator[tuple[Any, str]]:
    """(value, Triton type) of each argument that the compiled kernel takes, tuples taken apart."""

    def flat(value: Any, kind: Any) -> Iterator[tuple[Any, str]]:
        if isinstance(kind, (tuple, list)):
            for part, of_part in zip(value, kind, strict=True):
                yield from flat(part, of_part)
        elif kind != "constexpr":
            yield value, kind

    for name, kind in compiled.src.signature.items():
        if name in named:
            yield from flat(named[name], kind)


def _as_bits(value: Any, kind: str, starts: dict[int, int]) -> int:
    if isinstance(value, torch.Tensor):
        place = value.untyped_storage().data_ptr()
        return BASE + starts[place] + value.data_ptr() - place
    if kind in ("fp32", "f32"):
        return int(np.float32(value).view(np.uint32))
    if kind in ("fp64", "f64"):
        return int(np.float64(value).view(np.uint64))
    if not kind.lstrip("iu").isdecimal():
        raise NotImplementedError(f"an argument of type {kind}")
    return int(value) % (1 << 64)


def _bytes(storage: torch.UntypedStorage) -> Array:
    """A view of its memory."""
    return torch.tensor([], dtype=torch.uint8).set_(storage).numpy()


def ctas_of(launch: Launch) -> int:
    """How many CTAs a launch has."""
    return math.prod(launch.grid)
