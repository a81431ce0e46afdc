"""Pictures of what a trained network's transformers look at."""

from __future__ import annotations

from pathlib import Path

import torch
from matplotlib.figure import Figure

from architectures.pictures import attention_figure, class_titles, views

from .checkpoint import load_module
from .colocalise import box_iou, theta_boxes
from .datamodule import ExperimentData, make_data
from .evaluate import device
from .files import replacing
from .module import Classification


@torch.no_grad()
def module_figure(module: Classification, data: ExperimentData, examples: int) -> Figure:
    """The first examples of the test set: their transformers' frames, what is in these, and what the network says."""
    was_training = module.training
    module.eval()
    images, labels = (part[:examples] for part in next(iter(data.test_batches(module.device))))
    heading = f"{module.hparams['experiment']}: {module.hparams['model']}"
    seen = views(module.network, images)
    if module.hparams["experiment"] == "colocalisation":
        _, theta = module.network(images)
        overlaps = box_iou(theta_boxes(theta, (images.shape[2], images.shape[3])), labels).tolist()
        titles = [(f"IoU {overlap:.2f}", overlap > 0.5) for overlap in overlaps]
        figure = attention_figure(images, seen, titles, heading, boxes=labels)
    else:
        titles = class_titles(module.network(images), labels)
        figure = attention_figure(images, seen, titles, heading)
    module.train(was_training)
    return figure


def show(checkpoint: Path, out: Path, data_dir: Path | None, examples: int = 6) -> None:
    """Draw the picture of a checkpoint (`module_figure`) into a PNG.

    Raises:
        CheckpointError: as `load_module`.
        DataError: data that are missing or broken.
        OSError: the PNG cannot be written.
    """
    module, _ = load_module(checkpoint)
    data = make_data(dict(module.hparams), data_dir)
    figure = module_figure(module.to(device()), data, examples)
    with replacing(out) as part:
        figure.savefig(part, format="png")
