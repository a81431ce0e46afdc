"""Parses PTX into basic blocks of instructions. It knows what Triton emits; anything else raises."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_INSTRUCTION = re.compile(r"^(?:@(!?)(%\w+)\s+)?([a-z][\w.:]*)\s*(.*);$", re.DOTALL)
_REGISTERS = re.compile(r"^\.reg\s+\.(\w+)\s+(%\w+?)(?:<(\d+)>)?;$")
_LABEL = re.compile(r"^\$?[\w$]+:$")
_LOCATION = re.compile(r"^\.loc\s+(\d+)\s+(\d+)")
_FILE = re.compile(r'^\s*\.file\s+(\d+)\s+"([^"]+)"', re.MULTILINE)
_DECLARATIONS = (".file", ".shared", ".pragma", ".extern", ".align", ".local")


@dataclass
class Instruction:
    """One instruction, the predicate that guards it, and the source line it was compiled from."""

    opcode: str
    operands: list[str]
    predicate: str | None = None
    negated: bool = False
    index: int = 0
    line: int = 0  # of the PTX text
    source: tuple[str, int] = ("", 0)

    @property
    def parts(self) -> list[str]:
        """The opcode and its modifiers."""
        return self.opcode.split(".")

    def is_access(self, space: str) -> bool:
        """Whether it loads from or stores to `space`."""
        return self.parts[0] in ("ld", "st") and space in self.parts

    @property
    def access_bytes(self) -> int:
        """Bytes of one element of a load or store."""
        return int(re.sub(r"\D", "", self.parts[-1])) // 8

    def is_barrier(self) -> bool:
        """Whether the threads of a CTA wait for each other here."""
        return self.opcode.startswith(("bar.sync", "barrier.sync"))

    def __str__(self) -> str:
        guard = f"@{'!' if self.negated else ''}{self.predicate} " if self.predicate else ""
        return f"{guard}{self.opcode} {', '.join(self.operands)}"


@dataclass
class Block:
    """A basic block: it is entered at its start only, and left at its end only."""

    label: str | None
    instructions: list[Instruction] = field(default_factory=list)
    target: int | None = None  # of the branch at its end
    branch: Instruction | None = None  # at its end; also a return under a predicate
    barrier: bool = False  # whether it ends in one
    returns: bool = False


@dataclass
class Kernel:
    """The single kernel of one Triton compilation."""

    name: str
    parameters: list[str]
    threads: int
    registers: dict[str, str]  # prefix or name -> type
    blocks: list[Block]
    instructions: list[Instruction]
    text: str

    def block_of(self) -> dict[int, int]:
        """The number of the block of each instruction, by its index."""
        return {i.index: n for n, block in enumerate(self.blocks) for i in block.instructions}


def split_operands(text: str) -> list[str]:
    """Operands, split at commas and bars outside brackets."""
    found, depth, current = [], 0, ""
    for letter in text:
        depth += (letter in "{[(") - (letter in "}])")
        if letter in ",|" and depth == 0:
            found.append(current.strip())
            current = ""
        else:
            current += letter
    if current.strip():
        found.append(current.strip())
    return found


def _short(path: str) -> str:
    """A source file as reports name it: inside the kernels' folder, or inside Triton's; else its name alone."""
    for folder, shown in (("/stn_triton/kernels/", ""), ("/triton/", "triton/")):
        if folder in path:
            return shown + path.rsplit(folder, 1)[1]
    return path.rsplit("/", 1)[-1]


def parse(text: str) -> Kernel:
    """Parse a PTX module that holds one kernel."""
    entry = re.search(r"\.entry\s+(\w+)", text)
    threads = re.search(r"\.reqntid\s+(\d+)", text)
    if entry is None or threads is None:
        raise ValueError("no kernel in this PTX: it needs .entry and .reqntid")
    start = text.index("{", entry.start())
    parameters = re.findall(
        r"\.param\s+\.\w+[^,\n]*?\s(\w+_param_\d+)", text[entry.start() : start]
    )
    registers: dict[str, str] = {}
    items: list[str | Instruction] = []
    count = 0
    files: dict[str, str] = {number: _short(path) for number, path in _FILE.findall(text)}
    source: tuple[str, int] = ("", 0)
    for number, raw in enumerate(_body(text, start), text[:start].count("\n") + 1):
        line = raw.split("//")[0].strip()
        if not line or line in "{}" or line.startswith(_DECLARATIONS):
            continue
        if place := _LOCATION.match(line):
            source = files.get(place[1]) or place[1], int(place[2])
        elif found := _REGISTERS.match(line):
            registers[found[2]] = found[1]
        elif _LABEL.match(line):
            if not line.startswith(("$L__tmp", "$L__func")):
                items.append(line[:-1])
        elif match := _INSTRUCTION.match(line):
            operands = split_operands(match[4])
            items.append(
                Instruction(match[3], operands, match[2], match[1] == "!", count, number, source)
            )
            count += 1
        else:
            raise ValueError(f"line {number}: cannot parse {line!r}")
    instructions = [item for item in items if isinstance(item, Instruction)]
    return Kernel(
        entry[1], parameters, int(threads[1]), registers, _blocks(items), instructions, text
    )


def _body(text: str, start: int) -> list[str]:
    """The lines of the function whose brace opens at `start`, without the brace."""
    depth = 0
    for position in range(start, len(text)):
        depth += (text[position] == "{") - (text[position] == "}")
        if depth == 0:
            return text[start + 1 : position].splitlines()
    raise ValueError("the kernel's last brace is missing")


def _blocks(items: list[str | Instruction]) -> list[Block]:
    blocks = [Block(None)]
    for item in items:
        block = blocks[-1]
        if isinstance(item, str):
            if block.instructions or block.label:
                blocks.append(Block(item))
            else:
                block.label = item
            continue
        block.instructions.append(item)
        if item.parts[0] == "bra":
            block.branch = item
        elif item.parts[0] in ("ret", "exit"):
            block.returns = True
            block.branch = item if item.predicate else None
        elif item.is_barrier():
            block.barrier = True
        else:
            continue
        blocks.append(Block(None))
    labels = {block.label: number for number, block in enumerate(blocks) if block.label}
    for block in blocks:
        if block.branch is not None and not block.returns:
            block.target = labels[block.branch.operands[0]]
    return blocks
