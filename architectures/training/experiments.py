"""The paper's experiments: networks, data and schedules (Jaderberg et al. 2015, sections 4 and A.1 to A.6).

Each experiment has two schedules. "paper" is the paper's own, where it gives one: SGD whose learning rate is divided by
ten at set times. The paper names no momentum; it is 0.9 here throughout. For CUB the paper gives neither batch size nor
number of steps (256 and 30,000 here). For co-localisation and volumes it gives no schedule at all: here co-localisation
has "fast" with more steps, and volumes have the schedule of distorted MNIST.

"fast" is ours: AdamW with one cycle of the learning rate and clipped gradients, which shows within minutes, on two CPU
cores, what the transformers do. Its errors are not the paper's. For MNIST addition it takes twenty minutes of a CPU
core, since two transformers learn their places early and to turn digits upright late. There the weight matrices learn
by Muon and the training digits are bent, which together come near the paper's errors or below them ("What was
measured" in docs/how-to/training.md). `--max-steps` shortens it, or lengthens it. The networks for SVHN and CUB are too
large to learn within minutes on a CPU; there "fast" only shows that everything runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from architectures import data
from architectures.networks.registry import list_models

from .scores import Classify, Localise, Task

SCHEDULES = ("paper", "fast")
_WARM_UP = 0.1


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long and how fast to learn.

    milestones: shares of all steps, after each of which the learning rate is divided by ten. Without any the learning
        rate rises for a tenth of the steps and then falls to 0 along a cosine.
    easy: (first, last), shares of all steps. The `difficulty` of the training batches is 0 up to the first and
        rises to 1 at the last; the function that draws them must have that keyword. None: they are as hard as the test.
    bend: how far the training digits are bent, anew in every epoch, in pixels of a digit (`bend_digits`).
    """

    optimiser: Literal["sgd", "adamw", "muon"] = "sgd"
    steps: int
    batch_size: int
    lr: float
    milestones: tuple[float, ...] = ()
    weight_decay: float = 0.0
    localisation_lr_multiplier: float = 1.0
    clip: float | None = None
    easy: tuple[float, float] | None = None
    bend: float = 0.0

    def in_words(self) -> str:
        """What a step learns from and how, as a phrase for summaries and tables."""
        bent = f", digits bent by {self.bend:g} px" if self.bend else ""
        return f"{self.batch_size} images, {self.optimiser}, learning rate {self.lr:g}{bent}"

    def factor(self, step: int) -> float:
        """What the learning rate is multiplied by at this step."""
        done = min(step / self.steps, 1.0)
        if self.milestones:
            return 0.1 ** sum(done >= milestone for milestone in self.milestones)
        if done < _WARM_UP:
            return (step + 1) / (self.steps * _WARM_UP + 1)
        return 0.5 * (1 + math.cos(math.pi * (done - _WARM_UP) / (1 - _WARM_UP)))

    def difficulty(self, step: int) -> float:
        """How hard the batch of this step is, from 0 to 1."""
        return 1.0 if self.easy is None else self.ramp(step, *self.easy)

    def ramp(self, step: int, first: float, last: float) -> float:
        """A number that rises from 0 to 1 between two shares of all steps."""
        return min(max((step / self.steps - first) / (last - first), 0.0), 1.0)


