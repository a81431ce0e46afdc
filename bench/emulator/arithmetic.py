"""What single PTX instructions compute, on arrays with one element per lane.

`translate` writes calls of these functions into the code that it generates. Operands are arrays or
scalars of the type that the instruction names.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def fit(value: Any, dtype: Any, lanes: int) -> Array:
    """`value` with one `dtype` per lane: its bits where the sizes agree, else the converted number."""
    value, dtype = np.asarray(value), np.dtype(dtype)
    if value.dtype != dtype:
        boolean = np.bool_ in (value.dtype, dtype)
        if value.dtype.itemsize == dtype.itemsize and not boolean:
            value = np.ascontiguousarray(value).view(dtype).reshape(value.shape)
        elif dtype == np.bool_:
            value = value != 0
        elif value.dtype.kind in "iu":
            value = value.astype(f"{value.dtype.kind}{dtype.itemsize}").view(dtype)
        else:
            value = value.astype(dtype)
    return np.full(lanes, value, dtype) if value.ndim == 0 else value


class Blur:
    """Moves results of approximate instructions by up to `ulp` units in the last place, at random."""

    def __init__(self, ulp: float, seed: int = 0):
        self.ulp = ulp
        self.generator = np.random.default_rng(seed)

    def __call__(self, x: Array) -> Array:
        if not self.ulp:
            return x
        sign = self.generator.integers(-1, 2, np.shape(x)).astype(x.dtype)
        step = np.spacing(np.abs(x)) * sign * x.dtype.type(self.ulp)
        moved = np.where(np.isfinite(step), x + step, x)
        return np.where(np.isfinite(x), moved, x).astype(x.dtype)


def ftz(x: Array) -> Array:
    """Denormal numbers become zeros of the same sign."""
    tiny = np.abs(x) < np.float32(2.0**-126)
    return np.where(tiny, np.copysign(np.float32(0), x), x)


def fma(x: Any, y: Any, z: Any) -> Array:
    """x y + z; see the package's docstring for its rounding."""
    narrow = np.asarray(x).dtype == np.float32
    wide: Any = np.float64 if narrow else np.longdouble
    total = np.asarray(x).astype(wide) * np.asarray(y).astype(wide) + np.asarray(z).astype(wide)
    return np.asarray(total).astype(np.float32 if narrow else np.float64)


def divide(x: Any, y: Any, exact: bool, blur: Blur) -> Array:
    """The quotient of floats; `div.full` and `div.approx` are within 2 ulp of it."""
    quotient = np.asarray(np.divide(x, y))
    return quotient if exact else blur(quotient)


