"""Which machine instructions each PTX instruction becomes, and how often each was issued.

The PTX is compiled once more with one `.loc` before every instruction, whose line is the
instruction's number; `nvdisasm` then says of every machine instruction where it comes from. How
often each PTX block ran gives how often each machine instruction was issued.
"""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from triton.compiler import make_backend

from bench.aot import output_of, tool
from bench.disassembly import CodeFacts, nvidia_facts, sass_opcodes

from .arithmetic import Array
from .ptx import Block, Kernel

_ORIGIN = re.compile(r'//## File ".*?", line (\d+)')
_CONTROL = re.compile(
    r"^\s*/\* 0x([0-9a-f]{16}) \*/"
)  # the upper half of an instruction, on a line of its own

_PIPES = {
    "fma": "FFMA FADD FMUL FFMA32I FADD32I FMUL32I HFMA2 HADD2 HMUL2",
    "imad": "IMAD IDP XMAD",
    "xu": "MUFU F2I I2F FRND F2F POPC FLO BREV",
    "global": "LDG STG LD ST ATOMG RED LDGSTS REDG ATOM",
    "spill": "LDL STL",
    "shared": "LDS STS LDSM STSM SHFL REDUX ATOMS",
    "control": "BRA BSSY BSYNC EXIT RET CALL BREAK WARPSYNC YIELD BMOV NANOSLEEP JMP BRX",
    "barrier": "BAR DEPBAR MEMBAR CCTL ERRBAR ACQBULK",
    "fp64": "DADD DMUL DFMA DSETP DMNMX",
    "const": "ULDC LDC S2R S2UR CS2R LDCU",
}
PIPES = (*_PIPES, "uniform", "alu")
_PIPE_OF = {opcode: pipe for pipe, opcodes in _PIPES.items() for opcode in opcodes.split()}


def pipe(opcode: str) -> str:
    """The unit of an SM that executes an opcode."""
    if opcode in _PIPE_OF:
        return _PIPE_OF[opcode]
    return "uniform" if opcode.startswith("U") or opcode in ("R2UR", "VOTEU") else "alu"


@dataclass(frozen=True)
class MachineInstruction:
    """A machine instruction, and what `ptxas` wrote into it about waiting."""

    origin: int  # the PTX instruction that it comes from; -1: none
    opcode: str
    stall: int  # clocks before the next one
    result: int  # the barrier that its result opens; 7: none
    operands: int  # the barrier that opens when its operands were read; 7: none
    waits: int  # bits of the barriers at which it waits


@dataclass
class Code:
    """The machine code of one kernel."""

    facts: CodeFacts
    instructions: list[MachineInstruction]
    differing: int
    """Instructions by which the code compiled for counting differs from the code that would run."""

    @cached_property
    def by_ptx(self) -> dict[int, Counter[str]]:
        """The opcodes of each PTX instruction; -1 has those of none."""
        found: dict[int, Counter[str]] = {}
        for each in self.instructions:
            found.setdefault(each.origin, Counter())[each.opcode] += 1
        return found


def machine_code(kernel: Kernel, compiled: Any) -> Code:
    """Compile the PTX of a kernel once more, each instruction with a line of its own."""
    target = compiled.metadata.target
    backend: Any = make_backend(target)
    options = backend.parse_options(compiled.metadata._asdict())
    again = backend.make_cubin(_annotated(kernel), {}, options, target.arch)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(compiled.asm["cubin"])
        sass = output_of(tool("nvdisasm"), "-c", str(path))
        facts = nvidia_facts(sass, output_of(tool("cuobjdump"), "-res-usage", str(path)))
        path.write_bytes(again)
        numbered = output_of(tool("nvdisasm"), "-g", "-hex", "-c", str(path))
    would_run, counted = _histogram(sass), _histogram(numbered)
    return Code(facts, _instructions(numbered), (would_run - counted).total())


def _histogram(sass: str) -> Counter[str]:
    return Counter(opcode for opcode, _ in sass_opcodes(sass))


def _annotated(kernel: Kernel) -> str:
    """The PTX with the number of each instruction as its line in the source."""
    numbers = {i.line: i.index for i in kernel.instructions}
    lines = []
    for number, line in enumerate(kernel.text.splitlines(), 1):
        bare = line.strip()
        if bare.startswith(".section"):  # what follows describes the old lines
            break
        if bare.startswith((".loc", ".file", "$L__tmp")):
            continue
        if number in numbers:
            lines.append(f".loc 1 {numbers[number] + 1} 1")
        lines.append(line)
    return "\n".join([*lines, '.file 1 "kernel.ptx"', ""])


def _instructions(sass: str) -> list[MachineInstruction]:
    """From `nvdisasm -g -hex`. Slow paths of divisions and the padding at the end are left out."""
    found: list[MachineInstruction] = []
    origin, slow, opcode = -1, False, None
    for line in sass.splitlines():
        slow = slow or ("$__internal" in line and line.rstrip().endswith(":"))
        if match := _ORIGIN.search(line):
            origin = int(match[1]) - 1
        elif (match := _CONTROL.match(line)) and opcode is not None:
            bits = int(match[1], 16) >> 41
            padding = opcode == "NOP" or (opcode == "BRA" and origin == -1)
            if not slow and not padding:
                fields = bits & 15, bits >> 5 & 7, bits >> 8 & 7, bits >> 11 & 63
                found.append(MachineInstruction(origin, opcode, *fields))
            opcode = None
        else:
            opcode = next((name for name, _ in sass_opcodes(line)), opcode)
    return found


def copies(kernel: Kernel, code: Code) -> list[float]:
    """How many copies of each PTX block the machine code holds, since ptxas unrolls loops.

    They are counted by instructions that ptxas neither merges nor drops: accesses of global memory;
    where there are none, exchanges between lanes; and in a loop of one block without either, products.
    """
    accesses = {"ld": ("LDG", "LD"), "st": ("STG", "ST")}
    exchanges = ("BAR", "SHFL", "REDUX")

    def of(block: Block, wanted: Mapping[str, tuple[str, ...]], space: str = "") -> float:
        counts = []
        for i in block.instructions:
            if i.parts[0] in wanted and (not space or i.is_access(space)):
                made = code.by_ptx.get(i.index, Counter())
                counts.append(sum(made[opcode] for opcode in wanted[i.parts[0]]))
        counts = sorted(count for count in counts if count)
        return counts[len(counts) // 2] if counts else 0

    found = []
    for block in kernel.blocks:
        times = of(block, accesses, "global")
        times = times or of(block, dict.fromkeys(("bar", "shfl", "redux"), exchanges))
        times = times or of(block, {"fma": ("FFMA",)})
        found.append(times or 1)
    return found


def issues(kernel: Kernel, code: Code, block_warps: Array) -> list[float]:
    """How many warps issued each machine instruction, given how many ran each PTX block."""
    block_of, times = kernel.block_of(), copies(kernel, code)
    blocks = (block_of.get(each.origin, 0) for each in code.instructions)
    return [float(block_warps[block]) / times[block] for block in blocks]
