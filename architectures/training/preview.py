"""A picture of what a network trains on, before any training."""

from __future__ import annotations

from pathlib import Path

from architectures.pictures.strips import images_figure

from .batches import make_data
from .experiments import EXPERIMENTS
from .files import replacing
from .run import Run, fresh_settings
from .scores import label_texts


def preview(run: Run, out: Path) -> None:
    """Draw the first batch that a run would train on, with its labels, into a PNG.

    Raises:
        DataError: data that are missing or broken.
        UsageError: an image size or options that the experiment does not have, or no directory where it needs one.
        OSError: the PNG cannot be written.
    """
    settings = fresh_settings(run)
    data = make_data(settings, run.data_dir)
    images, labels = data.first_examples(data.batch_size)
    heading = f"{run.experiment}: the first batch of seed {settings['seed']}"
    if EXPERIMENTS[run.experiment].task.has_boxes:
        figure = images_figure(images, heading=heading, boxes=labels)
    else:
        titles = [(text, True) for text in label_texts(labels)]
        figure = images_figure(images, heading=heading, titles=titles)
    with replacing(out) as part:
        figure.savefig(part, format="png")
