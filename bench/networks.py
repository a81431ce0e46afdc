"""Training steps of the paper's networks, and the share of each that grid and sampler take."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import stn_triton
from stn_triton.transforms import TRANSFORMS

from .cases import Case, Grads
from .inputs import make_inputs
from .providers import named
from .results import Network
from .timing import make_steps, time_cpu, time_cuda

Sampler = Callable[..., Tensor]


@dataclass(frozen=True)
class Setting:
    """One network to train a step of; in bfloat16 by autocast, and with channels last."""

    name: str
    channels: int
    image_size: int
    batch: int
    dtype: Literal["float32", "bfloat16"] = "float32"


SETTINGS: tuple[Setting, ...] = (
    Setting("svhn_cnn", 3, 64, 128),
    Setting("svhn_st_cnn_multi", 3, 64, 128),
    Setting("svhn_cnn", 3, 64, 128, "bfloat16"),
    Setting("svhn_st_cnn_multi", 3, 64, 128, "bfloat16"),
    Setting("svhn_st_cnn_multi", 3, 128, 128),
    Setting("svhn_st_cnn_multi", 3, 128, 128, "bfloat16"),
    Setting("cub_2st_cnn", 3, 448, 16),
    Setting("cub_4st_cnn", 3, 448, 16, "bfloat16"),
    Setting("mnist_st_cnn_affine", 1, 60, 256),
    Setting("mnist_st_cnn_tps", 1, 60, 256),
    Setting("mnist_addition_2st_fcn_affine", 2, 42, 256),
    Setting("svhn_st_cnn_single", 3, 64, 128),
    Setting("mnist_st_cnn_projective", 1, 60, 256),
)
_SAMPLERS = ("stn_triton", "torch_eager")


def _case_of_call(
    x: Tensor, theta: Tensor, out_size: tuple[int, ...], options: dict[str, Any]
) -> Case:
    transform = options.get("transform", "affine")
    trailing = TRANSFORMS[transform].trailing_shape(tuple(theta.shape), len(out_size))
    assert trailing is not None
    grads: tuple[Grads, ...] = ()
    if x.requires_grad or theta.requires_grad:
        grads = (
            "both"
            if x.requires_grad and theta.requires_grad
            else "input"
            if x.requires_grad
            else "theta",
        )
    last = not x.is_contiguous() and x.movedim(1, -1).is_contiguous()
    layout: Literal["contiguous", "channels_last"] = "channels_last" if last else "contiguous"
    return Case(
        name="in a network",
        shape=tuple(x.shape),
        out_size=tuple(map(int, out_size)),
        k=theta.shape[1] if theta.dim() == len(trailing) + 2 else None,
        dtype=x.dtype,
        memory_format=layout,
        grads=grads,
        **{
            key: options[key]
            for key in (
                "transform",
                "mode",
                "padding_mode",
                "padding_value",
                "align_corners",
                "antialias",
            )
            if key in options
        },
    )


@contextmanager
def sampler_replaced(replacement: Sampler) -> Iterator[None]:
    """Every module that holds `st_sample` holds the replacement instead."""
    original = stn_triton.st_sample
    holders = [
        module
        for name, module in list(sys.modules.items())
        if name.split(".")[0] in ("stn_triton", "architectures")
        and getattr(module, "st_sample", None) is original
    ]
    patches = [patch.object(module, "st_sample", replacement) for module in holders]
    for each in patches:
        each.start()
    try:
        yield
    finally:
        for each in patches:
            each.stop()


def _as_sampler(name: str, calls: list[Case], original: Sampler) -> Sampler:
    """`st_sample` by the named provider, noting what it is called on."""

    def eager(case: Case, x: Tensor, theta: Tensor) -> Tensor:
        # Under autocast `affine_grid` would multiply in half precision, which nobody wants of coordinates.
        with torch.autocast(x.device.type, enabled=False):
            wide = torch.promote_types(theta.dtype, torch.float32)
            return named(name).on_theta(case)(x, theta.to(wide))

    def call(x: Tensor, theta: Tensor, out_size: Any = None, **options: Any) -> Tensor:
        size = tuple(x.shape[2:] if out_size is None else out_size)
        case = _case_of_call(x, theta, size, options)
        calls.append(case)
        if name == "stn_triton":
            return original(x, theta, out_size, **options)
        return eager(case, x, theta)

    return call


def _training_step(model: nn.Module, x: Tensor, dtype: str) -> Callable[[], object]:
    """Forward, cross entropy against fixed labels, backward, SGD."""
    half = dtype == "bfloat16"
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)

    def step() -> object:
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=half):
            scores = model(x).flatten(0, -2)
        loss = F.cross_entropy(
            scores.float(), torch.zeros(len(scores), dtype=torch.long, device=x.device)
        )
        loss.backward()
        optimiser.step()
        return loss

    return step


def _time(steps: list[Callable[[], object]], device: str) -> float:
    return (time_cuda(steps) if device == "cuda" else time_cpu(steps, repeats=3)).ms


def measure_network(setting: Setting, sampler: str, device: str) -> Network:
    """One training step; the share is that of its sampler calls timed by themselves."""
    create = importlib.import_module("architectures").create_model
    torch.manual_seed(0)
    calls: list[Case] = []
    with sampler_replaced(_as_sampler(sampler, calls, stn_triton.st_sample)):
        model = create(setting.name, image_size=setting.image_size).to(device)
        x = torch.randn(
            setting.batch, setting.channels, setting.image_size, setting.image_size, device=device
        )
        if setting.dtype == "bfloat16":
            model, x = (each.to(memory_format=torch.channels_last) for each in (model, x))
        step = _training_step(model, x, setting.dtype)
        step()
        own = list(calls)
        ms = _time([step], device)
    sampling = 0.0
    for case in own:
        grads = case.grads[0] if case.grads else None
        sampling += _time(
            make_steps(named(sampler), case, grads, [make_inputs(case, device)]), device
        )
    return Network(
        name=setting.name,
        image_size=setting.image_size,
        batch=setting.batch,
        dtype=setting.dtype,
        provider=sampler,
        ms=ms,
        images_s=setting.batch / ms * 1e3,
        sampler_share=sampling / ms,
    )


def available(settings: tuple[Setting, ...] = SETTINGS) -> tuple[Setting, ...]:
    """The networks that `architectures` can build; none where it is missing."""
    try:
        names = set(importlib.import_module("architectures").list_models())
    except (ImportError, AttributeError):
        return ()
    return tuple(setting for setting in settings if setting.name in names)


def runs(settings: tuple[Setting, ...] = SETTINGS) -> Iterator[tuple[Setting, str]]:
    """Every network with every sampler."""
    for setting in available(settings):
        for sampler in _SAMPLERS:
            yield setting, sampler
