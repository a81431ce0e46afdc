"""OpenCV's `warpAffine` on PyTorch's memory."""

from __future__ import annotations

import torch
from torch import Tensor

from bench.cases import Case, Grads
from bench.check import Sample
from bench.grids import pixel_matrices

from .provider import NO_GRADIENTS, Provider, beyond_one_map, finished


class OpenCV(Provider):
    """Image by image where channels are beside each other, else plane by plane; with as many threads as PyTorch."""

    name = "opencv"
    devices = ("cpu",)
    modules = ("cv2",)
    packages = ("opencv-python-headless", "opencv-python")

    def refuses(self, case: Case, grads: Grads | None) -> str | None:
        if grads is not None:
            return NO_GRADIENTS
        if case.transform not in ("affine", "attention") or case.mode != "bilinear":
            return "bilinear affine maps only"
        if case.shape[1] > 4 and case.memory_format == "channels_last":
            return "at most 4 channels beside each other"
        return beyond_one_map(case)

    def parameters(self, case: Case, theta: Tensor) -> Tensor:
        """Matrices (N, 2, 3) from output pixels to source pixels, float64."""
        return pixel_matrices(case, theta)

    def sample(self, case: Case) -> Sample:
        import cv2

        cv2.setNumThreads(torch.get_num_threads())
        border = {"zeros": cv2.BORDER_CONSTANT, "border": cv2.BORDER_REPLICATE}
        border["reflection"] = cv2.BORDER_REFLECT_101 if case.align_corners else cv2.BORDER_REFLECT
        options = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, border[case.padding_mode]
        interleaved = case.memory_format == "channels_last" and case.shape[1] > 1
        size = (case.out_size[1], case.out_size[0])

        def call(x: Tensor, matrices: Tensor) -> Tensor:
            channels = x.shape[1]
            if interleaved:
                out = torch.empty(len(x), *case.out_size, channels)
                images, results = x.movedim(1, -1).numpy(), out.numpy()
            else:
                out = torch.empty(len(x), channels, *case.out_size)
                images, results = x.flatten(0, 1).numpy(), out.flatten(0, 1).numpy()
            each = 1 if interleaved else channels
            for number, matrix in enumerate(matrices.numpy()):
                for i in range(number * each, number * each + each):
                    cv2.warpAffine(images[i], matrix, size, results[i], *options)
            return finished(case, out.movedim(-1, 1) if interleaved else out)

        return call
