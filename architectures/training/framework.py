"""All of Lightning that training uses. Import it from here: only commands that train wait for it."""

from contextlib import suppress

with suppress(ModuleNotFoundError):
    # Lightning's torchmetrics imports matplotlib, too; `figures` must come before it, and says why.
    from architectures.pictures import figures as figures

import lightning as L
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import (
    Callback,
    Checkpoint,
    LearningRateMonitor,
    ModelCheckpoint,
    Timer,
)
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.trainer.states import RunningStage

__all__ = [
    "CSVLogger",
    "Callback",
    "Checkpoint",
    "L",
    "LearningRateMonitor",
    "Logger",
    "MisconfigurationException",
    "ModelCheckpoint",
    "RunningStage",
    "TensorBoardLogger",
    "Timer",
    "TorchCheckpointIO",
]
