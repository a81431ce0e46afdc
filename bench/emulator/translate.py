"""Translates a basic block of PTX into a Python function on arrays with one element per lane.

Each block becomes two functions `run(R, S, m, L)`: R holds the registers, S is the `machine.Batch`
that runs (special registers, parameters, memory), m the mask of the lanes that take part (None in
the first of the two, where all do), L the number of lanes. They return the condition of the branch
at the end, None where there is none.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np

from .arithmetic import OPERATIONS, Array
from .expressions import bits_of, compare, float_arithmetic, integer_arithmetic, numpy_type
from .ptx import Instruction, Kernel

BlockFunction = Callable[[list[Array], Any, Array | None, int], Array | None]

_STORAGE: dict[str, Any] = {
    "pred": np.bool_, "b16": np.uint16, "b32": np.uint32, "b64": np.uint64,
    "f32": np.uint32, "f64": np.uint64,
}  # fmt: skip
_SPECIAL = {
    "%tid.x": "S.thread", "%tid.y": "S.zero", "%tid.z": "S.zero", "%ntid.x": "S.threads",
    "%ctaid.x": "S.cta_x", "%ctaid.y": "S.cta_y", "%ctaid.z": "S.cta_z", "%laneid": "S.lane",
}  # fmt: skip
_NOTHING = {"ret", "exit", "bra", "bar", "barrier", "membar", "fence", "griddepcontrol"}
_UNARY = {"rcp", "sqrt", "rsqrt", "ex2", "lg2", "sin", "cos"}
_ARITHMETIC = _UNARY | {
    "add", "sub", "mul", "mad", "fma", "div", "rem", "min", "max", "abs", "neg", "copysign",
}  # fmt: skip
_ROUNDINGS = {"rmi": "floor", "rpi": "ceil", "rzi": "trunc", "rni": "rint"}


def _elements(text: str) -> list[str]:
    """The registers of `{%r1, %r2}`, or the single one."""
    return [part.strip() for part in text.strip("{} ").split(",")]


class Translator:
    """Translates the blocks of one kernel; `dtypes` has the numpy type of each register met so far."""

    def __init__(self, kernel: Kernel):
        self.kernel = kernel
        self.dtypes: list[Any] = []
        self._numbers: dict[str, int] = {}
        self._constants: list[Any] = []
        self._lines: list[str] = []
        self._masked = False
        self._guard: str | None = None
        self.functions = [self._translate(number) for number in range(len(kernel.blocks))]

    def _translate(self, number: int) -> tuple[BlockFunction, BlockFunction]:
        return self._variant(number, False), self._variant(number, True)

    def _variant(self, number: int, masked: bool) -> BlockFunction:
        block = self.kernel.blocks[number]
        self._lines, self._masked = ["taken = None"], masked
        for instruction in block.instructions:
            self._guard = None
            if instruction.predicate is not None:
                sign = "~" if instruction.negated else ""
                self._guard = f"{sign}R[{self._register(instruction.predicate)}]"
            self._lines.append(f"# {instruction}")
            if instruction is block.branch:
                self._lines.append(f"taken = {self._guard}")
            elif instruction.parts[0] not in _NOTHING:
                self._emit(instruction)
        body = "\n    ".join([*self._lines, "return taken"])
        scope: dict[str, Any] = {"np": np, "K": self._constants, **OPERATIONS}
        name = f"<block {number}{' masked' if masked else ''}>"
        exec(compile(f"def run(R, S, m, L):\n    {body}\n", name, "exec"), scope)
        function: BlockFunction = scope["run"]
        return function

    # Operands

    def _register(self, name: str) -> int:
        if name not in self._numbers:
            prefix = re.match(r"%[A-Za-z_]+", name)
            kinds = self.kernel.registers
            kind = kinds.get(name) or kinds.get(prefix[0] if prefix else "")
            if kind not in _STORAGE:
                raise NotImplementedError(f"the register {name} of type {kind}")
            self._numbers[name] = len(self.dtypes)
            self.dtypes.append(_STORAGE[kind])
        return self._numbers[name]

    def _constant(self, value: Any) -> str:
        self._constants.append(value)
        return f"K[{len(self._constants) - 1}]"

    def _read(self, operand: str, kind: str) -> str:
        """An operand as an expression of PTX type `kind`."""
        dtype = numpy_type(kind)
        if operand in _SPECIAL:
            return f"{_SPECIAL[operand]}.view(np.{dtype.name})"
        if operand.startswith("%"):
            number = self._register(operand)
            stored = np.dtype(self.dtypes[number])
            text = f"R[{number}]"
            if stored == np.bool_ or stored == dtype:
                return text
            if stored.itemsize != dtype.itemsize:
                text += f".astype(np.uint{8 * dtype.itemsize})"
            return f"{text}.view(np.{dtype.name})"
        if re.match(r"[A-Za-z_$]", operand):  # shared or local memory begins at address 0
            return self._constant(dtype.type(0))
        if operand.startswith("0f"):
            value = np.uint32(int(operand[2:], 16))
            single = value.view(np.float32)
            return self._constant(value.view(dtype) if dtype.itemsize == 4 else dtype.type(single))
        if operand.startswith("0d"):
            return self._constant(np.uint64(int(operand[2:], 16)).view(dtype))
        whole = int(operand.rstrip("U"), 0)
        if dtype == np.bool_:
            return self._constant(np.bool_(whole != 0))
        unsigned = np.dtype(f"u{dtype.itemsize}").type(whole & (1 << 8 * dtype.itemsize) - 1)
        return self._constant(unsigned.view(dtype))

    def _write(self, register: str, expression: str) -> None:
        """Set a register in the lanes that take part."""
        if register == "_":
            return
        number = self._register(register)
        value = f"fit({expression}, np.{np.dtype(self.dtypes[number]).name}, L)"
        where = self._active()
        if where != "None":
            value = f"np.where({where}, {value}, R[{number}])"
        self._lines.append(f"R[{number}] = {value}")

    def _active(self) -> str:
        """The mask of an instruction as an expression; `None` where every lane takes part."""
        if self._masked:
            return "m" if self._guard is None else f"(m & {self._guard})"
        return str(self._guard)

    # Instructions

    def _emit(self, i: Instruction) -> None:
        name = i.parts[0]
        emit: Callable[[Instruction], None] | None = getattr(self, f"_emit_{name}", None)
        if emit is None and name in _ARITHMETIC:
            emit = self._emit_arithmetic
        if emit is None:
            raise NotImplementedError(f"line {i.line} of the PTX: {i}")
        try:
            emit(i)
        except (NotImplementedError, ValueError, KeyError, IndexError, StopIteration) as error:
            raise NotImplementedError(f"line {i.line} of the PTX: {i} ({error})") from error

    def _emit_mov(self, i: Instruction) -> None:
        target, source = i.operands
        if target.startswith("{"):
            names = _elements(target)
            bits = bits_of(i.parts[-1]) // len(names)
            self._lines.append(f"whole = {self._read(source, i.parts[-1])}")
            for number, name in enumerate(names):
                self._write(name, f"(whole >> {number * bits}).astype(np.uint{bits})")
        elif source.startswith("{"):
            names = _elements(source)
            total = bits_of(i.parts[-1])
            bits = total // len(names)
            terms = [
                f"({self._read(name, f'b{bits}')}.astype(np.uint{total}) << np.uint{total}({number * bits}))"
                for number, name in enumerate(names)
            ]
            self._write(target, " | ".join(terms))
        else:
            self._write(target, self._read(source, i.parts[-1]))

    def _emit_cvta(self, i: Instruction) -> None:
        self._write(i.operands[0], self._read(i.operands[1], i.parts[-1]))

    def _emit_ld(self, i: Instruction) -> None:
        if i.parts[1] == "param":
            match = re.fullmatch(r"\[(\w+)(?:\+(\d+))?\]", i.operands[1])
            if match is None or int(match[2] or 0):
                raise NotImplementedError("a parameter that is no scalar")
            kind = np.dtype(self.dtypes[self._register(i.operands[0])]).name
            self._write(i.operands[0], f"S.parameter('{match[1]}', np.{kind})")
            return
        registers = _elements(i.operands[0])
        self._access(i, i.operands[1], len(registers), "load")
        for number, register in enumerate(registers):
            if register == "_":
                continue
            at = self._register(register)
            value = f"got[{number}]"
            if np.dtype(self.dtypes[at]).itemsize != i.access_bytes:
                value += f".astype(np.{np.dtype(self.dtypes[at]).name})"
            self._lines.append(
                f"R[{at}] = {value} if use is None else np.where(use, {value}, R[{at}])"
            )

    def _emit_st(self, i: Instruction) -> None:
        kind, size = f"b{max(8 * i.access_bytes, 16)}", f"np.uint{8 * i.access_bytes}"
        values = [f"fit({self._read(v, kind)}, {size}, L)" for v in _elements(i.operands[1])]
        self._access(i, i.operands[0], len(values), "store", f"({', '.join(values)},)")

    def _access(self, i: Instruction, address: str, count: int, verb: str, what: str = "") -> None:
        """A call of the memory. A load gives `use, got`: the lanes that read, and what they read."""
        space = next((part for part in i.parts if part in ("global", "shared")), None)
        if space is None or i.parts[1] not in (space, "volatile", "relaxed", "acquire", "release"):
            raise NotImplementedError("an access of neither global nor shared memory")
        at = self._address(address, "u64" if space == "global" else "u32")
        arguments = f"{i.index}, {at}, {i.access_bytes}, {what or count}, {self._active()}, L"
        result = "use, got = " if verb == "load" else ""
        self._lines.append(f"{result}S.{space}_memory.{verb}({arguments})")

    def _address(self, text: str, kind: str) -> str:
        match = re.fullmatch(r"\[\s*([%\w]+)\s*(?:\+\s*(-?\d+))?\s*\]", text)
        if match is None:
            raise ValueError(f"the address {text}")
        base, offset = self._read(match[1], kind), int(match[2] or 0)
        if offset:
            wide = f"np.uint{kind[1:]}"
            base = f"({base} + {wide}({offset % (1 << int(kind[1:]))}))"
        return base

    def _emit_ldmatrix(self, i: Instruction) -> None:
        self._matrix(i, i.operands[1], _elements(i.operands[0]))

    def _emit_stmatrix(self, i: Instruction) -> None:
        self._matrix(i, i.operands[0], _elements(i.operands[1]))

    def _matrix(self, i: Instruction, address: str, registers: list[str]) -> None:
        if "trans" in i.parts:
            raise NotImplementedError("a transposed matrix")
        self._lines.append(f"at = {self._address(address, 'u32')}")
        for number, register in enumerate(registers):
            at = f"{i.index}, matrix_rows(at, {number}, L), 4"
            if i.parts[0] == "ldmatrix":
                self._lines.append(f"use, got = S.shared_memory.load({at}, 1, None, L)")
                self._write(register, "got[0]")
            else:
                value = f"fit({self._read(register, 'b32')}, np.uint32, L)"
                self._lines.append(f"S.shared_memory.store({at}, ({value},), None, L)")

    def _emit_shfl(self, i: Instruction) -> None:
        *targets, value, by, clamp, _ = i.operands
        self._lines.append(f"S.whole_warps({i.index}, {self._active()})")
        words = self._read(value, "b32"), self._read(by, "b32"), self._read(clamp, "b32")
        self._lines.append(f"moved = shfl({', '.join(words)}, '{i.parts[2]}', L)")
        for number, target in enumerate(targets):
            self._write(target, f"moved[{number}]")

    def _emit_mma(self, i: Instruction) -> None:
        if "m8n8k4" not in i.parts or i.parts[-1] != "f64":
            raise NotImplementedError("a matrix product other than that of float64")
        self._lines.append(f"S.whole_warps({i.index}, {self._active()})")
        targets, *factors = (_elements(operand) for operand in i.operands)
        a, b, c, d = (self._read(name, "f64") for names in factors for name in names)
        self._lines.append(f"product = mma_f64({a}, {b}, ({c}, {d}), L)")
        for number, target in enumerate(targets):
            self._write(target, f"product[{number}]")

    def _emit_redux(self, i: Instruction) -> None:
        self._lines.append(f"S.whole_warps({i.index}, {self._active()})")
        value = self._read(i.operands[1], i.parts[-1])
        self._write(i.operands[0], f"redux({value}, '{i.parts[2]}', L)")

    def _emit_vote(self, i: Instruction) -> None:
        self._lines.append(f"S.whole_warps({i.index}, {self._active()})")
        negated = i.operands[1].startswith("!")
        value = self._read(i.operands[1].lstrip("!"), "pred")
        kind = i.parts[2]
        self._write(i.operands[0], f"vote({'~' * negated}{value}, '{kind}', {self._active()}, L)")

    def _emit_setp(self, i: Instruction) -> None:
        relation, kind = i.parts[1], i.parts[-1]
        combine = {"and": "&", "or": "|", "xor": "^"}.get(i.parts[2])
        operands = list(i.operands)
        other = self._read(operands.pop(), "pred") if combine else ""
        *targets, x, y = operands
        text = compare(relation, self._read(x, kind), self._read(y, kind), kind)
        for number, target in enumerate(targets):
            found = f"~{text}" if number else text
            self._write(target, f"({found} {combine} {other})" if combine else found)

    def _emit_selp(self, i: Instruction) -> None:
        yes, no = (self._read(i.operands[k], i.parts[-1]) for k in (1, 2))
        which = self._read(i.operands[3], "pred")
        self._write(i.operands[0], f"np.where({which}, {yes}, {no})")

    def _emit_and(self, i: Instruction) -> None:
        sign = {"and": "&", "or": "|", "xor": "^"}[i.parts[0]]
        x, y = (self._read(i.operands[k], i.parts[-1]) for k in (1, 2))
        self._write(i.operands[0], f"({x} {sign} {y})")

    _emit_or = _emit_xor = _emit_and

    def _emit_not(self, i: Instruction) -> None:
        self._write(i.operands[0], f"~{self._read(i.operands[1], i.parts[-1])}")

    def _emit_shl(self, i: Instruction) -> None:
        kind = i.parts[-1].replace("b", "u")
        x, n = self._read(i.operands[1], kind), self._read(i.operands[2], "u32")
        self._write(i.operands[0], f"{i.parts[0]}({x}, {n}, {bits_of(kind)})")

    _emit_shr = _emit_shl

    def _emit_shf(self, i: Instruction) -> None:
        words = ", ".join(self._read(operand, "b32") for operand in i.operands[1:])
        self._write(i.operands[0], f"shf({words}, {i.parts[1] == 'l'}, {i.parts[2] == 'wrap'})")

    def _emit_lop3(self, i: Instruction) -> None:
        words = ", ".join(self._read(operand, "b32") for operand in i.operands[1:4])
        self._write(i.operands[0], f"lop3({words}, {int(i.operands[4], 0)})")

    def _emit_bfe(self, i: Instruction) -> None:
        words = [self._read(i.operands[1], i.parts[-1])]
        words += [self._read(operand, "u32") for operand in i.operands[2:]]
        self._write(i.operands[0], f"bfe({', '.join(words)})")

    def _emit_prmt(self, i: Instruction) -> None:
        if i.parts[-1] != "b32" or len(i.parts) > 2:
            raise NotImplementedError("only prmt.b32")
        words = ", ".join(self._read(operand, "b32") for operand in i.operands[1:])
        self._write(i.operands[0], f"{i.parts[0]}({words})")

    _emit_popc = _emit_clz = _emit_brev = _emit_bfi = _emit_prmt

    def _emit_arithmetic(self, i: Instruction) -> None:
        kind = i.parts[-1]
        if {"sat", "cc"} & set(i.parts) or kind not in (
            "f32", "f64", *(f"{s}{bits}" for s in "usb" for bits in (16, 32, 64)),
        ):  # fmt: skip
            raise NotImplementedError("saturation, carries and half precision")
        flushes = "ftz" in i.parts and kind == "f32"
        operands = [self._read(operand, kind) for operand in i.operands[1:]]
        if kind[0] == "f":
            found = float_arithmetic(i.parts, [f"ftz({x})" if flushes else x for x in operands])
        elif "wide" in i.parts:
            double = f"{kind[0]}{2 * bits_of(kind)}"
            name = numpy_type(double).name
            found = f"({operands[0]}.astype(np.{name}) * {operands[1]}.astype(np.{name}))"
            if i.parts[0] == "mad":
                found = f"({found} + {self._read(i.operands[3], double)})"
        else:
            found = integer_arithmetic(i.parts, operands)
        self._write(i.operands[0], f"ftz({found})" if flushes else found)

    def _emit_cvt(self, i: Instruction) -> None:
        kinds = [part for part in i.parts if re.fullmatch(r"[usf]\d+|bf16|f16|bf16x2|f16x2", part)]
        to, source = kinds
        rounding = next((_ROUNDINGS[part] for part in i.parts if part in _ROUNDINGS), None)
        if to.endswith("x2"):
            high, low = (self._read(operand, source) for operand in i.operands[1:])
            half = f"to_{to[:-2]}"
            pair = f"{half}({high}).astype(np.uint32) << np.uint32(16) | {half}({low})"
            self._write(i.operands[0], f"({pair})")
            return
        x = self._read(i.operands[1], "b16" if source in ("bf16", "f16") else source)
        if source == "bf16":
            x = f"from_bf16({x})"
        elif source == "f16":
            x = f"{x}.view(np.float16).astype(np.float32)"
        elif "ftz" in i.parts and source == "f32":
            x = f"ftz({x})"
        if to in ("bf16", "f16"):
            found = f"to_{to}({x}.astype(np.float32))" if source != "f64" else f"to_{to}({x})"
        elif source[0] in "fb" and to[0] in "us":
            found = f"to_int(np.{rounding}({x}), np.{numpy_type(to).name})"
        elif source[0] in "fb" and rounding:
            found = f"np.{rounding}({x})"
        else:
            found = f"{x}.astype(np.{numpy_type(to).name})"
        self._write(i.operands[0], found)
