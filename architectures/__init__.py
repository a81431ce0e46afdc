"""The networks of the spatial transformer paper, and blocks to build others from."""

from .blocks.optim import parameter_groups
from .blocks.parallel import ParallelSTN
from .blocks.serial import SerialSTN
from .blocks.stacked import StackedSTN
from .checkpoint import load_model
from .networks.registry import create_model, list_models, model_input
from .pictures.drawing import draw

__all__ = [
    "ParallelSTN",
    "SerialSTN",
    "StackedSTN",
    "create_model",
    "draw",
    "list_models",
    "load_model",
    "model_input",
    "parameter_groups",
]
