"""Transformers one after the other (Jaderberg et al. 2015, arXiv:1506.02025, section 3.4).

The paper puts transformers in a row and leaves open what each of them samples. Here it is the map
of the one before, as the paper's figures read, or with `compose=True` always the first input, by
the product of all thetas so far: then the last map has been interpolated once, however many
transformers there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Any, Literal, cast, overload

from torch import Tensor, nn

from stn_triton import compose as product
from stn_triton.modules import SpatialTransformer
from stn_triton.tracing import comparing_shapes
from stn_triton.transforms import TRANSFORMS


class SerialSTN(nn.Module):
    """Transformers one after the other, and a head that reads the last one's map.

    Convention: as in `SpatialTransformer`: each theta maps coordinates of the transformer's output
    to coordinates of what it reads, the map of the transformer before it, both normalised to
    [-1, 1] in (x, y[, z]) order; `composed_theta` turns them into thetas that map to the input.

    Arguments:
        transformers: one or more `SpatialTransformer`s without `num_transformers`.
        head: reads the last transformer's map.
        compose: every transformer localises on the map resampled so far, and then the input, not
            that map, is resampled by the product of all thetas so far, with this transformer's
            size, mode and padding. Nothing is blurred step by step, and what left the frame can
            come back. All transformers must be affine or attention, with the same `align_corners`.

    Usage: `forward(x, source=large)` finds the thetas on x and gives the head `large`, resampled by them. x and
        `source` may differ in channels and in size; where `out_size` is None, the sizes of their maps then differ, too.
        To put something in between, call the three parts that `forward` consists of:
        `thetas = network.localise(x)`, `seen = network.sample(source, thetas)`, `network.classify(seen)`.

    Shapes: x (N, C, H, W) -> what `head` makes of the last map (N, C, h, w); a list of one theta
    (N, *theta shape) for each transformer, in float32. Volumes (N, C, D, H, W) likewise.

    Raises:
        TypeError: something else than `SpatialTransformer`s, or than a module as head.
        ValueError: no transformers, one with `num_transformers`, some for images and some for
            volumes; with `compose` a transformer without a matrix, or of another `align_corners`.

    Source: Jaderberg et al. 2015, section 3.4; the product of thetas: section 4.2, table 2.
    """

    def __init__(
        self, transformers: Iterable[SpatialTransformer], head: nn.Module, *, compose: bool = False
    ) -> None:
        super().__init__()
        row = as_list("transformers", transformers)
        check_transformers(row)
        if not row:
            raise ValueError("transformers must be at least one SpatialTransformer, got none")
        if compose:
            _check_composable(row)
        self.transformers = nn.ModuleList(row)
        self.head = checked_module("head", head)
        self.compose = compose

    def localise(self, x: Tensor) -> list[Tensor]:
        """The thetas of all transformers: x (N, C, [D,] H, W) -> [theta (N, *theta shape), ...].

        Every transformer after the first looks at x as it is resampled so far.
        """
        return self._localised(x)[1]

    def sample(self, source: Tensor, thetas: Sequence[Tensor]) -> Tensor:
        """What the head reads at these thetas: source (N, C, [D,] H, W) -> map (N, C, [d,] h, w).

        Raises:
            TypeError: a theta that is no tensor.
            ValueError: another number of thetas than transformers, or one of another shape.
        """
        check_thetas(self.transformers, thetas)
        if self.compose:
            return self._composed_map(source, thetas)
        for transformer, theta in zip(self.transformers, thetas, strict=True):
            source = cast(SpatialTransformer, transformer).sample(source, theta)
        return source

    def classify(self, seen: Tensor) -> Tensor:
        """The head: map (N, C, [d,] h, w) -> what `head` makes of it."""
        logits: Tensor = self.head(seen)
        return logits

    def resample(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """`localise` and `sample` of one x, in one pass: (map (N, C, [d,] h, w), [theta, ...])."""
        seen, thetas = self._localised(x)
        return self._next_map(seen, x, thetas), thetas

    def _localised(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """What the last transformer looks at, and all thetas."""
        seen = x
        thetas: list[Tensor] = []
        for transformer in self.transformers:
            if thetas:
                seen = self._next_map(seen, x, thetas)
            thetas.append(cast(SpatialTransformer, transformer).localise(seen))
        return seen, thetas

    def _next_map(self, seen: Tensor, first: Tensor, thetas: Sequence[Tensor]) -> Tensor:
        """The map of the transformer that gave the last of these thetas; it looked at `seen`."""
        if self.compose:
            return self._composed_map(first, thetas)
        transformer = cast(SpatialTransformer, self.transformers[len(thetas) - 1])
        return transformer.sample(seen, thetas[-1])

    def _composed_map(self, first: Tensor, thetas: Sequence[Tensor]) -> Tensor:
        """The first input, sampled once by the product of these thetas, which are those of the first transformers."""
        row = [cast(SpatialTransformer, each) for each in self.transformers][: len(thetas)]
        sizes = [each.out_size for each in row if each.out_size is not None]
        return row[-1].sample(
            first,
            composed(row, thetas)[-1],
            transform="affine",
            out_size=sizes[-1] if sizes else None,  # the last size that a transformer asked for
        )

    def composed_theta(self, thetas: Sequence[Tensor]) -> list[Tensor]:
        """For each transformer the affine theta (N, 2, 3) from its output to the input.

        thetas are those of `forward`. Volumes: (N, 3, 4). For affine and attention; with
        `compose` the last is what the input was resampled by.

        Raises:
            ValueError: a transform without a matrix; another number of thetas than transformers.
        """
        return composed(self.transformers, thetas)

    @overload
    def forward(
        self, x: Tensor, *, source: Tensor | None = None, return_theta: Literal[True]
    ) -> tuple[Tensor, list[Tensor]]: ...

    @overload
    def forward(
        self, x: Tensor, *, source: Tensor | None = None, return_theta: Literal[False] = False
    ) -> Tensor: ...

    def forward(
        self, x: Tensor, *, source: Tensor | None = None, return_theta: bool = False
    ) -> Tensor | tuple[Tensor, list[Tensor]]:
        """Logits, or (logits, list of thetas (N, *theta shape)).

        With `source` the thetas are those of `forward(x)`, and the head reads `source`, resampled by them.
        """
        if source is None:
            seen, thetas = self.resample(x)
        else:
            thetas = self.localise(x)
            seen = self.sample(source, thetas)
        logits = self.classify(seen)
        return (logits, thetas) if return_theta else logits

    def extra_repr(self) -> str:
        """What `print` shows beside the submodules."""
        return "compose=True" if self.compose else ""


def composed(transformers: Iterable[nn.Module], thetas: Sequence[Tensor]) -> list[Tensor]:
    """For each transformer the product of all thetas up to its own: the affine theta from its output to the input."""
    row = [cast(SpatialTransformer, module) for module in transformers]
    check_thetas(row, thetas)
    return list(accumulate(map(_affine, row, thetas), product))


def check_thetas(transformers: Iterable[nn.Module], thetas: Sequence[Tensor]) -> None:
    """Refuse another number of thetas than of transformers, and a theta that is not (N, *theta shape)."""
    row = [cast(SpatialTransformer, module) for module in transformers]
    if len(thetas) != len(row):
        raise ValueError(
            f"thetas must be one for each of {len(row)} transformers, got {len(thetas)}"
        )
    for number, (transformer, theta) in enumerate(zip(row, thetas, strict=True)):
        name = f"thetas[{number}]"
        if not isinstance(theta, Tensor):
            raise TypeError(f"{name} must be a tensor, got {type(theta).__name__}")
        check_shape(
            name, theta, theta_shape(transformer), f"for transform {transformer.transform!r}"
        )


def check_shape(name: str, theta: Tensor, wanted: tuple[int, ...], what: str) -> None:
    """Refuse a theta that is not (N, *wanted); `what` ends the description of the wanted one."""
    with comparing_shapes():
        if tuple(theta.shape[1:]) != wanted:
            raise ValueError(
                f"{name} must be (N, {', '.join(map(str, wanted))}), {what}, got shape {tuple(theta.shape)}"
            )


def theta_shape(transformer: SpatialTransformer) -> tuple[int, ...]:
    """The shape of one theta of a transformer, without the axis K."""
    return transformer.theta_shape[0 if transformer.num_transformers is None else 1 :]


def as_list(name: str, given: Iterable[Any]) -> list[Any]:
    """The entries of what should be a list of modules."""
    if not isinstance(given, Iterable):
        raise TypeError(f"{name} must be a list of modules, got {type(given).__name__}")
    return list(given)


def checked_module(name: str, given: nn.Module) -> nn.Module:
    """Refuse what is not a module."""
    if not isinstance(given, nn.Module):
        raise TypeError(f"{name} must be an nn.Module, got {type(given).__name__}")
    return given


def check_transformers(transformers: Sequence[Any], *, or_none: bool = False) -> None:
    """Refuse what cannot be used one after the other: each must be a transformer that reads and gives one map."""
    ndim = None
    for number, transformer in enumerate(transformers):
        name = f"transformers[{number}]"
        if or_none and transformer is None:
            continue
        if not isinstance(transformer, SpatialTransformer):
            raise TypeError(
                f"{name} must be a SpatialTransformer, got {type(transformer).__name__}"
            )
        if transformer.num_transformers is not None:
            raise ValueError(
                f"{name} must give one map, got num_transformers={transformer.num_transformers} "
                "(ParallelSTN is for several)"
            )
        ndim = ndim or transformer.ndim
        if transformer.ndim != ndim:
            raise ValueError(
                f"transformers must all be for images or all for volumes, got {name} for "
                f"{transformer.ndim} spatial axes after one for {ndim}"
            )


def _check_composable(transformers: Sequence[SpatialTransformer]) -> None:
    for number, transformer in enumerate(transformers):
        _check_matrix(f"transformers[{number}]", transformer)
        if transformer.align_corners != transformers[0].align_corners:
            raise ValueError(
                "compose=True needs one align_corners for all transformers, got "
                f"{transformers[0].align_corners} and, in transformers[{number}], "
                f"{transformer.align_corners}"
            )


def _check_matrix(name: str, transformer: SpatialTransformer) -> None:
    if TRANSFORMS[transformer.transform].matrix is None:
        linear = " or ".join(repr(n) for n, entry in TRANSFORMS.items() if entry.matrix)
        raise ValueError(
            f"to be composed, {name} must have transform {linear}, got {transformer.transform!r}"
        )


def _affine(transformer: SpatialTransformer, theta: Tensor) -> Tensor:
    """theta of a transformer as an affine one: (N, 2, 3) or (N, 3, 4)."""
    _check_matrix("a transformer", transformer)
    to_matrix = TRANSFORMS[transformer.transform].matrix
    assert to_matrix is not None
    return to_matrix(theta, transformer.ndim)
