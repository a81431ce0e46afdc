"""A trained network as a file that runs without this program. It is written only if it gives the same results."""

from __future__ import annotations

import copy
import importlib
import io
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from architectures.checkpoint import restored_network
from architectures.data import load_digits
from architectures.errors import first_line, machine_trouble
from architectures.networks.colocalisation import CoLocaliser
from architectures.networks.registry import model_input
from stn_triton import onnx_translations

from .batches import make_data
from .errors import ExportError
from .evaluate import device, read_run
from .experiments import EXPERIMENTS
from .files import replacing

_IMAGES = 8
"""How many images the file is checked on."""
_ROUNDED = 16
"""The file's error may be this many times that of PyTorch's own result in float32."""
_SAMPLED = 1e-6
"""The error that sampling in float32 may add, relative to the largest value, for each pixel of the longer side."""

Runner = Callable[[Tensor], list[Tensor]]


def export_onnx(
    checkpoint: Path, out: Path, data_dir: Path | None = None, *, dynamic_batch: bool = False,
    workers: int | None = None,
) -> str:  # fmt: skip
    """Write the network of a checkpoint as an ONNX model in float32; gives a line that describes it.

    Its input is "images", (1, C, ...), or (batch, C, ...) with dynamic_batch; its output is "logits", or for
    co-localisation "crop" and "theta". Before the file is written onnxruntime runs the model on images of the
    experiment, from data_dir or the embedded digits, and the results are compared with the network's.

    Raises:
        FileNotFoundError, CheckpointError: as `read_run`.
        DataError, UsageError: as `make_data`.
        ExportError: what the exporter refuses, results that differ.
        ModuleNotFoundError: one of the packages of the extra `onnx` is missing.
        OSError: the file cannot be written.
    """
    for needed in ("onnx", "onnxscript", "onnxruntime"):
        importlib.import_module(needed)
    network, images, settings = _network_and_images(checkpoint, data_dir, workers)
    names = ["crop", "theta"] if isinstance(network, CoLocaliser) else ["logits"]
    content, found = onnx_content(network, images, names, checkpoint, dynamic_batch=dynamic_batch)
    with replacing(out) as part:
        part.write_bytes(content)
    size = _described(images, dynamic_batch)
    return f"{out}: {settings['model']} as ONNX, {size}; {found}"


def onnx_content(
    network: nn.Module,
    images: Tensor,
    outputs: Sequence[str],
    subject: object,
    *,
    dynamic_batch: bool = False,
) -> tuple[bytes, str]:
    """A network as an ONNX model that was compared with it on images, and a sentence that says how near it is.

    outputs: the names of what the network gives; subject: what errors are about, such as the checkpoint's path.

    Raises:
        ExportError, ModuleNotFoundError: as `export_onnx`.
    """
    example, shapes = _example(images, dynamic_batch)
    with _quiet(), _refusals(subject, "ONNX, with stn_triton.onnx_translations()"):
        program = torch.onnx.export(
            network, (example,), dynamo=True, custom_translation_table=onnx_translations(),
            input_names=["images"], output_names=outputs, dynamic_shapes=shapes, verbose=False,
        )  # fmt: skip
        assert program is not None
        content = program.model_proto.SerializeToString()
    with _refusals(subject, "ONNX, and run by onnxruntime"):
        results = _batches(_onnx_runner(content), images, dynamic_batch)
    return content, _compared(network, images, results, subject, "onnxruntime")


def export_aoti(
    checkpoint: Path, out: Path, data_dir: Path | None = None, *, dynamic_batch: bool = False,
    workers: int | None = None,
) -> str:  # fmt: skip
    """Write the network of a checkpoint as an AOTInductor package for this machine's device; as `export_onnx`.

    A program that loads it, by `torch._inductor.aoti_load_package`, must import stn_triton first: the package calls its
    operator.

    Raises:
        RuntimeError: no C++ compiler, and the others of `export_onnx`.
    """
    _check_compiler()
    network, images, settings = _network_and_images(checkpoint, data_dir, workers)
    where = device()
    network, images = network.to(where), images.to(where)
    example, shapes = _example(images, dynamic_batch)
    with tempfile.TemporaryDirectory() as folder:
        with _quiet(), _refusals(checkpoint, "AOTInductor"), torch.no_grad():
            program = torch.export.export(network, (example,), dynamic_shapes=shapes)
            package = torch._inductor.aoti_compile_and_package(
                program, package_path=str(Path(folder) / "network.pt2")
            )
            loaded = torch._inductor.aoti_load_package(package)
            outputs = _batches(lambda batch: _listed(loaded(batch)), images, dynamic_batch)
        found = _compared(network, images, outputs, checkpoint, "the package")
        with replacing(out) as part:
            part.write_bytes(Path(package).read_bytes())
    kind = f"an AOTInductor package for {where.type}"
    return f"{out}: {settings['model']} as {kind}, {_described(example, dynamic_batch)}; {found}"


