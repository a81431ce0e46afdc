"""The optimisers that schedules name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, AdamW, Muon, Optimizer

from architectures.blocks.optim import parameter_groups

from .experiments import Schedule


def make_optimiser(network: nn.Module, schedule: Schedule, *, fused: bool | None) -> Optimizer:
    """The schedule's optimiser for all parameters of a network.

    fused: whether all weights are updated in one loop; None leaves the choice to torch.
    """
    groups = parameter_groups(
        network,
        lr=schedule.lr,
        localisation_lr_multiplier=schedule.localisation_lr_multiplier,
        weight_decay=schedule.weight_decay,
    )
    match schedule.optimiser:
        case "sgd":
            return SGD(groups, lr=schedule.lr, momentum=0.9, fused=fused)
        case "adamw":
            return AdamW(groups, lr=schedule.lr, fused=fused)
        case "muon":
            return MuonAndAdamW(groups, lr=schedule.lr, fused=fused)


class MuonAndAdamW(Optimizer):
    """Muon for weight matrices, AdamW for all else, as one optimiser, which is what Lightning and schedulers want.

    Muon makes the update of a matrix orthogonal: it moves as far in directions of which the gradient says little as in
    the strongest ones. Its steps are scaled to AdamW's size, so that one learning rate serves both. All else are
    biases, convolutions, which torch's Muon does not take, and the regression layers of the transformers, which begin
    at zero and must move slowly from there.

    groups: as `parameter_groups` makes them.

    Source: Jordan et al. 2024 (Muon), scaled as by Liu et al. 2025 (arXiv:2502.16982).
    """

    def __init__(self, groups: list[dict[str, Any]], lr: float, *, fused: bool | None) -> None:
        matrices: list[dict[str, Any]] = []
        others: list[dict[str, Any]] = []
        for group in groups:
            name = group["name"]
            by_muon: list[nn.Parameter] = []
            by_adamw: list[nn.Parameter] = []
            for p in group["params"]:
                (by_muon if p.ndim == 2 and name != "regression" else by_adamw).append(p)
            if by_muon:
                matrices.append(group | {"params": by_muon, "name": f"{name}_matrices"})
            if by_adamw:
                others.append(group | {"params": by_adamw})
        parts: list[Optimizer] = []
        if matrices:
            parts.append(Muon(matrices, lr=lr, adjust_lr_fn="match_rms_adamw"))
        if others:
            parts.append(AdamW(others, lr=lr, fused=fused))
        self._parts = parts
        super().__init__([group for part in parts for group in part.param_groups], {})
        self._share()

    def _share(self) -> None:
        """Give the parts this optimiser's groups and state, which schedulers change and checkpoints hold."""
        groups = iter(self.param_groups)
        for part in self._parts:
            part.param_groups = [next(groups) for _ in part.param_groups]
            part.state = self.state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As of any optimiser."""
        super().load_state_dict(state_dict)
        self._share()

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """As of any optimiser."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self._parts:
            part.step()
        return loss
