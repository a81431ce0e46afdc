"""Pages of the source files that other pages link to, as [words](source:PATH#NAME), NAME a function or class."""

from __future__ import annotations

import ast
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
_LINK = re.compile(r"\(source:(?P<path>[\w./-]+)(?P<name>#\w+)?\)")


def linked(markdown: str) -> set[str]:
    """The source files that a page links to."""
    return {match["path"] for match in _LINK.finditer(markdown)}


def resolved(markdown: str, page: str) -> str:
    """The page with its links to source files turned into links to their pages."""

    def target(match: re.Match[str]) -> str:
        relative = posixpath.relpath(page_of(match["path"]), posixpath.dirname(page) or ".")
        return f"({relative}{match['name'] or ''})"

    return _LINK.sub(target, markdown)


def page_of(path: str) -> str:
    """Where the page of a source file lies."""
    return f"source/{path}.md"


def page(path: str) -> str:
    """The page of a source file: in Python with a heading for every function and class."""
    text = (ROOT / path).read_text()
    parts = [f"---\nsearch:\n  exclude: true\nhide:\n  - navigation\n---\n\n# {path}\n"]
    if path.endswith(".py"):
        parts += _python(text)
    else:
        parts.append(_code(text.splitlines(), 1, "cpp"))
    return "\n".join(parts)


def _python(text: str) -> Iterator[str]:
    lines = text.splitlines()
    begun = 0
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            first = min([node.lineno, *(each.lineno for each in node.decorator_list)]) - 1
            yield _code(lines[begun:first], begun + 1)
            yield f"## `{node.name}` {{ #{node.name} }}\n"
            yield _code(lines[first : node.end_lineno], first + 1)
            begun = node.end_lineno or first
    yield _code(lines[begun:], begun + 1)


def _code(lines: list[str], number: int, language: str = "python") -> str:
    while lines and not lines[0].strip():
        lines, number = lines[1:], number + 1
    if not any(line.strip() for line in lines):
        return ""
    body = "\n".join(lines)
    return f'~~~~~~~~ {{ .{language} linenums="{number}" }}\n{body}\n~~~~~~~~\n'
