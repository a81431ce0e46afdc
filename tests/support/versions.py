"""The tests in environments of other versions, each made anew: `make versions`.

The project is installed from a wheel, and its tests run in a folder without its sources, so that what was installed is
what is tested. This program needs pip and the standard library. It says which interpreters are not on this machine;
their environments are left to the workflow `versions`.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "build" / "versions"
_TOOLS = ("expecttest", "hypothesis", "pytest", "pytest-xdist")
"""What the tests need; torch.library.opcheck imports expecttest."""
_COPIED = ("bench", "tests", "conftest.py", "pyproject.toml")
_QUICK = ("-m", "not slow", "-q")
_OP = ("tests/op", "tests/kernels")
_NETWORKS = (*_OP, "tests/architectures", "tests/training")
_SAYS = """
import importlib.metadata, platform
def version(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "none"
names = ("torch", "triton", "numpy", "einops", "lightning")
print("Python", platform.python_version(), *(f"{name} {version(name)}" for name in names), sep=", ")
import stn_triton
from stn_triton.native import library
print("native library:", library.MISSING or "there")
"""


@dataclass(frozen=True, kw_only=True)
class Environment:
    """What is installed, and what then runs.

    about: in words.
    python: the version of the interpreter; None: the interpreter of this process.
    extras: those of the project.
    oldest: whether all requirements are in the oldest versions that pyproject.toml allows, else in those of
        constraints.txt.
    without: packages of the requirements that are left out.
    native: whether the wheel holds the native library.
    tests: the folders of tests that run.
    compiles: whether all kernels are compiled ahead of time.
    """

    about: str
    python: str | None = None
    extras: tuple[str, ...] = ()
    oldest: bool = False
    without: tuple[str, ...] = ()
    native: bool = True
    tests: tuple[str, ...] = _NETWORKS
    compiles: bool = False


_ALL = ("onnx", "train", "triton")
ENVIRONMENTS = {
    "oldest": Environment(about="the oldest versions of everything", extras=_ALL, oldest=True, compiles=True),
    "newest": Environment(about="the newest versions that are tested", extras=_ALL, tests=_OP, compiles=True),
    "python-3.11": Environment(about="Python 3.11", python="3.11", extras=_ALL),
    "python-3.12": Environment(about="Python 3.12", python="3.12", extras=_ALL),
    "python-3.13": Environment(about="Python 3.13", python="3.13", extras=_ALL),
    "without-triton": Environment(about="no Triton", extras=("train",)),
    "without-einops": Environment(about="torch alone", without=("einops",), tests=_OP),
    "without-native": Environment(about="no native library", extras=("triton",), native=False, tests=_OP),
}  # fmt: skip


def name_of(requirement: str) -> str:
    """The name of the package that a requirement asks for."""
    found = re.match(r"[\w.-]+", requirement)
    assert found is not None, requirement
    return found[0].lower()


def project_requirements(extras: Sequence[str]) -> Iterator[str]:
    """What pyproject.toml asks for, without markers."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    yield from project["dependencies"]
    for extra in extras:
        for requirement in project["optional-dependencies"][extra]:
            yield requirement.partition(";")[0].strip()


def requirements(environment: Environment) -> list[str]:
    """What pip is asked for, besides the project itself."""
    constraints = {
        name_of(line): line for line in (ROOT / "constraints.txt").read_text().splitlines()
        if line and not line.startswith("#")
    }  # fmt: skip
    wanted = {}
    for requirement in project_requirements(environment.extras):
        name = name_of(requirement)
        pinned = requirement.replace(">=", "==") if environment.oldest else constraints[name]
        wanted[name] = pinned
    wanted |= {name: constraints[name] for name in _TOOLS}
    return sorted(pin for name, pin in wanted.items() if name not in environment.without)


def interpreter(version: str | None) -> str | None:
    """The Python of a version, 3.12 for instance; None if there is none on the PATH that starts."""
    if version is None or sys.version.startswith(f"{version}."):
        return sys.executable
    for folder in os.get_exec_path():
        path = shutil.which(f"python{version}", path=folder)
        # A version manager leaves a script of that name that starts no version which it was not told to.
        if (
            path
            and subprocess.run([path, "--version"], capture_output=True, check=False).returncode
            == 0
        ):
            return path
    return None


def run(command: Sequence[str | Path], **options: object) -> None:
    """Run a command whose failure ends this environment."""
    subprocess.run([str(each) for each in command], check=True, **options)  # type: ignore[call-overload]


def wheel(native: bool) -> Path:
    """The project's wheel for this machine, or the one without a native library."""
    folder = FOLDER / ("wheel" if native else "wheel-without-native")
    shutil.rmtree(folder, ignore_errors=True)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", folder, ROOT]
    run(command, env=os.environ | {"STN_TRITON_NATIVE": "1" if native else "0"})
    (found,) = folder.glob("*.whl")
    return found


def make(name: str, environment: Environment, python: str) -> Path:
    """Make an environment, or take the one that is there if it was made for the same; gives its interpreter."""
    folder = FOLDER / name
    made, wanted = folder / "made.json", [python, *requirements(environment)]
    inside = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not made.is_file() or json.loads(made.read_text()) != wanted:
        shutil.rmtree(folder, ignore_errors=True)
        run([python, "-m", "venv", folder])
        pip = [inside, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        run([*pip, *([] if environment.oldest else ["-c", ROOT / "constraints.txt"]), *wanted[1:]])
        made.write_text(json.dumps(wanted))
    install = [inside, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    run([*install, "--no-deps", "--force-reinstall", wheel(environment.native)])
    return inside


def check(name: str, environment: Environment, python: str, workers: str) -> None:
    """Make an environment and run its part of the tests.

    Raises:
        CalledProcessError: something failed, and has said why.
    """
    inside = make(name, environment, python)
    folder = FOLDER / name / "tests"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for part in _COPIED:
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        copy(ROOT / part, folder / part)
    own = {"OMP_NUM_THREADS": "1", "TRITON_CACHE_DIR": str(folder / "triton")}
    own["GIT_CEILING_DIRECTORIES"] = str(FOLDER)  # what was installed is of no commit
    options = {"cwd": folder, "env": os.environ | own}
    options["env"].pop("PYTHONPATH", None)
    run([inside, "-c", _SAYS], **options)
    absent = {
        "triton": "triton" in environment.extras,
        "einops": "einops" not in environment.without,
    }
    for module, wanted in absent.items():
        found = (
            f"from importlib.util import find_spec; assert bool(find_spec({module!r})) is {wanted}"
        )
        run([inside, "-c", found], **options)
    if environment.compiles:
        run([inside, "-m", "bench.compile_report"], **options)
    parallel = [] if workers == "1" else ["-n", workers, "--dist", "worksteal"]
    run([inside, "-m", "pytest", *_QUICK, *parallel, *environment.tests], **options)


def main(arguments: list[str] | None = None) -> int:
    """Every environment, or those that are named. The status is 1 if something failed."""
    parser = argparse.ArgumentParser(prog="versions.py", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"only these of {', '.join(ENVIRONMENTS)}"
    )
    parser.add_argument("--workers", default="1", help="processes that test (%(default)s), or auto")
    chosen = parser.parse_args(arguments)
    if unknown := set(chosen.names) - ENVIRONMENTS.keys():
        parser.error(f"no environment {min(unknown)!r}; wanted some of {', '.join(ENVIRONMENTS)}")
    FOLDER.mkdir(parents=True, exist_ok=True)
    outcomes = {}
    for name in chosen.names or ENVIRONMENTS:
        environment = ENVIRONMENTS[name]
        python = interpreter(environment.python)
        if python is None:
            outcomes[name] = f"not run: no python{environment.python} on this machine"
            continue
        print(f"== {name}: {environment.about}", flush=True)
        start = time.monotonic()
        try:
            check(name, environment, python, chosen.workers)
            outcomes[name] = f"passed, {time.monotonic() - start:.0f} s"
        except subprocess.CalledProcessError as error:
            outcomes[name] = (
                f"FAILED: {' '.join(map(str, error.cmd[1:4]))} ended with {error.returncode}"
            )
    print()
    for name, outcome in outcomes.items():
        print(f"{name:16s}{outcome}")
    return 1 if any(each.startswith("FAILED") for each in outcomes.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
