"""Data sets of the paper's experiments, distorted on the training device."""

from .addition import addition_batch
from .check import check_folder
from .clutter import cluttered_batch, colocalisation_batch
from .cub import CUB
from .digits import Digits, draw_digits, load_digits, load_embedded, load_mnist, read_idx
from .distort import (
    elastic_theta,
    homography_theta,
    projective_theta,
    rotation_theta,
    rts,
    rts_theta,
    uniform,
)
from .distorted import elastic_batch, projective_batch, rotated_batch, rts_batch
from .download import download_mnist
from .files import DataError
from .generated import generate_cub, generate_svhn
from .svhn import SVHN
from .volumes import volume_batch

__all__ = [
    "CUB",
    "SVHN",
    "DataError",
    "Digits",
    "addition_batch",
    "check_folder",
    "cluttered_batch",
    "colocalisation_batch",
    "download_mnist",
    "draw_digits",
    "elastic_batch",
    "elastic_theta",
    "generate_cub",
    "generate_svhn",
    "homography_theta",
    "load_digits",
    "load_embedded",
    "load_mnist",
    "projective_batch",
    "projective_theta",
    "read_idx",
    "rotated_batch",
    "rotation_theta",
    "rts",
    "rts_batch",
    "rts_theta",
    "uniform",
    "volume_batch",
]
