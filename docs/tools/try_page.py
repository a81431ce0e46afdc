"""`python -m docs.tools.try_page --out DIR`: the page on which one draws two digits, with its network inside.

The page opens from a folder, where a browser lets it load classic scripts alone. So everything that it reads, the
runtime's WebAssembly and the network among them, lies in such scripts: gzipped, as base64.
"""

from __future__ import annotations

import argparse
import base64
import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from architectures import create_model, load_model
from architectures.blocks.parallel import ParallelSTN
from architectures.data import addition_batch, load_embedded
from architectures.training.errors import ExportError
from architectures.training.export import onnx_content
from docs.tools import vendor

MODEL = "mnist_addition_2st_fcn_affine"
SOURCES = Path(__file__).parents[1] / "try"
OUTPUTS = ("logits", "theta", "seen")
_EXAMPLES = 4
"""Real digits of each class that the page has."""
_SIDE = 42


class Telling(nn.Module):
    """A network of transformers that also gives its thetas (N, K, 2, 3) and what they see (N, K, C, h, w)."""

    def __init__(self, network: ParallelSTN) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(N, C, H, W) -> logits, theta, seen."""
        theta = self.network.localise(images)
        seen = self.network.sample(images, theta)
        assert isinstance(theta, Tensor)
        assert isinstance(seen, Tensor)
        return self.network.classify(seen), theta, seen


NO_WEIGHTS = (FileNotFoundError, TypeError, ValueError)
"""What `pretrained` raises where the package carries no weights."""


def pretrained() -> nn.Module:
    """The trained network that the package carries, or one of the errors NO_WEIGHTS."""
    return create_model(MODEL, pretrained=True)


def page(network: nn.Module) -> dict[str, bytes]:
    """The files of the page for a network of MNIST addition, by name.

    Raises:
        ValueError: another network than a `ParallelSTN` of affine transformers that reads two channels of 42 x 42.
        ExportError: as `architectures.training.export.onnx_content`.
        RuntimeError: the runtime is neither in the cache nor to be had from npm.
    """
    train, digits = load_embedded()
    generator = torch.Generator().manual_seed(0)
    images, _ = addition_batch(train, 8, generator=generator, canvas=(_SIDE, _SIDE))
    model = _model(network, images)
    examples = [digits.of_class(label).images[:_EXAMPLES].flatten() for label in range(10)]
    files = {path.name: path.read_bytes() for path in sorted(SOURCES.iterdir())}
    files[Path(vendor.RUNTIME.path).name] = vendor.RUNTIME.content()
    files["runtime.js"] = _script(
        "RUNTIME", loader=vendor.RUNTIME_LOADER.content(), wasm=vendor.RUNTIME_WASM.content()
    )
    files["network.js"] = _script(
        "NETWORK", model=model, digits=torch.cat(examples).numpy().tobytes()
    )
    return files


def _model(network: nn.Module, images: Tensor) -> bytes:
    if not isinstance(network, ParallelSTN):
        raise ValueError(f"the page needs a ParallelSTN, got {type(network).__name__}")
    telling = Telling(network).eval()
    try:
        with torch.no_grad():
            shapes = [tuple(each.shape[1:]) for each in telling(images)]
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"the page needs a network that reads {tuple(images.shape)}: {error}"
        ) from error
    k = network.num_transformers
    wanted = [(19,), (k, 2, 3), (k, 2, _SIDE, _SIDE)]
    if shapes != wanted:
        raise ValueError(f"the page needs logits, thetas and maps of {wanted}, got {shapes}")
    content, _ = onnx_content(telling, images, OUTPUTS, "the page's network")
    return content


def _script(name: str, **parts: bytes) -> bytes:
    """A script that defines an object of gzipped bytes as base64."""
    packed = {
        key: base64.b64encode(gzip.compress(part, mtime=0)).decode() for key, part in parts.items()
    }
    return f'"use strict";\nconst {name} = {json.dumps(packed, indent=0)};\n'.encode()


def _lines(files: dict[str, bytes]) -> Iterator[str]:
    for name, content in files.items():
        yield f"{len(content) / 1e6:8.3f} MB  {name}"


def main(arguments: list[str] | None = None) -> None:
    """Build the page into a folder."""
    parser = argparse.ArgumentParser(prog="python -m docs.tools.try_page", description=__doc__)
    parser.add_argument(
        "--checkpoint", type=Path, metavar="CKPT",
        help="of a network that `python -m architectures train mnist_addition` trained; default: the package's own",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    chosen = parser.parse_args(arguments)
    try:
        files = page(load_model(chosen.checkpoint) if chosen.checkpoint else pretrained())
        chosen.out.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (chosen.out / name).write_bytes(content)
    except (ExportError, OSError, RuntimeError, TypeError, ValueError) as error:
        parser.error(str(error))
    print("\n".join(_lines(files)))
    print(f"open {chosen.out / 'index.html'}")


if __name__ == "__main__":
    main()
