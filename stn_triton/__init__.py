"""Spatial transformers (Jaderberg et al. 2015): the sampling grid and the sampler fused into one operation."""

from . import parametrisations
from .ahead import warmup
from .configuration import show_config
from .functional import st_sample
from .modules import SpatialTransformer
from .onnx import onnx_translations
from .pixels import box_to_theta, pixel_matrix_to_theta, theta_to_box, theta_to_pixel_matrix
from .theta import compose, identity_theta, invert, outside_penalty, sampling_grid, to_affine

__all__ = [
    "SpatialTransformer",
    "box_to_theta",
    "compose",
    "identity_theta",
    "invert",
    "onnx_translations",
    "outside_penalty",
    "parametrisations",
    "pixel_matrix_to_theta",
    "sampling_grid",
    "show_config",
    "st_sample",
    "theta_to_box",
    "theta_to_pixel_matrix",
    "to_affine",
    "warmup",
]
__version__ = "0.1.0"
