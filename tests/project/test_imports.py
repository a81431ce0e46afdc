"""What is imported when: the library needs torch alone, and a command only what it uses."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest
import torch

from stn_triton.tracing import constant_in_graphs
from support import ROOT

HEAVY = ("lightning", "matplotlib", "tensorboard", "h5py", "mlxtend")


def printed(script: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, cwd=ROOT, capture_output=True, text=True
    )
    return done.stdout


def test_the_library_imports_torch_and_triton_alone() -> None:
    script = """
import sys
import torch
before = set(sys.modules)
import stn_triton
new = {name.partition(".")[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)
print(*sorted(name for name in new if not name.startswith("_")))
print("torch._dynamo" in sys.modules)
"""
    packages, dynamo = printed(script).splitlines()
    assert set(packages.split()) <= {"stn_triton", "torch", "triton"}
    assert dynamo == "False", "Dynamo takes as long to import as all of torch"


def test_the_mark_of_constants_is_that_of_torch() -> None:
    def ours() -> None: ...

    def theirs() -> None: ...

    assert constant_in_graphs(ours) is ours
    torch.compiler.assume_constant_result(theirs)
    assert vars(ours) == vars(theirs) != {}


@pytest.mark.parametrize(
    ("command", "needs"),
    [
        ("list", ()),
        ("evaluate nowhere.ckpt", ()),
        ("export nowhere.ckpt --onnx nowhere.onnx", ()),
        ("data check nowhere", ()),
        ("show nowhere.ckpt --out nowhere.png", ("matplotlib",)),
        ("train svhn", ("lightning", "matplotlib")),
    ],
)
def test_commands_import_what_they_need(command: str, needs: tuple[str, ...]) -> None:
    for name in ("numpy", "tqdm", *needs):
        pytest.importorskip(name)
    script = f"""
import sys
from architectures.commands.main import main
main({command.split()!r})
print(*sorted(set({HEAVY!r}) & set(sys.modules)))
"""
    found = set(printed(script).splitlines()[-1].split())
    there = {name for name in needs if importlib.util.find_spec(name)}
    # Lightning imports more than this, as it likes.
    assert found >= there if "lightning" in needs else found == there


@pytest.mark.parametrize("module", ["architectures", "architectures.demo"])
def test_a_missing_package_is_one_line(module: str) -> None:
    script = f"""
import runpy, sys
sys.modules["tqdm"] = None  # as if it were not installed
sys.argv = ["-m", "list"]
runpy.run_module("{module}", run_name="__main__", alter_sys=False)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], check=False, cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 1
    (line,) = (each for each in done.stderr.splitlines() if each.startswith("python -m"))
    assert line == f"python -m {module}: tqdm is not installed: pip install 'stn-triton[train]'"
    assert "Traceback" not in done.stderr
