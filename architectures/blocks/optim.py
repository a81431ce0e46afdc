"""Parameter groups for networks with spatial transformers."""

from __future__ import annotations

from typing import Any

from torch import nn

from stn_triton.modules import SpatialTransformer

from .parallel import ParallelSTN


def parameter_groups(
    model: nn.Module,
    *,
    lr: float,
    localisation_lr_multiplier: float = 1.0,
    weight_decay: float = 0.0,
) -> list[dict[str, Any]]:
    """Sort a model's parameters into groups for any torch optimiser.

    Each group has "params", "lr", "weight_decay" and a "name". In their order the groups are "regression" (the
    regression layers of all `SpatialTransformer`s), "localisation" (all other parameters of these, and those of
    a localisation that the transformers of a `ParallelSTN` share) and "rest".
    The first two have the learning rate lr * localisation_lr_multiplier; regression layers are not
    decayed, since decay would pull their bias away from the initial theta. A parameter that belongs to
    several groups is in the first of them; groups without parameters are left out.

    Units: `lr` and `weight_decay` as the optimiser takes them.

    Raises:
        ValueError: a negative learning rate, multiplier or decay.

    Source: the multipliers 1/10 and 1e-4 that Jaderberg et al. 2015 use for SVHN and for birds.
    """
    for name, value in (
        ("lr", lr),
        ("localisation_lr_multiplier", localisation_lr_multiplier),
        ("weight_decay", weight_decay),
    ):
        if not value >= 0:
            raise ValueError(f"{name} must be at least 0, got {value}")
    transformers = [module for module in model.modules() if isinstance(module, SpatialTransformer)]
    shared = [
        module.localisation
        for module in model.modules()
        if isinstance(module, ParallelSTN) and module.localisation is not None
    ]
    localisation_lr = lr * localisation_lr_multiplier
    candidates = (
        ("regression", [t.regression for t in transformers], localisation_lr, 0.0),
        ("localisation", [*transformers, *shared], localisation_lr, weight_decay),
        ("rest", [model], lr, weight_decay),
    )
    groups: list[dict[str, Any]] = []
    seen: set[nn.Parameter] = set()
    for name, modules, group_lr, decay in candidates:
        params = [p for module in modules for p in module.parameters()]
        params = [p for p in dict.fromkeys(params) if p not in seen]
        seen.update(params)
        if params:
            groups.append({"params": params, "lr": group_lr, "weight_decay": decay, "name": name})
    return groups
