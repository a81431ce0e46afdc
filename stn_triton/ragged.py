"""Ragged crops: any number of transformations, each with the number of the image that it reads, in any order."""

from __future__ import annotations

import torch
from torch import Tensor

from .tracing import may_read_values


def check_range(index: Tensor, images: int) -> None:
    """Refuse numbers that no image has; for values that may be read."""
    if not index.numel():
        return
    least, most = (int(end) for end in index.aminmax())
    if least < 0 or most >= images:
        raise IndexError(
            f"index must be within [0, N) = [0, {images}), got {least if least < 0 else most}"
        )


def is_inside(index: Tensor, images: int) -> Tensor:
    """Which numbers an image has."""
    return (index >= 0) & (index < images)


def images_of(image: Tensor, index: Tensor) -> tuple[Tensor, Tensor | None]:
    """(The image of each number, 0 where there is none; which there are, or None if all are known to be).

    Shapes: image (N, C, *size) with N > 0, index (M,); returns (M, C, *size), (M,).
    """
    if may_read_values(index):  # and they were
        return image.index_select(0, index), None
    there = is_inside(index, image.shape[0])
    chosen = image.index_select(0, torch.where(there, index, 0))
    return or_zero(chosen, there), there


def or_zero(result: Tensor, there: Tensor) -> Tensor:
    """Results of shape (M, ...), 0 and without gradient where they are not there."""
    return torch.where(there.view(-1, *[1] * (result.dim() - 1)), result, 0.0)


def rows_of_images(index: Tensor, images: int) -> tuple[Tensor, Tensor]:
    """Which transformations read each image, in ascending order: those of image n are order[starts[n] : starts[n + 1]].

    Numbers that no image has are in none of them. Made where index lies, without waiting for it.
    """
    ordered, order = index.sort(stable=True)
    ends = torch.arange(images + 1, device=index.device)
    return order, torch.searchsorted(ordered, ends, out_int32=True)


def fold_index(batch: int, dim: int | None, index: Tensor | None, images: int) -> Tensor | None:
    """Numbers of a batch of calls with so many images each as numbers of all their images: (batch * M,)."""
    if index is None:
        return None
    rows = index.expand(batch, -1) if dim is None else index.movedim(dim, 0)
    first = torch.arange(batch, device=index.device).unsqueeze(1) * images
    return torch.where(is_inside(rows, images), rows + first, -1).flatten()
