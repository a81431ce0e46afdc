"""What the transformers of any network do in one forward pass, recorded from outside the network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from architectures.blocks.stacked import StackedSTN
from stn_triton import SpatialTransformer, compose
from stn_triton.transforms import TRANSFORMS

from .frames import frame_lines

_Place = tuple[Tensor | None, bool | None]
"""Where a map lies on the network's images: an affine theta and its align_corners; None for the images themselves."""
_Key = tuple[object, ...]


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call of a transformer's `sample`, by K transformations.

    name: of the transformer in the network; transform: that of theta.
    frames_on: what its frames can be drawn on. "image": the network's images, which it samples itself; "composed":
        these images, by the product of several thetas; "source": only what it samples.

    Shapes: source (N, C, [D,] H, W), theta (N, K, *theta shape), maps (N, K, C, [d,] h, w), composed
    (N, K, 2, 3) or (N, K, 3, 4), from the maps to the network's images.
    """

    name: str
    transform: str
    options: dict[str, Any]
    source: Tensor
    theta: Tensor
    maps: Tensor
    composed: Tensor | None
    frames_on: Literal["image", "composed", "source"]

    def lines(self, images: Tensor) -> list[list[Tensor]]:
        """For each of the K, the lines of its frames (N, P, 2), on the images or on what it samples, in pixels."""
        on = self.source if self.frames_on == "source" else images
        size = tuple(on.shape[2:])
        if self.frames_on == "composed":
            assert self.composed is not None
            aligned = {"align_corners": self.options["align_corners"]}
            return [frame_lines(one, size, "affine", **aligned) for one in self.composed.unbind(1)]
        return [
            frame_lines(one, size, self.transform, **self.options) for one in self.theta.unbind(1)
        ]


def recorded_calls(network: nn.Module, images: Tensor) -> tuple[list[Call], Any]:
    """The calls of all transformers while a network reads images, in their order, and what the network gives.

    It reads them in evaluation mode and without gradients. Afterwards all is as it was, whatever happened: the
    training flag of each module, the modules themselves, the random numbers.
    """
    record = _Record()
    with ExitStack() as restored:
        restored.enter_context(torch.no_grad())
        restored.enter_context(_same_random_numbers(network, images))
        restored.enter_context(_evaluating(network))
        restored.enter_context(torch.compiler.set_stance("force_eager"))
        restored.enter_context(_watched(network, record))
        given = images.clone()  # a network's first layer may work in place
        record.places[_key(given)] = (None, None)
        record.kept.append(given)
        outputs = network(given)
    return record.calls, outputs


class _Record:
    """The calls so far, and where on the network's images lie the tensors that it knows."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.places: dict[_Key, _Place] = {}
        self.last: dict[nn.Module, _Place | None] = {}
        self.kept: list[Tensor] = []
        """Tensors that must live on: another tensor might get the memory of a freed one and be taken for it."""

    def add(
        self, name: str, module: SpatialTransformer, before: nn.Module | None,
        source: Tensor, theta: Tensor, maps: Tensor, transform: str,
    ) -> None:  # fmt: skip
        """Record a call. Where its source lies is looked up by the source itself, or else by the module `before` it."""
        joint = maps.dim() == source.dim() + 1
        thetas, each = (theta, maps) if joint else (theta.unsqueeze(1), maps.unsqueeze(1))
        place = self.places.get(_key(source))
        direct = place is not None and place[0] is None
        if place is None and before is not None:
            place = self.last.get(before)
        composed = _composed(place, thetas, transform, source.dim() - 2, module.align_corners)
        if composed is not None:
            for one, frame in zip(each.unbind(1), composed.unbind(1), strict=True):
                self.places[_key(one)] = (frame, module.align_corners)
        self.last[module] = None
        if composed is not None and composed.shape[1] == 1:
            self.last[module] = (composed[:, 0], module.align_corners)
        self.kept += [source, maps]
        options: dict[str, Any] = {"align_corners": module.align_corners}
        if TRANSFORMS[transform].lattice is not None:
            options["control_points"] = module.control_points
        self.calls.append(
            Call(
                name=name, transform=transform, options=options, theta=thetas.clone(), composed=composed,
                # Copies, since the network's next layer may work in place.
                source=source.clone(), maps=each.clone(),
                frames_on="image" if direct else "source" if composed is None else "composed",
            )
        )  # fmt: skip


