"""Python expressions for PTX arithmetic and comparisons, given expressions for the operands."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

_COMPARISONS = {
    "eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">=",
    "lo": "<", "ls": "<=", "hi": ">", "hs": ">=",
    "equ": "==", "neu": "!=", "ltu": "<", "leu": "<=", "gtu": ">", "geu": ">=",
}  # fmt: skip
_SIGNS = {"add": "+", "sub": "-", "mul": "*"}


def numpy_type(kind: str) -> np.dtype[Any]:
    """The numpy type of a PTX type."""
    if kind == "pred":
        return np.dtype(np.bool_)
    if not re.fullmatch(r"[busf](8|16|32|64)", kind):
        raise NotImplementedError(f"the type .{kind}")
    return np.dtype({"s": "i", "u": "u", "b": "u", "f": "f"}[kind[0]] + str(int(kind[1:]) // 8))


def bits_of(kind: str) -> int:
    """How many bits a PTX type has."""
    return int(re.sub(r"\D", "", kind))


def compare(name: str, x: str, y: str, kind: str) -> str:
    """The comparison `setp` of two operands."""
    unordered = f"(np.isnan({x}) | np.isnan({y}))"
    if name in ("num", "nan"):
        return f"(~{unordered})" if name == "num" else unordered
    if kind[0] == "f" and name == "ne":
        return f"(({x} < {y}) | ({x} > {y}))"
    found = f"({x} {_COMPARISONS[name]} {y})"
    return f"({found} | {unordered})" if name.endswith("u") and kind[0] == "f" else found


def float_arithmetic(parts: list[str], operands: list[str]) -> str:
    """An operation on floats, given its opcode and modifiers."""
    name, listed = parts[0], ", ".join(operands)
    if name in ("add", "sub", "mul"):
        return f"({operands[0]} {_SIGNS[name]} {operands[1]})"
    if name == "div":
        return f"divide({listed}, {'rn' in parts}, S.blur)"
    if name in ("min", "max"):
        return f"np.{name}imum({listed})" if "NaN" in parts else f"np.f{name}({listed})"
    if name == "copysign":
        return f"np.copysign({operands[1]}, {operands[0]})"
    if name in ("abs", "neg", "fma"):
        return {"abs": f"np.abs({listed})", "neg": f"(-{listed})", "fma": f"fma({listed})"}[name]
    return f"{name}({listed}, {'approx' not in parts}, S.blur)"


def integer_arithmetic(parts: list[str], operands: list[str]) -> str:
    """An operation on integers; wide products are elsewhere."""
    name, listed = parts[0], ", ".join(operands[:2])
    if name in ("mul", "mad"):
        product = f"mulhi({listed})" if "hi" in parts else f"({operands[0]} * {operands[1]})"
        return product if name == "mul" else f"({product} + {operands[2]})"
    if name in ("add", "sub"):
        return f"({operands[0]} {_SIGNS[name]} {operands[1]})"
    if name in ("min", "max"):
        return f"np.{name}imum({listed})"
    return {
        "div": f"intdiv({listed})", "rem": f"intrem({listed})",
        "abs": f"np.abs({listed})", "neg": f"(-{listed})",
    }[name]  # fmt: skip
