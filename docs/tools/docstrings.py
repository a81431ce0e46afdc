"""The docstrings' own sections for the site: "Convention", "Shapes" and the like become paragraphs with a bold word."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from typing import Any

import griffe

_PARSED = "Args|Arguments|Attributes|Raises|Returns|Yields"
"""The kinds of sections that griffe knows."""
_SECTION = re.compile(rf"(?!(?:{_PARSED}):)([A-Z]\w*(?: \w+){{0,2}}):(?: |$)(.*)")
_ITEM = re.compile(r"\w+(, \w+)*: ")
_VALUE = re.compile(r' {4}"\w+"(, "\w+")*: ')
_DEFAULTS = {"_AFFINE": '"affine"'}
"""Private names of default values -> what users see of them."""
_STAR = re.compile(r"(?<![*`\\])\*(?=[a-z])")


class Sections(griffe.Extension):
    """Rewrites every docstring before it is parsed."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Called by griffe for each module, class, function and attribute."""
        if obj.docstring:
            text = "\n".join(_lines(obj.docstring.value.splitlines()))
            obj.docstring.value = _STAR.sub(r"\\*", text)  # (N, *out_size) is no emphasis
        for parameter in obj.parameters if isinstance(obj, griffe.Function) else ():
            parameter.default = _DEFAULTS.get(str(parameter.default), parameter.default)


def _lines(lines: list[str]) -> Iterator[str]:
    position = 0
    while position < len(lines):
        found = _SECTION.fullmatch(lines[position])
        position += 1
        if not found:
            yield lines[position - 1]
            continue
        begun = position
        while position < len(lines) and (not lines[position] or lines[position][0] == " "):
            position += 1
        body = textwrap.dedent("\n".join(lines[begun:position])).splitlines()
        yield f"\n**{found[1]}:** {found[2]}"
        yield from body if found[2] else _with_items(body)
        yield ""  # without an empty line before it griffe reads "Raises:" as prose


def _with_items(body: list[str]) -> Iterator[str]:
    """Lines that begin with `name: ` as a list."""
    in_item = False
    for line in body:
        if _ITEM.match(line):
            yield f"\n- {line}"
            in_item = True
        elif line.startswith(" "):
            yield f"\n    - {line.strip()}" if _VALUE.match(line) else line
        else:
            yield f"\n{line}" if in_item else line
            in_item = False
