"""Triton's interpreter, hastened: most of its time goes into types that it makes anew for every operation.

Nothing here changes a result. Small images show nothing of overflowing integers, so that check is left out too.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from triton.language import core
from triton.runtime import interpreter


def hasten() -> None:
    """Patch the interpreter of this process."""
    interpreter._patch_lang = _patch_once(interpreter._patch_lang)
    interpreter._get_np_dtype = _remembered_array_types(interpreter._get_np_dtype)
    core.tensor.__init__ = _make_tensor
    core.block_type.__init__ = _make_block_type
    semantic = type(interpreter.interpreter_semantic)
    semantic.broadcast_impl_value = _broadcast_both(semantic.broadcast_impl_value)
    semantic.cast = _cast(semantic.cast)
    semantic.computation_type_impl = _remembered_types(semantic.computation_type_impl)
    interpreter.TensorHandle.__init__ = _make_handle
    builder = type(interpreter.interpreter_builder)
    builder.create_broadcast = _broadcast
    builder.create_splat = _splat
    interpreter.interpreter_builder.options = dataclasses.replace(
        interpreter.interpreter_builder.options, sanitize_overflow=False
    )


def _patch_once(patch: Any) -> Any:
    """The interpreter patches the language for the kernel, and again for every device function that it calls."""

    @cache
    def languages(function: Any) -> list[Any]:
        names = list(function.__globals__.values())
        return [m for m in (interpreter.tl, core) if any(value is m for value in names)]

    def patch_once(function: Any) -> Any:
        if any(core.is_builtin(module.load) for module in languages(function)):
            scope = patch(function)
            for name, operation in _ARITHMETIC.items():
                _hasten_operator(name, operation, compares=False)
            for name, operation in _COMPARISONS.items():
                _hasten_operator(name, operation, compares=True)
            return scope
        return interpreter._LangPatchScope()

    return patch_once


_ARITHMETIC = {
    "__add__": np.add, "__radd__": lambda a, b: np.add(b, a), "__mul__": np.multiply,
    "__rmul__": lambda a, b: np.multiply(b, a), "__sub__": np.subtract, "__rsub__": lambda a, b: np.subtract(b, a),
    "__and__": np.bitwise_and, "__or__": np.bitwise_or,
}  # fmt: skip
_COMPARISONS = {
    "__lt__": np.less, "__le__": np.less_equal, "__gt__": np.greater, "__ge__": np.greater_equal,
    "__eq__": np.equal, "__ne__": np.not_equal,
}  # fmt: skip
_NUMBERS = {id(core.float32): (float, int), id(core.float64): (float, int), id(core.int32): (int,)}
"""Dtypes, and the numbers that may stand beside them and take theirs."""


def _hasten_operator(name: str, operation: Callable[[Any, Any], Any], compares: bool) -> None:
    """Do at once what needs no conversion: both of one dtype, and of one shape or one of them a scalar.

    The interpreter has patched the operator just before, and restores Triton's own when the kernel is done.
    """
    patched = getattr(core.tensor, name)
    logical = name in ("__and__", "__or__")
    dtypes = {id(core.int1): ()} if logical else _NUMBERS

    def operate(self: Any, other: Any) -> Any:
        dtype = self.dtype
        numbers = dtypes.get(id(dtype))
        if numbers is not None:
            type_ = self.type
            if type(other) is core.constexpr:
                other = other.value
            if type(other) is core.tensor:
                if other.dtype is dtype:
                    if (
                        type_ is other.type
                        or self.shape is other.shape
                        or not other.type.is_block()
                    ):
                        return found(operation(self.handle.data, other.handle.data), type_)
                    if not type_.is_block():
                        return found(operation(self.handle.data, other.handle.data), other.type)
            elif type(other) in numbers and -(2**31) <= other < 2**31:
                return found(operation(self.handle.data, other), type_)
        return patched(self, other)

    def found(data: Any, type_: Any) -> Any:
        if compares:
            type_ = _truths(type_.shape) if type_.is_block() else core.int1
        return core.tensor(interpreter.TensorHandle(data, type_.scalar), type_)

    setattr(core.tensor, name, operate)


@cache
def _truths(shape: _Shape) -> Any:
    return core.block_type(core.int1, shape)


def _remembered_array_types(array_type: Any) -> Any:
    known: dict[str, np.dtype[Any]] = {}

    def remembered(dtype: Any) -> np.dtype[Any]:
        dtype = dtype.scalar
        found = known.get(dtype.name)
        if found is None:
            found = known[dtype.name] = array_type(dtype)
        return found

    return remembered


class _Shape(tuple[int, ...]):
    """A shape that hashes and compares as fast as a tuple, where Triton's own compares constexpr by constexpr."""

    @property
    def values(self) -> list[int]:
        return list(self)


def _make_block_type(self: Any, element_ty: Any, shape: Any) -> None:
    shape = _Shape(shape if type(shape) is _Shape else core._unwrap_shape(shape))
    self.element_ty = element_ty
    self.shape = shape
    self.numel = _checked_count(shape)
    self.name = f"<{shape}, {element_ty}>"


@cache
def _checked_count(shape: _Shape) -> int:
    if not shape:
        raise TypeError("0d block_type is forbidden")
    return core.validate_block_shape(shape)


def _make_tensor(self: Any, handle: Any, type: Any) -> None:
    self.handle = handle
    self.type = type
    self.dtype = type.scalar
    self.shape, self.numel = _constexprs(type.shape if type.is_block() else _Shape())


@cache
def _constexprs(shape: _Shape) -> tuple[Any, Any]:
    return core.tuple([core.constexpr(n) for n in shape]), core.constexpr(math.prod(shape))


def _make_handle(self: Any, data: Any, dtype: Any, attr: dict[str, Any] | None = None) -> None:
    self.data = data
    self.dtype = dtype
    self.attr = {} if attr is None else attr


def _remembered_types(computation_type: Any) -> Any:
    """The type in which two others are computed."""
    known: dict[Any, Any] = {}

    def remembered(
        self: Any, a: Any, a_is_scalar: bool, b: Any, b_is_scalar: bool, divides: bool
    ) -> Any:
        key = a.name, a_is_scalar, b.name, b_is_scalar, divides
        if key not in known:
            known[key] = computation_type(self, a, a_is_scalar, b, b_is_scalar, divides)
        return known[key]

    return remembered


def _broadcast_both(broadcast: Any) -> Any:
    def broadcast_both(self: Any, lhs: Any, rhs: Any) -> tuple[Any, Any]:
        if lhs.shape is rhs.shape:  # `_constexprs` keeps one object for each shape
            return lhs, rhs
        return broadcast(self, lhs, rhs)

    return broadcast_both


def _cast(cast: Any) -> Any:
    def cast_unless_alike(self: Any, value: Any, dtype: Any, *options: Any) -> Any:
        if value.dtype is dtype:
            return value
        return cast(self, value, dtype, *options)

    return cast_unless_alike


def _broadcast(self: Any, arg: Any, shape: Any) -> Any:
    found = np.empty(tuple(shape), arg.data.dtype)
    found[...] = arg.data
    return interpreter.TensorHandle(found, arg.dtype.scalar)


def _splat(self: Any, ret_ty: Any, arg: Any) -> Any:
    found = np.empty(tuple(ret_ty.shape), interpreter._get_np_dtype(arg.dtype))
    found.fill(arg.data.reshape(-1)[0] if arg.data.ndim else arg.data)
    return interpreter.TensorHandle(found, arg.dtype.scalar)
