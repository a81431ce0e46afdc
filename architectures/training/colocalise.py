"""Co-localisation (Jaderberg et al. 2015, appendix A.2): find what a hundred images have in common, told nothing."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from architectures.colocalisation import Encoder, colocalisation_loss
from architectures.data import draw_digits
from architectures.registry import create_model
from stn_triton import st_sample, theta_to_box

from .datamodule import DigitData, ExperimentData
from .module import Classification
from .streams import Streams, stream_seed

_CROP = 28
_ENCODER_STEPS = 300


def box_iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union of boxes (..., 4), each (x0, y0, x1, y1) with x0 <= x1 and y0 <= y1, pairwise: (...)."""
    low = torch.maximum(first[..., :2], second[..., :2])
    high = torch.minimum(first[..., 2:], second[..., 2:])
    shared = (high - low).clamp(min=0).prod(-1)
    areas = [(boxes[..., 2:] - boxes[..., :2]).prod(-1) for boxes in (first, second)]
    return shared / (areas[0] + areas[1] - shared)


def theta_boxes(theta: Tensor, size: tuple[int, int]) -> Tensor:
    """The boxes (N, 4) in pixels that attention thetas (N, 3) look at, corners in order also where s < 0."""
    scale, shift = theta[:, :1], theta[:, 1:]
    matrix = torch.cat((torch.diag_embed(scale.abs().expand(-1, 2)), shift.unsqueeze(2)), 2)
    return theta_to_box(matrix, size)


class Colocalisation(Classification):
    """The triplet loss, as the mean over pairs; right is a box that overlaps the truth by more than half (IoU).

    Shapes: images (N, 1, 84, 84), boxes (N, 4), which the loss never sees.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.encoder = Encoder(create_model("mnist_cnn", image_size=_CROP))
        self._streams = Streams()

    def prepare(self, data: ExperimentData) -> None:
        """Teach the encoder to read undistorted digits, as the paper's encoder can."""
        assert isinstance(data, DigitData)
        torch.manual_seed(stream_seed("encoder", self.hparams["seed"]))
        network = create_model("mnist_cnn", image_size=_CROP)
        optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3)
        for step in range(_ENCODER_STEPS):
            generator = self._streams(torch.device("cpu"), "encoder", self.hparams["seed"], step)
            images, labels = draw_digits(data.digits["train"], 64, generator=generator)
            optimiser.zero_grad()
            F.cross_entropy(network(images), labels).backward()
            optimiser.step()
        self.encoder = Encoder(network)

    def score(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        crops, theta = self.network(images)
        loss = colocalisation_loss(self.encoder, crops, self._random_crops(images))
        n = len(images)
        return loss / max(n * (n - 1), 1), _found(images, theta, labels)

    def right(self, images: Tensor, labels: Tensor) -> Tensor:
        return _found(images, self.network(images)[1], labels)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Only what is found: the loss of all pairs of a hundred images would fill the memory."""
        self.log_error(self.right(*batch))

    def _random_crops(self, images: Tensor) -> Tensor:
        step = self.trainer.global_step
        generator = self._streams(
            images.device, "crops", self.hparams["seed"], self.global_rank, step
        )
        scale = torch.tensor(_CROP / images.shape[-1], device=images.device)
        place = torch.rand(len(images), 2, generator=generator, device=images.device)
        theta = torch.cat((scale.expand(len(images), 1), (2 * place - 1) * (1 - scale)), 1)
        return st_sample(images, theta, (_CROP, _CROP), transform="attention")


def _found(images: Tensor, theta: Tensor, boxes: Tensor) -> Tensor:
    return box_iou(theta_boxes(theta, (images.shape[2], images.shape[3])), boxes) > 0.5
