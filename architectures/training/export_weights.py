"""A finished checkpoint as a file of weights for `create_model(pretrained=)`, with its provenance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from architectures.checkpoint import CheckpointError, restored_network
from architectures.pretrained import weights_bytes, weights_path

from .batches import make_data
from .errors import ExportError
from .evaluate import evaluate, read_run
from .experiments import EXPERIMENTS
from .files import replacing
from .origin import origin_of
from .provenance import commit, sizes

_MOST = 8 * 1024**2
"""Bytes of all files of weights together: they are part of the wheel."""
_SETTINGS = (
    "experiment", "model", "model_options", "data_options", "image_size", "seed", "schedule_name", "schedule",
)  # fmt: skip
_LICENCE = "Apache-2.0"
_CREDIT = "MNIST (Yann LeCun, Corinna Cortes and Christopher J.C. Burges)"


def export_weights(
    checkpoint: Path, folder: Path | None = None, data_dir: Path | None = None
) -> str:
    """Write the weights of a checkpoint into a folder, by default the package's own; gives a line that describes them.

    They are tested on the test digits of data_dir and on the embedded digits; both errors go into the file.

    Raises:
        FileNotFoundError, CheckpointError: as `read_run`; a run that is not finished; data_dir, or the embedded digits
            without one, are not the data of the training.
        ExportError: an experiment without digits, or too many bytes for the wheel.
        DataError: data that are missing or broken.
        ModuleNotFoundError: the package safetensors is missing.
        OSError: the file cannot be written.
    """
    saved = read_run(checkpoint)
    settings = saved["hyper_parameters"]
    experiment = settings["experiment"]
    if EXPERIMENTS[experiment].batch is None:
        raise ExportError(
            f"{checkpoint}: wanted weights of an experiment with digits, got {experiment}"
        )
    if saved["global_step"] < settings["schedule"]["steps"]:
        raise CheckpointError(
            f"{checkpoint}: wanted a finished run, got {saved['global_step']} of {settings['schedule']['steps']} steps"
        )
    path = weights_path(settings["model"], experiment, folder)
    tensors = dict(restored_network(saved, checkpoint).state_dict())
    about = _about(saved, checkpoint, data_dir)
    content = weights_bytes(tensors, about)
    others = sum(each.stat().st_size for each in path.parent.glob("*.safetensors") if each != path)
    if len(content) + others > _MOST:
        raise ExportError(
            f"{path}: has {len(content):,} bytes, beside {others:,} of the others; wanted {_MOST:,} at most together"
        )
    with replacing(path) as part:
        part.write_bytes(content)
    return (
        f"{path}: {settings['model']} of {experiment}, {len(content):,} bytes; error {about['error_percent']} % "
        f"on {about['examples']:,} test examples, {about['embedded_error_percent']} % on the embedded digits"
    )


def _about(saved: dict[str, Any], checkpoint: Path, data_dir: Path | None) -> dict[str, Any]:
    """What a user wants to know of the weights, as JSON holds it."""
    settings = saved["hyper_parameters"]
    tested = evaluate(checkpoint, data_dir)
    if "data" in tested:
        raise CheckpointError(
            f"{checkpoint}: {tested['data']}; wanted the --data-dir of its training"
        )
    origin = origin_of(saved)
    assert origin is not None
    data = make_data(settings, data_dir)
    embedded = tested if data_dir is None else evaluate(checkpoint, None, embedded=True)
    return {
        **{name: settings[name] for name in _SETTINGS},
        "licence": _LICENCE,
        "data": {
            "from": _CREDIT,
            "digest": origin.digest,
            "embedded": origin.embedded,
            **sizes(data),
        },
        "steps": saved["global_step"],
        "error_percent": tested["error_percent"],
        "examples": tested["examples"],
        "embedded_error_percent": embedded["error_percent"],
        "embedded_examples": embedded["examples"],
        "embedded_may_be_trained_on": not origin.embedded,
        "commit": commit(),
    }
