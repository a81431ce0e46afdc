"""Transformers side by side on one input (Jaderberg et al. 2015, section 3.4 and appendix A.1)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal, cast, overload

import torch
from einops import rearrange
from torch import Tensor, nn

from stn_triton.modules import SpatialTransformer, check_at_least

from .serial import checked_module


class ParallelSTN(nn.Module):
    """K transformers read one input, a stream each reads what they saw, a head joins the streams.

    Convention: as in `SpatialTransformer`: each theta maps coordinates of the transformer's output
    to coordinates of the input, both normalised to [-1, 1] in (x, y[, z]) order.

    Arguments:
        localisation: one module whose features give all K thetas, or a list of K modules, one for
            each theta.
        streams: one module for the maps of all transformers (all K maps as one batch, so that its
            weights are shared), or a list of K modules.
        head: reads the flattened features of all streams, side by side in the transformers' order.
        in_features: the number of features that each localisation gives.
        out_size: as in `SpatialTransformer`, the size of each transformer's map.
        num_transformers: K.
        options: those of `SpatialTransformer`; `initial_theta` broadcasts to (K, *theta shape).

    Shapes: x (N, C, H, W) -> maps (N, K, C, h, w) -> features (N, K * F) -> whatever `head` makes
    of them; theta (N, K, *theta shape), float32. Volumes (N, C, D, H, W) likewise.

    Raises:
        TypeError: neither a module nor a list of modules; and as `SpatialTransformer`.
        ValueError: a list of other than K modules; and as `SpatialTransformer`.

    Source: Jaderberg et al. 2015 (arXiv:1506.02025), section 3.4, and for maps joined side by side
    appendix A.1.
    """

    def __init__(
        self,
        localisation: nn.Module | Iterable[nn.Module],
        streams: nn.Module | Iterable[nn.Module],
        head: nn.Module,
        *,
        in_features: int,
        out_size: Sequence[int] | None,
        num_transformers: int,
        **options: Any,
    ) -> None:
        super().__init__()
        check_at_least("num_transformers", num_transformers, 1)
        k = num_transformers
        localisations = _one_or_each("localisation", localisation, k)
        options["in_features"] = in_features
        each = [options | {"num_transformers": k}]
        if len(localisations) > 1:
            joint = SpatialTransformer(nn.Identity(), out_size, **each[0])
            each = [
                options | {"initial_theta": theta} for theta in joint.initial_theta or [None] * k
            ]
        self.num_transformers = k
        self.transformers = nn.ModuleList(
            SpatialTransformer(module, out_size, **its_options)
            for module, its_options in zip(localisations, each, strict=True)
        )
        self.streams = nn.ModuleList(_one_or_each("streams", streams, k))
        self.head = checked_module("head", head)

    def localise(self, x: Tensor) -> Tensor:
        """The thetas of all transformers: x (N, C, [D,] H, W) -> (N, K, *theta shape)."""
        thetas = [cast(SpatialTransformer, each).localise(x) for each in self.transformers]
        return thetas[0] if len(thetas) == 1 else torch.stack(thetas, 1)

    def sample(self, source: Tensor, theta: Tensor) -> Tensor:
        """What the transformers see at these thetas: (N, C, [D,] H, W) -> (N, K, C, [d,] h, w)."""
        # Separate transformers differ in their localisation alone: one samples for all.
        return cast(SpatialTransformer, self.transformers[0]).sample(source, theta)

    def classify(self, maps: Tensor) -> Tensor:
        """Streams and head: (N, K, C, [d,] h, w) -> what `head` gives."""
        if len(self.streams) == 1:
            features = self.streams[0](rearrange(maps, "n k ... -> (n k) ..."))
            features = rearrange(features.flatten(1), "(n k) f -> n (k f)", k=self.num_transformers)
        else:
            # Copies, which most first layers would make anyway: a stream that begins in place must not write into
            # what another one reads, nor into a tensor that autograd watches together with all the others.
            per_map = zip(self.streams, maps.unbind(1), strict=True)
            features = torch.cat([stream(one.clone()).flatten(1) for stream, one in per_map], 1)
        logits: Tensor = self.head(features)
        return logits

    @overload
    def forward(self, x: Tensor, return_theta: Literal[False] = False) -> Tensor: ...

    @overload
    def forward(self, x: Tensor, return_theta: Literal[True]) -> tuple[Tensor, Tensor]: ...

    def forward(self, x: Tensor, return_theta: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """Logits, or (logits, thetas (N, K, *theta shape))."""
        theta = self.localise(x)
        logits = self.classify(self.sample(x, theta))
        return (logits, theta) if return_theta else logits


def _one_or_each(name: str, given: nn.Module | Iterable[nn.Module], k: int) -> list[nn.Module]:
    if isinstance(given, nn.Module) and not isinstance(given, nn.ModuleList):
        return [given]
    modules = list(given) if isinstance(given, Iterable) else [given]
    for module in modules:
        if not isinstance(module, nn.Module):
            raise TypeError(
                f"{name} must be an nn.Module or a list of them, got {type(module).__name__}"
            )
    if len(modules) != k:
        raise ValueError(
            f"{name} must be one module or num_transformers = {k} of them, got {len(modules)}"
        )
    return modules
