"""Pictures of what a trained network's transformers look at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from architectures.checkpoint import restored_network
from architectures.pictures.calls import recorded_calls
from architectures.pictures.figures import Figure
from architectures.pictures.strips import calls_figure

from .batches import make_data
from .evaluate import device, note_on_data, read_run
from .experiment_data import ExperimentData
from .experiments import EXPERIMENTS
from .files import replacing


def network_figure(
    network: nn.Module, settings: dict[str, Any], data: ExperimentData, examples: int
) -> Figure:
    """A figure of the first test examples: the frames of the transformers, what these see, and the network's answer.

    settings: the hyperparameters of its training.
    """
    weight = next(network.parameters())
    images, labels = (part[:examples] for part in next(iter(data.test_batches(weight.device))))
    images = images.to(weight.dtype)
    calls, outputs = recorded_calls(network, images)
    heading = f"{settings['experiment']}: {settings['model']}"
    task = EXPERIMENTS[settings["experiment"]].task
    titles = task.titles(outputs, images, labels)
    boxes = labels if task.has_boxes else None
    return calls_figure(images, calls, heading=heading, titles=titles, boxes=boxes)


def show(
    checkpoint: Path,
    out: Path,
    data_dir: Path | None,
    examples: int = 6,
    *,
    num_workers: int | None = None,
) -> str | None:
    """Draw the picture of a checkpoint (`network_figure`) into a PNG; gives a sentence about the data, or None.

    Raises:
        FileNotFoundError, CheckpointError: as `read_run`.
        DataError: data that are missing or broken.
        OSError: the PNG cannot be written.
    """
    saved = read_run(checkpoint)
    settings = saved["hyper_parameters"]
    data = make_data(settings, data_dir, num_workers=num_workers)
    # A picture is no score: it may show embedded digits that the network was trained on.
    note = note_on_data(saved, data, checkpoint, embedded=True, use="shown")
    network = restored_network(saved, checkpoint).to(device())
    figure = network_figure(network, settings, data, examples)
    with replacing(out) as part:
        figure.savefig(part, format="png")
    return note
