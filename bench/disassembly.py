"""What machine code says about itself: pure functions from the texts of `nvdisasm`, `cuobjdump`,
PTX and amdgcn.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class CodeFacts:
    """Sizes and counts of one compiled kernel, whatever its architecture."""

    registers: int
    spill_bytes: int
    global_atomics: int
    widest_global_load_bits: int
    instructions: int


_SASS_LINE = re.compile(
    r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_]*(?:\.[A-Za-z0-9_]+)*)", re.MULTILINE
)
_SASS_ATOMICS = {"RED", "REDG", "ATOM", "ATOMG", "UREDG", "UATOMG"}
_SASS_LOADS = {"LDG", "LD", "LDGSTS"}
_SASS_LOCAL = {"LDL", "STL"}
_SASS_WIDTHS = {"256": 256, "128": 128, "64": 64, "U16": 16, "S16": 16, "U8": 8, "S8": 8}


def sass_opcodes(sass: str) -> Iterator[tuple[str, list[str]]]:
    """Every instruction of `nvdisasm -c` as its opcode and modifiers, padding after the last branch
    included.
    """
    for match in _SASS_LINE.finditer(sass):
        opcode, *modifiers = match[1].split(".")
        yield opcode, modifiers


def _load_bits(modifiers: list[str]) -> int:
    # sm_100 writes its widest load as `LDG.E.ENL2.256`; without a width, a load is of 32 bits.
    return next((_SASS_WIDTHS[m] for m in modifiers if m in _SASS_WIDTHS), 32)


def nvidia_facts(sass: str, usage: str) -> CodeFacts:
    """From `nvdisasm -c` and `cuobjdump -res-usage`.

    A kernel's stack and local memory hold nothing but spills. A frame that no instruction reads or
    writes is left over from a variable that became a register, and is none.
    """
    resources = dict(re.findall(r"(REG|STACK|LOCAL):(\d+)", usage))
    opcodes = list(sass_opcodes(sass))
    frame = int(resources["STACK"]) + int(resources["LOCAL"])
    spills = any(opcode in _SASS_LOCAL for opcode, _ in opcodes)
    return CodeFacts(
        registers=int(resources["REG"]),
        spill_bytes=frame if spills else 0,
        global_atomics=sum(opcode in _SASS_ATOMICS for opcode, _ in opcodes),
        widest_global_load_bits=max(
            (_load_bits(m) for opcode, m in opcodes if opcode in _SASS_LOADS), default=0
        ),
        instructions=sum(opcode != "NOP" for opcode, _ in opcodes),
    )


_AMD_INSTRUCTION = re.compile(r"^\t([a-z]+_\w+)", re.MULTILINE)
_AMD_LOAD = re.compile(
    r"(?:global|buffer|flat)_load_[us]?(dwordx4|dwordx3|dwordx2|dword|short|byte)"
)
_AMD_WIDTHS = {"dwordx4": 128, "dwordx3": 96, "dwordx2": 64, "dword": 32, "short": 16, "byte": 8}


def amd_facts(amdgcn: str) -> CodeFacts:
    """From the assembly that Triton keeps: its instructions, and the metadata at its end."""
    metadata = dict(re.findall(r"^\s*-?\s*\.(\w+):\s+(\d+)$", amdgcn, re.MULTILINE))
    code = amdgcn.split(".amdgpu_metadata")[0]
    opcodes = _AMD_INSTRUCTION.findall(code)
    widths = [_AMD_WIDTHS[m[1]] for opcode in opcodes if (m := _AMD_LOAD.match(opcode))]
    return CodeFacts(
        registers=int(metadata["vgpr_count"]),
        spill_bytes=int(metadata["private_segment_fixed_size"]),
        global_atomics=sum(
            bool(re.match(r"(global|buffer|flat)_atomic_", opcode)) for opcode in opcodes
        ),
        widest_global_load_bits=max(widths, default=0),
        instructions=len(opcodes),
    )


_PTX_LOCATION = re.compile(r"^\s*\.loc\s+(\d+)\s+(\d+)")
_PTX_INSTRUCTION = re.compile(r"^\s*(?:@!?%p\d+\s+)?([a-z][\w.]*)\s+([^;]*);")
_PTX_FILE = re.compile(r"^\s*\.file\s+(\d+)\s+\"([^\"]+)\"", re.MULTILINE)


@dataclass(frozen=True)
class PtxInstruction:
    """One PTX instruction with the source line that it came from."""

    opcode: str
    operands: tuple[str, ...]
    file: str
    line: int


def ptx_instructions(ptx: str) -> list[PtxInstruction]:
    """The instructions of a kernel in order, each with its line."""
    files = {number: path.rsplit("/", 1)[-1] for number, path in _PTX_FILE.findall(ptx)}
    found: list[PtxInstruction] = []
    location = ("", 0)
    for text in ptx.splitlines():
        if place := _PTX_LOCATION.match(text):
            location = (files.get(str(place[1]), str(place[1])), int(place[2]))
        elif (match := _PTX_INSTRUCTION.match(text)) and not match[1].startswith("."):
            operands = tuple(part.strip(" {}") for part in match[2].split(","))
            found.append(PtxInstruction(match[1], operands, *location))
    return found


def uses_float64(ptx: str) -> bool:
    """Whether any instruction touches double precision."""
    return any(".f64" in instruction.opcode for instruction in ptx_instructions(ptx))


_ARITHMETIC = re.compile(r"(fma|mul|add|sub|div|neg|abs|max|min|rcp)\b.*\.f(32|64)$")


_HALVES = {"fma.rn.f32(0fBF000000, cvt, cvt)", "sub.f32(cvt, mul.f32(0f3F000000, cvt))"}
"""Both are b - a / 2 of whole numbers, which is exact in one instruction and in two."""


def expression(value: str, defined: dict[str, PtxInstruction], depth: int = 6) -> str:
    """How a PTX register was computed: float arithmetic down to conversions, loads, constants."""
    origin = defined.get(value)
    if origin is None or depth == 0:
        return value if value.startswith("0") else "?"
    if origin.opcode.startswith("mov"):
        return expression(origin.operands[1], defined, depth)
    if not _ARITHMETIC.match(origin.opcode):
        return origin.opcode.split(".")[0]
    inner = [expression(operand, defined, depth - 1) for operand in origin.operands[1:]]
    if origin.opcode.startswith(("fma", "mul", "add")):
        inner[:2] = sorted(inner[:2])
    found = f"{origin.opcode}({', '.join(inner)})"
    return "whole_minus_half" if found in _HALVES else found


def expressions_at(ptx: str, file: str, lines: range) -> set[str]:
    """The distinct expressions whose outermost operation stands on these lines of this file."""
    instructions = ptx_instructions(ptx)
    defined = {i.operands[0]: i for i in instructions if i.operands}
    here = [
        i
        for i in instructions
        if i.file == file and i.line in lines and _ARITHMETIC.match(i.opcode)
    ]
    consumed = {operand for i in here for operand in i.operands[1:]}
    return {expression(i.operands[0], defined) for i in here if i.operands[0] not in consumed}
