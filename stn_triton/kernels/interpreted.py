"""Where the interpreter of Triton 3.6 differs from its compiler, and what is done about it."""

from __future__ import annotations

from typing import Any


def mend() -> None:
    """Let two operations give what compiled code gives. An interpreter that does so already is left as it is.

    - `tl.maximum` and `tl.minimum` give the operand that is a number where the other is NaN, which the interpreter of
      Triton 3.6 hands on. The bounds of the outputs that may touch a pixel are NaN for some singular maps: there
      gradients were wrong, or a loop had no end.
    - `tl.fma` of float32 rounds once. (By way of float64, which can differ in the last bit.)
    """
    import numpy as np
    from triton import language as tl
    from triton.runtime import interpreter

    builder = interpreter.interpreter_builder

    def handle(value: float) -> Any:
        return interpreter.TensorHandle(np.array([value], np.float32), tl.float32)

    def maximum(self: Any, left: Any, right: Any) -> Any:
        return self.binary_op(left, right, np.fmax)

    def minimum(self: Any, left: Any, right: Any) -> Any:
        return self.binary_op(left, right, np.fmin)

    def fma(self: Any, x: Any, y: Any, z: Any) -> Any:
        wide = np.multiply(x.data, y.data, dtype=np.float64) + z.data
        return interpreter.TensorHandle(wide.astype(z.data.dtype), z.dtype.scalar)

    if np.isnan(builder.create_maxnumf(handle(np.nan), handle(1)).data[0]):
        type(builder).create_maxnumf = maximum
        type(builder).create_minnumf = minimum
    odd = handle(1 + 2**-23)
    if builder.create_fma(odd, odd, handle(-1 - 2**-22)).data[0] == 0:
        type(builder).create_fma = fma
