"""`st_sample` in plain torch operations: the path of CPU tensors, and of any device with `backend="torch"`."""

from .sampler import gradients_by_taps, st_sample_taps, st_sample_torch

__all__ = ["gradients_by_taps", "st_sample_taps", "st_sample_torch"]
