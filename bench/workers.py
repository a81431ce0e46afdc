"""Spreads work that is not timed over processes: the checks and compilations before the timings."""

from __future__ import annotations

import multiprocessing
import os
import queue
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

Work = Callable[[str], Any]

DEFAULT_JOBS = max((os.cpu_count() or 2) - 2, 1)
"""All processors but two, which the parent and the GPU's driver need."""

_POLL_SECONDS = 0.5
_GRACE_SECONDS = 20.0
"""How long to wait for what was begun before the time was up; a process that takes longer counts as hanging."""


def device_alive(device: str) -> bool:
    """Whether this process can still use its GPU: a kernel that failed takes the process's context with it."""
    try:
        if device == "cuda":
            torch.cuda.synchronize()
    except RuntimeError:
        return False
    return True


def _serve(work: Work, device: str, todo: Any, found: Any, lock: Any, until: float) -> None:
    torch.set_num_threads(1)
    while time.monotonic() < until:
        try:
            name = todo.get(timeout=_POLL_SECONDS)
        except queue.Empty:
            return
        result = name, work(name)
        with lock:
            found.send(result)
        if not device_alive(device):
            os._exit(1)  # the context is lost; a new process takes over


def in_processes(
    work: Work, names: Sequence[str], *, jobs: int, device: str, until: float
) -> Iterator[tuple[str, Any]]:
    """(name, `work(name)`) for each name in whatever order they finish, up to a `time.monotonic()`.

    `work` is a function at the top of a module, and raises nothing. A process whose GPU context is lost, or that dies,
    is replaced by a new one while there is something left to do.
    """
    context = multiprocessing.get_context("spawn")
    # A thread feeds the queue. As an argument of the processes, a list too long for a pipe would make each wait until
    # the one before has read it, and that comes after its imports.
    todo = context.Queue()
    for name in names:
        todo.put(name)
    # One pipe that all write to at once: what a process found outlives it.
    results, found = context.Pipe(duplex=False)
    lock = context.Lock()

    def start() -> Any:
        arguments = (work, device, todo, found, lock, until)
        process = context.Process(target=_serve, args=arguments, daemon=True)
        process.start()
        return process

    processes = [start() for _ in range(min(jobs, len(names)))]
    try:
        while processes and time.monotonic() < until + _GRACE_SECONDS:
            if results.poll(_POLL_SECONDS):
                yield results.recv()
                continue
            ended = [process for process in processes if not process.is_alive()]
            processes = [process for process in processes if process.is_alive()]
            died = [process for process in ended if process.exitcode != 0]
            if time.monotonic() < until and not todo.empty():
                processes += [start() for _ in died]
        while results.poll():
            yield results.recv()
    finally:
        for process in processes:
            process.terminate()
        todo.cancel_join_thread()
