"""Co-localisation (Jaderberg et al. 2015, appendix A.2): find what a hundred images have in common, without labels.

The localiser sees no labels and no boxes. The encoder, which is trained before it, sees those of other images. The
paper's encoder is trained on whole digits. Its features mean nothing for crops that hold a part of a digit, or a small
one, and all localisation begins with such crops. Choices that the paper leaves open, found by trying:

- The encoder learns to tell ten digits, or that there is none, in crops at any place and of any scale that the
  localiser may look at. A digit counts if it and the crop overlap by an IoU of at least 0.1. Its layers are balanced
  (see `Encoder`), so weakly that the hinge of most triplets stays above 0 even when a crop is near its digit.
- Place before size: for the first two fifths of the steps the size of the crops is not learned. Otherwise crops grow to
  whole images, which are alike, too.
- Unlike first, alike later: while the place is learned it does not count that crops are alike, and then it counts more
  and more over a fifth of the steps. Crops that must be alike from the beginning agree on empty background: among
  clutter four runs of five ended there.
- `outside_penalty` has a small weight in the loss: outside the images everything is black and so alike, and no gradient
  leads back from there.
"""

from __future__ import annotations

import math
import sys
import time
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from architectures.data import Digits, colocalisation_batch
from architectures.networks.colocalisation import Encoder, colocalisation_loss
from architectures.networks.registry import create_model
from stn_triton import outside_penalty, st_sample

from .batches import DigitData
from .experiment_data import ExperimentData
from .module import Classification
from .progress import steps_bar
from .scores import Localise, box_iou, theta_boxes
from .streams import Streams, stream_seed

_CROP = 28
_BALANCE = 0.015  # of the encoder's layers
_PLACE_FIRST = 0.4  # of all steps, in which the scale is not learned
_ALIKE = 0.6  # of all steps, at which it counts in full that crops are alike
_OUTSIDE = 0.15  # the weight of `outside_penalty`
_ENCODER_STEPS = 800
_ENCODER_DIGITS = 7  # of each class in a batch
_CLASSES = 10
_SEEN = 0.1  # the IoU from which a crop shows its digit


class Colocalisation(Classification):
    """A localiser that learns by the triplet loss, as the mean over pairs. A box is right if its IoU is above 0.5.

    Shapes: images (N, 1, 84, 84), boxes (N, 4), which the loss never sees.
    """

    task = Localise()

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.encoder = _encoder(_reader())
        self._streams = Streams()

    def prepare(self, data: ExperimentData, seconds: float = math.inf) -> None:
        """Teach the encoder to read digits in crops of images like those that are to be localised.

        It learns for at most as many steps as the localiser, and for at most half of the time.
        """
        assert isinstance(data, DigitData)
        end = time.monotonic() + seconds / 2
        steps = min(_ENCODER_STEPS, self.schedule.steps)
        torch.manual_seed(stream_seed("encoder", self.hparams["seed"]))
        network = _reader()
        optimiser = torch.optim.AdamW(network.parameters())
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, steps)
        bar = steps_bar(steps, "encoder")
        for step in range(steps):
            generator = self._streams(torch.device("cpu"), "encoder", self.hparams["seed"], step)
            crops, labels = _reading_batch(data.digits["train"], step % 2 == 0, generator)
            optimiser.zero_grad()
            F.cross_entropy(network(crops), labels).backward()
            optimiser.step()
            schedule.step()
            bar.update()
            if time.monotonic() >= end and bar.n < steps:
                print(
                    f"encoder: ended at step {bar.n} of {steps} by the limit of minutes",
                    file=sys.stderr,
                )
                break
        bar.close()
        self.encoder = _encoder(network)

    def score(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        step = self.trainer.global_step
        crops, theta = self.network(images, hold_scale=step < _PLACE_FIRST * self.schedule.steps)
        alike = self.schedule.ramp(step, _PLACE_FIRST, _ALIKE)
        loss = colocalisation_loss(self.encoder, crops, self._random_crops(images), alike=alike)
        n = len(images)
        outside = outside_penalty(theta, transform="attention").mean()
        right = self.task.right((crops, theta), images, labels)
        return loss / max(n * (n - 1), 1) + _OUTSIDE * outside, right

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log the error alone: the loss of all pairs of a hundred images would fill the memory."""
        images, labels = batch
        self.log_error(self.task.right(self.network(images), images, labels))

    def _random_crops(self, images: Tensor) -> Tensor:
        step = self.trainer.global_step
        generator = self._streams(
            images.device, "crops", self.hparams["seed"], self.global_rank, step
        )
        return _crop(images, _random_theta(images, generator))


def _reader() -> nn.Module:
    """A network that reads crops: the digits' classes, and one more for none."""
    return create_model("mnist_cnn", image_size=_CROP, num_classes=_CLASSES + 1)


def _encoder(network: nn.Module) -> Encoder:
    return Encoder(network, balance=_BALANCE)


def _crop(images: Tensor, theta: Tensor) -> Tensor:
    return st_sample(images, theta, (_CROP, _CROP), transform="attention")


def _random_theta(images: Tensor, generator: torch.Generator) -> Tensor:
    """Crops of a digit's size anywhere inside the images."""
    scale = torch.full((len(images), 1), _CROP / images.shape[-1], device=images.device)
    place = torch.rand(len(images), 2, generator=generator, device=images.device)
    return torch.cat((scale, (2 * place - 1) * (1 - scale)), 1)


def _reading_batch(
    digits: Digits, clutter: bool, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Crops of images of every class, with the class that each shows, or `_CLASSES` for none.

    About a third of the crops are around the digit, a fifth anywhere in the image, the rest larger and near the digit.
    """
    batches = [
        colocalisation_batch(
            digits.of_class(label), _ENCODER_DIGITS, generator=generator, clutter=clutter, clutter_from=digits
        )
        for label in range(_CLASSES)
    ]  # fmt: skip
    images, boxes = (torch.cat(parts) for parts in zip(*batches, strict=True))
    n, side = len(images), images.shape[-1]
    kind = torch.rand(n, 1, generator=generator)
    around = kind < 0.35
    size = torch.rand(n, 1, generator=generator)
    # From 3/4 of a digit's size to the whole image; around a digit from 4/5 of its size to 5/4.
    scale = (_CROP / side) * torch.where(around, 0.8 * 1.5625**size, 0.75 * 4**size)
    centre = (boxes[:, :2] + boxes[:, 2:]) / side - 1
    off = torch.randn(n, 2, generator=generator) * torch.where(around, 0.05, 0.3)
    theta = torch.cat((scale, centre + off), 1)
    theta = torch.where(kind > 0.8, _random_theta(images, generator), theta)
    seen = box_iou(theta_boxes(theta, (side, side)), boxes) > _SEEN
    labels = torch.arange(_CLASSES).repeat_interleave(_ENCODER_DIGITS)
    return _crop(images, theta), torch.where(seen, labels, _CLASSES)
