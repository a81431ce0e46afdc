"""What training, tests and pictures can ask of the data of every experiment."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from architectures.data import DataError
from architectures.errors import first_line, machine_trouble

from .errors import UsageError
from .experiments import Schedule
from .origin import Origin

if TYPE_CHECKING:
    import lightning as L

Batch = tuple[Tensor, Any]


class ExperimentData(ABC):
    """The data of an experiment: batches to train on, a validation set and a test set.

    schedule: its batch_size is the number of images a step, of all processes together. seed: of the training batches;
    the validation and test sets are the same for all seeds. options: the keywords of the data's function or data set.
    trainer: the one that trains on them, if any.
    """

    trainer: L.Trainer | None = None

    def __init__(self, schedule: Schedule, seed: int, options: dict[str, Any]) -> None:
        self.schedule = schedule
        self.batch_size = schedule.batch_size
        self.seed = seed
        self.options = options

    @abstractmethod
    def train_batches(self) -> Iterable[Any]:
        """The part of each batch that is this process's, from the trainer's present step on."""

    @abstractmethod
    def validation_batches(self) -> Iterable[Any]:
        """The part of the validation set that is this process's, in chunks."""

    @abstractmethod
    def on_device(self, batch: Any, device: torch.device) -> Batch:
        """A batch of `train_batches` or `validation_batches` as the network reads it: on the device, in its dtype."""

    @abstractmethod
    def test_batches(self, device: torch.device) -> Iterator[Batch]:
        """The test set in chunks, on the device."""

    @abstractmethod
    def _first_batch(self, n: int) -> Batch:
        """At most n of the examples that training begins with, on the CPU."""

    @abstractmethod
    def origin(self) -> Origin:
        """Which data these are, to be recorded in checkpoints.

        Raises:
            DataError: the training data are not there.
        """

    @abstractmethod
    def classes(self) -> int | None:
        """The number of classes; None: the labels are no classes."""

    def first_examples(self, n: int) -> Batch:
        """At most n of the examples that training begins with: images as float32 in [0, 1], and their labels.

        Raises:
            DataError: data that are missing or broken.
            UsageError: options with impossible values.
        """
        try:
            return self._first_batch(n)
        except DataError:
            raise
        except (ArithmeticError, IndexError, RuntimeError, TypeError, ValueError) as error:
            if not self.options or machine_trouble(error):
                raise
            given = " ".join(f"{name}={value}" for name, value in self.options.items())
            raise UsageError(f"--data-option {given}: {first_line(error)}") from error

    def check(self, shape: tuple[int, ...], num_classes: int | None) -> None:
        """Refuse data that a network cannot train on, before the training begins.

        The network reads images of this shape, (C, [D,] H, W), and has `num_classes` classes; None: it has none.

        Raises:
            DataError: data that are missing or broken.
            UsageError: options with impossible values, images of another shape, more classes than the network has.
        """
        images, _ = self.first_examples(1)
        if images.shape[1:] != shape:
            raise UsageError(
                f"--data-option or --model-option: the network wants images of {shape}, "
                f"got data of {tuple(images.shape[1:])}"
            )
        classes = self.classes()
        if num_classes is not None and classes is not None and num_classes < classes:
            raise UsageError(
                f"--model-option num_classes: wanted at least {classes}, the classes of the data, got {num_classes}"
            )

    def _step(self) -> int:
        """The number of the step that comes next."""
        return self.trainer.global_step if self.trainer else 0

    def _rank_and_world(self) -> tuple[int, int]:
        """The number of this process, and how many there are."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
