"""What a call must leave alone: its arguments, and the memory beside its tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor

_GUARD = 64
_FILL = 0xFF
"""Each float of such bytes is NaN, so that reading a guard is seen, too."""


class Memory:
    """Tensors that lie between guards."""

    def __init__(self) -> None:
        self._whole: list[Tensor] = []

    def guarded(self, like: Tensor) -> Tensor:
        """The same numbers, shape and strides between guards; strides must be dense."""
        count = like.numel() * like.element_size()
        memory = torch.full((count + 2 * _GUARD,), _FILL, dtype=torch.uint8)
        tensor = (
            memory[_GUARD : _GUARD + count].view(like.dtype).as_strided(like.shape, like.stride())
        )
        tensor.copy_(like)
        self._whole.append(memory)
        return tensor

    def is_whole(self) -> bool:
        """Whether every guard is as it was."""
        return all(
            bool((memory[:_GUARD] == _FILL).all() and (memory[-_GUARD:] == _FILL).all())
            for memory in self._whole
        )

    @contextmanager
    def of_native_results(self) -> Iterator[None]:
        """All that the native sampler allocates lies between guards meanwhile, and is NaN at first."""
        from stn_triton.native import sampler

        def guarding(allocate: Callable[..., Tensor]) -> Callable[..., Tensor]:
            def guarded(*args: Any, **kwargs: Any) -> Tensor:
                made = allocate(*args, **kwargs)
                return self.guarded(made.fill_(torch.nan)) if made.is_floating_point() else made

            return guarded

        torch_of_sampler = _Torch(guarding(torch.empty_like))
        with ExitStack() as patches:
            for name in ("empty_output", "empty_input_gradient"):
                allocate = guarding(getattr(sampler, name))
                patches.enter_context(mock.patch.object(sampler, name, allocate))
            patches.enter_context(mock.patch.object(sampler, "torch", torch_of_sampler))
            yield


class _Torch:
    """The package torch with another `empty_like`."""

    def __init__(self, empty_like: Callable[..., Tensor]) -> None:
        self.empty_like = empty_like

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


def is_dense(tensor: Tensor) -> bool:
    """Whether a tensor's numbers fill its memory, each once."""
    order = sorted(range(tensor.dim()), key=tensor.stride, reverse=True)
    return tensor.permute(order).is_contiguous()


def bits(tensor: Tensor) -> Tensor:
    """A copy to compare with later, NaN for NaN."""
    if not tensor.numel():
        return tensor
    # Strides of axes of one pixel are anything, until a copy sets them.
    return tensor.detach().clone(memory_format=torch.contiguous_format).view(torch.uint8)
