"""The data of an experiment as Lightning asks for them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from .experiment_data import Batch, ExperimentData
from .framework import L


class Loaders(L.LightningDataModule):
    """Batches to train on and to validate with, from data that need no Lightning themselves."""

    def __init__(self, data: ExperimentData) -> None:
        super().__init__()
        self.data = data

    def setup(self, stage: str) -> None:
        """Tell the data which trainer asks: its step, process and device decide the batch."""
        self.data.trainer = self.trainer

    def train_dataloader(self) -> Iterable[Batch]:
        """The batches from the step on that the trainer is at."""
        return self.data.train_batches()

    def val_dataloader(self) -> Iterable[Batch]:
        """The validation set in chunks."""
        return self.data.validation_batches()

    def transfer_batch_to_device(
        self, batch: Any, device: torch.device, dataloader_idx: int
    ) -> Batch:
        """A batch as the network reads it, on the device."""
        return self.data.on_device(batch, device)
