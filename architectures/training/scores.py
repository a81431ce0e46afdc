"""Which answers of a network are right, for training and evaluation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from stn_triton import theta_to_box

_RIGHT_ABOVE = 0.5
"""The IoU above which a box counts as right."""


class Task(ABC):
    """What the networks of an experiment have to answer, and which of their answers are right.

    has_boxes: the labels are boxes (N, 4) and not classes.
    """

    has_boxes = False

    @abstractmethod
    def right(self, outputs: Any, images: Tensor, labels: Tensor) -> Tensor:
        """For each example (N,) whether these outputs of a network are right."""

    @abstractmethod
    def titles(self, outputs: Any, images: Tensor, labels: Tensor) -> list[tuple[str, bool]]:
        """For each example the answer of a network, as text, and whether it is right."""


class Classify(Task):
    """The outputs are logits (N, ..., classes), the labels (N, ...). An example is right if all its labels are."""

    def right(self, outputs: Any, images: Tensor, labels: Tensor) -> Tensor:
        return (outputs.argmax(-1) == labels).reshape(len(labels), -1).all(1)

    def titles(self, outputs: Any, images: Tensor, labels: Tensor) -> list[tuple[str, bool]]:
        return class_titles(outputs, labels)


class Localise(Task):
    """The outputs are (crops, attention thetas). A box is right if its IoU with the true one is above 0.5."""

    has_boxes = True

    def right(self, outputs: Any, images: Tensor, labels: Tensor) -> Tensor:
        return _overlaps(outputs[1], images, labels) > _RIGHT_ABOVE

    def titles(self, outputs: Any, images: Tensor, labels: Tensor) -> list[tuple[str, bool]]:
        overlaps = _overlaps(outputs[1], images, labels).tolist()
        return [(f"IoU {overlap:.2f}", overlap > _RIGHT_ABOVE) for overlap in overlaps]


def _overlaps(theta: Tensor, images: Tensor, boxes: Tensor) -> Tensor:
    """The IoU (N,) of the boxes that thetas (N, 3) look at with the true ones (N, 4)."""
    return box_iou(theta_boxes(theta, (images.shape[2], images.shape[3])), boxes)


def class_titles(logits: Tensor, labels: Tensor) -> list[tuple[str, bool]]:
    """The network's answer for each image, with the truth where that is another.

    Shapes: logits (N, classes), labels (N,); or (N, places, 11) and (N, places), numbers whose places after the last
    digit have class 10.
    """
    pairs = zip(label_texts(logits.argmax(-1)), label_texts(labels), strict=True)
    return [
        (said if said == true else f"{said}  (is {true})", said == true) for said, true in pairs
    ]


def label_texts(labels: Tensor) -> list[str]:
    """Labels as text: (N,) classes, or (N, places) digits, of which class 10 is no digit."""
    return [_text(label) for label in labels.tolist()]


def _text(label: int | list[int]) -> str:
    if isinstance(label, int):
        return str(label)
    return "".join("" if digit == 10 else str(digit) for digit in label) or "–"


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
