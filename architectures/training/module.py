"""The Lightning module that trains classifiers, and from which others derive."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from architectures.networks.registry import create_model

from .experiment_data import ExperimentData
from .experiments import Schedule
from .framework import L
from .optimisers import make_optimiser
from .origin import recorded
from .scores import Classify, Task
from .streams import stream_seed


class Classification(L.LightningModule):
    """A network that learns by cross entropy. An example is right if all its labels are, as all digits of a number.

    Its hyperparameters are what `evaluate` needs to build it again: experiment, model, model_options, data_options,
    image_size, schedule_name, schedule, seed.

    Shapes: images as the network wants them; logits (N, ..., classes), labels (N, ...).
    """

    task: Task = Classify()

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.save_hyperparameters(settings)
        self.schedule = Schedule(**settings["schedule"])
        self._seed = settings["seed"]
        self.network = create_model(settings["model"], **settings["model_options"])

    def prepare(self, data: ExperimentData, seconds: float = math.inf) -> None:
        """Do what must come before the training, in at most a part of these seconds. A classifier does nothing."""

    def score(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The loss, and which examples are right (N,)."""
        logits = self.network(images)
        loss = F.cross_entropy(logits.flatten(0, -2), labels.flatten())
        return loss, self.task.right(logits, images, labels)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seed dropout by the number of the step, as the batch is, so that a resumed run draws the same."""
        seed = stream_seed("step", self._seed, self.global_rank, self.trainer.global_step)
        if self.device.type == "cpu":
            # torch.manual_seed records the stack for each kind of device that it cannot seed yet: 1 ms a step.
            torch.default_generator.manual_seed(seed)
        else:
            torch.manual_seed(seed)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        loss, right = self.score(*batch)
        self.log("loss", loss, prog_bar=True, sync_dist=True)
        self.log("accuracy", 100 * right.float().mean(), prog_bar=True, sync_dist=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        loss, right = self.score(*batch)
        self.log("val_loss", loss, batch_size=len(right), sync_dist=True)
        self.log_error(right)

    def log_error(self, right: Tensor) -> None:
        """Log the validation error, in percent, of some examples."""
        error = 100 * (1 - right.float().mean())
        self.log("val_error", error, prog_bar=True, batch_size=len(right), sync_dist=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Write into the checkpoint which data the network was trained on."""
        checkpoint["data"] = recorded(self.trainer.datamodule.data.origin())  # type: ignore[attr-defined]  # set by fit

    def configure_optimizers(self) -> Any:
        optimiser = make_optimiser(self.network, self.schedule, fused=self._fused())
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimiser, self.schedule.factor)
        return {
            "optimizer": optimiser,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def _fused(self) -> bool | None:
        """Whether the optimiser is fused, that is, one loop over all weights; None leaves the choice to torch.

        On a CPU torch does not choose it by itself. Under mixed precision Lightning cannot clip the gradients then.
        """
        mixed = "mixed" in str(self.trainer.precision)
        return True if self.device.type == "cpu" and not mixed else None
