"""The site's pages: their code runs, their links to source files hold, their tables can be made."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

for package in ("einops", "matplotlib", "mlxtend", "onnxruntime", "onnxscript", "kornia"):
    pytest.importorskip(package)

from docs.tools import notebook, pages, sources, tables

SLOW = {"start.md", "how-to/compile-cpu.md", "how-to/onnx.md"}
"""They train, compile and export."""

PAGES = {str(path.relative_to(pages.DOCS)): path for path in pages.page_paths()}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in PAGES],
)
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_code_of_a_page_runs(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    markdown = PAGES[name].read_text()
    shown = pages.run(PAGES[name], markdown)
    assert len(shown) == markdown.count("```python")
    for (_, block), found in zip(pages.blocks(markdown), shown, strict=True):
        assert (found is None) == bool(block.missing)
        assert found is None or len(found.figures) == ("figure" in block.options)
        assert found is None or all(each.startswith(b"\x89PNG") for each in found.figures)


@pytest.mark.parametrize("name", PAGES)
def test_links_to_sources_hold(name: str) -> None:
    for path, target in re.findall(r"\(source:([^)#]+)(?:#(\w+))?\)", PAGES[name].read_text()):
        tree = ast.parse((sources.ROOT / path).read_text()) if path.endswith(".py") else None
        assert (sources.ROOT / path).is_file()
        names = [getattr(node, "name", None) for node in tree.body] if tree else []
        assert not target or target in names, f"{path} has no {target}"


@pytest.mark.parametrize("name", PAGES)
def test_tables_are_known_and_can_be_made(name: str) -> None:
    for table in re.findall(r"<!-- table: (.*?) -->", PAGES[name].read_text()):
        if table != "accuracy":  # it has a test of its own
            lines = tables.TABLES[table]().splitlines()
            assert sum(line.startswith("|") for line in lines) > 2


def test_half_precision_is_as_accurate_as_the_page_says() -> None:
    import torch

    for dtype, eps in ((torch.float16, 2**-11), (torch.bfloat16, 2**-8)):
        (eager, eager_theta), (ours, ours_theta) = tables.accuracy.errors(128, dtype)
        assert ours < eps / 2 < eager
        assert ours_theta < eager_theta / 4


@pytest.mark.parametrize(
    ("needs", "missing"),
    [
        ("stn_triton", None),
        ("stn_triton.st_sample", None),
        ("stn_triton.st_sample(mode)", None),
        ("stn_triton.st_sample(no_such)", "stn_triton.st_sample(no_such)"),
        ("stn_triton no_such_module", "no_such_module"),
        ("stn_triton.no_such(mode)", "stn_triton.no_such(mode)"),
    ],
)
def test_needs_are_found(needs: str, missing: str | None) -> None:
    assert pages.Block("", 1, {"needs": needs}).missing == missing


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("```python figure\n1\n```\n", "figure and needs are known"),
        ('```python figure="a line"\n1\n```\n', "this drew 0"),
        ("```python\nfrom matplotlib import pyplot\npyplot.figure()\n```\n", "this drew 1"),
    ],
)
def test_what_a_block_draws_is_what_it_says(code: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        pages.run(Path("page.md"), code)


def test_errors_name_the_line_of_the_page() -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        pages.run(Path("page.md"), "# A page\n\n```python\nx = 1\nx / 0\n```\n")
    assert caught.traceback[-1].lineno + 1 == 5


def test_the_notebook_has_the_code_of_its_page() -> None:
    markdown = PAGES["start.md"].read_text()
    cells = json.loads(notebook.notebook(markdown))["cells"]
    code = [cell["source"] + "\n" for cell in cells if cell["cell_type"] == "code"]
    assert code == [block.code for _, block in pages.blocks(markdown)]
    assert "](how-to/" not in str(cells)


def test_sections_of_docstrings_reach_the_reference() -> None:
    griffe = pytest.importorskip("griffe")
    from docs.tools.docstrings import Sections

    given = griffe.visit(
        "module", Path("module.py"),
        "def f(x=_AFFINE):\n"
        '    """What it does.\n\n    Shapes: x.\n\n    Raises:\n        ValueError: a wrong x.\n    """\n',
    )  # fmt: skip
    function = given["f"]
    Sections().on_object(obj=function)
    kinds = [part.kind.value for part in griffe.Docstring(function.docstring.value).parse("google")]
    assert kinds == ["text", "raises"]
    assert "**Shapes:** x." in function.docstring.value
    assert str(function.parameters["x"].default) == '"affine"'


@pytest.mark.slow
def test_site_builds_without_warnings_and_needs_no_network(tmp_path: Path) -> None:
    for package in ("mkdocs", "material", "mkdocstrings"):
        pytest.importorskip(package)
    from docs.tools import vendor

    try:
        vendor.SCRIPTS[0].content()
    except RuntimeError as error:
        pytest.skip(str(error))
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(tmp_path)]
    usual = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        command, cwd=sources.ROOT, env=usual, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    loaded = re.compile(r'<(?:script|link|img|iframe)\b[^>]*?\b(?:src|href)="?(?:https?:)?//')
    built = list(tmp_path.rglob("*.html"))
    assert len(built) > 20
    for path in built:
        found = loaded.findall(path.read_text())
        assert not found, f"{path} loads {found}"