_MNIST = Schedule(steps=150_000, batch_size=256, lr=0.01, milestones=(1 / 3, 2 / 3))
_FAST = Schedule(optimiser="adamw", steps=3_000, batch_size=128, lr=2e-3, clip=1.0)
_COLOCALISE = replace(_FAST, steps=2_000, batch_size=16, lr=4e-3)


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One experiment: which networks it trains, on which data, and how long.

    default: the network that is trained unless another is asked for.
    models: the names of all networks that can be trained on it, as shell patterns.
    task: what its networks have to answer.
    batch: the function that draws a batch of the data; None: the data are a folder of files.
    image_sizes: the sides that its images can have, in pixels; the first is the usual one.
    test_examples: how many are drawn from the test digits; None: as many as there are digits.
    one_set: training and test use the same examples.
    classes: the number of classes; None: the folder says how many there are, or the labels are no classes.
    data_options, model_options: the options that differ from the defaults of the data and of the networks.
    """

    default: str
    models: tuple[str, ...]
    task: Task = field(default_factory=Classify)
    batch: Callable[..., Any] | None = None
    image_sizes: tuple[int, ...]
    paper: Schedule = _MNIST
    fast: Schedule = _FAST
    test_examples: int | None = None
    one_set: bool = False
    classes: int | None = None
    data_options: Mapping[str, Any] = field(default_factory=dict)
    model_options: Mapping[str, Any] = field(default_factory=dict)

    def networks(self) -> list[str]:
        """The names of the networks that can be trained on it."""
        return sorted({name for pattern in self.models for name in list_models(pattern)})

    def schedule(self, name: str) -> Schedule:
        """The schedule "paper" or "fast"."""
        return self.fast if name == "fast" else self.paper


def _colocalisation_batch(
    digits: data.Digits, n: int, *, generator: torch.Generator, digit: int, clutter: bool
) -> tuple[Tensor, Tensor]:
    """`colocalisation_batch` of one digit, among patches of all digits."""
    return data.colocalisation_batch(
        digits.of_class(digit), n, generator=generator, clutter=clutter, clutter_from=digits
    )


_DISTORTED: dict[str, Any] = {
    "default": "mnist_st_cnn_affine",
    "classes": 10,
    "models": ("mnist_fcn", "mnist_cnn", "mnist_st_fcn_*", "mnist_st_cnn_*"),
    "fast": replace(_FAST, steps=1_500),
}

EXPERIMENTS: dict[str, Experiment] = {
    "mnist_r": Experiment(batch=data.rotated_batch, image_sizes=(28,), **_DISTORTED),
    "mnist_rts": Experiment(batch=data.rts_batch, image_sizes=(42,), **_DISTORTED),
    "mnist_p": Experiment(batch=data.projective_batch, image_sizes=(28,), **_DISTORTED),
    "mnist_e": Experiment(batch=data.elastic_batch, image_sizes=(28,), **_DISTORTED),
    "mnist_tc": Experiment(batch=data.cluttered_batch, image_sizes=(60,), **_DISTORTED),
    "mnist_addition": Experiment(
        default="mnist_addition_2st_fcn_affine",
        models=("mnist_addition_*",),
        batch=data.addition_batch,
        classes=19,
        image_sizes=(42,),
        fast=replace(
            _FAST, optimiser="muon", steps=30_000, batch_size=256, lr=3e-3, easy=(0.0, 0.4), bend=1.0
        ),
    ),
    "svhn": Experiment(
        default="svhn_st_cnn_multi",
        models=("svhn_*",),
        classes=11,
        image_sizes=(64, 128),
        paper=Schedule(
            steps=400_000, batch_size=128, lr=0.01, milestones=(0.2, 0.4, 0.6, 0.8),
            weight_decay=5e-4, localisation_lr_multiplier=0.1,
        ),
        fast=replace(_FAST, steps=300, batch_size=32, lr=3e-4, localisation_lr_multiplier=0.1),
    ),
    "cub": Experiment(
        default="cub_2st_cnn",
        models=("cub_*",),
        image_sizes=(224, 448),
        paper=Schedule(
            steps=30_000, batch_size=256, lr=0.1, milestones=(1 / 3, 2 / 3, 5 / 6),
            weight_decay=1e-5, localisation_lr_multiplier=1e-4,
        ),
        fast=replace(_FAST, steps=100, batch_size=8, lr=3e-4, localisation_lr_multiplier=1e-2),
    ),
    "colocalisation": Experiment(
        default="colocalisation",
        models=("colocalisation",),
        task=Localise(),
        batch=_colocalisation_batch,
        image_sizes=(84,),
        paper=replace(_COLOCALISE, steps=4_000),
        fast=_COLOCALISE,
        test_examples=100,
        one_set=True,
        data_options={"digit": 8, "clutter": True},
        model_options={"initial_scale": 0.6},
    ),
    "mnist3d": Experiment(
        default="mnist3d_st_cnn",
        models=("mnist3d_*",),
        batch=data.volume_batch,
        classes=10,
        image_sizes=(60,),
        fast=replace(_FAST, steps=600, batch_size=16, lr=1e-3, easy=(0.1, 0.6)),
        test_examples=1_000,
    ),
}  # fmt: skip