def intdiv(x: Any, y: Any) -> Array:
    """The quotient of integers, truncated; a division by 0 may give anything."""
    x, y = np.asarray(x), np.asarray(y)
    safe = np.where(y == 0, y.dtype.type(1), y)
    if y.dtype.kind == "u":
        return np.asarray(x // safe)
    quotient = np.abs(x.astype(np.int64)) // np.abs(safe.astype(np.int64))
    sign = np.sign(x).astype(np.int64) * np.sign(safe).astype(np.int64)
    return np.asarray((sign * quotient).astype(y.dtype))


def intrem(x: Any, y: Any) -> Array:
    """The remainder of `intdiv`, with the sign of x."""
    y = np.asarray(y)
    return np.asarray((np.asarray(x) - intdiv(x, y) * y).astype(y.dtype))


def mulhi(x: Any, y: Any) -> Array:
    """The upper half of a product."""
    x, y = np.broadcast_arrays(np.asarray(x), np.asarray(y))
    bits = 8 * x.dtype.itemsize
    if bits < 64:
        wide = np.dtype(f"{x.dtype.kind}8")
        return ((x.astype(wide) * y.astype(wide)) >> wide.type(bits)).astype(x.dtype)
    a, b = x.view(np.uint64), y.view(np.uint64)
    low, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    a0, a1, b0, b1 = a & low, a >> half, b & low, b >> half
    middle = a1 * b0 + (a0 * b0 >> half)
    high = a1 * b1 + (middle >> half) + ((middle & low) + a0 * b1 >> half)
    if x.dtype.kind == "i":  # a negative factor was taken as 2**64 more
        high = high - np.where(x < 0, b, 0) - np.where(y < 0, a, 0)
    return high.view(x.dtype)


def shl(x: Any, n: Any, bits: int) -> Array:
    """Shift left; a shift by `bits` or more gives 0."""
    x, n = np.asarray(x), np.asarray(n)
    return np.where(n >= bits, x.dtype.type(0), x << (n & np.uint32(bits - 1)).astype(x.dtype))


def shr(x: Any, n: Any, bits: int) -> Array:
    """Shift right, with the sign if x has one."""
    x, n = np.asarray(x), np.asarray(n)
    if x.dtype.kind == "i":
        return np.asarray(x >> np.minimum(n, np.uint32(bits - 1)).astype(x.dtype))
    return np.where(n >= bits, x.dtype.type(0), x >> (n & np.uint32(bits - 1)).astype(x.dtype))


def shf(low: Any, high: Any, n: Any, left: bool, wraps: bool) -> Array:
    """Funnel shift of the pair (high, low) by n: the upper word of it to the left, the lower to the right."""
    n = np.asarray(n) & np.uint32(31) if wraps else np.minimum(n, np.uint32(32))
    both = np.asarray(low).astype(np.uint64) | np.asarray(high).astype(np.uint64) << np.uint64(32)
    wide = np.asarray(n).astype(np.uint64)
    moved = (both << wide) >> np.uint64(32) if left else both >> wide
    return moved.astype(np.uint32)


def lop3(a: Any, b: Any, c: Any, table: int) -> Array:
    """Any bitwise function of three words, by its truth table."""
    words = [np.asarray(word) for word in (a, b, c)]
    result = words[0] & np.uint32(0)
    for case in range(8):
        if table >> case & 1:
            bits = [w if case >> (2 - k) & 1 else ~w for k, w in enumerate(words)]
            result = result | bits[0] & bits[1] & bits[2]
    return result


def bfe(x: Any, position: Any, length: Any) -> Array:
    """Bits of x from `position` on, with their sign if x has one."""
    x, position, length = np.asarray(x), np.asarray(position), np.asarray(length)
    bits = x.dtype.type(8 * x.dtype.itemsize)
    position, length = position.astype(x.dtype), length.astype(x.dtype)
    if ((length == 0) | (position + length > bits)).any():
        raise NotImplementedError("bfe of no bits, or beyond the last one")
    return np.asarray((x << (bits - position - length)) >> (bits - length))


def bfi(field: Any, x: Any, position: Any, length: Any) -> Array:
    """x with `length` bits from `position` on replaced by those of `field`."""
    wide = [np.asarray(v).astype(np.uint64) for v in (field, x, position, length)]
    one = np.uint64(1)
    mask = ((one << np.minimum(wide[3], np.uint64(32))) - one) << np.minimum(wide[2], np.uint64(32))
    moved = wide[0] << np.minimum(wide[2], np.uint64(32))
    return np.asarray((wide[1] & ~mask | moved & mask).astype(np.uint32))


def prmt(a: Any, b: Any, selector: Any) -> Array:
    """Four bytes picked out of eight, or their signs."""
    a, b, selector = (np.asarray(v) for v in (a, b, selector))
    both = a.astype(np.uint64) | b.astype(np.uint64) << np.uint64(32)
    result = np.zeros(np.broadcast(a, b, selector).shape, np.uint32)
    for k in range(4):
        pick = selector >> np.uint32(4 * k) & np.uint32(15)
        shift = (pick & np.uint32(7)).astype(np.uint64) * np.uint64(8)
        byte = (both >> shift).astype(np.uint32) & np.uint32(255)
        sign = np.where(byte & np.uint32(128), np.uint32(255), np.uint32(0))
        result |= np.where(pick & np.uint32(8), sign, byte) << np.uint32(8 * k)
    return result


def popc(x: Any) -> Array:
    """How many bits are set."""
    return np.asarray(np.bitwise_count(np.asarray(x)).astype(np.uint32))


def clz(x: Any) -> Array:
    """How many of the 32 bits are above the highest one that is set."""
    exponent = np.frexp(np.asarray(x).astype(np.float64))[1]
    return np.asarray((32 - exponent).astype(np.uint32))


def brev(x: Any) -> Array:
    """The 32 bits in reverse order."""
    x, result = np.asarray(x), np.zeros(np.shape(x), np.uint32)
    for k in range(32):
        result |= (x >> np.uint32(k) & np.uint32(1)) << np.uint32(31 - k)
    return result


def shfl(x: Any, operand: Any, clamp: Any, kind: str, lanes: int) -> tuple[Array, Array]:
    """A value from another lane of the warp, and whether that lane was in range."""
    words = fit(x, np.uint32, lanes).reshape(-1, 32)
    lane = np.arange(32)
    by = fit(operand, np.uint32, lanes).astype(np.int64).reshape(-1, 32) & 31
    limit = fit(clamp, np.uint32, lanes).astype(np.int64).reshape(-1, 32)
    segment, bound = limit >> 8 & 31, limit & 31
    last = lane & segment | bound & ~segment
    if kind == "up":
        source = lane - by
        inside = source >= last
    else:
        first = lane & segment
        source = {"down": lane + by, "bfly": lane ^ by, "idx": first | by & ~segment}[kind]
        inside = source <= last
    found = np.take_along_axis(words, np.where(inside, source, lane), 1)
    return found.reshape(-1), inside.reshape(-1)


def redux(x: Any, kind: str, lanes: int) -> Array:
    """Reduces the values of all lanes of a warp to one."""
    value = fit(x, np.asarray(x).dtype, lanes).reshape(-1, 32)
    by: dict[str, np.ufunc] = {
        "min": np.minimum, "max": np.maximum, "add": np.add,
        "or": np.bitwise_or, "and": np.bitwise_and, "xor": np.bitwise_xor,
    }  # fmt: skip
    return np.repeat(by[kind].reduce(value, 1), 32).astype(value.dtype)


def vote(x: Any, kind: str, active: Array | None, lanes: int) -> Array:
    """Whether any or all lanes of a warp say yes, or which."""
    yes = fit(x, np.bool_, lanes)
    takes_part = np.ones(lanes, np.bool_) if active is None else active
    rows, absent = (yes & takes_part).reshape(-1, 32), ~takes_part.reshape(-1, 32)
    if kind == "ballot":
        bits = rows.astype(np.uint32) << np.arange(32, dtype=np.uint32)
        return np.repeat(bits.sum(1, dtype=np.uint32), 32)
    return np.repeat(rows.any(1) if kind == "any" else (rows | absent).all(1), 32)


def matrix_rows(at: Any, number: int, lanes: int) -> Array:
    """The addresses that each lane moves for matrix `number` of an m8n8 access of 16-bit elements."""
    rows = fit(at, np.uint32, lanes).reshape(-1, 32)
    lane = np.arange(32)
    return (rows[:, 8 * number + lane // 4] + (lane % 4 * 4).astype(np.uint32)).reshape(-1)


def mma_f64(a: Any, b: Any, c: Any, lanes: int) -> Array:
    """A product of matrices by a warp, 8 x 4 times 4 x 8 plus 8 x 8.

    The lanes hold a row by row, b column by column, and c in pairs.
    """
    left, right = (fit(x, np.float64, lanes).reshape(-1, 8, 4) for x in (a, b))
    pairs = np.stack([fit(x, np.float64, lanes).reshape(-1, 32) for x in c], -1)
    total = pairs.reshape(-1, 8, 8) + left @ right.swapaxes(1, 2)
    return np.moveaxis(total.reshape(-1, 32, 2), -1, 0).reshape(2, lanes)


def from_bf16(x: Any) -> Array:
    """bfloat16 bits as float32, exactly."""
    return (np.asarray(x).astype(np.uint32) << np.uint32(16)).view(np.float32)


def to_bf16(x: Any) -> Array:
    """Rounded to nearest even, as bits."""
    bits = np.asarray(x, np.float32).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))) >> np.uint32(16)
    return np.where(np.isnan(x), np.uint32(0x7FFF), rounded).astype(np.uint16)


