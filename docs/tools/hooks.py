"""MkDocs calls these functions while it builds the site: they run the pages' code and insert figures and tables."""

from __future__ import annotations

import importlib
import inspect
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.plugins import get_plugin_logger
from mkdocs.structure.files import File, Files, InclusionLevel

from docs.tools import notebook, pages, sources, tables, try_page, vendor

_LOG = get_plugin_logger("docs")
_API = re.compile(r"^<!-- api: ([\w.]+) -->$", re.MULTILINE)
_TRY = "try-it.md"
_TABLE = re.compile(r"^<!-- table: (\w+) -->$", re.MULTILINE)


def on_files(files: Files, config: Any) -> Files:
    """Add third-party scripts, the first page as a notebook, and a page for each source file that a page links to."""
    for script in vendor.SCRIPTS:
        files.append(File.generated(config, script.path, content=script.content()))
    start = (pages.DOCS / "start.md").read_text()
    files.append(File.generated(config, "start.ipynb", content=notebook.notebook(start)))
    linked = {path for page in pages.page_paths() for path in sources.linked(page.read_text())}
    for path in sorted(linked):
        files.append(File.generated(config, sources.page_of(path), content=sources.page(path)))
    _add_try_page(files, config)
    return files


def _add_try_page(files: Files, config: Any) -> None:
    """The page on which one draws digits, or without trained weights neither it nor the page that links to it."""
    try:
        network = try_page.pretrained()
    except try_page.NO_WEIGHTS as error:
        _LOG.info("no page to try the network on: %s", error)
        page = files.get_file_from_path(_TRY)
        assert page is not None
        files.remove(page)
        config.nav = [entry for entry in config.nav if _TRY not in entry.values()]
        return
    for name, content in try_page.page(network).items():
        made = File.generated(
            config, f"try/{name}", content=content, inclusion=InclusionLevel.INCLUDED
        )
        files.append(made)


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Insert what each block of code shows behind it, and the tables; point links to source files at their pages."""
    if page.file.src_uri.startswith("source/"):
        return markdown
    if any(True for _ in pages.blocks(markdown)):
        markdown = _with_what_it_shows(markdown, page, config, files)
    markdown = _API.sub(lambda match: "\n".join(_api(match[1])), markdown)
    markdown = _TABLE.sub(lambda match: tables.TABLES[match[1]](), markdown)
    return sources.resolved(markdown, page.file.src_uri)


def _api(name: str) -> Iterator[str]:
    """The public functions and classes of a module, for mkdocstrings; nothing where the module is not there."""
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError:
        _LOG.info("no page of %s, which is not there", name)
        return
    public = getattr(module, "__all__", [each for each in vars(module) if not each.startswith("_")])
    for each in public:
        found = getattr(module, each)
        # A module without __all__ is documented by what it defines, not by what it imports.
        if not hasattr(module, "__all__") and getattr(found, "__module__", None) != name:
            continue
        if inspect.isclass(found) or inspect.isfunction(found):
            yield f"::: {name}.{each}\n    options:\n      members: {_methods(found)}\n"


def _methods(found: object) -> list[str]:
    own = vars(found) if inspect.isclass(found) else {}
    public = [name for name, value in own.items() if inspect.isfunction(value) and name[0] != "_"]
    return [name for name in public if name != "extra_repr"]


def _with_what_it_shows(markdown: str, page: Any, config: Any, files: Files) -> str:
    begun = time.monotonic()
    shown = pages.run(Path(page.file.abs_src_path), markdown)
    _LOG.info("ran %s in %.1f s", page.file.src_uri, time.monotonic() - begun)
    stem = page.file.src_uri.removesuffix(".md").replace("/", "-")
    parts, end, number = [], 0, 0
    for (match, block), found in zip(pages.blocks(markdown), shown, strict=True):
        parts += [markdown[end : match.start()], f"```python\n{block.code}```"]
        end = match.end()
        if found is None:
            _LOG.info(
                "%s:%d did not run: %s is not there", page.file.src_uri, block.line, block.missing
            )
            continue
        if text := found.text:
            parts.append(f"\n\n``` {{ .text .printed }}\n{text.rstrip()}\n```")
        for content in found.figures:
            number += 1
            name = f"figures/{stem}-{number}.png"
            files.append(File.generated(config, name, content=content))
            up = "../" * page.file.src_uri.count("/")
            parts.append(f"\n\n![{block.options['figure']}]({up}{name})")
    return "".join(parts) + markdown[end:]
