"""Transformers side by side on one input (Jaderberg et al. 2015, section 3.4 and appendix A.1)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal, cast, overload

import torch
from einops import rearrange
from torch import Tensor, nn

from stn_triton import identity_theta
from stn_triton.checks import checked_size
from stn_triton.modules import SpatialTransformer, check_at_least

from .serial import check_shape, check_thetas, checked_module, theta_shape

Thetas = Tensor | list[Tensor]
Maps = Tensor | list[Tensor]


class ParallelSTN(nn.Module):
    """K transformers sample the same input, a stream reads the map of each, and a head reads the streams' features.

    Convention: as in `SpatialTransformer`: each theta maps coordinates of the transformer's output
    to coordinates of the input, both normalised to [-1, 1] in (x, y[, z]) order.

    Arguments:
        localisation: one module whose features give all K thetas, or a list of K modules, one for
            each theta.
        streams: one module for the maps of all transformers (all K maps as one batch, or one after the other
            where they are a list; its weights are shared), or a list of K modules.
        head: reads the flattened features of all streams, side by side in the transformers' order.
        in_features: the number of features that each localisation gives.
        out_size: the size of each transformer's map, as in `SpatialTransformer`, or a list of K of them. None is
            the size of what it samples.
        num_transformers: K.
        options: those of `SpatialTransformer`. `transform`, `fixed_scale` and `antialias` may be a list of K, too.
            `initial_theta` broadcasts to (K, *theta shape), or is a list of K, or None, where `transform` is a list.

    Shapes: x (N, C, H, W) -> maps (N, K, C, h, w) -> features (N, K * F) -> whatever `head` makes
    of them; theta (N, K, *theta shape), float32. Volumes (N, C, D, H, W) likewise. If `out_size` or
    `antialias` is a list, maps are a list of K, (N, C, h, w) each; if `transform` is one, thetas
    are a list of K, (N, *theta shape) each. Transformers of one transform, size and antialias
    sample in one launch.

    Usage: `forward(x, source=large)` finds the thetas on x and gives the streams `large`, sampled at them. To put
        something in between, call the three parts that `forward` consists of: `theta = network.localise(x)`,
        `maps = network.sample(source, theta)`, `network.classify(maps)`.

    Raises:
        TypeError: neither a module nor a list of modules; and as `SpatialTransformer`.
        ValueError: a list that has not K entries; some for images and some for volumes; and as `SpatialTransformer`.

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
        out_size: Sequence[int] | Sequence[Sequence[int] | None] | None = None,
        num_transformers: int,
        **options: Any,
    ) -> None:
        super().__init__()
        check_at_least("num_transformers", num_transformers, 1)
        k = num_transformers
        localisations = _one_or_each("localisation", localisation, k)
        given = {"out_size": out_size, "in_features": in_features, **options}
        varied = {name: given[name] for name in _VARIED if _is_list(name, given.get(name))}
        self.num_transformers = k
        self.separate_maps = bool(varied.keys() & {"out_size", "antialias"})
        self.separate_thetas = "transform" in varied
        self.localisation: nn.Module | None = None
        """The localisation that K separate `SpatialTransformer`s share; None if they have their own, or are one."""
        if len(localisations) == 1 and not varied:
            transformers = [SpatialTransformer(localisations[0], **given, num_transformers=k)]
        else:
            if len(localisations) == 1 < k:
                self.localisation = localisations[0]
                localisations = [nn.Identity() for _ in range(k)]
            transformers = [
                SpatialTransformer(module, **its_own)
                for module, its_own in zip(localisations, _options_of_each(given, k), strict=True)
            ]
        self.transformers = nn.ModuleList(transformers)
        _check_axes(transformers)
        self._launches = _launches(transformers, k)
        self.streams = nn.ModuleList(_one_or_each("streams", streams, k))
        self.head = checked_module("head", head)

    def localise(self, x: Tensor) -> Thetas:
        """The thetas of all transformers: x (N, C, [D,] H, W) -> (N, K, *theta shape), or a list of K."""
        features = x if self.localisation is None else self.localisation(x)
        thetas = [cast(SpatialTransformer, each).localise(features) for each in self.transformers]
        if self.separate_thetas:
            return thetas
        joint = cast(SpatialTransformer, self.transformers[0]).num_transformers is not None
        return thetas[0] if joint else torch.stack(thetas, 1)

    def sample(self, source: Tensor, theta: Tensor | Sequence[Tensor]) -> Maps:
        """What the transformers see at these thetas: (N, C, [D,] H, W) -> (N, K, C, [d,] h, w), or a list of K.

        Raises:
            TypeError: a theta that is no tensor.
            ValueError: other than K thetas, or one of another shape; and as `SpatialTransformer.sample`.
        """
        thetas = self._thetas(theta)
        maps: dict[int, Tensor] = {}
        for numbers in self._launches:
            # Transformers that sample alike differ in their localisation alone: the first of them samples for all.
            one = cast(SpatialTransformer, self.transformers[numbers[0]])
            whole = isinstance(theta, Tensor) and len(numbers) == self.num_transformers
            joint = theta if whole else torch.stack([thetas[number] for number in numbers], 1)
            seen = one.sample(source, cast(Tensor, joint))
            if whole and not self.separate_maps:
                return seen
            maps |= zip(numbers, seen.unbind(1), strict=True)
        ordered = [maps[number] for number in range(self.num_transformers)]
        return ordered if self.separate_maps else torch.stack(ordered, 1)

    def _thetas(self, theta: Tensor | Sequence[Tensor]) -> Sequence[Tensor]:
        """K thetas (N, *theta shape) from one tensor or a list; refuses others."""
        k = self.num_transformers
        each = [cast(SpatialTransformer, one) for one in self.transformers] * (
            k // len(self.transformers)
        )
        if isinstance(theta, Tensor):
            shapes = {theta_shape(one) for one in each}
            if len(shapes) > 1:
                raise TypeError(
                    f"theta must be a list of {k} tensors where transforms differ, got one tensor"
                )
            wanted = (k, *shapes.pop())
            check_shape("theta", theta, wanted, f"one for each of {k} transformers")
            return theta.unbind(1)
        check_thetas(each, theta)
        return theta

    def classify(self, maps: Tensor | Sequence[Tensor]) -> Tensor:
        """Streams and head: (N, K, C, [d,] h, w), or a list of K maps (N, C, [d,] h, w) -> what `head` gives.

        Raises:
            ValueError: other than K maps.
        """
        if isinstance(maps, Tensor) and len(self.streams) == 1:
            features = self.streams[0](rearrange(maps, "n k ... -> (n k) ..."))
            features = rearrange(features.flatten(1), "(n k) f -> n (k f)", k=self.num_transformers)
        else:
            each = maps.unbind(1) if isinstance(maps, Tensor) else maps
            if len(each) != self.num_transformers:
                raise ValueError(
                    f"maps must be one for each of {self.num_transformers} transformers, got {len(each)}"
                )
            streams = list(self.streams) * (self.num_transformers // len(self.streams))
            # Each stream gets a copy, since its first layer may work in place: it must not write into what another
            # stream reads, nor into one of several views of a tensor, which autograd forbids.
            features = torch.cat(
                [stream(one.clone()).flatten(1) for stream, one in zip(streams, each, strict=True)],
                1,
            )
        logits: Tensor = self.head(features)
        return logits

    @overload
    def forward(
        self, x: Tensor, *, source: Tensor | None = None, return_theta: Literal[False] = False
    ) -> Tensor: ...

    @overload
    def forward(
        self, x: Tensor, *, source: Tensor | None = None, return_theta: Literal[True]
    ) -> tuple[Tensor, Thetas]: ...

    def forward(
        self, x: Tensor, *, source: Tensor | None = None, return_theta: bool = False
    ) -> Tensor | tuple[Tensor, Thetas]:
        """Logits, or (logits, thetas (N, K, *theta shape), or a list of K).

        With `source` the thetas are those of `forward(x)`, and the streams read `source`, sampled at them.
        """
        theta = self.localise(x)
        logits = self.classify(self.sample(x if source is None else source, theta))
        return (logits, theta) if return_theta else logits


_VARIED = ("out_size", "transform", "fixed_scale", "antialias")
"""The options of which each transformer may have a value of its own."""


def _is_list(name: str, value: object) -> bool:
    """Whether an option is a list of K values. A single size is a sequence, too, but of numbers."""
    if not isinstance(value, list | tuple):
        return False
    return name != "out_size" or any(one is None or isinstance(one, Sequence) for one in value)


def _options_of_each(given: dict[str, Any], k: int) -> list[dict[str, Any]]:
    """The options of each of K separate transformers."""
    varied = [*filter(lambda name: _is_list(name, given.get(name)), _VARIED)]
    for name in varied:
        if len(given[name]) != k:
            raise ValueError(
                f"{name} must be one value or a list of num_transformers = {k} of them, "
                f"got {len(given[name])}: {given[name]!r}"
            )
    each = [{**given, **{name: given[name][i] for name in varied}} for i in range(k)]
    sizes = [checked_size(one["out_size"]) for one in each if one["out_size"] is not None]
    initial = given.get("initial_theta")
    if "transform" in varied:
        starts = [None] * k if initial is None else initial
        if isinstance(starts, Tensor) or not isinstance(starts, Sequence) or len(starts) != k:
            raise ValueError(
                f"initial_theta must be a list of num_transformers = {k} where transform is one, got {initial!r}"
            )
    elif initial is None:
        starts = [None] * k
    else:
        # A single transformer with K thetas broadcasts `initial_theta`, and refuses other shapes.
        usual = {**given, "fixed_scale": None, "antialias": False}
        usual["out_size"] = sizes[0] if sizes else None
        joint = SpatialTransformer(nn.Identity(), **usual, num_transformers=k)
        starts = joint.initial_theta or [None] * k  # a parametrisation has no initial theta
    for one, start in zip(each, starts, strict=True):
        if start is None and one["out_size"] is None and sizes and len(sizes[0]) == 3:
            # Without size and initial theta it would be for images, but the others are for volumes.
            start = identity_theta(one.get("transform", "affine"), ndim=3)
        one["initial_theta"] = start
    return each


def _check_axes(transformers: Sequence[SpatialTransformer]) -> None:
    axes = [each.ndim for each in transformers]
    if len(set(axes)) > 1:
        raise ValueError(
            f"transformers must all be for images or all for volumes, got {axes} spatial axes"
        )


def _launches(transformers: Sequence[SpatialTransformer], k: int) -> list[list[int]]:
    """Groups of transformers, by their numbers, that sample alike and so share one launch."""
    if len(transformers) < k:
        return [list(range(k))]
    alike: dict[tuple[object, ...], list[int]] = {}
    for number, each in enumerate(transformers):
        # antialias=True and antialias=1 mean different things, though True == 1.
        key = (each.transform, each.out_size, each.antialias is True, each.antialias)
        alike.setdefault(key, []).append(number)
    return list(alike.values())


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
