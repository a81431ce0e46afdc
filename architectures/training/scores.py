"""Which answers of a network are right, for training and evaluation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stn_triton import theta_to_box


def right(experiment: str, network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Which examples a network of this experiment gets right (N,)."""
    if experiment == "colocalisation":
        return found(images, network(images)[1], labels)
    return all_right(network(images), labels)


def all_right(logits: Tensor, labels: Tensor) -> Tensor:
    """Logits (N, ..., classes), labels (N, ...) -> (N,): which examples have all their labels right."""
    return (logits.argmax(-1) == labels).reshape(len(labels), -1).all(1)


def found(images: Tensor, theta: Tensor, boxes: Tensor) -> Tensor:
    """Which thetas (N, 3) overlap the true boxes (N, 4) by more than half (IoU)."""
    return box_iou(theta_boxes(theta, (images.shape[2], images.shape[3])), boxes) > 0.5


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
