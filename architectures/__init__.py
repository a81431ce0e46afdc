"""The networks of the spatial transformer paper, and blocks to build others from."""

from .optim import parameter_groups
from .parallel import ParallelSTN
from .registry import create_model, list_models

__all__ = ["ParallelSTN", "create_model", "list_models", "parameter_groups"]
