"""A page as a notebook to run and change: its text and code, without the output of the code."""

from __future__ import annotations

import json
import re

from docs.tools import pages

_LINK = re.compile(r"\[([^\]]+)\]\((?!https?:)[^)]*\)")


def notebook(markdown: str) -> str:
    """The notebook (nbformat 4) of a page; links to other pages become plain words."""
    cells, end = [], 0
    for match, block in pages.blocks(markdown):
        cells += [_text(markdown[end : match.start()]), _code(block.code)]
        end = match.end()
    cells.append(_text(markdown[end:]))
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return json.dumps({
        "cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 4,
    }, indent=1)  # fmt: skip


def _text(source: str) -> dict[str, object]:
    return {"cell_type": "markdown", "metadata": {}, "source": _LINK.sub(r"\1", source).strip()}


def _code(source: str) -> dict[str, object]:
    return {
        "cell_type": "code", "metadata": {}, "source": source.rstrip(), "execution_count": None, "outputs": [],
    }  # fmt: skip
