"""JAX's `map_coordinates`, jitted, on PyTorch's memory."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor

from bench.cases import Case, Grads
from bench.check import Sample

from .provider import Provider, beyond_one_map, finished

_PADDINGS = {"zeros": "constant", "border": "nearest"}


class Jax(Provider):
    """The grid is computed with the samples, and gradients are by `jax.vjp`.

    JAX keeps the number of threads that PyTorch has when JAX is first called.
    """

    name = "jax"
    devices = ("cpu",)
    modules = ("jax",)
    packages = ("jax",)

    def refuses(self, case: Case, grads: Grads | None) -> str | None:
        if case.transform not in ("affine", "attention") or case.mode != "bilinear":
            return "bilinear affine maps only"
        if case.padding_mode not in _PADDINGS:
            return f"no padding_mode {case.padding_mode!r} with its gradients"
        return beyond_one_map(case)

    def sample(self, case: Case) -> Sample:
        function = _function()
        return lambda x, maps: finished(case, function.apply(case, x, maps))


@lru_cache
def _imported() -> Any:
    # JAX reads these when it makes its threads.
    threads = torch.get_num_threads()
    os.environ.setdefault("NPROC", str(threads))
    if threads == 1:
        os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    import jax

    return jax


def _sampler(case: Case) -> Callable[[Any, Any], Any]:
    """(images, maps), as (N, C, h, w) or (N, h, w, C), -> the same shape, in JAX."""
    jax = _imported()
    jnp = jax.numpy
    channel = 2 if case.memory_format == "channels_last" else 0
    shrink = int(case.align_corners)
    ends = [(length - shrink) / 2 for length in case.shape[:1:-1]]
    middle = [(length - 1) / 2 for length in case.shape[:1:-1]]
    x, y = (
        (2 * jnp.arange(length) - (length - 1)) / max(length - shrink, 1)
        for length in reversed(case.out_size)
    )

    def one(image: Any, matrix: Any) -> Any:
        columns, rows = (
            (r[0] * x[None, :] + (r[1] * y[:, None] + r[2])) * end + at
            for r, end, at in zip(matrix, ends, middle, strict=True)
        )
        plane = partial(
            jax.scipy.ndimage.map_coordinates, order=1, mode=_PADDINGS[case.padding_mode]
        )
        return jax.vmap(plane, (channel, None), channel)(image, [rows, columns])

    sample: Callable[[Any, Any], Any] = jax.vmap(one)
    return sample


@lru_cache(maxsize=2)
def _jitted(case: Case, wanted: tuple[bool, bool]) -> tuple[Any, Any]:
    """The forward pass, and for a gradient what pulls it back: (result, residuals), and their use."""
    jax = _imported()
    sample = _sampler(case)

    def forward(image: Any, matrix: Any) -> Any:
        if not any(wanted):
            return sample(image, matrix), None
        if all(wanted):
            return jax.vjp(sample, image, matrix)
        if wanted[0]:
            return jax.vjp(lambda image: sample(image, matrix), image)
        return jax.vjp(lambda matrix: sample(image, matrix), matrix)

    return jax.jit(forward), jax.jit(lambda pull, grad: pull(grad))


@lru_cache
def _function() -> Any:
    jax = _imported()

    def hand_over(case: Case, tensor: Tensor) -> Any:
        if case.memory_format == "channels_last":
            tensor = tensor.movedim(1, -1)
        return jax.dlpack.from_dlpack(tensor.contiguous())

    def take_back(case: Case, array: Any) -> Tensor:
        tensor = torch.utils.dlpack.from_dlpack(array)
        return tensor.movedim(-1, 1) if case.memory_format == "channels_last" else tensor

    class Function(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, case: Case, x: Tensor, maps: Tensor) -> Tensor:
            wanted = ctx.needs_input_grad[1], ctx.needs_input_grad[2]
            ctx.case, (run, ctx.pull) = case, _jitted(case, wanted)
            matrix = jax.dlpack.from_dlpack(maps.detach().contiguous())
            out, ctx.residuals = run(hand_over(case, x.detach()), matrix)
            return take_back(case, jax.block_until_ready(out))

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
            found = list(jax.block_until_ready(ctx.pull(ctx.residuals, hand_over(ctx.case, grad))))
            of_input = take_back(ctx.case, found.pop(0)) if ctx.needs_input_grad[1] else None
            of_theta = (
                torch.utils.dlpack.from_dlpack(found.pop(0)) if ctx.needs_input_grad[2] else None
            )
            return None, of_input, of_theta

    return Function