def to_f16(x: Any) -> Array:
    """Rounded to nearest even, as bits."""
    return np.asarray(x).astype(np.float16).view(np.uint16)


def to_int(x: Any, dtype: Any) -> Array:
    """A whole float as an integer; too large ones are saturated, and NaN becomes 0."""
    limits, wide = np.iinfo(dtype), np.asarray(x).astype(np.float64)
    low, high = wide <= float(limits.min), wide >= float(limits.max)
    middle = np.where(low | high | np.isnan(wide), 0, wide).astype(dtype)
    top = np.where(high, dtype(limits.max), middle)
    return np.where(low, dtype(limits.min), top).astype(dtype)


def _in_double(function: Any) -> Any:
    def compute(x: Any, exact: bool, blur: Blur) -> Array:
        x = np.asarray(x)
        found = np.asarray(function(x.astype(np.float64))).astype(x.dtype)
        return found if exact else blur(found)

    return compute


rcp = _in_double(np.reciprocal)
sqrt = _in_double(np.sqrt)
rsqrt = _in_double(lambda x: 1 / np.sqrt(x))
ex2 = _in_double(np.exp2)
lg2 = _in_double(np.log2)
sin = _in_double(np.sin)
cos = _in_double(np.cos)

OPERATIONS = {
    name: value
    for name, value in globals().items()
    if callable(value) and not name.startswith("_") and name not in ("Any", "Array")
}
"""What generated code may call, by name."""
