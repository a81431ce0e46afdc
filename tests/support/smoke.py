"""Installs files of a release, each into an empty environment outside the checkout, and samples: `make smoke`.

Usage: smoke.py FILE..., wheels for this machine or the source distribution. Status 1 if one of them does not work. With
--inside it is the program that runs in the environment.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def install(file: Path, folder: Path) -> Path:
    """Make an environment with the file and what it needs, and nothing else; gives its interpreter."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "-c", ROOT / "constraints.txt", file], check=True)
    return python


def inside(wants_native: bool) -> None:
    """Sample with every backend that is there, and compare values and gradients with PyTorch's own sampler."""
    import importlib.metadata

    import torch

    torch_alone = set(sys.modules)
    import stn_triton
    from stn_triton import SpatialTransformer, show_config, st_sample

    new = {name.partition(".")[0] for name in set(sys.modules) - torch_alone}
    assert not new & {"einops", "lightning", "matplotlib"}, new
    assert "torch._dynamo" not in sys.modules
    assert Path(stn_triton.__file__).is_relative_to(sys.prefix), stn_triton.__file__
    found = importlib.metadata.distribution("stn-triton")
    assert found.version == stn_triton.__version__
    assert any(Path(each).name == "LICENSE" for each in found.files or ()), "no licence"
    print(show_config())

    from stn_triton.native import library

    assert (library.MISSING is None) == wants_native, library.MISSING
    x = torch.rand(2, 3, 20, 30, generator=torch.Generator().manual_seed(0)).requires_grad_()
    theta = torch.tensor([[0.8, 0.3, 0.1], [-0.2, 0.9, -0.1]]).repeat(2, 1, 1).requires_grad_()
    grid = torch.nn.functional.affine_grid(theta, [2, 3, 16, 18], align_corners=False)
    wanted = torch.nn.functional.grid_sample(x, grid, align_corners=False)
    gradients = torch.autograd.grad(wanted.square().sum(), (x, theta))
    for backend in ("native", "torch") if wants_native else ("torch", None):
        got = st_sample(x, theta, (16, 18), backend=backend)
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
        ours = torch.autograd.grad(got.square().sum(), (x, theta))
        torch.testing.assert_close(ours, gradients, rtol=1e-3, atol=1e-4)
    transformer = SpatialTransformer(torch.nn.Flatten(), in_features=1800)
    torch.testing.assert_close(transformer(x), x, rtol=0, atol=4e-6)

    from architectures import create_model

    assert create_model("mnist_st_fcn_affine")(torch.rand(2, 1, 42, 42)).shape == (2, 10)


def check(file: Path) -> None:
    """Install one file and run `inside` there.

    Raises:
        CalledProcessError: something failed, and has said why.
    """
    start = time.monotonic()
    native = "native" if not file.name.endswith("-any.whl") else "pure"
    with tempfile.TemporaryDirectory() as name:
        python = install(file.resolve(), Path(name) / "environment")
        command = [python, "-I", Path(__file__).resolve(), "--inside", native]
        subprocess.run(command, check=True, cwd=name)
    print(f"{file.name}: works, {time.monotonic() - start:.0f} s", flush=True)


def main(arguments: list[str]) -> int:
    """Check every file."""
    if arguments[:1] == ["--inside"]:
        inside(arguments[1] == "native")
        return 0
    if not arguments:
        print("smoke.py: wanted files of a release, which `make wheels` makes", file=sys.stderr)
        return 2
    failed = 0
    for file in map(Path, arguments):
        try:
            check(file)
        except subprocess.CalledProcessError:
            print(f"{file.name}: does not work", file=sys.stderr, flush=True)
            failed += 1
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
