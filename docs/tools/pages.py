"""The Python on the pages: found, run from top to bottom, and what it prints and draws.

A block may say more behind its ```python:

    figure="WORDS"  the block makes a matplotlib figure, which is shown behind it; WORDS are for who cannot see it
    needs="NAMES"   the block runs only where all of NAMES exist: a module, an attribute of one, or a parameter, written
                    as function(name)
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
import io
import re
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DOCS = Path(__file__).parents[1]
_BLOCK = re.compile(r"^```python(?P<info>[^\n]*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
_OPTION = re.compile(r'\s+(\w+)="([^"]*)"')


@dataclass(frozen=True)
class Block:
    """One block of code: its text, the line of the page that it starts at, and its `figure` and `needs`."""

    code: str
    line: int
    options: dict[str, str] = field(default_factory=dict)

    @property
    def missing(self) -> str | None:
        """The first of its needs that is missing, or None."""
        needs = self.options.get("needs", "").split()
        return next((name for name in needs if not _is_there(name)), None)


@dataclass(frozen=True)
class Shown:
    """What a block printed, and the figures that it drew, as PNG."""

    text: str = ""
    figures: tuple[bytes, ...] = ()


def page_paths() -> list[Path]:
    """Every page that is written by hand."""
    return sorted(DOCS.rglob("*.md"))


def blocks(markdown: str) -> Iterator[tuple[re.Match[str], Block]]:
    """The blocks of a page, each with where it stands."""
    for match in _BLOCK.finditer(markdown):
        info = match["info"]
        options = dict(_OPTION.findall(info))
        if _OPTION.sub("", info).strip() or not options.keys() <= {"figure", "needs"}:
            raise ValueError(f"a block of code says {info!r} of itself; figure and needs are known")
        yield match, Block(match["code"], markdown[: match.start("code")].count("\n") + 1, options)


def run(path: Path, markdown: str) -> list[Shown | None]:
    """Run a page's blocks in one namespace, in an empty folder; None stands for a block whose needs are missing."""
    import matplotlib as mpl

    mpl.use("Agg")
    names: dict[str, object] = {"__name__": path.stem}
    with (
        mpl.rc_context({"savefig.bbox": "tight", "savefig.dpi": 110, "figure.dpi": 110}),
        tempfile.TemporaryDirectory() as folder,
        contextlib.chdir(folder),
    ):
        return [
            None if block.missing else _shown(path, block, names) for _, block in blocks(markdown)
        ]


def _shown(path: Path, block: Block, names: dict[str, object]) -> Shown:
    # Empty lines before the code give it the line numbers of the page, for tracebacks and `inspect`.
    program = compile("\n" * (block.line - 1) + block.code, str(path), "exec")
    before = list(names.values())
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(program, names)
    figures = _drawn(value for value in names.values() if all(value is not old for old in before))
    if bool(figures) != ("figure" in block.options):
        raise ValueError(
            f"{path}:{block.line}: a block with figure=... draws one, others none; this drew {len(figures)}"
        )
    return Shown(printed.getvalue(), figures)


def _drawn(values: Iterable[object]) -> tuple[bytes, ...]:
    """The figures among the block's new values, and those that pyplot keeps."""
    from matplotlib import pyplot as plt
    from matplotlib.figure import Figure

    kept = [plt.figure(number) for number in plt.get_fignums()]
    figures = dict.fromkeys((*kept, *(value for value in values if isinstance(value, Figure))))
    plt.close("all")
    return tuple(map(_png, figures))


def _png(figure: Figure) -> bytes:
    target = io.BytesIO()
    figure.savefig(target, format="png")
    return target.getvalue()


def _is_there(name: str) -> bool:
    path, _, parameter = name.removesuffix(")").partition("(")
    module, _, attribute = path.rpartition(".")
    try:
        if importlib.util.find_spec(path):
            return True
    except ModuleNotFoundError:
        pass
    found = getattr(importlib.import_module(module), attribute, None) if module else None
    if found is None or not parameter:
        return found is not None
    return parameter in inspect.signature(found).parameters
