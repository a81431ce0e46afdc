"""The environments of `make versions`: their requirements are those of the project, and each of them runs somewhere."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from support import ROOT, versions

pytestmark = pytest.mark.skipif(
    not (ROOT / "constraints.txt").is_file(), reason="an installed package has no constraints"
)


def test_the_oldest_are_what_the_project_allows() -> None:
    wanted = versions.requirements(versions.ENVIRONMENTS["oldest"])
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for requirement in (*project["dependencies"], *project["optional-dependencies"]["train"]):
        assert requirement.replace(">=", "==") in wanted
    assert any(each.startswith("triton==") for each in wanted), "without its marker"
    assert all("==" in each and ";" not in each for each in wanted)


def test_the_newest_are_those_of_the_tests() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert set(versions.requirements(versions.ENVIRONMENTS["newest"])) <= set(lines)


def test_what_is_left_out_is_not_asked_for() -> None:
    for name in ("triton", "einops"):
        environment = versions.ENVIRONMENTS[f"without-{name}"]
        assert name not in map(versions.name_of, versions.requirements(environment))
    assert not versions.ENVIRONMENTS["without-native"].native


def test_an_interpreter_that_does_not_start_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "python3.99"
    script.write_text("#!/bin/sh\nexit 127\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert versions.interpreter("3.99") is None
    script.write_text("#!/bin/sh\nexit 0\n")
    assert versions.interpreter("3.99") == str(script)


def test_the_workflow_runs_every_environment() -> None:
    yaml = pytest.importorskip("yaml")
    path = ROOT / ".github/workflows/versions.yml"
    if not path.is_file():
        pytest.skip("the source distribution has no workflows")
    matrix = yaml.safe_load(path.read_text())["jobs"]["versions"]["strategy"]["matrix"]
    runs = {entry["environment"]: entry["python"] for entry in matrix["include"]}
    assert runs.keys() == versions.ENVIRONMENTS.keys()
    for name, environment in versions.ENVIRONMENTS.items():
        assert environment.python in (None, runs[name])
