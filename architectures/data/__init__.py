"""Data sets of the paper's experiments, distorted on the training device."""

from .addition import addition_batch, addition_batches, draw_digits
from .digits import DataError, Digits, load_digits, load_embedded, load_mnist, read_idx
from .distort import rts, rts_theta, uniform

__all__ = [
    "DataError",
    "Digits",
    "addition_batch",
    "addition_batches",
    "draw_digits",
    "load_digits",
    "load_embedded",
    "load_mnist",
    "read_idx",
    "rts",
    "rts_theta",
    "uniform",
]