def _composed(
    place: _Place | None, thetas: Tensor, transform: str, ndim: int, align_corners: bool
) -> Tensor | None:
    """theta (N, K, ...) of what lies at a place, as affine theta to the network's images, if there is one."""
    matrix = TRANSFORMS[transform].matrix
    if place is None or matrix is None or place[1] not in (None, align_corners):
        return None
    own = matrix(thetas, ndim)
    return own if place[0] is None else compose(place[0].unsqueeze(1).expand_as(own), own)


def _key(tensor: Tensor) -> _Key:
    """What a tensor is known again by: equal for two views of the same numbers."""
    return (
        tensor.untyped_storage().data_ptr(), tensor.storage_offset(), tensor.shape, tensor.stride(),
        tensor.dtype, tensor.device,
    )  # fmt: skip


@contextmanager
def _watched(network: nn.Module, record: _Record) -> Iterator[None]:
    """Let all transformers of a network record their calls of `sample`, and each `StackedSTN` what it reads."""
    before: dict[nn.Module, nn.Module] = {}
    with ExitStack() as restored:
        for stacked in [each for each in network.modules() if isinstance(each, StackedSTN)]:
            # Stages keep normalised coordinates, as `StackedSTN.composed_theta` says.
            row = [stacked, *stacked.transformers]
            before |= zip(row[1:], row, strict=False)
            hook = stacked.register_forward_pre_hook(_reports_input(record), with_kwargs=True)
            restored.callback(hook.remove)
        for name, module in network.named_modules():
            if isinstance(module, SpatialTransformer):
                path = ".".join(part for part in name.split(".") if part != "_orig_mod")
                report = _reporting(
                    path or type(module).__name__, module, before.get(module), record
                )
                own = vars(module).get("sample")
                vars(module)["sample"] = report
                restored.callback(_put_back, module, own)
        yield


def _reports_input(record: _Record) -> Callable[..., None]:
    def hook(module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        read = arguments[0] if arguments else keywords.get("x")
        record.last[module] = record.places.get(_key(read)) if isinstance(read, Tensor) else None

    return hook


def _reporting(
    name: str, module: SpatialTransformer, before: nn.Module | None, record: _Record
) -> Callable[..., Tensor]:
    sample = module.sample

    def reporting(source: Tensor, theta: Tensor, **options: Any) -> Tensor:
        maps = sample(source, theta, **options)
        transform = options.get("transform") or module.transform
        record.add(name, module, before, source, theta, maps, transform)
        return maps

    return reporting


def _put_back(module: nn.Module, own: object) -> None:
    del vars(module)["sample"]
    if own is not None:
        vars(module)["sample"] = own


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    flags = {module: module.training for module in network.modules()}
    try:
        network.eval()
        yield
    finally:
        for module, training in flags.items():
            module.training = training


@contextmanager
def _same_random_numbers(network: nn.Module, images: Tensor) -> Iterator[None]:
    tensors = (images, *network.parameters(), *network.buffers())
    devices = {each.device for each in tensors if each.device.type not in ("cpu", "meta")}
    kind = next((device.type for device in devices), "cuda")
    with torch.random.fork_rng([device.index or 0 for device in devices], device_type=kind):
        yield


def has_transformers(network: nn.Module) -> bool:
    """Whether there is a `SpatialTransformer` inside."""
    return any(isinstance(module, SpatialTransformer) for module in network.modules())
