"""Spatial transformers (Jaderberg et al. 2015): the sampling grid and the sampler fused into one operation."""

from .functional import st_sample
from .modules import SpatialTransformer

__all__ = ["SpatialTransformer", "st_sample"]
__version__ = "0.1.0"