def _network_and_images(
    checkpoint: Path, data_dir: Path | None, workers: int | None
) -> tuple[nn.Module, Tensor, dict[str, Any]]:
    """The network, images of its experiment to compare on, and the settings of its training."""
    saved = read_run(checkpoint)
    settings = saved["hyper_parameters"]
    network = restored_network(saved, checkpoint)
    if data_dir is None and EXPERIMENTS[settings["experiment"]].batch is None:
        shape = model_input(settings["model"], **settings["model_options"])
        return network, _embedded_digits(shape), settings
    data = make_data(settings, data_dir, num_workers=workers)
    images, _ = next(iter(data.test_batches(torch.device("cpu"))))
    return network, images[:_IMAGES].float(), settings


def _embedded_digits(shape: tuple[int, ...]) -> Tensor:
    """Embedded digits as pictures of this shape (C, H, W), to compare on if the experiment's files are missing."""
    _, test = load_digits(None)
    digits = (
        test.images[:: len(test) // _IMAGES][:_IMAGES].float().reshape(_IMAGES, 1, 28, 28) / 255
    )
    enlarged = F.interpolate(digits, shape[1:], mode="bilinear")
    return enlarged.expand(-1, shape[0], -1, -1).contiguous()


def _example(images: Tensor, dynamic_batch: bool) -> tuple[Tensor, Any]:
    """Images to trace with, and the dimensions that are dynamic."""
    if dynamic_batch:
        return images[:2], ({0: torch.export.Dim("batch", min=1)},)
    return images[:1], None


def _batches(run: Runner, images: Tensor, dynamic_batch: bool) -> list[Tensor]:
    """The outputs for all images: one by one, or one alone and the others together."""
    sizes = [1, len(images) - 1] if dynamic_batch else [1] * len(images)
    each = [run(batch) for batch in images.split([size for size in sizes if size])]
    return [torch.cat(parts) for parts in zip(*each, strict=True)]


def _onnx_runner(content: bytes) -> Runner:
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> list[Tensor]:
        return [torch.from_numpy(each) for each in session.run(None, {"images": images.numpy()})]

    return run


@torch.no_grad()
def _compared(
    network: nn.Module, images: Tensor, outputs: list[Tensor], subject: object, runner: str
) -> str:
    """A sentence that says how near outputs are to the network's own.

    Raises:
        ExportError: they differ by more than the rounding of float32 explains.
    """
    own = _listed(network(images))
    exact = _listed(copy.deepcopy(network).double()(images.double()))
    side = max(images.shape[2:])
    farthest = 0.0
    for ours, theirs, true in zip(own, outputs, exact, strict=True):
        largest = float(true.abs().max())
        budget = _ROUNDED * float((ours - true).abs().max()) + _SAMPLED * side * largest
        off = float((theirs - true).abs().max()) if theirs.shape == true.shape else float("inf")
        if not off <= budget:  # also if it is NaN
            raise ExportError(
                f"{subject}: {runner} gives other results than the network: wanted {tuple(true.shape)} within "
                f"{budget:.1e}, got {tuple(theirs.shape)} with a difference of {off:.1e}"
            )
        farthest = max(farthest, float((theirs - ours).abs().max()))
    return f"on {len(images)} images {runner} gives what PyTorch gives, within {farthest:.1e}"


def _listed(outputs: Tensor | tuple[Tensor, ...] | list[Tensor]) -> list[Tensor]:
    return [outputs] if isinstance(outputs, Tensor) else list(outputs)


def _described(example: Tensor, dynamic_batch: bool) -> str:
    batch = "batch" if dynamic_batch else "1"
    return f"images ({', '.join([batch, *map(str, example.shape[1:])])})"


def _check_compiler() -> None:
    """Refuse to begin without a C++ compiler: the compilation would fail only after minutes."""
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as error:
        raise ExportError(
            "--aoti: wanted a C++ compiler, such as g++, got none; --onnx needs none, but the extra: "
            "pip install 'stn-triton[onnx]'"
        ) from error


@contextmanager
def _refusals(subject: object, form: str) -> Iterator[None]:
    """Turn an error of an exporter into one line, which says the first cause."""
    try:
        yield
    except Exception as error:  # exporters fail in ways of their own
        if machine_trouble(error):
            raise
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        raise ExportError(
            f"{subject}: cannot be exported as {form}: {first_line(cause)}"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the warnings, the log and the prints of exporters."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
