"""The networks of the spatial transformer paper, and blocks to build others from."""

from .checkpoint import load_model
from .drawing import draw
from .optim import parameter_groups
from .parallel import ParallelSTN
from .registry import create_model, list_models, model_input
from .serial import SerialSTN
from .stacked import StackedSTN

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
