"""Who is looking on while an operation runs: the one place that asks PyTorch.

Kernels read and write memory that PyTorch does not see them touch. That is right for plain tensors only. Whoever looks
on needs something else:

- `torch.func` transforms and forward mode (`is_transformed`): a Function with all their rules, or index operations;
- `torch.jit.trace` and the ONNX exporter built on it (`is_jit_traced`): PyTorch's own operations, sizes from shapes;
- modes and tensor subclasses that take over every operation (`is_dispatched`): the registered operators;
- `vectorize=True` and `is_grads_batched` (`is_vectorized`): index operations.

A compiler asks `torch.compiler.is_compiling` itself, as Dynamo understands that.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch.jit._trace import TracerWarning
from torch.utils._python_dispatch import _disable_current_modes

_functorch = torch._C._functorch
_Function = TypeVar("_Function", bound=Callable[..., object])


def constant_in_graphs(function: _Function) -> _Function:
    """Mark a function: `torch.compile` calls it while it records, and takes what it gives for a constant.

    `torch.compiler.assume_constant_result` sets the same attribute, but it imports the compiler first. That would take
    as long as importing torch, for everybody who imports this package.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


def is_transformed(*tensors: Tensor) -> bool:
    """Whether a `torch.func` transform is active, or one of the tensors has a tangent of forward mode."""
    if torch._C._are_functorch_transforms_active():  # which Dynamo understands too
        return True
    # The level is the process's, so that another thread may have raised it.
    if torch.autograd.forward_ad._current_level < 0:
        return False
    return torch.compiler.is_compiling() or any(map(_has_tangent, tensors))


def _has_tangent(tensor: Tensor) -> bool:
    return torch.autograd.forward_ad.unpack_dual(tensor).tangent is not None


def is_gradient_wanted(*tensors: Tensor) -> bool:
    """Whether somebody may ask for the gradient of one of the tensors."""
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def is_jit_traced() -> bool:
    """Whether `torch.jit.trace`, or the ONNX exporter that is built on it, records operations."""
    return not torch.compiler.is_compiling() and torch._C._is_tracing()


@contextmanager
def comparing_shapes() -> Iterator[None]:
    """Shapes are compared only to refuse what is wrong: a tracer's warnings that it has them fixed would mislead."""
    if not is_jit_traced():
        yield
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TracerWarning)
        yield


def in_a_mode() -> bool:
    """Whether a mode, such as that of fake tensors or of `make_fx`, looks on at every operation."""
    return torch._C._len_torch_dispatch_stack() > 0


def is_dispatched(*tensors: Tensor) -> bool:
    """Whether a mode looks on, or one of the tensors is of a subclass that may have no memory of its own."""
    return in_a_mode() or any(
        type(tensor).__torch_dispatch__ is not Tensor.__torch_dispatch__ for tensor in tensors
    )


def is_vectorized(*tensors: Tensor) -> bool:
    """Whether one of the tensors is a batch that `vectorize=True` or `is_grads_batched` made."""
    if torch.compiler.is_compiling():
        return False
    return any(map(_functorch.is_legacy_batchedtensor, tensors))


def may_read_values(*tensors: Tensor) -> bool:
    """Whether values of tensors may decide what is done next: nothing waits for them, and nobody looks on."""
    return not torch._C._are_functorch_transforms_active() and _lie_here(*tensors)


def under_transforms(tensor: Tensor) -> Tensor | None:
    """What lies under `torch.func` transforms, the values of all batches; None if they may not be read."""
    if torch.compiler.is_compiling():
        return None
    while _functorch.is_functorch_wrapped_tensor(tensor):
        tensor = _functorch.get_unwrapped(tensor)
    return tensor if _lie_here(tensor) else None


def values_on_the_host(tensor: Tensor) -> Tensor | None:
    """What lies under transforms that do not batch, a plain tensor; None where there is none."""
    while _functorch.is_functorch_wrapped_tensor(tensor):
        if _functorch.is_batchedtensor(tensor):
            return None
        tensor = _functorch.get_unwrapped(tensor)
    if _functorch.is_legacy_batchedtensor(tensor):
        return None
    return tensor if type(tensor).__torch_dispatch__ is Tensor.__torch_dispatch__ else None


def _lie_here(*tensors: Tensor) -> bool:
    """Whether values lie in the memory of the CPU, and no graph that is being recorded would freeze a decision."""
    return (
        not torch.compiler.is_compiling()
        and all(tensor.device.type == "cpu" for tensor in tensors)
        and not is_jit_traced()
        and not is_dispatched(*tensors)
        and not is_vectorized(*tensors)
    )


def as_stored(tensor: Tensor) -> Tensor:
    """The tensor as kernels may read it: its values lie in memory, with their signs."""
    if tensor.is_neg():  # such as `z.conj().imag`, whose memory holds the opposite
        return tensor.resolve_neg()
    return tensor.clone() if tensor._is_zerotensor() else tensor


@contextmanager
def unobserved() -> Iterator[None]:
    """Nobody looks on: for constants that outlive whatever asks for them first."""
    recorded = torch._C._get_tracing_state()
    if recorded is not None:  # Compiled graphs run where the state must not even be set to None.
        torch._C._set_tracing_state(None)  # type: ignore[attr-defined]
    try:
        with (
            temporarily_clear_interpreter_stack(),  # of torch.func, whose wrappers die with it
            _disable_current_modes(),
            torch.inference_mode(False),
            torch.no_grad(),
        ):
            yield
    finally:
        if recorded is not None:
            torch._C._set_tracing_state(recorded)  # type: ignore[attr-defined]
